"""What a night's labels must show before training may see them: from rows to findings.

A finding is one number of one labeler beside its threshold. What cannot be computed (kappa where
the gold items are all of one kind) makes no finding. Arithmetic by scikit-learn and statsmodels.
Pure functions. Not here: where the rows come from, and what a refusal does
(pipeline/stages/gate.py).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labeling.gate.config import GateConfig
from labeling.gate.sentinels import CANARIES
from labeling.trust.agreement import cohen_kappa
from labeling.trust.calibration import wilson
from warehouse.schemas import SCORED_STATUSES

Row = Mapping[str, Any]
YES_FROM = 0.5
# Below this, a shift is rounding however many standard errors it is away from nothing.
_LEAST_SHIFT = 0.02
_LEAST_PAIRS = 5


@dataclass(frozen=True)
class Finding:
    """One check of one labeler: `value` beside `threshold`; `detail` says what it is made of."""

    labeler: str
    check: str
    value: float
    threshold: float
    is_passed: bool
    wanted: str
    detail: str = ""

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.labeler}: {self.check} {self.value:.3g}, wanted {self.wanted}{detail}"


def label_findings(
    labeler: str, labels: Sequence[Row], rollouts: int, limits: GateConfig
) -> list[Finding]:
    """Checks of a round's final labels (columns of table `labels`) by one labeler.

    `rollouts` is how many completions there are to label. Of a pairwise judge both orders count as
    labels, and their mean for the order's consistency only.
    """
    pairs = [row for row in labels if row["partner_rollout_id"] is not None]
    single = [row for row in labels if row["partner_rollout_id"] is None]
    found = []
    if single or not pairs:
        coverage = len(single) / max(rollouts, 1)
        found.append(_at_least(labeler, "coverage", coverage, limits.min_coverage))
    calls = [*single, *(row for row in pairs if row["pair_order"] is not None)]
    found += _status_findings(labeler, calls, limits)
    found += _change_findings(labeler, calls)
    judged = [row["is_consistent"] for row in pairs if row["is_consistent"] is not None]
    if judged:
        share = sum(judged) / len(judged)
        wanted = limits.min_order_consistency
        found.append(_at_least(labeler, "order consistency", share, wanted, f"{len(judged)} pairs"))
    return found


def _status_findings(labeler: str, labels: Sequence[Row], limits: GateConfig) -> list[Finding]:
    """Failures: their share, its upper bound, and the share of low label mass."""
    counts = Counter(row["status"] for row in labels)
    total, failed = len(labels), sum(counts[s] for s in counts if s not in SCORED_STATUSES)
    detail = ", ".join(f"{status} {count}" for status, count in counts.most_common())
    ok_rate = (total - failed) / max(total, 1)
    found = [_at_least(labeler, "ok rate", ok_rate, limits.min_ok_rate, detail)]
    # Few labels cannot show a small rate: of them the bound would refuse what has no failure.
    if (wilson(0, total).high or 1.0) < limits.max_failure_bound:
        bound = wilson(failed, total).high or 0.0
        wanted = limits.max_failure_bound
        found.append(_at_most(labeler, "failure rate's upper bound", bound, wanted, detail))
    low_mass = counts["low_mass"] / max(total, 1)
    found.append(_at_most(labeler, "share of low label mass", low_mass, limits.max_low_mass))
    return found


def _change_findings(labeler: str, labels: Sequence[Row]) -> list[Finding]:
    """More than one model, revision or template behind one labeler's scores of a night."""
    scored = [row for row in labels if row["status"] in SCORED_STATUSES]
    found = []
    for column in ("revision", "model", "model_revision", "template_sha256"):
        values = sorted({str(row[column]) for row in scored})
        if len(values) > 1:
            shown = ", ".join(values[:3])
            found.append(_at_most(labeler, f"values of {column}", len(values), 1, shown))
    return found


