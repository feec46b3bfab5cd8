"""Pairs in both orders: what a fair judge, a biased one and a failing one leave in the rows."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from labeling.engines.model_identity import ModelIdentity
from labeling.errors import LabelingError
from labeling.judges.config import JudgeConfig
from labeling.judges.pairwise import PairwiseJudgeLabeler, pair_subjects
from labeling.judges.rubric import Rubric
from labeling.judges.written import WrittenJudgeLabeler
from labeling.labelers.build import build_labeler, labeler_revision
from pipeline.configs.loading import load_config
from pipeline.errors import ConfigError
from tests.labeling.scripted_chat import Reply, ScriptedChat
from tests.labeling.subjects import subjects
from tests.warehouse.builder import publish_rows
from warehouse.catalog.catalog import connect, load_query

BASE = {
    "kind": "judge", "name": "pairs", "role": "shadow", "criterion": "helpfulness",
    "rubric": "preference-helpfulness", "mode": "pairwise",
}  # fmt: skip
REMOTE = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}


def judged(texts: list[str], reply: Any, **changes: object) -> tuple[list[dict], ScriptedChat]:
    """Rows of the pairs of these completions of one prompt, by a judge that answers by script."""
    config = JudgeConfig.model_validate(BASE | {"engine": REMOTE} | changes)
    engine = ScriptedChat(reply)
    model = ModelIdentity("m", None, "m@here")
    rubric = Rubric.load(config.rubric)
    inner = WrittenJudgeLabeler(config, rubric, model, "r1", engine, seed=0)
    labeler = PairwiseJudgeLabeler(inner)
    return labeler.label(pair_subjects(of_one_prompt(texts), config.pairs)).to_pylist(), engine


def of_one_prompt(texts: list[str]) -> pa.Table:
    table = subjects(texts)
    place = table.schema.get_field_index("completion_sha256")
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    return table.set_column(place, "completion_sha256", pa.array(hashes))


def chosen(number: int) -> str:
    return f'{{"rationale": "because", "score": {number}}}'


def test_a_pair_is_asked_in_both_orders_and_its_mean_is_the_third_row() -> None:
    def reply(row: int, sample: int, attempt: int) -> Reply:
        # AB: the first is better; BA: the second one is. Both times it is `good`.
        return chosen(1 if row % 2 == 0 else 2)

    rows, engine = judged(["good", "bad"], reply)
    assert len(engine.calls) == 2
    first, second = (call.messages[-1]["content"] for call in engine.calls)
    assert first.index("good") < first.index("bad")
    assert second.index("bad") < second.index("good")
    assert [row["pair_order"] for row in rows] == ["AB", "BA", None]
    assert [row["score"] for row in rows] == [1.0, 1.0, 1.0]
    assert [row["is_consistent"] for row in rows] == [None, None, True]
    assert {row["mode"] for row in rows} == {"pairwise"}
    assert {(row["rollout_id"], row["partner_rollout_id"]) for row in rows} == {("r0", "r1")}
    assert [row["score_method"] for row in rows] == ["parsed", "parsed", "mean_of_orders"]
    assert len({row["label_key"] for row in rows}) == 3
    assert len({row["label_id"] for row in rows}) == 3
    assert [row["rationale"] for row in rows] == ["because", "because", None]
    assert rows[2]["input_tokens"] is None, "what was paid stands in the rows of the calls, once"


def test_a_judge_that_loves_the_first_place_is_inconsistent() -> None:
    rows, _ = judged(["a", "b"], lambda *_: chosen(1))
    assert [row["score"] for row in rows] == [1.0, 0.0, 0.5]
    assert rows[2]["is_consistent"] is False


def test_swapping_two_completions_turns_a_preference_around() -> None:
    def reply(row: int, sample: int, attempt: int) -> Reply:
        return chosen(1 if row % 2 == 0 else 2)

    def swapped(row: int, sample: int, attempt: int) -> Reply:
        return chosen(2 if row % 2 == 0 else 1)

    there, _ = judged(["good", "bad"], reply)
    back, _ = judged(["bad", "good"], swapped)
    assert there[2]["score"] == 1 - back[2]["score"] == 1.0


def test_one_failed_order_leaves_the_pair_without_a_score() -> None:
    def reply(row: int, sample: int, attempt: int) -> Reply:
        return chosen(1) if row % 2 == 0 else "I'm sorry, but I can't assist with that."

    rows, _ = judged(["a", "b"], reply)
    assert [row["status"] for row in rows] == ["ok", "refusal", "refusal"]
    assert [row["score"] for row in rows] == [1.0, None, None]
    assert rows[2]["status_detail"].startswith("order BA: ")
    assert rows[2]["is_consistent"] is None
    assert rows[2]["score_method"] is None


def test_a_verdict_that_was_repaired_keeps_both_attempts() -> None:
    def reply(row: int, sample: int, attempt: int) -> Reply:
        return '{"score": "one"}' if row == 1 and attempt == 0 else chosen(1)

    rows, _ = judged(["a", "b"], reply)
    assert [(r["pair_order"], r["attempt"], r["is_final"]) for r in rows] == [
        ("AB", 0, True), ("BA", 0, False), ("BA", 1, True), (None, 0, True),
    ]  # fmt: skip
    assert rows[2]["supersedes"] == rows[1]["label_id"]
    assert rows[1]["label_key"] == rows[2]["label_key"] != rows[0]["label_key"]


@pytest.mark.parametrize(
    ("texts", "pairs", "expected"),
    [
        (["a", "b", "c", "d"], "adjacent", [("r0", "r1"), ("r2", "r3")]),
        (["a", "b", "c"], "adjacent", [("r0", "r1")]),
        (["a", "b", "c"], "all", [("r0", "r1"), ("r0", "r2"), ("r1", "r2")]),
        (["a", "a", "b"], "all", [("r0", "r2"), ("r1", "r2")]),
        (["a"], "all", []),
    ],
)
def test_which_pairs_are_made(texts: list[str], pairs: str, expected: list) -> None:
    made = pair_subjects(of_one_prompt(texts), pairs)
    found = zip(made["rollout_id"].to_pylist(), made["partner_rollout_id"].to_pylist(), strict=True)
    assert list(found) == expected
    assert made["second"].to_pylist() == [texts[int(second[1:])] for _, second in expected]


def test_completions_of_different_prompts_are_never_compared() -> None:
    table = of_one_prompt(["a", "b", "c"])
    place = table.schema.get_field_index("prompt_id")
    apart = table.set_column(place, "prompt_id", pa.array(["p0", "p1", "p2"]))
    assert pair_subjects(apart, "all").num_rows == 0


def test_a_real_judge_reads_likelihoods_of_both_orders(judge_folder: Path) -> None:
    config = JudgeConfig.model_validate(
        BASE
        | {"engine": {"kind": "transformers", "model": str(judge_folder)}, "min_label_mass": 1e-6}
        | {"rubric": str(short_rubric(judge_folder.parent))}
    )
    labeler = build_labeler(config, device="cpu", resolve=lambda model: model)
    rows = labeler.label(pair_subjects(of_one_prompt(["one", "two"]), "all")).to_pylist()
    first, second, mean = rows
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert (first["score_scale"], mean["score_scale"]) == ("0..1", "0..1")
    by_label = {x["label"]: x["logprob"] for x in first["score_logprobs"]}
    assert (first["raw_output"] == "1") == (by_label["1"] > by_label["2"])
    assert (first["score"] > 0.5) == (by_label["1"] > by_label["2"])
    other = {x["label"]: x["logprob"] for x in second["score_logprobs"]}
    assert (second["score"] > 0.5) == (other["2"] > other["1"]), "the first one stands second here"
    assert mean["score"] == pytest.approx((first["score"] + second["score"]) / 2)
    labeler.close()


def short_rubric(folder: Path) -> Path:
    path = folder / "short-preference.yaml"
    path.write_text(
        "name: short\nversion: '1'\ncriterion: helpfulness\nlabels: ['1', '2']\nvalues: [1, 0]\n"
        "user: 'Q {question} A {completion} B {second} better'\nanswer_prefix: ':'\n"
    )
    return path


@pytest.mark.parametrize("name", ["preference-helpfulness", "preference-harmlessness"])
def test_the_shipped_rubrics_show_both_and_say_which_is_which(name: str) -> None:
    rubric = Rubric.load(name)
    assert rubric.is_pairwise
    assert (rubric.labels, rubric.values) == (("1", "2"), (1.0, 0.0))
    text = rubric.fill(rubric.user, [], "FIRST", "0a", second="SECOND")
    assert text.index("reply 1 0a") < text.index("FIRST") < text.index("reply 2 0a")
    assert text.index("reply 2 0a") < text.index("SECOND")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"role": "reward"}, "a pairwise judge has role shadow"),
        ({"role": "metric"}, "a pairwise judge has role shadow"),
        ({"pairs": "some"}, "Input should be 'adjacent' or 'all'"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JudgeConfig.model_validate(BASE | {"engine": REMOTE} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rubric": "helpfulness"}, "shows one completion, the labeler's mode is pairwise"),
        ({"mode": "pointwise"}, "compares two completions, the labeler's mode is pointwise"),
    ],
)
def test_mode_and_rubric_go_together(changes: dict, message: str) -> None:
    config = JudgeConfig.model_validate(BASE | {"engine": REMOTE} | changes)
    with pytest.raises(LabelingError, match=message):
        labeler_revision(config, lambda model: model)


def test_a_rubric_of_pairs_needs_its_values() -> None:
    with pytest.raises(ValueError, match=r"two labels and values \[1, 0\]"):
        Rubric(
            name="r", version="1", criterion="c", labels=("1", "2"), values=(1, 2),
            user="{completion} {second}",
        )  # fmt: skip


def test_one_sample_per_prompt_makes_no_pair() -> None:
    labelers = [
        BASE | {"engine": REMOTE},
        {"name": "m", "kind": "classifier", "role": "metric", "criterion": "toxicity",
         "model": "starter-metric"},
        {"name": "t", "kind": "classifier", "role": "reward", "criterion": "toxicity",
         "model": "starter-toxicity"},
    ]  # fmt: skip
    sets = [f"labelers={labelers}", "reward={recipe: weighted, terms: {t: {weight: -1.0}}}"]
    load_config("demo", sets)
    with pytest.raises(ConfigError, match="a pair is two completions of one prompt"):
        load_config("demo", [*sets, "rollouts.samples=1"])


def test_position_bias_reads_the_rows_and_marts_of_single_labels_do_not(tmp_path: Path) -> None:
    rows, _ = judged(["a", "b"], lambda *_: chosen(1))
    table = of_one_prompt(["a", "b"])
    rollouts = [
        {"rollout_id": row["rollout_id"], "round": 0, "prompt_id": "p", "sample_index": n,
         "purpose": "train", "policy_revision": "policy-0", "completion": row["completion"],
         "completion_sha256": row["completion_sha256"], "engine": "test", "engine_version": "1",
         "generated_at": rows[0]["labeled_at"]}
        for n, row in enumerate(table.to_pylist())
    ]  # fmt: skip
    publish_rows(tmp_path, "round=0/train-rollouts", 0, rollouts=rollouts)
    publish_rows(tmp_path, "round=0/train-labels/pairs@r1", 0, labels=rows)
    con = connect(tmp_path)
    (bias,) = con.sql(load_query("position_bias")).fetchall()
    named = dict(zip(con.sql(load_query("position_bias")).columns, bias, strict=True))
    assert (named["pairs"], named["consistency"], named["first_slot_rate"]) == (1, 0.0, 1.0)
    for mart in ("completion_scores", "label_coverage"):
        assert con.sql(f"select count(*) from {mart}").fetchall() == [(0,)]
    assert con.sql("select distinct statuses from scored_rollouts").fetchall() == [(None,)]
