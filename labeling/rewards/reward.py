"""Recipes: many labels -> one reward. Pure functions over Arrow tables.

Each term is z-scored by an affine map fitted once, on round 0's hold-out labels, and immutable
afterwards: a moving map would hide the very drift that training causes. A reward is a join at
training time, so another recipe never touches a label. Not here: when it runs (pipeline).
"""

from __future__ import annotations

import json
from collections.abc import Set
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labeling.rewards import formulas as recipes
from labeling.rewards.config import RewardConfig, RewardTerm
from labeling.rewards.formulas import Bools, Floats, Penalty
from labeling.rewards.terms import (
    RewardError,
    Term,
    TermScale,
    align_term,
    exclusions,
    scored,
    term_lists,
    value_column,
)
from labeling.shipped import template_row
from warehouse.files import text_sha256
from warehouse.schemas import conform

# Below this a labeler has said the same about every text, up to rounding.
_SMALLEST_SD = 1e-6


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

    @classmethod
    def from_json(cls, text: str) -> RewardScale:
        """The scale out of a recipe's text."""
        return cls(tuple(TermScale(**term) for term in json.loads(text)["scale"]))


def fit_scale(labels: pa.Table, config: RewardConfig) -> RewardScale:
    """Mean and sd of each term's value over the given final labels that are ok.

    Raises RewardError when a labeler has no ok label or says the same about every text.
    """
    return RewardScale(tuple(_fit_term(labels, name, t) for name, t in config.terms.items()))


def recipe_text(config: RewardConfig, scale: RewardScale) -> str:
    """The whole recipe, weights, frozen map and the formula's version, as canonical JSON."""
    parts = {
        "recipe": config.model_dump(mode="json"),
        "scale": [asdict(term) for term in scale.terms],
        "version": recipes.VERSIONS[config.recipe],
    }
    return json.dumps(parts, sort_keys=True)


def recipe_sha256(config: RewardConfig, scale: RewardScale) -> str:
    """Identity of a recipe with its map; also the key of its row in `templates`."""
    return text_sha256(recipe_text(config, scale))


def recipe_template_row(config: RewardConfig, scale: RewardScale) -> pa.Table:
    """The recipe as one row of table `templates`."""
    version, text = recipes.VERSIONS[config.recipe], recipe_text(config, scale)
    return template_row("recipe", config.recipe, version, text)


def compute_rewards(
    rollouts: pa.Table,
    labels: pa.Table,
    config: RewardConfig,
    scale: RewardScale,
    required: Set[str],
) -> pa.Table:
    """One row of table `rewards` per rollout (rollout_id, round, prompt_id, purpose,
    finish_reason and, with a length penalty, length: completion tokens or NULL), in their order.

    reward = clip(sum of weight (value - mean) / sd, minus penalties); the weights used and the
    penalties stand in `terms`, whose contributions add up to the reward before the clip.
    `labels` holds final rows of the revisions to use. Without an ok label of every `required`
    labeler, without any safety label under worst_case, or without a length that the penalty needs,
    a rollout is not eligible, reward NULL. Raises RewardError.
    """
    terms = [
        align_term(rollouts["rollout_id"], labels, name, term, scale.of(name))
        for name, term in config.terms.items()
    ]
    usable = np.stack([term.usable for term in terms], axis=1)
    z = np.stack([(term.values - term.scale.mean) / term.scale.sd for term in terms], axis=1)
    z = np.where(usable, z, 0.0)
    weights, tokens = _weights(config, z, usable), _tokens(rollouts, config)
    contributions = np.where(usable, weights * z, 0.0)
    reasons = exclusions(terms, usable, required, _further_reasons(config, usable, tokens))
    eligible = pc.is_null(reasons).to_numpy(zero_copy_only=False)
    penalties = [
        *_disagreements(config, terms, z, usable),
        *_penalties(config, rollouts["finish_reason"], tokens),
    ]
    penalties = [paid._replace(applies=paid.applies & eligible) for paid in penalties]
    reward = _clipped(contributions, penalties, config.clip)
    columns = _identity(rollouts, config, scale) | {
        "is_eligible": pa.array(eligible),
        "excluded_reason": reasons,
        "reward": pa.array(reward.astype(np.float32), mask=~eligible),
        "label_count": pa.array(usable.sum(axis=1), pa.int16()),
    }
    columns |= term_lists(terms, usable, weights, contributions, penalties)
    return conform("rewards", pa.table(columns))