def sentinel_findings(
    labeler: str, tonight: Sequence[Row], before: Sequence[Row], limits: GateConfig
) -> list[Finding]:
    """Checks of a labeler's rows of table `sentinels`, against gold and its last accepted night.

    `before` may be empty. A shift of scores is looked at under one revision only: of a new one it
    is what was meant.
    """
    found = []
    scored = {row["sentinel_id"]: row for row in tonight if row["score"] is not None}
    if tonight:
        share = len(scored) / len(tonight)
        found.append(_at_least(labeler, "sentinels scored", share, limits.min_ok_rate))
    kappa, earlier = _kappa(tonight), _kappa(before)
    if kappa is not None:
        wanted = limits.min_sentinel_kappa
        found.append(_at_least(labeler, "sentinel kappa", kappa, wanted))
        if earlier is not None:
            drop, most = earlier - kappa, limits.max_sentinel_kappa_drop
            found.append(_at_most(labeler, "drop of the sentinel kappa", drop, most))
    found += _shift_findings(labeler, scored, before, limits)
    canaries = [row for row in scored.values() if row["kind"] in CANARIES]
    if canaries:
        worst = max(canaries, key=lambda row: (row["score"], row["sentinel_id"]))
        name, most = worst["sentinel_id"], limits.max_canary_score
        found.append(_at_most(labeler, "best canary", worst["score"], most, name))
    return found


def padding_findings(
    labeler: str, tonight: Sequence[Row], bases: Mapping[str, str], limits: GateConfig
) -> list[Finding]:
    """What an answer gains by being said again; `bases`: id of the longer -> of the plain one."""
    score = {row["sentinel_id"]: row["score"] for row in tonight if row["score"] is not None}
    gains = {
        longer: score[longer] - score[plain]
        for longer, plain in bases.items()
        if longer in score and plain in score
    }
    if not gains:
        return []
    most = max(sorted(gains), key=gains.__getitem__)
    return [_at_most(labeler, "gain by padding", gains[most], limits.max_padding_gain, most)]


def _kappa(rows: Sequence[Row]) -> float | None:
    """Cohen's kappa of yes and no (from .5 on) with the gold items; None with one kind of gold."""
    gold = [row for row in rows if row["kind"] == "gold" and row["score"] is not None]
    truth = [float(row["gold"] >= YES_FROM) for row in gold]
    if len(set(truth)) < 2:
        return None
    said = [float(row["score"] >= YES_FROM) for row in gold]
    return cohen_kappa(list(zip(said, truth, strict=True)))


def _shift_findings(
    labeler: str, scored: Mapping[str, Row], before: Sequence[Row], limits: GateConfig
) -> list[Finding]:
    """Mean change of the same sentinels' scores, in standard errors (paired)."""
    changes = [
        scored[row["sentinel_id"]]["score"] - row["score"]
        for row in before
        if row["score"] is not None
        and row["sentinel_id"] in scored
        and scored[row["sentinel_id"]]["revision"] == row["revision"]
    ]
    if len(changes) < _LEAST_PAIRS:
        return []
    mean = statistics.fmean(changes)
    error = statistics.stdev(changes) / math.sqrt(len(changes))
    in_errors = abs(mean) / error if error > 0 else math.inf
    size = in_errors if abs(mean) >= _LEAST_SHIFT else 0.0
    detail = f"mean {mean:+.3f} over {len(changes)} sentinels"
    check = "sentinel shift in standard errors"
    return [_at_most(labeler, check, size, limits.max_sentinel_shift, detail)]


def _at_least(labeler: str, check: str, value: float, wanted: float, detail: str = "") -> Finding:
    return Finding(labeler, check, value, wanted, value >= wanted, f">= {wanted:g}", detail)


def _at_most(labeler: str, check: str, value: float, wanted: float, detail: str = "") -> Finding:
    return Finding(labeler, check, value, wanted, value <= wanted, f"<= {wanted:g}", detail)
