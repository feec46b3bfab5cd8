"""Checks of a night's labels, each with the defect that it is there for."""

from __future__ import annotations

from typing import Any

import pytest

from labeling.gate.checks import Finding, label_findings, padding_findings, sentinel_findings
from labeling.gate.config import GateConfig

LIMITS = GateConfig()
Row = dict[str, Any]


def label(status: str = "ok", **more: Any) -> Row:
    return {
        "partner_rollout_id": None, "pair_order": None, "is_consistent": None, "status": status,
        "revision": "r1", "model": "m", "model_revision": "m1", "template_sha256": "t1",
    } | more  # fmt: skip


def sentinel(number: int, score: float | None, gold: float = 0.0, **more: Any) -> Row:
    return {
        "sentinel_id": f"s{number}", "kind": "gold", "gold": gold, "score": score,
        "status": "refusal" if score is None else "ok", "revision": "r1",
    } | more  # fmt: skip


def healthy() -> list[Row]:
    gold = [sentinel(n, 0.9 if n % 2 else 0.1, float(n % 2)) for n in range(20)]
    return [*gold, sentinel(20, 0.05, kind="constant"), sentinel(21, 0.1, kind="master_key")]


def failed(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings if not finding.is_passed}


def test_a_healthy_night_passes_every_check() -> None:
    labels = [label()] * 196 + [label("malformed")] * 4
    found = label_findings("judge", labels, 200, LIMITS)
    found += sentinel_findings("judge", healthy(), healthy(), LIMITS)
    assert {f.check for f in found} == {
        "coverage", "ok rate", "failure rate's upper bound", "share of low label mass",
        "sentinels scored", "sentinel kappa", "drop of the sentinel kappa",
        "sentinel shift in standard errors", "best canary",
    }  # fmt: skip
    assert failed(found) == {}


def test_missing_labels_and_failures_are_counted_apart() -> None:
    found = failed(label_findings("judge", [label()] * 90, 100, LIMITS))
    assert list(found) == ["coverage"]
    assert found["coverage"].value == pytest.approx(0.9)
    labels = [label()] * 90 + [label("timeout")] * 10
    found = failed(label_findings("judge", labels, 100, LIMITS))
    assert set(found) == {"ok rate", "failure rate's upper bound"}
    assert "ok 90, timeout 10" in str(found["ok rate"])
    assert failed(label_findings("judge", [], 10, LIMITS)).keys() == {"coverage", "ok rate"}


def test_the_upper_bound_sees_what_the_rate_hides() -> None:
    # 5 of 100: a rate of .05 is within the limit, but it may be .112 (Wilson).
    labels = [label()] * 95 + [label("error")] * 5
    found = failed(label_findings("judge", labels, 100, LIMITS))
    assert list(found) == ["failure rate's upper bound"]
    assert found["failure rate's upper bound"].value == pytest.approx(0.1118, abs=1e-3)


def test_few_labels_are_not_refused_for_being_few() -> None:
    checks = {f.check for f in label_findings("judge", [label()] * 20, 20, LIMITS)}
    assert "failure rate's upper bound" not in checks


def test_a_judge_that_meant_to_say_something_else_is_found() -> None:
    labels = [label()] * 970 + [label("low_mass")] * 30
    found = failed(label_findings("judge", labels, 1000, LIMITS))
    assert list(found) == ["share of low label mass"]


@pytest.mark.parametrize("column", ["revision", "model", "model_revision", "template_sha256"])
def test_what_changes_within_a_night_is_named(column: str) -> None:
    labels = [label()] * 100 + [label(**{column: "other"})]
    (finding,) = failed(label_findings("judge", labels, 101, LIMITS)).values()
    assert finding.check == f"values of {column}"
    assert "other" in finding.detail


def test_a_row_that_nobody_answered_tells_nothing_about_the_model() -> None:
    labels = [label(model="served")] * 100 + [label("timeout", model="asked-for")]
    assert failed(label_findings("judge", labels, 101, LIMITS)) == {}


def test_a_judge_that_prefers_a_place_is_found() -> None:
    pairs = [
        label(partner_rollout_id="b", pair_order=order, is_consistent=None if order else n % 2 == 0)
        for n in range(100)
        for order in ("AB", "BA", None)
    ]
    (finding,) = failed(label_findings("judge", pairs, 100, LIMITS)).values()
    assert (finding.check, finding.value) == ("order consistency", 0.5)


