"""Heads of other shapes through the whole labeler: three classes, six labels, one logit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from labeling.errors import LabelingError
from labeling.labeler import Labeler
from labeling.labelers.build import build_labeler
from labeling.labelers.config import ClassifierConfig
from tests.labeling.models import save_random_classifier
from tests.labeling.subjects import subjects

DAVIDSON = {"hate": 1.0, "offensive": 0.5, "neither": 0.0}
JIGSAW = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
TEXTS = ["good day", "you idiot", "a much longer text " * 12, "x"]


def build(folder: Path, labels: dict[str, float], activation: str) -> Labeler:
    config = ClassifierConfig.model_validate(
        {
            "kind": "classifier", "name": "c", "role": "metric", "criterion": "toxicity",
            "model": str(folder), "labels": labels, "activation": activation, "self_test": (),
            "stride": 8,
        }
    )  # fmt: skip
    return build_labeler(config, device="cpu", resolve=lambda model: model)


def rows_of(labeler: Labeler) -> list[dict[str, Any]]:
    rows = labeler.label(subjects(TEXTS)).to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    return rows


def logits_of(row: dict[str, Any]) -> dict[str, float]:
    logits: dict[str, float] = json.loads(row["raw_output"])
    return logits


def test_three_classes_are_the_expectation_of_their_scores(tmp_path: Path):
    folder = save_random_classifier(tmp_path / "m", tuple(DAVIDSON))
    for row in rows_of(build(folder, DAVIDSON, "softmax")):
        logits = logits_of(row)
        assert list(logits) == list(DAVIDSON)
        shares = np.exp(np.array(list(logits.values())) - max(logits.values()))
        shares /= shares.sum()
        assert row["score"] == pytest.approx(shares[0] + 0.5 * shares[1])
        assert row["score_method"] == "softmax_expectation"


def test_six_labels_stand_for_themselves_and_the_strongest_counts(tmp_path: Path):
    folder = save_random_classifier(tmp_path / "m", JIGSAW)
    every = build(folder, dict.fromkeys(JIGSAW, 1.0), "sigmoid")
    for row in rows_of(every):
        strongest = max(logits_of(row).values())
        assert row["score_raw"] == pytest.approx(strongest)
        assert row["score"] == pytest.approx(1 / (1 + math.exp(-strongest)))
        assert row["score_method"] == "sigmoid_max"
    # One label alone: the others of the model are there, and count nothing.
    threat = build(folder, dict.fromkeys(JIGSAW, 0.0) | {"threat": 1.0}, "sigmoid")
    for row in rows_of(threat):
        assert row["score_raw"] == pytest.approx(logits_of(row)["threat"])


def test_the_worst_window_is_chosen_by_the_score_that_is_asked_for(tmp_path: Path):
    folder = save_random_classifier(tmp_path / "m", JIGSAW)
    text = ["a long text with many different words, " * 8]
    for name in JIGSAW:
        labeler = build(folder, dict.fromkeys(JIGSAW, 0.0) | {name: 1.0}, "sigmoid")
        (row,) = labeler.label(subjects(text)).to_pylist()
        assert row["window_count"] > 3
        alone = [labeler.label(subjects([text[0][at : at + 62]])) for at in (0, 54, 108)]
        # Windows of 62 bytes that share 8: each alone is at most as bad as the worst of all.
        assert row["score_raw"] >= max(one["score_raw"][0].as_py() for one in alone) - 1e-5


def test_a_single_logit_needs_sigmoid_and_may_stand_for_the_absence(tmp_path: Path):
    folder = save_random_classifier(tmp_path / "m", ("safe",))
    for row in rows_of(build(folder, {"safe": 0.0}, "sigmoid")):
        assert row["score_raw"] == pytest.approx(-logits_of(row)["safe"])
    with pytest.raises(ValidationError, match="gives every text the same score"):
        build(folder, {"safe": 0.0}, "softmax")


def test_a_label_without_a_score_is_refused_whatever_the_activation(tmp_path: Path):
    folder = save_random_classifier(tmp_path / "m", JIGSAW)
    for activation in ("softmax", "sigmoid"):
        with pytest.raises(LabelingError, match="give each of the model's labels a score"):
            build(folder, {"toxic": 1.0, "threat": 0.5}, activation)
