"""Agreement and calibration against numbers worked by hand, published ones, and real annotators."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from labeling.trust.agreement import (
    Estimate,
    agreement,
    bootstrapped,
    cohen_kappa,
    gwet_ac1,
    krippendorff_alpha,
    observed_agreement,
)
from labeling.trust.calibration import Bin, accuracy, calibration, corrected_rate, share, wilson

DATA = Path(__file__).parents[4] / "shared" / "data"
_ = np.nan
# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: 4 observers, 12 units.
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
).T
# 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no
FIFTY = np.array([[1, 1]] * 20 + [[1, 0]] * 5 + [[0, 1]] * 10 + [[0, 0]] * 15)
pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


# Raters


def test_weights_undo_that_a_rare_stratum_was_judged_more_often() -> None:
    # Of a population of 1,000: 100 scored yes (80 truly), 900 scored no (30 truly yes). 50 of each
    # were judged, so each yes stands for 2 and each no for 18.
    said = [1] * 50 + [0] * 50
    gold = [1] * 40 + [0] * 10 + [1] * 5 + [0] * 45
    weights = [2] * 50 + [18] * 50
    found = accuracy(said, gold, weights)
    assert (found.true_positives, found.false_negatives) == (40, 5)
    assert found.sensitivity.value == pytest.approx(80 / (80 + 90))
    assert found.specificity.value == pytest.approx(810 / (810 + 20))
    assert found.positives == pytest.approx((40 * 2 + 5 * 18) ** 2 / (40 * 4 + 5 * 324))
    assert share(gold, weights).value == pytest.approx(170 / 1000)
    # The rate that was observed, 10 %, leads back to the true one.
    assert corrected_rate(100, 1000, found).value == pytest.approx(170 / 1000)
    assert accuracy(said, gold).sensitivity.value == pytest.approx(40 / 45)


def test_equal_weights_change_nothing() -> None:
    said, gold, p = [1, 0, 1, 0, 1], [1, 0, 0, 1, 1], [0.9, 0.1, 0.6, 0.3, 0.8]
    assert accuracy(said, gold, [7] * 5) == accuracy(said, gold)
    weighted, plain = calibration(p, gold, [7] * 5), calibration(p, gold)
    assert weighted.brier == pytest.approx(plain.brier)
    assert weighted.ece_mass == pytest.approx(plain.ece_mass)
    assert share([], []) == Estimate(None)


def test_calibration_weighs_bins_and_what_is_in_them() -> None:
    found = calibration([0.2, 0.2, 0.8], [0, 1, 1], [3, 1, 4], bins=2)
    assert [b.rate for b in found.bins] == pytest.approx([0.25, 1.0])
    assert found.ece_width == pytest.approx(0.5 * 0.05 + 0.5 * 0.2)
    assert found.brier == pytest.approx((3 * 0.04 + 0.64 + 4 * 0.04) / 8)


def test_two_raters_by_hand():
    assert observed_agreement(FIFTY) == pytest.approx(0.7)
    # yes: 25 and 30 of 50. pe = .5 * .6 + .5 * .4 = .5; kappa = .2 / .5
    assert cohen_kappa(FIFTY) == pytest.approx(0.4)
    # pi = .55; pe = 2 * .55 * .45 = .495; (.7 - .495) / .505
    assert gwet_ac1(FIFTY) == pytest.approx(0.205 / 0.505)
    # pooled 55 yes, 45 no of 100: De = 2 * 55 * 45 / (100 * 99) = .5; Do = .3
    assert krippendorff_alpha(FIFTY) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_of_krippendorffs_own_example(level, alpha):
    assert krippendorff_alpha(KRIPPENDORFF, level) == pytest.approx(alpha, abs=5e-4)


def test_ac1_of_krippendorffs_example_counts_the_item_rated_once_for_prevalence():
    assert gwet_ac1(KRIPPENDORFF) == pytest.approx(0.775, abs=5e-4)


def test_kappa_collapses_where_nearly_all_is_one_value_and_ac1_does_not():
    rare = np.array([[0, 0]] * 96 + [[1, 0]] * 2 + [[0, 1]] * 2)
    # kappa: pe = .98^2 + .02^2 = .9608, (.96 - .9608) / .0392; ac1: pe = 2 * .02 * .98 = .0392
    assert cohen_kappa(rare) == pytest.approx(-0.0008 / 0.0392)
    assert gwet_ac1(rare) == pytest.approx((0.96 - 0.0392) / 0.9608)


def test_what_is_undefined_is_none():
    one_value = np.zeros((4, 2))
    assert observed_agreement(one_value) == 1.0
    assert cohen_kappa(one_value) is None
    assert krippendorff_alpha(one_value) is None
    assert gwet_ac1(one_value) is None
    assert gwet_ac1(one_value, categories=(0, 1)) == 1.0  # the other answer was on offer
    unpaired = np.array([[1, np.nan], [np.nan, 0]])
    for statistic in (observed_agreement, cohen_kappa, gwet_ac1, krippendorff_alpha):
        assert statistic(unpaired) is None
        assert statistic(np.zeros((0, 2))) is None
    assert cohen_kappa(KRIPPENDORFF) is None  # four raters


def test_a_list_of_labels_is_refused_by_its_shape():
    with pytest.raises(ValueError, match=r"items x raters, not of shape \(3,\)"):
        observed_agreement([0, 1, 0])


@given(pairs)
def test_order_of_raters_does_not_matter(ratings):
    there = np.array(ratings, float)
    back = there[:, ::-1]
    for statistic in (observed_agreement, cohen_kappa, gwet_ac1, krippendorff_alpha):
        assert statistic(there) == pytest.approx(statistic(back))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_perfect_agreement_is_one_or_undefined(values):
    ratings = np.array([values, values], float).T
    wanted = 1.0 if len(set(values)) > 1 else None
    assert observed_agreement(ratings) == 1.0
    assert cohen_kappa(ratings) == pytest.approx(wanted)
    assert gwet_ac1(ratings) == pytest.approx(wanted)
    for level in ("nominal", "ordinal", "interval"):
        assert krippendorff_alpha(ratings, level) == pytest.approx(wanted)


@given(pairs)
@settings(max_examples=30)
def test_nothing_is_ever_nan(ratings):
    for statistic in (observed_agreement, cohen_kappa, gwet_ac1, krippendorff_alpha):
        value = statistic(np.array(ratings, float))
        assert value is None or -1 <= value <= 1


# Intervals


def test_the_bootstrap_draws_whole_clusters():
    values = np.array([0.0, 0.0, 1.0, 1.0])

    def mean(rows):
        return (float(values[rows].mean()),)

    # Two clusters: a resample is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4. Items: 5 values.
    (clustered,) = bootstrapped(mean, ["a", "a", "b", "b"])
    assert clustered == Estimate(0.5, 0.0, 1.0)
    (same,) = bootstrapped(mean, ["a", "a", "b", "b"])
    assert same == clustered
    (single,) = bootstrapped(mean, ["a"] * 4)
    assert single == Estimate(0.5, None, None)


def test_a_wider_interval_for_clusters_than_for_the_same_items_alone():
    copies = np.repeat(FIFTY, 4, axis=0)
    alone = agreement(copies).po
    clustered = agreement(copies, clusters=[i // 4 for i in range(200)]).po
    # Four copies of one judgement are one judgement: twice the width. sqrt(.7 * .3 / 50) * 1.96
    assert (clustered.high - clustered.low) / 2 == pytest.approx(0.127, abs=0.015)
    assert (alone.high - alone.low) / 2 == pytest.approx(0.0635, abs=0.008)


def test_no_interval_where_a_number_often_does_not_exist():
    # One yes among four: 32 % of the resamples have none, and no kappa.
    found = agreement(np.array([[1, 1], [0, 0], [0, 0], [0, 0]]))
    assert found.kappa == Estimate(1.0, None, None)
    assert found.po == Estimate(1.0, 1.0, 1.0)
    assert (found.items, found.raters) == (4, 2)


# Against gold


def test_accuracy_by_hand():
    found = accuracy(FIFTY[:, 0], FIFTY[:, 1])
    counts = (found.true_positives, found.false_positives)
    assert counts == (20, 5)
    assert (found.false_negatives, found.true_negatives) == (10, 15)
    assert found.accuracy.value == pytest.approx(35 / 50)
    assert found.sensitivity.value == pytest.approx(20 / 30)
    assert found.specificity.value == pytest.approx(15 / 20)
    # Wilson by hand: (15 + z2/2) / (20 + z2) -+ z sqrt(15 * 5 / 20 + z2/4) / (20 + z2), z2 = 3.8415
    assert found.specificity.low == pytest.approx(0.5313, abs=1e-4)
    assert found.specificity.high == pytest.approx(0.8881, abs=1e-4)


def test_a_missing_class_has_no_sensitivity():
    found = accuracy([0, 1], [0, 0])
    assert found.sensitivity == Estimate(None)
    assert found.specificity.value == 0.5
    assert accuracy([], []).accuracy == Estimate(None)
    assert wilson(0, 0) == Estimate(None)


def test_calibration_by_hand():
    found = calibration([0.1, 0.1, 0.3, 0.9], [0, 1, 0, 1])
    # squares .01 .81 .09 .01
    assert found.brier == pytest.approx(0.92 / 4)
    # [.1,.2): mean .1, rate .5; [.3,.4): .3, 0; the last: .9, 1
    assert found.bins == (
        Bin(0.1, 0.2, 2, pytest.approx(0.1), 0.5),
        Bin(0.3, 0.4, 1, pytest.approx(0.3), 0.0),
        Bin(0.9, 1.0, 1, pytest.approx(0.9), 1.0),
    )
    assert found.ece_width == pytest.approx((2 * 0.4 + 0.3 + 0.1) / 4)
    assert found.items == 4


def test_equal_mass_bins_keep_equal_scores_together():
    # Median of the scores is .2: one bin is [.1], the other all from .2 on.
    found = calibration([0.2, 0.1, 0.2, 0.8], [1, 0, 0, 1], bins=2)
    assert found.ece_mass == pytest.approx((0.1 + 3 * (2 / 3 - 0.4)) / 4)
    shuffled = calibration([0.8, 0.2, 0.2, 0.1], [1, 0, 1, 0], bins=2)
    assert shuffled.ece_mass == pytest.approx(found.ece_mass)


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_reliability_is_that_of_scikit_learn(strategy):
    rng = np.random.default_rng(0)
    p = rng.beta(1, 3, 500)
    y = (rng.random(500) < p**1.5).astype(int)
    rates, means = calibration_curve(y, p, n_bins=10, strategy=strategy)
    found = calibration(p, y)
    if strategy == "uniform":
        assert [row.rate for row in found.bins] == pytest.approx(list(rates))
        assert [row.mean_score for row in found.bins] == pytest.approx(list(means))
    else:  # 50 in each
        assert found.ece_mass == pytest.approx(float(np.abs(rates - means).mean()))


def test_calibration_of_nothing_and_of_one_class():
    empty = calibration([], [])
    assert (empty.items, empty.brier, empty.ece_width, empty.ece_mass) == (0, None, None, None)
    assert empty.bins == ()
    assert calibration([1.0, 0.5], [0, 0]).brier == pytest.approx(0.625)


def test_rogan_gladen_by_hand():
    # Se .8, Sp .9: (.24 + .9 - 1) / .7 = .2
    counts = accuracy([1] * 40 + [0] * 10 + [1] * 10 + [0] * 90, [1] * 50 + [0] * 100)
    found = corrected_rate(240, 1000, counts)
    assert found.value == pytest.approx(0.2)
    assert found.low < 0.2 < found.high
    # The spread comes from Se and Sp: as much as ten times the completions leave it nearly as wide.
    more = corrected_rate(2400, 10_000, counts)
    assert 0.85 < (more.high - more.low) / (found.high - found.low) < 1


def test_rogan_gladen_is_clipped_and_undefined_where_labels_say_nothing():
    good = accuracy([1, 1, 0, 0, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0])
    assert corrected_rate(0, 100, good).value == 0.0
    assert corrected_rate(0, 100, good).low == 0.0
    inverted = accuracy([0, 1], [1, 0])
    assert corrected_rate(50, 100, inverted) == Estimate(None)
    assert corrected_rate(50, 100, accuracy([1, 0], [0, 0])) == Estimate(None)
    assert corrected_rate(0, 0, good) == Estimate(None)


def test_the_interval_of_the_corrected_rate_covers_the_truth_95_times_in_100():
    rng = np.random.default_rng(0)
    rate, se, sp, with_it, without = 0.15, 0.8, 0.9, 40, 110
    hits = 0
    for _trial in range(400):
        tp, tn = rng.binomial(with_it, se), rng.binomial(without, sp)
        gold = [1] * with_it + [0] * without
        said = [1] * tp + [0] * (with_it - tp) + [0] * tn + [1] * (without - tn)
        positive = int(rng.binomial(800, rate * se + (1 - rate) * (1 - sp)))
        found = corrected_rate(positive, 800, accuracy(said, gold))
        hits += found.low <= rate <= found.high
    assert 0.92 <= hits / 400 <= 0.98


# Real annotators


def data_file(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"no {path}: the golden numbers need the data set")
    return path


def pandalm() -> np.ndarray:
    items = json.loads(data_file("pandalm/testset-v1.json").read_text(encoding="utf-8"))
    return np.array([[item[f"annotator{k}"] for k in (1, 2, 3)] for item in items], float)


def test_pandalm_annotators():
    ratings = pandalm()
    assert ratings.shape == (999, 3)
    found = agreement(ratings)
    assert found.alpha.value == pytest.approx(0.864, abs=5e-4)
    assert found.ac1.value == pytest.approx(0.886, abs=5e-4)
    assert found.alpha.low < 0.864 < found.alpha.high
    kappas = [cohen_kappa(ratings[:, columns]) for columns in ([0, 1], [0, 2], [1, 2])]
    assert kappas == pytest.approx([0.852, 0.879, 0.862], abs=5e-4)


@pytest.mark.parametrize(
    ("file", "column", "accuracy_of_judge"),
    [
        ("pandalm-7b-testset-v1.json", "pandalm_result", 0.668),
        ("gpt-3.5-turbo-testset-v1.json", "gpt_result", 0.698),
    ],
)
def test_pandalm_judges_against_the_majority(file, column, accuracy_of_judge):
    ratings = pandalm()
    majority = [max((0, 1, 2), key=list(row).count) for row in ratings]
    judge = json.loads(data_file(f"pandalm/{file}").read_text(encoding="utf-8"))
    names = {"0": 0, "Tie": 0, "1": 1, "2": 2}  # 25 of GPT-3.5's are unreadable, and wrong
    said = [names.get(str(row[column]), -1) for row in judge]
    found = observed_agreement(np.array([majority, said], float).T)
    assert found == pytest.approx(accuracy_of_judge, abs=5e-4)


def test_davidson_annotators():
    with data_file("davidson/labeled_data.csv").open(encoding="utf-8", newline="") as file:
        counts = [
            [int(row[name]) for name in ("hate_speech", "offensive_language", "neither")]
            for row in csv.DictReader(file)
        ]
    ratings = np.full((len(counts), max(map(sum, counts))), np.nan)
    for row, votes in zip(ratings, counts, strict=True):
        row[: sum(votes)] = np.repeat([0, 1, 2], votes)
    assert ratings.shape == (24_783, 9)
    assert krippendorff_alpha(ratings) == pytest.approx(0.543, abs=5e-4)
    assert gwet_ac1(ratings) == pytest.approx(0.762, abs=5e-4)
    assert np.mean([max(votes) == sum(votes) for votes in counts]) == pytest.approx(0.705, abs=5e-4)
