"""How far a labeler can be believed: against gold, as a probability, as a rate. Pure functions.

Libraries do the arithmetic (scikit-learn, statsmodels, scipy, imported where they are used); ECE
and Rogan-Gladen, which none of them has, stand here with their source. What is undefined
(sensitivity without positives) is None, never NaN. Shares carry Wilson intervals at 95 %. Not here:
raters among themselves (agreement.py), which completions are compared (pipeline/audit/sample.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from labeling.trust.agreement import CONFIDENCE, Estimate, Floats


@dataclass(frozen=True)
class Accuracy:
    """A binary labeler against gold: the four counts, and shares with Wilson intervals.

    `positives`, `negatives`: how many gold items of equal weight the shares are as good as.
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    accuracy: Estimate
    sensitivity: Estimate
    specificity: Estimate
    positives: float
    negatives: float


@dataclass(frozen=True)
class Bin:
    """One row of a reliability table: scores in [low, high), the last bin with its upper end."""

    low: float
    high: float
    items: int
    mean_score: float
    rate: float


@dataclass(frozen=True)
class Calibration:
    """How far a score can be read as a probability; `bins` are the equal-width ones."""

    items: int
    brier: float | None
    ece_width: float | None
    ece_mass: float | None
    bins: tuple[Bin, ...]


def accuracy(
    labels: npt.ArrayLike, gold: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> Accuracy:
    """`labels` against `gold`, both 0 or 1 per item; each share with its Wilson interval.

    `weights`: how many items of the population each one stands for, by default equally many. They
    reach the shares (as in `share`), never the counts.
    """
    from sklearn.metrics import confusion_matrix

    y, w = np.asarray(gold, np.int64), _weights(weights, np.size(gold))
    right = np.asarray(labels, np.int64) == y
    table = confusion_matrix(
        np.asarray(gold, np.int64), np.asarray(labels, np.int64), labels=[0, 1]
    ) if np.size(gold) else np.zeros((2, 2), np.int64)  # fmt: skip
    (tn, fp), (fn, tp) = table.tolist()
    return Accuracy(
        tp, fp, fn, tn,
        accuracy=share(right, w),
        sensitivity=share(right[y == 1], w[y == 1]),
        specificity=share(right[y == 0], w[y == 0]),
        positives=effective_items(w[y == 1]),
        negatives=effective_items(w[y == 0]),
    )  # fmt: skip


def share(is_yes: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Estimate:
    """Weighted share of yes (0 or 1 per item), Wilson's interval at the effective number of items.

    The interval is Korn and Graubard's idea (1998, Survey Methodology 24) with Wilson's form.
    """
    yes = np.asarray(is_yes, np.float64)
    w = _weights(weights, len(yes))
    items = effective_items(w)
    return wilson(float((w * yes).sum() / w.sum()) * items, items) if items else Estimate(None)


def effective_items(weights: npt.ArrayLike) -> float:
    """(sum w)^2 / sum w^2 (Kish 1965, section 11.7): equal weights count each item as one."""
    w = np.asarray(weights, np.float64)
    return float(w.sum() ** 2 / (w**2).sum()) if len(w) else 0.0


def _weights(weights: npt.ArrayLike | None, items: int) -> Floats:
    return np.ones(items) if weights is None else np.asarray(weights, np.float64)


def wilson(count: float, of: float) -> Estimate:
    """The share `count / of` with its Wilson interval (Wilson 1927); None of nothing."""
    from statsmodels.stats.proportion import proportion_confint

    if of == 0:
        return Estimate(None)
    value = count / of
    low, high = proportion_confint(count, of, alpha=1 - CONFIDENCE, method="wilson")
    # Rounding puts the end at a share of 0 or 1 a hair inside of it.
    return Estimate(value, min(float(low), value), max(float(high), value))


def calibration(
    scores: npt.ArrayLike,
    gold: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    bins: int = 10,
) -> Calibration:
    """Brier score, and ECE = sum_b n_b / n |rate_b - mean score_b| (Naeini et al. 2015, section 2).

    `scores` in [0, 1] and `gold` 0 or 1, one per item. Equal-width bins and equal-mass ones, whose
    edges are quantiles, so that equal scores share a bin and the order of items is without effect.
    `weights` as in `accuracy`.
    """
    from sklearn.metrics import brier_score_loss

    w = _weights(weights, np.size(scores))
    p, y = np.asarray(scores, np.float64), np.asarray(gold, np.float64)
    if not len(p):
        return Calibration(0, None, None, None, ())
    by_width, ece_width = _reliability(p, y, w, np.arange(bins + 1) / bins)
    _, ece_mass = _reliability(p, y, w, np.quantile(p, np.linspace(0, 1, bins + 1)))
    brier = float(brier_score_loss(y, p, pos_label=1, sample_weight=w))
    return Calibration(len(p), brier, ece_width, ece_mass, tuple(by_width))


def corrected_rate(positive: int, of: int, counts: Accuracy) -> Estimate:
    """The true rate behind a labeler's `positive / of`, given its sensitivity and specificity.

    (rate + Sp - 1) / (Se + Sp - 1) clipped to [0, 1] (Rogan and Gladen 1978); the interval is Lang
    and Reiczigel's (2014, Preventive Veterinary Medicine 113), which counts that Se and Sp are
    estimates too. None where a gold class is missing or Se + Sp <= 1: such labels say nothing.
    """
    from scipy.stats import norm

    se, sp = counts.sensitivity.value, counts.specificity.value
    if se is None or sp is None or of == 0 or se + sp <= 1:
        return Estimate(None)
    value = (positive / of + sp - 1) / (se + sp - 1)
    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    n_se, n_sp = counts.positives + 2, counts.negatives + 2
    n, p = of + z * z, (positive + z * z / 2) / (of + z * z)
    se, sp = (se * counts.positives + 1) / n_se, (sp * counts.negatives + 1) / n_sp
    if se + sp <= 1:
        return Estimate(min(max(value, 0.0), 1.0))
    center = (p + sp - 1) / (se + sp - 1)
    se_part, sp_part = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    shift = 2 * z * z * (center * se_part - (1 - center) * sp_part)
    variance = p * (1 - p) / n + center**2 * se_part + (1 - center) ** 2 * sp_part
    half = z * math.sqrt(variance) / (se + sp - 1)
    ends = (value, center + shift - half, center + shift + half)
    return Estimate(*(min(max(end, 0.0), 1.0) for end in ends))


def _reliability(
    p: Floats, y: Floats, w: Floats, edges: npt.NDArray[Any]
) -> tuple[list[Bin], float]:
    """The bins that hold items, and their ECE."""
    index = np.searchsorted(edges[1:-1], p, side="right")
    rows, ece = [], 0.0
    for b in np.unique(index):
        inside = index == b
        part = w[inside]
        rows.append(
            Bin(
                float(edges[b]), float(edges[b + 1]), int(inside.sum()),
                float(np.average(p[inside], weights=part)),
                float(np.average(y[inside], weights=part)),
            )
        )  # fmt: skip
        ece += float(part.sum() / w.sum()) * abs(rows[-1].rate - rows[-1].mean_score)
    return rows, ece
