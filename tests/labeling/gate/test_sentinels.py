"""Sets of texts whose score is known: what a file must hold, and the rows made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.compute as pc
import pytest

from labeling.errors import LabelingError
from labeling.gate.sentinels import CANARIES, SentinelSet, is_starter
from labeling.label import LabelIdentity, Measurement, label_rows
from labeling.labelers.config import ClassifierConfig

ITEM = "{id: a, kind: gold, gold: {toxicity: 1}, prompt: p, completion: c}"


def written(tmp_path: Path, *items: str) -> str:
    path = tmp_path / "set.yaml"
    path.write_text("name: mine\nversion: '1'\nitems:\n" + "".join(f"- {i}\n" for i in items))
    return str(path)


@pytest.mark.parametrize("name", ["default", "starter"])
def test_a_shipped_set_has_gold_on_both_sides_and_every_kind_of_canary(name: str) -> None:
    found = SentinelSet.load(name)
    for criterion in ("toxicity", "helpfulness"):
        gold = {item.gold[criterion] for item in found.of(criterion) if item.kind == "gold"}
        assert gold == {0.0, 1.0}
    kinds = {item.kind for item in found.of("helpfulness")}
    assert {*CANARIES, "padding", "gold"} == kinds


def test_the_default_set_has_gold_on_both_sides_for_every_shipped_rubric() -> None:
    found = SentinelSet.load("default")
    for criterion in ("toxicity", "harmlessness", "helpfulness", "honesty", "relevance",
                      "conciseness"):  # fmt: skip
        gold = {item.gold[criterion] for item in found.of(criterion) if item.kind == "gold"}
        assert gold == {0.0, 1.0}, criterion


@pytest.mark.parametrize("name", ["default", "starter"])
def test_padding_says_the_same_answer_again(name: str) -> None:
    found = SentinelSet.load(name)
    texts = {item.id: item.completion for item in found.items}
    padded = [item for item in found.items if item.base is not None]
    assert padded
    for item in padded:
        plain = texts[item.base or ""]
        assert item.completion.replace(plain, "").strip() == ""
        assert item.completion.count(plain) > 1


def test_subjects_are_what_a_labeler_reads_and_rows_keep_status_and_score() -> None:
    found = SentinelSet.load("starter")
    subjects = found.subjects("helpfulness", 3)
    assert subjects.num_rows == len(found.of("helpfulness"))
    assert json.loads(subjects["messages"][0].as_py())[0]["role"] == "user"
    identity = LabelIdentity(
        labeler="judge", revision="r", kind="judge", role="reward", criterion="helpfulness",
        model="m", model_revision="m1", backend="b", backend_version="1", score_method="x",
        score_scale="0..1",
    )  # fmt: skip
    scores = [Measurement("ok", 0.25, 0.25, raw_output="3")] * (subjects.num_rows - 1)
    labels = label_rows(identity, subjects, [*scores, Measurement("refusal")])
    rows = found.rows("helpfulness", labels)
    assert rows.num_rows == subjects.num_rows
    assert set(rows["round"].to_pylist()) == {3}
    assert rows["sentinel_id"].to_pylist() == [item.id for item in found.of("helpfulness")]
    assert (rows["score"][0].as_py(), rows["raw_output"][0].as_py()) == (0.25, "3")
    assert rows["status"].to_pylist()[-1] == "refusal"
    assert rows["score"].null_count == 1
    (template,) = found.template_rows().to_pylist()
    assert (template["kind"], template["template_sha256"]) == ("sentinels", found.sha256)
    assert "rude-1" in template["text"]


def test_only_the_criterion_s_own_items_are_shown() -> None:
    found = SentinelSet.load("default")
    ids = found.subjects("honesty", 0)["rollout_id"]
    assert pc.all(pc.starts_with(ids, "sentinel/")).as_py()
    assert "sentinel/false-fact" in ids.to_pylist()
    assert "sentinel/insult-person" not in ids.to_pylist()


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ((ITEM, ITEM), r"the ids \['a'\] stand twice"),
        ((ITEM.replace("gold,", "echo,"),), "a canary of kind echo has gold 0"),
        ((ITEM.replace("gold,", "padding,"),), "padding and base .* go together"),
        ((ITEM.replace("kind: gold", "base: b, kind: padding"),), "base b is no item"),
        ((ITEM.replace("1}", "2}"),), "less than or equal to 1"),
        ((ITEM.replace("completion: c", "completion: ''"),), "at least 1 character"),
        ((ITEM.replace("prompt: p,", "prompt: p, mood: good,"),), "Extra inputs"),
    ],
)
def test_a_bad_set_is_refused_by_its_file(tmp_path: Path, items: tuple, message: str) -> None:
    path = written(tmp_path, *items)
    with pytest.raises(LabelingError, match=message) as refused:
        SentinelSet.load(path)
    assert path in str(refused.value)


def test_a_set_of_one_s_own_is_a_path_and_an_unknown_name_says_what_there_is(
    tmp_path: Path,
) -> None:
    assert SentinelSet.load(written(tmp_path, ITEM)).of("toxicity")[0].id == "a"
    with pytest.raises(LabelingError, match=r"neither a file nor .*'default', 'starter'"):
        SentinelSet.load("defualt")


def test_starters_are_known_by_their_model() -> None:
    def config(model: str) -> ClassifierConfig:
        return ClassifierConfig(
            kind="classifier", name="a", role="reward", criterion="toxicity", model=model,
            labels={"no": 0.0, "yes": 1.0},
        )  # fmt: skip

    assert is_starter(config("starter-metric"))
    assert not is_starter(config("acme/toxic"))
