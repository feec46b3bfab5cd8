"""What a labeler got right on a suite, as numbers: overall, per slice, per identity group.

Pure functions from scores to frozen records. Shares carry Wilson intervals; a row without a score
is counted by its status and is in no share. The worst slice is the headline, because a mean hides
it. Not here: running the labeler (labeler.py), printing (commands/suite_output.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labeling.trust.agreement import Estimate
from labeling.trust.bias import Bias, auc, bias
from labeling.trust.calibration import accuracy
from pipeline.suites.suite import Suite

LEAST_ITEMS = 10  # a slice of fewer scored rows is no headline


@dataclass(frozen=True)
class SliceNumbers:
    """One slice of a suite; `items` have a score, `unscored` have none."""

    column: str
    value: str
    items: int
    unscored: int
    accuracy: Estimate
    sensitivity: Estimate
    specificity: Estimate
    auc: float | None
    mean_score: float | None


@dataclass(frozen=True)
class LabelerNumbers:
    """One labeler on one suite. `worst`: the slice with the lowest accuracy; None without slices.

    `slices` stand worst first; `bias` is None where the suite speaks of no groups.
    """

    labeler: str
    revision: str
    criterion: str
    model: str
    statuses: dict[str, int]
    overall: SliceNumbers
    worst: SliceNumbers | None
    slices: tuple[SliceNumbers, ...]
    bias: Bias | None


def labeler_numbers(
    suite: Suite,
    scores: Sequence[float | None],
    statuses: Sequence[str],
    *,
    labeler: str,
    revision: str,
    criterion: str,
    model: str,
    threshold: float = 0.5,
) -> LabelerNumbers:
    """The numbers of one labeler; `scores` (None: no score) and `statuses` are one per row."""

    def numbers(column: str, value: str, places: Sequence[int]) -> SliceNumbers:
        scored = [place for place in places if scores[place] is not None]
        found = np.array([scores[place] for place in scored], np.float64)
        wanted = np.array([suite.rows[place].expected for place in scored], np.int64)
        counts = accuracy(found >= threshold, wanted)
        return SliceNumbers(
            column,
            value,
            len(scored),
            len(places) - len(scored),
            counts.accuracy,
            counts.sensitivity,
            counts.specificity,
            auc(found, wanted),
            float(found.mean()) if scored else None,
        )

    slices = [numbers(*name, places) for name, places in suite.slices.items()]
    slices.sort(key=_badness)
    return LabelerNumbers(
        labeler,
        revision,
        criterion,
        model,
        dict(Counter(statuses).most_common()),
        numbers("", "all", range(len(suite.rows))),
        next((one for one in slices if one.items >= LEAST_ITEMS), None),
        tuple(slices),
        _bias(suite, scores),
    )


def _badness(numbers: SliceNumbers) -> tuple[bool, float, str, str]:
    value = numbers.accuracy.value
    return value is None, value or 0.0, numbers.column, numbers.value


def _bias(suite: Suite, scores: Sequence[float | None]) -> Bias | None:
    """AUCs by group over the rows with a score."""
    if not suite.groups:
        return None
    scored = np.array([score is not None for score in scores])
    found = np.array([score for score in scores if score is not None], np.float64)
    wanted = np.array([row.expected for row in suite.rows], np.int64)[scored]
    members = {}
    for group, places in suite.groups.items():
        mask = np.zeros(len(suite.rows), np.bool_)
        mask[places] = True
        members[group] = mask[scored]
    return bias(found, wanted, members)
