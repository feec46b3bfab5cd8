"""Hold-out numbers against ones worked out by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.measures import distinct_2, kl_to_reference, text_numbers
from pipeline.night import StageTiming, time_by_kind
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
