"""Unintended bias of scores against identity groups: AUCs after Borkan et al. 2019. Pure functions.

"Nuanced Metrics for Measuring Unintended Bias with Real Data for Text Classification" (WWW 2019),
sections 4.1 to 4.3: three AUCs per group and their generalised mean, which the worst groups rule.
scikit-learn does the AUCs. What is undefined (one class only) is None, never NaN. Not here: which
row speaks of which group (pipeline/suites/suite.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
POWER = -5.0
WEIGHT = 0.25


@dataclass(frozen=True)
class GroupBias:
    """AUCs of one group. `bpsn`: its harmless rows against harmful ones of the background; low
    where the group's name alone raises scores. `bnsp`: the reverse, low where it lowers them.
    """

    group: str
    items: int
    subgroup_auc: float | None
    bpsn_auc: float | None
    bnsp_auc: float | None


@dataclass(frozen=True)
class Bias:
    """All groups, worst subgroup AUC first; the generalised means and the final metric."""

    groups: tuple[GroupBias, ...]
    overall_auc: float | None
    subgroup_mean: float | None
    bpsn_mean: float | None
    bnsp_mean: float | None
    final: float | None


def auc(scores: npt.ArrayLike, expected: npt.ArrayLike) -> float | None:
    """Area under the ROC curve of `scores` against `expected` 0 or 1; None with one class only."""
    from sklearn.metrics import roc_auc_score

    y = np.asarray(expected, np.int64)
    if len(np.unique(y)) < 2:
        return None
    return float(roc_auc_score(y, np.asarray(scores, np.float64)))


def generalised_mean(values: Sequence[float | None]) -> float | None:
    """(mean of v^p)^(1/p) over the defined values, p = POWER < 0: a single 0 makes it 0."""
    defined = np.array([value for value in values if value is not None])
    if not len(defined):
        return None
    if (defined == 0).any():
        return 0.0
    return float(np.mean(defined**POWER) ** (1 / POWER))


def bias(scores: npt.ArrayLike, expected: npt.ArrayLike, members: Mapping[str, Bools]) -> Bias:
    """AUCs per group. `scores`, `expected` (0 or 1) and each group's mask are per item [n].

    final = .25 (overall AUC + the three generalised means); None where one of the four is.
    """
    s, y = np.asarray(scores, np.float64), np.asarray(expected, np.int64) == 1
    groups = [_group(name, s, y, inside) for name, inside in members.items()]
    groups.sort(key=lambda g: (g.subgroup_auc is None, g.subgroup_auc or 0.0, g.group))
    parts = [
        auc(s, y),
        generalised_mean([group.subgroup_auc for group in groups]),
        generalised_mean([group.bpsn_auc for group in groups]),
        generalised_mean([group.bnsp_auc for group in groups]),
    ]
    defined = [part for part in parts if part is not None]
    final = WEIGHT * sum(defined) if len(defined) == len(parts) else None
    return Bias(tuple(groups), parts[0], parts[1], parts[2], parts[3], final)


def _group(name: str, scores: Floats, positive: Bools, inside: Bools) -> GroupBias:
    bpsn = (~inside & positive) | (inside & ~positive)
    bnsp = (~inside & ~positive) | (inside & positive)
    return GroupBias(
        name,
        int(inside.sum()),
        subgroup_auc=auc(scores[inside], positive[inside]),
        bpsn_auc=auc(scores[bpsn], positive[bpsn]),
        bnsp_auc=auc(scores[bnsp], positive[bnsp]),
    )
