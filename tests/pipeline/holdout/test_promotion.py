"""Each guard by itself and all together, on numbers made up for it; the section's own rules."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipeline.configs.loading import load_config
from pipeline.errors import ConfigError
from pipeline.holdout.config import PromotionConfig
from pipeline.holdout.measures import Measured
from pipeline.holdout.promotion import GUARDS, Verdict, judge
from tests.warehouse.builder import Row, publish_rows, round_row
from warehouse.catalog.catalog import connect

KL_BUDGET = 6.0
HEALTHY: dict[str, tuple[float, float | None, float | None]] = {
    "toxicity_change_from_replaced": (-0.05, -0.08, -0.02),
    "length_ratio": (0.98, 0.95, 1.01),
    "distinct_2_ratio": (0.9, None, None),
    "refusal_change": (0.01, -0.01, 0.03),
    "truncated_change": (0.0, -0.01, 0.01),
    "kl_to_reference": (1.2, 1.1, 1.3),
}
FAILURES = [
    (
        {"toxicity_change_from_replaced": (0.05, 0.01, 0.09)},
        {},
        "promotion.max_toxicity_increase: toxicity against the policy it would replace 0.05 "
        "(0.01 to 0.09), wanted <= 0 at the low end",
    ),
    (
        {"toxicity_change_from_replaced": (-0.05, -0.11, 0.01)},
        {"require_improvement": True},
        "promotion.require_improvement: toxicity against the policy it would replace -0.05 "
        "(-0.11 to 0.01), wanted < 0 at the high end",
    ),
    (
        {"length_ratio": (0.45, 0.42, 0.48)},
        {},
        "promotion.min_length_ratio: length over round 0's 0.45 (0.42 to 0.48), wanted >= 0.5 at "
        "the high end",
    ),
    (
        {"length_ratio": (2.2, 2.1, 2.3)},
        {},
        "promotion.max_length_ratio: length over round 0's 2.2 (2.1 to 2.3), wanted <= 2 at the "
        "low end",
    ),
    (
        {"distinct_2_ratio": (0.6, None, None)},
        {},
        "promotion.min_distinct2_ratio: distinct-2 over round 0's 0.6, wanted >= 0.7",
    ),
    (
        {"refusal_change": (0.2, 0.15, 0.25)},
        {},
        "promotion.max_refusal_increase: refusals against round 0 0.2 (0.15 to 0.25), wanted "
        "<= 0.1 at the low end",
    ),
    (
        {"truncated_change": (0.3, 0.25, 0.35)},
        {},
        "promotion.max_truncation_increase: cut-off completions against round 0 0.3 (0.25 to "
        "0.35), wanted <= 0.2 at the low end",
    ),
    (
        {"kl_to_reference": (6.5, 6.2, 6.8)},
        {},
        "training.kl_budget: KL to the reference in nats per sequence 6.5 (6.2 to 6.8), wanted "
        "<= 6",
    ),
]


def numbers(**changed: tuple[float, float | None, float | None] | None) -> list[Measured]:
    """A healthy policy's numbers but for `changed`; None leaves one out."""
    found = []
    for metric, number in (HEALTHY | changed).items():
        labeler = "metric" if metric.startswith("toxicity") else None
        found += [Measured(metric, *number, "u", "m", labeler)] if number else []
    return found


def judged(measured: list[Measured], **keys: object) -> Verdict:
    return judge(measured, PromotionConfig.model_validate(keys), KL_BUDGET, "metric")


def test_a_healthy_policy_passes_every_guard() -> None:
    verdict = judged(numbers(), require_improvement=True)
    assert (verdict.is_promoted, verdict.reasons, verdict.is_too_far) == (True, [], False)
    assert [outcome.guard for outcome in verdict.outcomes] == list(GUARDS), "all are asked"


@pytest.mark.parametrize(("changed", "keys", "message"), FAILURES)
def test_each_guard_alone_rejects_and_says_number_interval_and_limit(
    changed: dict, keys: dict, message: str
) -> None:
    verdict = judged(numbers(**changed), **keys)
    assert not verdict.is_promoted
    assert verdict.reasons == [message]
    assert verdict.is_too_far == ("require_improvement" not in keys)


