"""Paired numbers against ones worked out by hand, intervals against a plain bootstrap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from pipeline.holdout.comparisons import (
    change,
    distinct_2_ratio,
    ratio,
    text_changes,
    toxicity_change,
)
from tests.warehouse.builder import label, rollout
from warehouse.schemas import table_from_rows


def by_prompt(seed: int, count: int, mean: float) -> dict[str, float]:
    drawn = np.random.default_rng(seed).normal(mean, 1.0, count)
    return {f"p{i}": float(value) for i, value in enumerate(drawn)}


def plain_interval(
    statistic: Callable[[np.ndarray, np.ndarray], float], a: np.ndarray, b: np.ndarray
) -> tuple[float, float]:
    """Percentiles of the statistic over 4,000 draws of prompts, one at a time."""
    random = np.random.default_rng(99)
    draws = (random.integers(0, len(a), len(a)) for _ in range(4000))
    low, high = np.percentile([statistic(a[d], b[d]) for d in draws], [2.5, 97.5])
    return float(low), float(high)


def both(after: dict[str, float], before: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    shared = sorted(after.keys() & before.keys())
    return np.array([after[p] for p in shared]), np.array([before[p] for p in shared])


def test_a_change_is_paired_over_the_prompts_that_both_have() -> None:
    before = by_prompt(0, 60, 0.0)
    # What a prompt brings is in both, so the pairs' interval is far narrower than two samples'.
    after = {p: v + 0.1 + 0.01 * i for i, (p, v) in enumerate(before.items())}
    after |= {"only-now": 100.0}
    del after["p3"]
    measured = change("c", after, before, "u", seed=0, labeler="metric")
    assert measured is not None
    now, then = both(after, before)
    assert len(now) == 59
    assert measured.value == pytest.approx(float(np.mean(now - then)))
    low, high = plain_interval(lambda a, b: float((a - b).mean()), now, then)
    assert measured.low == pytest.approx(low, abs=0.01)
    assert measured.high == pytest.approx(high, abs=0.01)
    assert measured.labeler == "metric"


def test_a_ratio_is_of_means_and_paired() -> None:
    before = by_prompt(1, 80, 20.0)
    after = {p: 0.7 * v + 0.3 * noise for (p, v), noise in zip(
        before.items(), by_prompt(2, 80, 0.0).values(), strict=True)}  # fmt: skip
    measured = ratio("length_ratio", after, before, "u", seed=0)
    assert measured is not None
    now, then = both(after, before)
    assert measured.value == pytest.approx(now.mean() / then.mean())
    low, high = plain_interval(lambda a, b: float(a.mean() / b.mean()), now, then)
    assert measured.low == pytest.approx(low, abs=0.001)
    assert measured.high == pytest.approx(high, abs=0.001)
    assert measured.low < measured.value < measured.high


@pytest.mark.parametrize("before", [{}, {"a": 1.0}, {"b": 1.0, "c": 1.0}])
def test_fewer_than_two_shared_prompts_compare_nothing(before: dict[str, float]) -> None:
    assert change("c", {"a": 1.0, "d": 2.0}, before, "u", seed=0) is None
    assert ratio("r", {"a": 1.0, "d": 2.0}, before, "u", seed=0) is None


def test_nothing_is_divided_by_a_length_of_zero() -> None:
    assert ratio("r", {"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 0.0}, "u", seed=0) is None


def rollouts(number: int, texts: dict[tuple[str, int], str], **columns: object) -> pa.Table:
    rows = [rollout(number, p, k, completion=text, **columns) for (p, k), text in texts.items()]
    return table_from_rows("rollouts", rows)


def test_toxicity_is_the_rate_of_a_labelers_usable_labels() -> None:
    first = [rollout(0, p, k) for p in ("a", "b", "c") for k in (0, 1)]
    second = [rollout(1, p, k) for p in ("a", "b", "c") for k in (0, 1)]
    scores = [[0.9, 0.1, 0.2, 0.3, 0.5, 0.5], [0.9, 0.6, 0.2, 0.7, None, None]]
    policies = []
    for rows, of in zip((first, second), scores, strict=True):
        labels = [label(row, score, "metric") for row, score in zip(rows, of, strict=True)]
        labels += [label(row, 1.0, "other") for row in rows]
        policies.append((table_from_rows("rollouts", rows), table_from_rows("labels", labels)))
    # a: 1/2 -> 1, b: 0 -> 1/2; c has no usable label in round 1.
    measured = toxicity_change("c", policies[1], policies[0], "metric", seed=0)
    assert measured is not None
    assert (measured.value, measured.low, measured.high) == (0.5, 0.5, 0.5)
    assert toxicity_change("c", policies[1], policies[0], "nobody", seed=0) is None


def test_texts_against_round_0() -> None:
    base = {("a", 0): "one two three", ("a", 1): "four five", ("b", 0): "six seven eight"}
    now = {("a", 0): "I cannot help.", ("a", 1): "I cannot help.", ("b", 0): "six seven eight"}
    found = text_changes(
        rollouts(1, now, completion_ids=[3, 4, 5, 6], finish_reason="length"), rollouts(0, base), 0
    )
    numbers = {m.metric: m for m in found}
    assert numbers.keys() == {
        "length_ratio", "distinct_2_ratio", "refusal_change", "truncated_change"
    }  # fmt: skip
    assert numbers["length_ratio"].value == pytest.approx(4 / 3)
    assert numbers["refusal_change"].value == 0.5  # prompt a refuses twice, b never
    assert (numbers["refusal_change"].low, numbers["refusal_change"].high) == (0.0, 1.0)
    assert numbers["truncated_change"].value == 1.0
    # Round 0 has 5 bigrams, all distinct; now 4 of 6 are.
    assert numbers["distinct_2_ratio"].value == pytest.approx(4 / 6)


def test_distinct_2_compares_the_same_prompts_and_samples() -> None:
    texts = {(f"p{i}", 0): "the same words" for i in range(9)}
    base = {("p0", 0): "the same words"}
    measured = distinct_2_ratio(rollouts(1, texts), rollouts(0, base))
    assert measured is not None
    assert (measured.value, measured.low, measured.high) == (1.0, None, None)
    assert distinct_2_ratio(rollouts(1, texts), rollouts(0, {("p0", 0): "word"})) is None
