"""Hold-out numbers against ones worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.configs.loading import load_config
from pipeline.holdout.measures import distinct_2, kl_to_reference, text_numbers
from pipeline.runtime.timings import StageTiming, time_by_kind
from pipeline.stages.evaluation import replaced_in
from tests.pipeline.judged import opened
from tests.warehouse.builder import publish_rows, round_row
from warehouse.schemas import table_from_rows

ROLLOUTS = pa.table(
    {
        "prompt_id": ["a", "a", "b", "b"],
        "completion": ["one two three", "one two", "one two", "four"],
        "completion_ids": pa.array([[1, 2, 3], [1, 2], [1, 2], [4]]),
        "behavior_logprobs": pa.array(
            [[-1.0, -1.0, -1.0], [-1.0, -2.0], [-0.5, -0.5], [-3.0]], pa.list_(pa.float32())
        ),
        "finish_reason": ["stop", "stop", "length", "stop"],
    }
)


def test_distinct_2_counts_word_bigrams():
    # one-two, two-three, one-two, one-two: 2 distinct of 4
    assert distinct_2(ROLLOUTS["completion"].to_pylist()) == 0.5
    assert distinct_2(["one", ""]) == 0.0


def test_kl_is_a_mean_over_sequences_of_summed_log_ratios():
    reference = [np.full(n, -2.0, np.float32) for n in (3, 2, 2, 1)]
    # sums: 3, 1, 3, -1 -> prompt means 2 and 1 -> 1.5 nats per sequence
    measured = kl_to_reference(ROLLOUTS, reference, seed=0)
    assert measured.value == pytest.approx(1.5)
    assert measured.low is not None
    assert measured.low == pytest.approx(1.0)
    assert measured.high == pytest.approx(2.0)
    same = [np.asarray(b, np.float32) for b in ROLLOUTS["behavior_logprobs"].to_pylist()]
    assert kl_to_reference(ROLLOUTS, same, seed=0).value == 0


def test_text_numbers():
    numbers = {m.metric: m.value for m in text_numbers(ROLLOUTS, seed=0)}
    assert numbers == {
        "length": 2.0,
        "distinct_2": 0.5,
        "unique": 0.75,
        "truncated": 0.25,
        "refusal_rate": 0.0,
    }


@pytest.mark.parametrize(
    ("number", "candidate", "found"),
    [
        (1, "policy-1", 0),  # night 0 sampled with the base
        (2, "policy-2", 1),
        (3, "policy-2", None),  # night 2 was refused: its policy is the one that sampled
        (4, "policy-4", 3),  # of two measurements of one policy the newer
        (5, "policy-5", None),  # a person promoted a policy that nobody measured here
    ],
)
def test_the_round_that_measured_the_policy_to_be_replaced(
    tmp_path: Path, number: int, candidate: str, found: int | None
) -> None:
    outs = ["policy-1", "policy-2", "policy-2", "policy-9"]
    rounds = [
        round_row(number, policy_revision_out=out, status="refused" if number == 2 else "completed")
        for number, out in enumerate(outs)
    ]
    row = {"metric": "length", "value": 1.0, "unit": "u", "method": "m", "prompts": 1,
           "completions": 1, "samples_per_prompt": 1}  # fmt: skip
    measured = ["policy-0", "policy-1", "policy-2", "policy-2", "policy-4"]
    evaluations = [row | {"round": n, "policy_revision": p} for n, p in enumerate(measured)]
    publish_rows(tmp_path, "all", rounds=rounds, evaluations=evaluations)
    config = load_config("demo", [f"warehouse={tmp_path}"])
    assert replaced_in(opened(config), number, candidate) == found


def test_time_is_split_into_work_loading_and_the_rest():
    timings = [
        StageTiming("a", "sampling", 10.0, 1.0, 3.0, 5.0),
        StageTiming("b", "evaluation", 4.0, 0.5, 0.5, 2.0),
    ]
    assert time_by_kind(timings) == {
        "imports and processes": 1.5,
        "model loading": 3.5,
        "sampling": 5.0,
        "everything else": 4.0,
    }


def test_the_evaluation_table_takes_numbers_without_an_interval():
    row = {"round": 0, "policy_revision": "p", "metric": "unique", "value": 0.5, "unit": "u",
           "method": "count", "prompts": 1, "completions": 2, "samples_per_prompt": 2}  # fmt: skip
    assert table_from_rows("evaluations", [row])["low"].to_pylist() == [None]
