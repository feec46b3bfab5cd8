"""Recipes: many labels -> one reward. Pure functions over Arrow tables.

Each term is z-scored by an affine map fitted once, on round 0's hold-out labels, and immutable
afterwards: a moving map would hide the very drift that training causes. A reward is a join at
training time, so another recipe never touches a label. Not here: when it runs (pipeline).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Set
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from labeling.config import RewardConfig, RewardTerm
from warehouse.schemas import SCORED_STATUSES, TABLES, conform, table_from_rows

# Below this a labeler has said the same about every text, up to rounding.
_SMALLEST_SD = 1e-6
_VERSION = "1"

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class RewardError(ValueError):
    """Labels or a scale that do not fit the recipe; the message names the labeler."""


@dataclass(frozen=True)
class TermScale:
    """Mean and population standard deviation of one labeler's values, and how many there were."""

    labeler: str
    mean: float
    sd: float
    count: int


@dataclass(frozen=True)
class RewardScale:
    """The frozen affine maps, one per term of the recipe."""

    terms: tuple[TermScale, ...]

    def of(self, labeler: str) -> TermScale:
        """The map of this labeler. Raises RewardError."""
        for term in self.terms:
            if term.labeler == labeler:
                return term
        raise RewardError(
            f"reward.terms.{labeler}: the scale was fitted for {[t.labeler for t in self.terms]}; "
            "a recipe with other terms needs its own"
        )

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json.dumps({"scale": [asdict(term) for term in self.terms]}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RewardScale:
        """The scale out of `to_json` or out of a recipe's template text."""
        return cls(tuple(TermScale(**term) for term in json.loads(text)["scale"]))


@dataclass(frozen=True)
class _Term:
    """One labeler's values next to the rollouts: all arrays [rollouts]."""

    labeler: str
    config: RewardTerm
    scale: TermScale
    values: Floats
    usable: Bools
    statuses: pa.Array
    label_ids: pa.Array


def fit_scale(labels: pa.Table, config: RewardConfig) -> RewardScale:
    """Mean and sd of each term's value over the given final labels that are ok.

    Raises RewardError when a labeler has no ok label or says the same about every text.
    """
    return RewardScale(tuple(_fit_term(labels, name, t) for name, t in config.terms.items()))


def recipe_text(config: RewardConfig, scale: RewardScale) -> str:
    """The whole recipe, weights and frozen map, as canonical JSON."""
    parts = {"recipe": config.model_dump(mode="json")} | json.loads(scale.to_json())
    return json.dumps(parts, sort_keys=True)


def recipe_sha256(config: RewardConfig, scale: RewardScale) -> str:
    """Identity of a recipe with its map; also the key of its row in `templates`."""
    return hashlib.sha256(recipe_text(config, scale).encode()).hexdigest()


def recipe_template_row(config: RewardConfig, scale: RewardScale) -> pa.Table:
    """The recipe as one row of table `templates`."""
    row: dict[str, object] = {
        "template_sha256": recipe_sha256(config, scale),
        "kind": "recipe",
        "name": config.recipe,
        "version": _VERSION,
        "text": recipe_text(config, scale),
    }
    return table_from_rows("templates", [row])


def compute_rewards(
    rollouts: pa.Table,
    labels: pa.Table,
    config: RewardConfig,
    scale: RewardScale,
    required: Set[str],
) -> pa.Table:
    """One row of table `rewards` per rollout (rollout_id, round, prompt_id, purpose,
    finish_reason), in their order.

    reward = clip(sum of weight (value - mean) / sd, minus the penalty when cut off by length).
    `labels` holds final rows of the revisions to use. Without an ok label of every `required`
    labeler a rollout is not eligible, reward NULL. Without an optional one the other weights grow
    so that the sum of their absolute values stays; the weights used stand in `terms`.
    """
    terms = [
        _aligned(rollouts["rollout_id"], labels, name, term, scale.of(name))
        for name, term in config.terms.items()
    ]
    usable = np.stack([term.usable for term in terms], axis=1)
    weights = _weights(terms, usable)
    z = np.stack([(term.values - term.scale.mean) / term.scale.sd for term in terms], axis=1)
    contributions = np.where(usable, weights * np.where(usable, z, 0.0), 0.0)
    reasons = _exclusions(terms, usable, required)
    is_eligible = pc.is_null(reasons)
    cut_off = pc.fill_null(pc.equal(rollouts["finish_reason"], "length"), False)
    penalty = config.truncation_penalty * cut_off.to_numpy().astype(np.float64)
    reward = np.clip(contributions.sum(axis=1) - penalty, -config.clip, config.clip)
    eligible = is_eligible.to_numpy(zero_copy_only=False)
    columns = {name: rollouts[name] for name in ("rollout_id", "round", "prompt_id", "purpose")}
    columns |= {
        "recipe": pa.repeat(config.recipe, rollouts.num_rows),
        "recipe_sha256": pa.repeat(recipe_sha256(config, scale), rollouts.num_rows),
        "is_eligible": is_eligible,
        "excluded_reason": reasons,
        "reward": pa.array(reward.astype(np.float32), mask=~eligible),
        "label_count": pa.array(usable.sum(axis=1), pa.int16()),
    }
    columns |= _term_lists(terms, usable, weights, contributions)
    return conform("rewards", pa.table(columns))


def _fit_term(labels: pa.Table, name: str, term: RewardTerm) -> TermScale:
    own = labels.filter(pc.equal(labels["labeler"], name))
    values = own.filter(_scored(own))[_column(term)].drop_null().to_numpy()
    values = values[np.isfinite(values)]
    if not len(values):
        raise RewardError(
            f"reward.terms.{name}: none of its {own.num_rows} hold-out labels is ok, so there is "
            "no scale to fit; look at their status"
        )
    sd = float(values.std())
    if sd < _SMALLEST_SD:
        raise RewardError(
            f"reward.terms.{name}: labeler {name} gives all {len(values)} hold-out completions the "
            f"same value ({values[0]:g}), so it says nothing about them; take it out of the recipe"
        )
    return TermScale(name, float(values.mean()), sd, len(values))


def _column(term: RewardTerm) -> str:
    return "score_raw" if term.value == "raw" else "score"


def _scored(labels: pa.Table) -> pa.ChunkedArray:
    return pc.is_in(labels["status"], value_set=pa.array(SCORED_STATUSES))


def _aligned(
    rollout_ids: pa.ChunkedArray, labels: pa.Table, name: str, term: RewardTerm, scale: TermScale
) -> _Term:
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
    raw = own[_column(term)].take(place)
    values = raw.to_numpy().astype(np.float64)  # NULL becomes NaN, and NaN is not usable
    scored = pc.fill_null(_scored(own).take(place), False).to_numpy()
    return _Term(
        labeler=name,
        config=term,
        scale=scale,
        values=values,
        usable=scored & np.isfinite(values),
        statuses=_flat(own["status"].take(place)),
        label_ids=_flat(own["label_id"].take(place)),
    )


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.chunks else pa.array([], column.type)


def _weights(terms: list[_Term], usable: Bools) -> Floats:
    """Weights [rollouts, terms] whose absolute values sum to the recipe's over the usable terms."""
    weights = np.array([term.config.weight for term in terms])
    present = (usable * np.abs(weights)).sum(axis=1, keepdims=True)
    whole = np.abs(weights).sum()
    growth = np.divide(whole, present, out=np.ones_like(present), where=present > 0)
    return np.asarray(weights * growth)


def _exclusions(terms: list[_Term], usable: Bools, required: Set[str]) -> pa.Array:
    """Why a rollout has no reward: 'hate: too_long; judge: missing'; NULL where it has one."""
    wanted = [c for c, term in enumerate(terms) if term.labeler in required]
    reasons: list[str | None] = [None] * len(usable)
    excluded = ~usable[:, wanted].all(axis=1) | ~usable.any(axis=1)
    for row in np.flatnonzero(excluded):  # few: a round with many of them is refused
        missing = [terms[c] for c in wanted if not usable[row, c]]
        parts = [f"{term.labeler}: {_why(term.statuses[int(row)].as_py())}" for term in missing]
        reasons[row] = "; ".join(parts) or "no usable label"
    return pa.array(reasons, pa.string())


def _why(status: str | None) -> str:
    if status is None:
        return "missing"
    return "no value" if status in SCORED_STATUSES else status


def _term_lists(
    terms: list[_Term], usable: Bools, weights: Floats, contributions: Floats
) -> dict[str, pa.Array]:
    """Columns `label_ids` and `terms`: the usable terms of each rollout, in the recipe's order."""
    rows, columns = np.nonzero(usable)
    count = len(usable)
    offsets = pa.array(np.concatenate([[0], usable.sum(axis=1).cumsum()]), pa.int32())
    # The terms' columns stand one after the other; place picks them row by row.
    place = pa.array(columns * count + rows)
    label_ids = pa.concat_arrays([t.label_ids.cast(pa.string()) for t in terms]).take(place)
    names = pa.array([term.labeler for term in terms], pa.string()).take(pa.array(columns))
    floats = {
        "value": np.stack([term.values for term in terms], axis=1)[rows, columns],
        "mean": np.array([term.scale.mean for term in terms])[columns],
        "sd": np.array([term.scale.sd for term in terms])[columns],
        "weight": weights[rows, columns],
        "contribution": contributions[rows, columns],
    }
    struct = TABLES["rewards"].schema.field("terms").type.value_type
    known = {"labeler": names, "label_id": label_ids} | {k: pa.array(v) for k, v in floats.items()}
    arrays = [known[field.name] for field in struct]
    return {
        "label_ids": pa.ListArray.from_arrays(offsets, label_ids),
        "terms": pa.ListArray.from_arrays(
            offsets, pa.StructArray.from_arrays(arrays, fields=list(struct))
        ),
    }