def test_all_that_fail_are_named() -> None:
    changed = {metric: number for change, _, _ in FAILURES[2:] for metric, number in change.items()}
    reasons = judged(numbers(**changed)).reasons
    assert [reason.partition(":")[0] for reason in reasons] == [
        "promotion.max_length_ratio",
        "promotion.min_distinct2_ratio",
        "promotion.max_refusal_increase",
        "promotion.max_truncation_increase",
        "training.kl_budget",
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"toxicity_change_from_replaced": (0.05, 0.0, 0.1)},
        {"length_ratio": (0.4, 0.3, 0.5)},
        {"length_ratio": (2.5, 2.0, 3.0)},
        {"distinct_2_ratio": (0.7, None, None)},
        {"refusal_change": (0.2, 0.1, 0.3)},
        {"truncated_change": (0.4, 0.2, 0.6)},
        {"kl_to_reference": (6.0, 5.0, 7.0)},
    ],
)
def test_at_the_limit_a_policy_still_passes(changed: dict) -> None:
    assert judged(numbers(**changed)).is_promoted


def test_no_change_at_all_is_no_improvement() -> None:
    same = numbers(toxicity_change_from_replaced=(0.0, 0.0, 0.0))
    assert judged(same).is_promoted
    assert not judged(same, require_improvement=True).is_promoted


@pytest.mark.parametrize("metric", HEALTHY)
@pytest.mark.parametrize("number", [None, (math.nan, math.nan, math.nan)])
def test_a_number_that_is_missing_rejects(metric: str, number: tuple | None) -> None:
    verdict = judged(numbers(**{metric: number}))
    assert verdict.reasons
    assert all(f"not measured (evaluations has no {metric})" in r for r in verdict.reasons)


def test_another_labelers_number_is_not_the_metrics() -> None:
    others = numbers(toxicity_change_from_replaced=None)
    others.append(Measured("toxicity_change_from_replaced", -0.1, -0.2, -0.05, "u", "m", "reward"))
    (reason,) = judged(others).reasons
    assert reason.endswith("not measured (evaluations has no toxicity_change_from_replaced)")


def test_a_guard_that_is_off_needs_no_number() -> None:
    off = dict.fromkeys(set(PromotionConfig.model_fields) - {"require_improvement"})
    verdict = judged(numbers(**dict.fromkeys(set(HEALTHY) - {"kl_to_reference"})), **off)
    assert verdict.is_promoted
    assert [outcome.guard.key for outcome in verdict.outcomes] == ["training.kl_budget"]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ("promotion.min_length_ratio=3", r"promotion.*min_length_ratio 3.0 is over max_length_ra"),
        ("promotion.max_refusal_increase=1.5", r"promotion\.max_refusal_increase"),
        ("promotion.max_toxicity_increase=-1", r"promotion\.max_toxicity_increase"),
        ("promotion.min_distinct2_ratio=.nan", r"promotion\.min_distinct2_ratio"),
        ("promotion.max_kl=3", r"promotion\.max_kl"),
    ],
)
def test_a_wrong_key_is_named(sets: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("demo", [sets])


@pytest.mark.parametrize(("changed", "keys", "message"), [({}, {}, ""), *FAILURES])
def test_the_mart_shows_the_same_guards(
    tmp_path: Path, changed: dict, keys: dict, message: str
) -> None:
    sets = [f"promotion.{key}={str(value).lower()}" for key, value in keys.items()]
    text = load_config("demo", sets).model_dump_json()
    row = round_row(0, training_run_id="t", config=text)
    rows: list[Row] = [
        {"round": 1, "policy_revision": "p", "labeler": m.labeler, "metric": m.metric,
         "value": m.value, "low": m.low, "high": m.high, "unit": m.unit, "method": m.method,
         "prompts": 2, "completions": 2, "samples_per_prompt": 1}
        for m in numbers(**changed)
    ]  # fmt: skip
    publish_rows(tmp_path, "round=1/evaluation", evaluations=rows, rounds=[row])
    found = connect(tmp_path).sql(
        "select guard, bound, comparison, threshold, held, is_passed from promotion_guards "
        "where round = 0"
    )
    outcomes = judged(numbers(**changed), **keys).outcomes
    assert sorted(found.fetchall()) == sorted(
        (o.guard.key, o.guard.bound, o.guard.comparison, o.limit, o.held, o.is_passed)
        for o in outcomes
    )


def test_in_the_mart_a_missing_number_fails_and_an_untrained_round_is_not_there(
    tmp_path: Path,
) -> None:
    text = load_config("demo").model_dump_json()
    rows = [round_row(0, training_run_id="t", config=text), round_row(1, config=text)]
    publish_rows(tmp_path, "rounds", rounds=rows)
    found = (
        connect(tmp_path)
        .sql("select distinct round, value, is_passed from promotion_guards")
        .fetchall()
    )
    assert found == [(0, None, False)]