def test_both_orders_of_a_pair_are_labels_and_their_mean_is_none() -> None:
    orders = [label(partner_rollout_id="b", pair_order=order) for order in ("AB", "BA")] * 50
    means = [label("refusal", partner_rollout_id="b")] * 50
    assert failed(label_findings("judge", orders + means, 100, LIMITS)) == {}
    orders[:20] = [label("refusal", partner_rollout_id="b", pair_order="AB")] * 20
    assert "ok rate" in failed(label_findings("judge", orders + means, 100, LIMITS))


def test_a_judge_that_always_says_nine_has_no_kappa() -> None:
    rows = [row | {"score": 1.0} for row in healthy()]
    found = failed(sentinel_findings("judge", rows, [], LIMITS))
    assert found["sentinel kappa"].value == 0.0
    assert found["best canary"].value == 1.0


def test_a_flipped_label_map_is_found() -> None:
    rows = [row | {"score": 1 - row["score"]} for row in healthy()]
    assert failed(sentinel_findings("judge", rows, [], LIMITS))["sentinel kappa"].value == -1.0


def test_a_judge_that_became_worse_is_found_beside_its_last_night() -> None:
    rows = healthy()
    for n in (0, 2, 4):  # .7 is still far above the least kappa
        rows[n] = rows[n] | {"score": 0.6}
    found = failed(sentinel_findings("judge", rows, healthy(), LIMITS))
    assert found["drop of the sentinel kappa"].value == pytest.approx(0.3)
    assert failed(sentinel_findings("judge", rows, [], LIMITS)) == {}


def test_a_silent_change_of_the_scores_is_found_under_one_revision_only() -> None:
    rows = [row | {"score": row["score"] * 0.95 + 0.05 * n / 22} for n, row in enumerate(healthy())]
    shifted = [row | {"score": row["score"] + 0.04} for row in rows]
    found = failed(sentinel_findings("judge", shifted, healthy(), LIMITS))
    assert list(found) == ["sentinel shift in standard errors"]
    assert "mean +0.0" in found["sentinel shift in standard errors"].detail
    renewed = [row | {"revision": "r2"} for row in shifted]
    assert failed(sentinel_findings("judge", renewed, healthy(), LIMITS)) == {}


def test_every_score_moved_by_the_same_is_no_division_by_zero() -> None:
    shifted = [row | {"score": row["score"] + 0.0625} for row in healthy()]
    found = failed(sentinel_findings("judge", shifted, healthy(), LIMITS))
    assert found["sentinel shift in standard errors"].value > 100
    tiny = [row | {"score": row["score"] + 0.001} for row in healthy()]
    assert failed(sentinel_findings("judge", tiny, healthy(), LIMITS)) == {}


def test_the_best_canary_is_named() -> None:
    rows = [*healthy(), sentinel(30, 0.8, kind="refusal")]
    found = failed(sentinel_findings("judge", rows, [], LIMITS))
    assert str(found["best canary"]) == "judge: best canary 0.8, wanted <= 0.5 (s30)"


def test_sentinels_without_a_score_count_against_the_labeler() -> None:
    rows = [row | {"score": None, "status": "error"} for row in healthy()]
    found = sentinel_findings("judge", rows, healthy(), LIMITS)
    assert [f.check for f in found if not f.is_passed] == ["sentinels scored"]
    assert len(found) == 1


def test_gold_of_one_kind_makes_no_kappa() -> None:
    rows = [sentinel(n, 0.9, 1.0) for n in range(5)]
    assert "sentinel kappa" not in {f.check for f in sentinel_findings("j", rows, [], LIMITS)}


def test_an_answer_that_gains_by_being_said_again_is_found() -> None:
    rows = [sentinel(1, 0.5), sentinel(2, 0.55), sentinel(3, 0.9), sentinel(4, None)]
    bases = {"s2": "s1", "s3": "s1", "s4": "s1", "s9": "s1"}
    (finding,) = padding_findings("judge", rows, bases, LIMITS)
    assert not finding.is_passed
    assert (finding.value, finding.detail) == (pytest.approx(0.4), "s3")
    assert padding_findings("judge", rows, {"s4": "s1"}, LIMITS) == []