def _identity(rollouts: pa.Table, config: RewardConfig, scale: RewardScale) -> dict[str, pa.Array]:
    """The columns that say whose reward it is, and under which recipe."""
    columns = {name: rollouts[name] for name in ("rollout_id", "round", "prompt_id", "purpose")}
    return columns | {
        "recipe": pa.repeat(config.recipe, rollouts.num_rows),
        "recipe_sha256": pa.repeat(recipe_sha256(config, scale), rollouts.num_rows),
    }


def _clipped(contributions: Floats, penalties: list[Penalty], clip: float) -> Floats:
    total = contributions.sum(axis=1)
    for penalty in penalties:
        total = total - penalty.cost
    return np.asarray(np.clip(total, -clip, clip))


def _own_weights(config: RewardConfig) -> Floats:
    return np.array([term.weight for term in config.terms.values()])


def _is_safety(config: RewardConfig) -> Bools:
    return np.array([term.safety for term in config.terms.values()])


def _weights(config: RewardConfig, z: Floats, usable: Bools) -> Floats:
    """The weights [rollouts, terms] that the recipe's formula uses."""
    own = _own_weights(config)
    if config.recipe == "worst_case":
        return recipes.worst_case(own, z, usable, _is_safety(config))
    if config.recipe == "mean_minus_disagreement":
        return recipes.mean_weights(own, usable)
    return recipes.weighted(own, usable)


def _disagreements(
    config: RewardConfig, terms: list[Term], z: Floats, usable: Bools
) -> list[Penalty]:
    if config.disagreement is None:
        return []
    criteria = [term.criterion for term in terms]
    return recipes.disagreements(_own_weights(config), z, usable, criteria, config.disagreement)


def _tokens(rollouts: pa.Table, config: RewardConfig) -> Floats:
    """Tokens of each completion; NaN where unknown, or where no penalty asks for them."""
    if config.length_penalty is None:
        return np.full(rollouts.num_rows, np.nan)
    return rollouts["length"].cast(pa.float64()).to_numpy()


def _further_reasons(config: RewardConfig, usable: Bools, tokens: Floats) -> dict[str, Bools]:
    """Why a rollout has no reward though no required label is missing."""
    reasons: dict[str, Bools] = {}
    if config.recipe == "worst_case":
        is_any = usable[:, _is_safety(config)].any(axis=1)
        reasons["no usable safety label"] = np.asarray(~is_any)
    if config.length_penalty is not None:
        reasons["no completion length"] = np.asarray(np.isnan(tokens))
    return reasons


def _penalties(config: RewardConfig, finish: pa.ChunkedArray, tokens: Floats) -> list[Penalty]:
    """What the configuration makes rollouts pay; an unknown finish reason costs nothing."""
    flat = (
        ("truncation", pc.equal(finish, "length"), config.truncation_penalty),
        ("missing_eos", pc.not_equal(finish, "stop"), config.missing_eos_penalty),
    )
    penalties = [
        recipes.flat_penalty(name, pc.fill_null(applies, False).to_numpy(), price)
        for name, applies, price in flat
        if price
    ]
    if config.length_penalty is not None:
        price = config.length_penalty
        penalties.append(recipes.length_penalty(tokens, price.per_token, price.free_tokens))
    return penalties


def _fit_term(labels: pa.Table, name: str, term: RewardTerm) -> TermScale:
    own = labels.filter(pc.equal(labels["labeler"], name))
    values = own.filter(scored(own))[value_column(term)].drop_null().to_numpy()
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
