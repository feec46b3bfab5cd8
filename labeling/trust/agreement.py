"""How far raters agree with each other: pure functions on arrays of items x raters.

Libraries do the arithmetic (scikit-learn, krippendorff, imported where they are used); AC1, which
none of them has, stands here with its source. What is undefined (kappa where everybody says one
word) is None, never NaN. Intervals are percentile bootstraps at 95 % over clusters of items,
because the completions of one prompt are not independent. Not here: labelers against gold as the
truth (calibration.py), who is compared with whom (pipeline/audit/sample.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Level = Literal["nominal", "ordinal", "interval"]
CONFIDENCE = 0.95
RESAMPLES = 1000
# An interval from the few resamples where a statistic happens to exist would look too narrow.
_LEAST_DEFINED = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; None where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Agreement:
    """Raters among themselves over `items` with at least two ratings; kappa for two raters only."""

    items: int
    raters: int
    po: Estimate
    kappa: Estimate
    ac1: Estimate
    alpha: Estimate


def observed_agreement(ratings: npt.ArrayLike) -> float | None:
    """Mean over items of the share of rater pairs that agree (Fleiss 1971, P-bar).

    `ratings`: items x raters, NaN where a rater gave none. None without an item rated twice.
    """
    counts, _ = _counts(_matrix(ratings))
    n = counts.sum(axis=1)
    twice = n >= 2
    if not twice.any():
        return None
    agreeing = (counts * (counts - 1)).sum(axis=1)[twice]
    return float((agreeing / (n * (n - 1))[twice]).mean())


def cohen_kappa(ratings: npt.ArrayLike) -> float | None:
    """Cohen 1960, unweighted, by scikit-learn, over the items that both raters rated.

    `ratings`: items x raters, NaN where missing. None unless there are two raters and two values.
    """
    from sklearn.metrics import cohen_kappa_score

    matrix = _matrix(ratings)
    if matrix.shape[1] != 2:
        return None
    both = matrix[~np.isnan(matrix).any(axis=1)]
    values, codes = np.unique(both, return_inverse=True)
    if len(values) < 2:
        return None
    codes = codes.reshape(both.shape)
    return float(cohen_kappa_score(codes[:, 0], codes[:, 1]))


def gwet_ac1(ratings: npt.ArrayLike, *, categories: Sequence[float] | None = None) -> float | None:
    """AC1 = (pa - pe) / (1 - pe), pe = sum_c pi_c (1 - pi_c) / (q - 1) (Gwet 2008, eq. 4 and 6).

    `ratings`: items x raters, NaN where missing; an item rated once counts towards pi only.
    `categories`: the values that were on offer, by default those that occur. Steady where kappa
    collapses because nearly everything is one value. None with fewer than two categories.
    """
    matrix = _matrix(ratings)
    counts, values = _counts(matrix)
    q = len(values if categories is None else set(categories) | set(values))
    pa = observed_agreement(matrix)
    if pa is None or q < 2:
        return None
    rated = counts[counts.sum(axis=1) > 0]
    pi = (rated / rated.sum(axis=1, keepdims=True)).mean(axis=0)
    pe = float((pi * (1 - pi)).sum()) / (q - 1)
    return (pa - pe) / (1 - pe)


def krippendorff_alpha(ratings: npt.ArrayLike, level: Level = "nominal") -> float | None:
    """Krippendorff 2011, any number of raters, by the package krippendorff.

    `ratings`: items x raters, NaN where missing. None where nothing can be paired or all pairable
    values are one.
    """
    import krippendorff

    matrix = _matrix(ratings)
    counts, values = _counts(matrix[(~np.isnan(matrix)).sum(axis=1) >= 2])
    if len(values) < 2:
        return None
    return float(
        krippendorff.alpha(value_counts=counts, value_domain=values, level_of_measurement=level)
    )


def agreement(
    ratings: npt.ArrayLike,
    *,
    level: Level = "nominal",
    categories: Sequence[float] | None = None,
    clusters: Sequence[object] | None = None,
) -> Agreement:
    """All of the above with bootstrap intervals over clusters of items.

    `ratings`: items x raters, NaN where missing; `clusters`: one name per item (its prompt), by
    default every item is its own. Alpha is taken at `level`, the others take values as names.
    """
    matrix = _matrix(ratings)
    numbers = bootstrapped(
        lambda rows: (
            observed_agreement(matrix[rows]),
            cohen_kappa(matrix[rows]),
            gwet_ac1(matrix[rows], categories=categories),
            krippendorff_alpha(matrix[rows], level),
        ),
        len(matrix) if clusters is None else clusters,
    )
    twice = int(((~np.isnan(matrix)).sum(axis=1) >= 2).sum())
    return Agreement(twice, matrix.shape[1], *numbers)


def bootstrapped(
    statistics: Callable[[npt.NDArray[np.intp]], Sequence[float | None]],
    clusters: int | Sequence[object],
) -> list[Estimate]:
    """Percentile bootstrap (Efron and Tibshirani 1993, chapter 13) drawing whole clusters.

    `statistics` maps item indices to numbers; `clusters` is one name per item, or the number of
    items. No interval with a single cluster or where a number is undefined too often.
    """
    names: Sequence[object] = range(clusters) if isinstance(clusters, int) else clusters
    members: dict[object, list[int]] = {}
    for item, name in enumerate(names):
        members.setdefault(name, []).append(item)
    groups = [np.array(items, np.intp) for items in members.values()]
    values = statistics(np.arange(len(names)))
    if len(groups) < 2:
        return [Estimate(value) for value in values]
    rng = np.random.default_rng(0)
    draws = [
        statistics(np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]))
        for _ in range(RESAMPLES)
    ]
    return [_with_interval(value, [draw[k] for draw in draws]) for k, value in enumerate(values)]


def _matrix(ratings: npt.ArrayLike) -> Floats:
    matrix = np.asarray(ratings, np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"ratings are items x raters, not of shape {matrix.shape}")
    return matrix


def _counts(matrix: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
    """Items x values: how many raters gave the item that value; and the values, sorted."""
    values = np.unique(matrix[~np.isnan(matrix)])
    counts = np.stack([(matrix == v).sum(axis=1) for v in values], axis=1) if len(values) else None
    return (np.zeros((len(matrix), 0), np.int64) if counts is None else counts), values


def _with_interval(value: float | None, draws: Sequence[float | None]) -> Estimate:
    defined = [draw for draw in draws if draw is not None]
    if value is None or len(defined) < _LEAST_DEFINED * len(draws):
        return Estimate(value)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    return Estimate(value, float(low), float(high))
