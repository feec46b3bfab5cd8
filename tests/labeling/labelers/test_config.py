"""What the configuration of labelers and reward refuses, and that it names the wrong key."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from labeling.judges.config import JudgeConfig
from labeling.labelers.config import ClassifierConfig, LabelerConfig
from labeling.rewards.config import RewardConfig

LABELER = TypeAdapter(LabelerConfig)
CLASSIFIER = {
    "kind": "classifier",
    "name": "hate",
    "role": "reward",
    "criterion": "toxicity",
    "model": "some/model",
    "labels": {"nothate": 0, "hate": 1},
}
JUDGE = {
    "kind": "judge",
    "name": "helpful",
    "role": "shadow",
    "criterion": "helpfulness",
    "rubric": "helpfulness",
    "engine": {"kind": "vllm", "model": "some/judge"},
}


def test_the_kind_decides_what_is_configured():
    assert isinstance(LABELER.validate_python(CLASSIFIER), ClassifierConfig)
    assert isinstance(LABELER.validate_python(JUDGE), JudgeConfig)


def test_a_starter_brings_its_labels():
    config = ClassifierConfig.model_validate(
        {k: v for k, v in CLASSIFIER.items() if k != "labels"} | {"model": "starter-metric"}
    )
    assert config.label_scores == {"acceptable": 0.0, "toxic": 1.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": None}, "labelers.hate.labels"),
        ({"labels": {}}, "labels"),
        ({"labels": {"nothate": 0, "hate": 2}}, "labels.hate"),
        ({"labels": {"nothate": 1, "hate": 1}}, "the same score"),
        ({"labels": {"a": 0, "b": 0}, "activation": "sigmoid"}, "the same score"),
        ({"labels": {"a": 0.5}, "activation": "sigmoid"}, "the same score"),
        ({"name": "a/b"}, "name"),
        ({"stirde": 3}, "stirde"),
        ({"self_test": [{"text": "hello"}]}, "at_least or at_most"),
        ({"kind": "oracle"}, "kind"),
    ],
)
def test_a_classifier_that_cannot_work_is_refused(change: dict[str, object], words: str):
    with pytest.raises(ValidationError, match=words):
        LABELER.validate_python(CLASSIFIER | change)


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValidationError, match=r"engine"):
        LABELER.validate_python(JUDGE | {"engine": {"kind": "crystal-ball", "model": "m"}})


@pytest.mark.parametrize(
    "change",
    [{"clip": 0}, {"terms": {}}, {"terms": {"hate": {"weight": 0}}}, {"truncation_penalty": -1}],
)
def test_a_recipe_that_rewards_nothing_is_refused(change: dict[str, object]):
    recipe = {"recipe": "weighted", "terms": {"hate": {"weight": -1.0, "value": "raw"}}}
    RewardConfig.model_validate(recipe)
    with pytest.raises(ValidationError):
        RewardConfig.model_validate(recipe | change)
