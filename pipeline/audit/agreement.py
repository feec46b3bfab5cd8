"""How the labelers of a criterion compare with gold, and the annotators with each other.

Gold of a completion is the majority of its annotators' verdicts, each yes or no at the threshold
.5 of every binary criterion. A tie stays undecided: it is left out of what needs a truth and
counted. Accuracy, calibration and rates weigh every completion by its stratum of the sample
(post-stratification), so that they hold for the rounds with gold, however many of each stratum were
judged; agreement (po, kappa, AC1, alpha) is that of the sample. Its intervals draw whole prompts,
because completions of one prompt resemble each other.
Reads only. Apart from the other steps because its imports take seconds.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt

from labeling.trust.agreement import Agreement, Estimate, agreement
from labeling.trust.calibration import (
    Accuracy,
    Calibration,
    accuracy,
    calibration,
    corrected_rate,
    share,
    wilson,
)
from pipeline.audit.sample import read_strata
from warehouse.catalog.catalog import connect
from warehouse.errors import WarehouseError

THRESHOLD = 0.5
Scores = dict[str, dict[str, float]]
_YES_NO = (0.0, 1.0)

_GOLD = """
select gold.rollout_id, rollouts.prompt_id, gold.annotator, avg(gold.score)
from gold inner join rollouts on gold.rollout_id = rollouts.rollout_id
where gold.criterion = $1 group by all order by all
"""
_SCORES = """
select labeler, rollout_id, score from completion_scores
where criterion = $1 and rollout_id in (select rollout_id from gold where criterion = $1)
"""
# The rate to correct: everything the labeler scored in the rounds that have gold.
_RATES = """
select labeler, max(role), count(*), count(*) filter (score >= 0.5) from completion_scores as scores
where criterion = $1 and exists (
    from gold where gold.criterion = $1 and gold.round is not distinct from scores.round
)
group by labeler order by labeler
"""


_ROUNDS = "select distinct round from gold where criterion = $1 order by round"


@dataclass(frozen=True)
class LabelerAudit:
    """One labeler against gold over the `items` that both decided and scored.

    `unscored`: decided completions that it gave no score. `observed` is its rate of yes in the
    rounds with gold, `corrected` the rate behind it (Rogan-Gladen).
    """

    labeler: str
    role: str
    items: int
    unscored: int
    raters: Agreement
    accuracy: Accuracy
    calibration: Calibration
    observed: Estimate
    corrected: Estimate


@dataclass(frozen=True)
class AuditReport:
    """`verdicts`: yes or no among annotators; `scores`: the same with alpha on scores, interval.

    `represented`: share of the completions of rounds with gold that lie in strata with a verdict.
    """

    criterion: str
    annotators: tuple[str, ...]
    completions: int
    undecided: int
    gold_rate: Estimate
    represented: float
    verdicts: Agreement
    scores: Agreement
    labelers: tuple[LabelerAudit, ...]


@dataclass(frozen=True)
class _Gold:
    """Completions in order of id; `verdicts`: completions x annotators of scores, NaN if none."""

    rollouts: list[str]
    prompts: list[str]
    annotators: tuple[str, ...]
    verdicts: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Items:
    """Decided completions by id: gold, prompt, and how many completions each stands for."""

    truth: dict[str, bool]
    prompts: dict[str, str]
    weights: dict[str, float]


def audit_agreement(root: str | Path, criterion: str, as_of: int | None = None) -> AuditReport:
    """Every labeler of the criterion against gold. Raises WarehouseError where there is no gold."""
    con = connect(root, as_of)
    con.execute("set threads = 1")  # sums in one order: equal warehouses, equal numbers
    gold = _read_gold(con, root, criterion)
    said_yes = _binary(gold.verdicts)
    majority = np.nanmean(said_yes, axis=1)
    truth = {
        rollout: bool(yes > 0.5)
        for rollout, yes in zip(gold.rollouts, majority.tolist(), strict=True)
        if yes != 0.5
    }
    scores: Scores = defaultdict(dict)
    for labeler, rollout, score in con.execute(_SCORES, [criterion]).fetchall():
        scores[labeler][rollout] = score
    prompts = dict(zip(gold.rollouts, gold.prompts, strict=True))
    weights, represented = _weights(con, root, criterion, set(truth))
    items = _Items(truth, prompts, weights)
    return AuditReport(
        criterion=criterion,
        annotators=gold.annotators,
        completions=len(gold.rollouts),
        undecided=len(gold.rollouts) - len(truth),
        gold_rate=share(list(truth.values()), [weights[rollout] for rollout in truth]),
        represented=represented,
        verdicts=agreement(said_yes, categories=_YES_NO, clusters=gold.prompts),
        scores=agreement(gold.verdicts, level="interval", clusters=gold.prompts),
        labelers=tuple(
            _audit(labeler, role, (positive, of), scores[labeler], items)
            for labeler, role, of, positive in con.execute(_RATES, [criterion]).fetchall()
        ),
    )


def _read_gold(con: duckdb.DuckDBPyConnection, root: str | Path, criterion: str) -> _Gold:
    rows = con.execute(_GOLD, [criterion]).fetchall()
    if not rows:
        raise WarehouseError(
            f"{root}: no human verdicts on {criterion!r}; draw a sample with `roundhouse audit "
            "sample`, fill it in and import it with `roundhouse audit import`"
        )
    annotators = sorted({annotator for _, _, annotator, _ in rows})
    prompts = {rollout: prompt for rollout, prompt, _, _ in rows}
    place = {rollout: i for i, rollout in enumerate(prompts)}
    verdicts = np.full((len(prompts), len(annotators)), np.nan)
    for rollout, _, annotator, score in rows:
        verdicts[place[rollout], annotators.index(annotator)] = score
    return _Gold(list(prompts), list(prompts.values()), tuple(annotators), verdicts)


def _binary(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(np.isnan(scores), np.nan, (scores >= THRESHOLD).astype(np.float64))


def _weights(
    con: duckdb.DuckDBPyConnection, root: str | Path, criterion: str, judged: set[str]
) -> tuple[dict[str, float], float]:
    """Completions that each judged one stands for, and the share that any of them stands for."""
    rounds = [row[0] for row in con.execute(_ROUNDS, [criterion]).fetchall()]
    strata = read_strata(con, root, criterion, None if None in rounds else rounds)
    weights: dict[str, float] = {}
    for ids in strata.values():
        mine = judged.intersection(ids)
        weights |= dict.fromkeys(mine, len(ids) / max(len(mine), 1))
    total = sum(len(ids) for ids in strata.values())
    return weights, sum(weights.values()) / total


def _audit(
    labeler: str, role: str, rate: tuple[int, int], scores: dict[str, float], items: _Items
) -> LabelerAudit:
    truth, prompts = items.truth, items.prompts
    shared = [rollout for rollout in truth if rollout in scores]
    given = np.array([scores[rollout] for rollout in shared], np.float64)
    gold = np.array([truth[rollout] for rollout in shared], np.float64)
    said_yes = _binary(given)
    weights = np.array([items.weights[rollout] for rollout in shared], np.float64)
    counts = accuracy(said_yes, gold, weights)
    return LabelerAudit(
        labeler,
        role,
        items=len(shared),
        unscored=len(truth) - len(shared),
        raters=agreement(
            np.stack([said_yes, gold], axis=1),
            categories=_YES_NO,
            clusters=[prompts[rollout] for rollout in shared],
        ),
        accuracy=counts,
        calibration=calibration(given, gold, weights),
        observed=wilson(*rate),
        corrected=corrected_rate(*rate, counts),
    )
