"""The terms of a recipe as columns: labels next to rollouts, and the lists that rewards store.

Not here: what a term is worth (formulas.py), the reward itself (reward.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labeling.rewards.config import RewardTerm
from labeling.rewards.formulas import Bools, Floats, Penalty
from warehouse.errors import RoundhouseError
from warehouse.schemas import SCORED_STATUSES, TABLES


class RewardError(RoundhouseError, ValueError):
    """Labels or a scale that do not fit the recipe; the message names the labeler."""

    exit_code = 2


@dataclass(frozen=True)
class TermScale:
    """Mean and population standard deviation of one labeler's values, and how many there were."""

    labeler: str
    mean: float
    sd: float
    count: int


@dataclass(frozen=True)
class Term:
    """One labeler's values next to the rollouts: all arrays [rollouts].

    `criterion` is what its labels measure; empty where there is none of them.
    """

    labeler: str
    scale: TermScale
    criterion: str
    values: Floats
    usable: Bools
    statuses: pa.Array
    label_ids: pa.Array


def value_column(term: RewardTerm) -> str:
    """The column of `labels` that this term reads."""
    return "score_raw" if term.value == "raw" else "score"


def scored(labels: pa.Table) -> pa.ChunkedArray:
    """Whether each label has a score."""
    return pc.is_in(labels["status"], value_set=pa.array(SCORED_STATUSES))


def align_term(
    rollout_ids: pa.ChunkedArray, labels: pa.Table, name: str, term: RewardTerm, scale: TermScale
) -> Term:
    """A labeler's labels next to the rollouts. Raises RewardError when one has two."""
    own = labels.filter(pc.equal(labels["labeler"], name)).combine_chunks()
    if pc.count_distinct(own["rollout_id"]).as_py() != own.num_rows:
        counts = pc.value_counts(own["rollout_id"]).to_pylist()
        twice = next(row["values"] for row in counts if row["counts"] > 1)
        raise RewardError(
            f"reward.terms.{name}: rollout {twice} has two labels; pass the final rows of one "
            "revision only"
        )
    place = pc.index_in(rollout_ids, value_set=own["rollout_id"])
    raw = own[value_column(term)].take(place)
    values = raw.to_numpy().astype(np.float64)  # NULL becomes NaN, and NaN is not usable
    is_scored = pc.fill_null(scored(own).take(place), False).to_numpy()
    has_criterion = "criterion" in own.column_names and own.num_rows
    return Term(
        labeler=name,
        scale=scale,
        criterion=str(own["criterion"][0]) if has_criterion else "",
        values=values,
        usable=is_scored & np.isfinite(values),
        statuses=own["status"].take(place).combine_chunks(),
        label_ids=own["label_id"].take(place).combine_chunks(),
    )


def exclusions(
    terms: Sequence[Term], usable: Bools, required: Set[str], others: Mapping[str, Bools]
) -> pa.Array:
    """Why a rollout has no reward: 'hate: too_long; judge: missing'; NULL where it has one.

    `others`: further reasons, each with the rollouts [n] it holds for.
    """
    wanted = [c for c, term in enumerate(terms) if term.labeler in required]
    reasons: list[str | None] = [None] * len(usable)
    excluded = ~usable[:, wanted].all(axis=1) | ~usable.any(axis=1)
    for holds in others.values():
        excluded |= holds
    for row in np.flatnonzero(excluded):  # few: a round with many of them is refused
        missing = [terms[c] for c in wanted if not usable[row, c]]
        parts = [f"{term.labeler}: {_why(term.statuses[int(row)].as_py())}" for term in missing]
        parts += [reason for reason, holds in others.items() if holds[row]]
        reasons[row] = "; ".join(parts) or "no usable label"
    return pa.array(reasons, pa.string())


def _why(status: str | None) -> str:
    if status is None:
        return "missing"
    return "no value" if status in SCORED_STATUSES else status


def term_lists(
    terms: Sequence[Term],
    usable: Bools,
    weights: Floats,
    contributions: Floats,
    penalties: Sequence[Penalty],
) -> dict[str, pa.Array]:
    """Columns `label_ids` and `terms`: the usable terms of each rollout, in the recipe's order.

    Then the penalties that apply, as terms without a label: contribution = weight (value - mean)
    with weight = -price and mean = what is free.
    """
    present = np.column_stack([usable, *(penalty.applies for penalty in penalties)])
    rows, columns = np.nonzero(present)
    # The terms' columns stand one after the other; place picks them row by row.
    place = pa.array(columns * len(usable) + rows)
    label_ids = _label_ids(terms, len(penalties), len(usable)).take(place)
    names = [term.labeler for term in terms] + [penalty.name for penalty in penalties]
    means = [term.scale.mean for term in terms] + [penalty.free for penalty in penalties]
    sds = [term.scale.sd for term in terms] + [1.0] * len(penalties)
    values = [term.values for term in terms] + [penalty.value for penalty in penalties]
    prices = np.column_stack([weights, *(-penalty.price for penalty in penalties)])
    parts = np.column_stack([contributions, *(-penalty.cost for penalty in penalties)])
    known = {
        "labeler": pa.array(names, pa.string()).take(pa.array(columns)),
        "label_id": label_ids,
        "value": pa.array(np.column_stack(values)[rows, columns]),
        "mean": pa.array(np.array(means)[columns]),
        "sd": pa.array(np.array(sds)[columns]),
        "weight": pa.array(prices[rows, columns]),
        "contribution": pa.array(parts[rows, columns]),
    }
    struct = TABLES["rewards"].schema.field("terms").type.value_type
    listed = pa.StructArray.from_arrays([known[f.name] for f in struct], fields=list(struct))
    return {
        "label_ids": pa.ListArray.from_arrays(
            _offsets(usable), label_ids.filter(pa.array(columns < len(terms)))
        ),
        "terms": pa.ListArray.from_arrays(_offsets(present), listed),
    }


def _label_ids(terms: Sequence[Term], penalty_count: int, count: int) -> pa.Array:
    """The terms' label ids one after the other, then NULLs: a penalty has no label."""
    ids = [term.label_ids.cast(pa.string()) for term in terms]
    return pa.concat_arrays(ids + [pa.nulls(count, pa.string())] * penalty_count)


def _offsets(present: Bools) -> pa.Array:
    return pa.array(np.concatenate([[0], present.sum(axis=1).cumsum()]), pa.int32())
