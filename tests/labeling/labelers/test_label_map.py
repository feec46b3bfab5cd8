"""From logits to log-odds and scores, with numbers worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from labeling.errors import LabelingError
from labeling.labelers.label_map import LabelMap, logits_json, match_labels, scores_of


def odds(label_map: LabelMap, *logits: float) -> float:
    return float(label_map.log_odds(np.array([logits]))[0])


def test_two_labels_give_the_margin_of_their_logits():
    assert odds(LabelMap(("nothate", "hate"), (0.0, 1.0), "softmax"), -1.0, 2.5) == 3.5
    # The same model with its labels in the other order.
    assert odds(LabelMap(("hate", "nothate"), (1.0, 0.0), "softmax"), -1.0, 2.5) == -3.5


def test_a_sure_model_does_not_saturate_on_the_way():
    margin = odds(LabelMap(("nothate", "hate"), (0.0, 1.0), "softmax"), -400.0, 400.0)
    assert margin == 800.0
    assert scores_of(np.array([margin, -margin])).tolist() == [1.0, 0.0]


def test_three_labels_give_the_expectation_of_their_scores():
    label_map = LabelMap(("no", "some", "much"), (0.0, 0.5, 1.0), "softmax")
    # p = (1, 2, 5) / 8, so the score is (0 + 1 + 5) / 8 = .75 and the odds are 3 : 1
    assert odds(label_map, math.log(1), math.log(2), math.log(5)) == pytest.approx(math.log(3))


def test_sigmoid_labels_stand_for_themselves_and_the_largest_counts():
    label_map = LabelMap(("toxic", "threat", "calm"), (1.0, 0.5, 0.0), "sigmoid")
    # p(toxic) = .2; p(threat) = .8 counts half = .4, odds 2 : 3; calm counts nothing
    logits = (math.log(0.2 / 0.8), math.log(0.8 / 0.2), 50.0)
    assert odds(label_map, *logits) == pytest.approx(math.log(2 / 3))


@pytest.mark.parametrize(("score", "expected"), [(1.0, 1.7), (0.0, -1.7)])
def test_a_single_sigmoid_label_may_stand_for_either_side(score: float, expected: float):
    assert odds(LabelMap(("x",), (score,), "sigmoid"), 1.7) == pytest.approx(expected)


def test_labels_of_the_model_and_of_the_configuration_must_be_the_same():
    found = match_labels(
        {1: "hate", 0: "nothate"}, {"hate": 1, "nothate": 0}, "softmax", labeler="h", model="m"
    )
    assert (found.names, found.scores) == (("nothate", "hate"), (0, 1))
    wrong = [
        ({0: "LABEL_0", 1: "LABEL_1"}, {"hate": 1, "nothate": 0}),
        ({0: "a", 1: "b", 2: "c"}, {"a": 0, "b": 1}),
        ({0: "a", 1: "b"}, {"a": 0, "b": 1, "c": 1}),
    ]
    for model_labels, scores in wrong:
        with pytest.raises(LabelingError, match=r"labelers\.h\.labels: m has the labels") as caught:
            match_labels(model_labels, scores, "softmax", labeler="h", model="m")
        assert str(sorted(scores)) in str(caught.value)


def test_softmax_over_one_label_is_refused():
    with pytest.raises(LabelingError, match="activation: sigmoid"):
        match_labels({0: "toxic"}, {"toxic": 1}, "softmax", labeler="h", model="m")


def test_the_raw_output_is_valid_json_whatever_the_logits_are():
    text = logits_json(("a", "b"), (math.nan, 1.5))
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": 1.5}
