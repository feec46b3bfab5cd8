"""The classifier labeler on models set by hand and on random ones."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from labeling.errors import LabelingError
from labeling.labeler import Labeler
from labeling.labelers.build import build_labeler
from labeling.labelers.config import ClassifierConfig
from tests.labeling.models import save_random_classifier, save_word_classifier
from tests.labeling.subjects import subjects, subjects_of_bytes
from warehouse.schemas import TABLES

SENTENCES = (
    {"text": "idiot", "at_least": 0.5},
    {"text": "good day idiot .", "at_least": 0.5},
    {"text": "good day .", "at_most": 0.5},
    {"text": "bread", "at_most": 0.5},
)


def build(folder: Path, **changes: object) -> Labeler:
    settings = {
        "kind": "classifier",
        "name": "hate",
        "role": "reward",
        "criterion": "toxicity",
        "model": str(folder),
        "labels": {"nothate": 0, "hate": 1},
        "self_test": SENTENCES,
    }
    config = ClassifierConfig.model_validate(settings | changes)
    return build_labeler(config, device="cpu", resolve=lambda model: model)


@pytest.fixture(scope="module")
def word_labeler(word_folder: Path) -> Labeler:
    return build(word_folder, stride=4)


@pytest.fixture(scope="module")
def random_labeler(random_folder: Path) -> Labeler:
    return build(random_folder, stride=8, self_test=())


def test_a_score_is_known_from_the_weights(word_labeler: Labeler):
    rows = word_labeler.label(subjects(["good day", "you idiot"])).to_pylist()
    # The head sees tanh(+-1) times -+3 in both logits (up to the layer norms' epsilon).
    margin = 6 * math.tanh(1)
    assert [row["score_raw"] for row in rows] == pytest.approx([-margin, margin], rel=1e-4)
    for row in rows:
        assert row["score"] == pytest.approx(1 / (1 + math.exp(-row["score_raw"])))
        assert (row["status"], row["score_method"]) == ("ok", "softmax_expectation")
        assert (row["device"], row["dtype"], row["window_count"]) == ("cpu", "float32", 1)
    assert rows[0]["raw_output"].startswith('{"nothate": 2.28')


def test_a_toxic_tail_is_found(word_labeler: Labeler):
    # 14 words fit beside the two marks; windows share 4.
    texts = ["good " * 14, "good " * 15, "good " * 200 + "idiot", "idiot " + "good " * 200]
    rows = word_labeler.label(subjects(texts)).to_pylist()
    assert [row["window_count"] for row in rows] == [1, 2, 20, 20]
    assert [row["score"] > 0.5 for row in rows] == [False, False, True, True]


def test_too_many_windows_are_a_status(word_folder: Path):
    labeler = build(word_folder, stride=4, max_windows=3)
    rows = labeler.label(subjects(["good " * 34, "good " * 35])).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "too_long"]
    assert rows[1]["status_detail"] == "35 tokens make 4 windows; max_windows is 3"


def test_marks_in_a_text_are_text(word_labeler: Labeler):
    rows = word_labeler.label(subjects(["</s>", "good </s> idiot"])).to_pylist()
    # "</s>" is "<", "/", "s", ">" here, or fewer unknown words, but never the mark alone.
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert rows[1]["score"] > 0.5


def test_one_bad_row_does_not_cost_the_others(word_labeler: Labeler):
    texts = [b"good", b"", b" \n\t ", b"\xed\xa0\x80 lone surrogate", b"\xff", b"a\0b", b"idiot"]
    texts += ["\u202egood\u200d".encode(), b"\n" * 1_000_000, b"good " * 20_000]
    rows = word_labeler.label(subjects_of_bytes(texts))
    assert rows["status"].to_pylist() == [
        *("ok", "empty", "empty", "error", "error", "ok", "ok"),
        *("ok", "empty", "too_long"),
    ]
    assert rows["score"].null_count == rows["score_raw"].null_count == 6
    assert rows["rollout_id"].to_pylist() == [f"r{i}" for i in range(10)]
    assert rows.schema.equals(TABLES["labels"].schema)


def test_a_score_does_not_depend_on_the_batch(random_folder: Path, random_labeler: Labeler):
    drawn = random.Random(0)
    texts = ["".join(drawn.choices("abc xyz.", k=drawn.randint(1, 200))) for _ in range(40)]
    together = random_labeler.label(subjects(texts))["score_raw"].to_pylist()
    alone = [random_labeler.label(subjects([text]))["score_raw"][0].as_py() for text in texts]
    assert together == pytest.approx(alone, abs=1e-5)
    small = build(random_folder, stride=8, self_test=(), token_budget=70)
    assert small.label(subjects(texts))["score_raw"].to_pylist() == pytest.approx(alone, abs=1e-5)
    assert small.identity.revision == random_labeler.identity.revision


def test_progress_counts_every_row_once(random_labeler: Labeler):
    done: list[int] = []
    random_labeler.label(subjects(["", "a" * 500, "b", "", "c" * 70]), done.append)
    assert sum(done) == 5
    assert min(done) > 0


def test_no_rows_are_no_rows(random_labeler: Labeler):
    rows = random_labeler.label(subjects([]))
    assert rows.num_rows == 0
    assert rows.schema.equals(TABLES["labels"].schema)


def test_the_same_text_twice_gives_two_labels(random_labeler: Labeler):
    twice = subjects(["hello", "hello"])
    rows = random_labeler.label(twice).to_pylist()
    assert rows[0]["label_id"] != rows[1]["label_id"]
    assert rows[0]["score"] == rows[1]["score"]
    same_rollout = twice.set_column(0, "rollout_id", pa.array(["r0", "r0"]))
    rows = random_labeler.label(same_rollout).to_pylist()
    assert [row["sample_index"] for row in rows] == [0, 1]
    assert rows[0]["label_key"] != rows[1]["label_key"]


def test_exchanged_labels_fail_the_self_test(tmp_path: Path):
    flipped = save_word_classifier(tmp_path, is_flipped=True)
    with pytest.raises(LabelingError, match=r"fails its self-test") as caught:
        build(flipped)
    for sentence in SENTENCES:
        assert repr(sentence["text"]) in str(caught.value)
    assert "0.98" in str(caught.value)


def test_the_shipped_sentences_refuse_a_model_that_knows_nothing(random_folder: Path):
    with pytest.raises(LabelingError, match="expected at"):
        build(random_folder, self_test=None)


def test_labels_that_are_not_the_models_are_refused(tmp_path: Path):
    unnamed = save_random_classifier(tmp_path, ("LABEL_0", "LABEL_1"))
    with pytest.raises(LabelingError, match=r"LABEL_0.*'hate', 'nothate'"):
        build(unnamed)
    three = save_random_classifier(tmp_path / "three", ("a", "b", "c"))
    with pytest.raises(LabelingError, match=r"labelers\.hate\.labels"):
        build(three)
    assert (
        build(three, labels={"a": 0, "b": 0.5, "c": 1}, self_test=())
        .label(subjects(["x"]))["score"]
        .null_count
        == 0
    )


def test_a_single_logit_needs_sigmoid(tmp_path: Path):
    folder = save_random_classifier(tmp_path, ("toxic",))
    with pytest.raises(ValidationError, match="the same score"):
        build(folder, labels={"toxic": 1})
    row = (
        build(folder, labels={"toxic": 1}, activation="sigmoid", self_test=())
        .label(subjects(["x"]))
        .to_pylist()[0]
    )
    assert row["raw_output"].startswith('{"toxic": ')
    assert row["score_method"] == "sigmoid_max"


def test_a_model_that_yields_nan_gives_a_status(tmp_path: Path):
    import torch
    from transformers import RobertaForSequenceClassification

    folder = save_random_classifier(tmp_path)
    model = RobertaForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.out_proj.bias[1] = math.nan
    model.save_pretrained(folder)
    row = build(folder, self_test=()).label(subjects(["x"])).to_pylist()[0]
    assert (row["status"], row["score"], row["score_raw"]) == ("non_finite", None, None)
    assert row["raw_output"].endswith('"hate": null}')


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(st.text(st.characters(), max_size=80), min_size=1, max_size=5))
def test_every_text_gives_one_row_and_one_status(random_labeler: Labeler, texts: list[str]):
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    rows = random_labeler.label(subjects_of_bytes(encoded)).to_pylist()
    assert [row["rollout_id"] for row in rows] == [f"r{i}" for i in range(len(texts))]
    for row in rows:
        assert row["is_final"]
        assert (row["score"] is not None) == (row["status"] == "ok")
        assert (row["score_raw"] is not None) == (row["status"] == "ok")
