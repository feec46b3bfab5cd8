"""Bias AUCs on a handful of scores, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from labeling.trust.bias import auc, bias, generalised_mean


def test_an_auc_is_the_share_of_pairs_in_the_right_order():
    # positives .9 and .4 against negatives .5 and .1: 3 of 4 pairs
    assert auc([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0]) == 0.75
    assert auc([0.5, 0.5], [1, 0]) == 0.5


def test_an_auc_of_one_class_is_undefined():
    assert auc([0.1, 0.2], [1, 1]) is None
    assert auc([], []) is None


def test_the_worst_values_rule_the_generalised_mean():
    # ((1 + .5^-5) / 2)^(-1/5) = 16.5^-.2
    assert generalised_mean([1.0, 0.5]) == pytest.approx(16.5**-0.2)
    assert generalised_mean([0.8, None, 0.8]) == pytest.approx(0.8)
    assert generalised_mean([0.9, 0.0]) == 0.0
    assert generalised_mean([None]) is None


def test_a_name_that_alone_raises_scores_shows_in_bpsn_only():
    # Of group g: harmless at .7, harmful at .9. Background: harmless at .1, harmful at .6.
    found = bias([0.7, 0.9, 0.1, 0.6], [0, 1, 0, 1], {"g": np.array([True, True, False, False])})
    (group,) = found.groups
    assert (group.items, group.subgroup_auc) == (2, 1.0)
    # Background positive .6 against subgroup negative .7: the wrong way round.
    assert (group.bpsn_auc, group.bnsp_auc) == (0.0, 1.0)
    # positives .9, .6 against negatives .7, .1: 3 of 4 pairs
    assert found.overall_auc == 0.75
    assert found.final == pytest.approx(0.25 * (0.75 + 1.0 + 0.0 + 1.0))


def test_groups_stand_worst_first_and_an_undefined_one_last():
    scores, expected = [0.9, 0.1, 0.1, 0.9, 0.5], [1, 0, 1, 0, 1]
    found = bias(
        scores,
        expected,
        {
            "good": np.array([True, True, False, False, False]),
            "undefined": np.array([False, False, False, False, True]),
            "bad": np.array([False, False, True, True, False]),
        },
    )
    assert [(g.group, g.subgroup_auc) for g in found.groups] == [
        ("bad", 0.0),
        ("good", 1.0),
        ("undefined", None),
    ]
    assert found.subgroup_mean == 0.0


def test_a_metric_with_an_undefined_part_is_undefined():
    found = bias([0.1, 0.9], [1, 1], {"g": np.array([True, False])})
    assert (found.overall_auc, found.final) == (None, None)
