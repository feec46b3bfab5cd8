"""The formulas of the recipes: z-scores in, weights and penalties out, as pure numpy functions.

A recipe is a set of weights per rollout, so that every reward is a sum of weight * z-score and of
penalties, which stand in the table term by term. Worst case and uncertainty weighting over several
labelers: Coste et al. 2023, arXiv 2310.02743, section 3. Shapes: n rollouts, t terms in the order
of the configuration; `usable` says which z-scores there are, the others are 0. Not here: labels,
scales and rows (reward.py, terms.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Raise a recipe's version when the same labels and keys give another reward.
VERSIONS = {"weighted": "1", "worst_case": "1", "mean_minus_disagreement": "1"}


class Penalty(NamedTuple):
    """What rollouts pay beside their terms: `price` (value - free) where `applies`, arrays [n]."""

    name: str
    applies: Bools
    value: Floats
    price: Floats
    free: float = 0.0

    @property
    def cost(self) -> Floats:
        """Array [n], at least 0."""
        return np.where(self.applies, self.price * (self.value - self.free), 0.0)


def weighted(weights: Floats, usable: Bools) -> Floats:
    """Weights [n, t] out of the recipe's [t]; their absolute values sum to the recipe's.

    Without an optional term the others grow, so that a missing label does not shrink a reward.
    """
    present = (usable * np.abs(weights)).sum(axis=1, keepdims=True)
    whole = np.abs(weights).sum()
    growth = np.divide(whole, present, out=np.ones_like(present), where=present > 0)
    return np.where(usable, weights * growth, 0.0)


def worst_case(weights: Floats, z: Floats, usable: Bools, is_safety: Bools) -> Floats:
    """Weights [n, t]: of the safety terms only the one that contributes least keeps its own.

    One labeler that sees harm is enough (the worst-case optimization of Coste et al., over safety
    only). The first of equals counts. The other terms are weighted among themselves; safety never
    grows, for the least of fewer terms is already no smaller.
    """
    found = np.zeros(z.shape)
    found[:, ~is_safety] = weighted(weights[~is_safety], usable[:, ~is_safety])
    contributions = np.where(usable, weights * z, np.inf)[:, is_safety]
    is_worst = np.arange(contributions.shape[1]) == contributions.argmin(axis=1)[:, None]
    found[:, is_safety] = np.where(is_worst & usable[:, is_safety], weights[is_safety], 0.0)
    return found


def mean_weights(weights: Floats, usable: Bools) -> Floats:
    """Weights [n, t] of a weighted mean: the absolute values of the usable sum to 1."""
    present = (usable * np.abs(weights)).sum(axis=1, keepdims=True)
    return np.divide(weights * usable, present, out=np.zeros(usable.shape), where=present > 0)


def disagreements(
    weights: Floats, z: Floats, usable: Bools, criteria: Sequence[str], price: float
) -> list[Penalty]:
    """What terms that measure the same thing pay for differing; one penalty per criterion and sign.

    Of the recipe's weights [t] and a criterion per term. value = population standard deviation of
    the group's usable z-scores, price = `price` times the group's share of the usable weights; so
    the reward is the weighted mean over groups of (mean - price * deviation). Coste et al.
    (uncertainty-weighted optimization) subtract the variance; the deviation keeps the price in
    units of the reward.
    """
    shares = np.abs(mean_weights(weights, usable))
    groups: dict[tuple[str, float], list[int]] = {}
    for column, (criterion, sign) in enumerate(zip(criteria, np.sign(weights), strict=True)):
        groups.setdefault((criterion, float(sign)), []).append(column)
    return [
        Penalty(
            name=f"penalty:disagreement:{criterion}",
            applies=usable[:, columns].sum(axis=1) > 1,
            value=_deviation(z[:, columns], usable[:, columns]),
            price=price * shares[:, columns].sum(axis=1),
        )
        for (criterion, _), columns in groups.items()
        if len(columns) > 1
    ]


def _deviation(z: Floats, usable: Bools) -> Floats:
    """Population standard deviation [n] over the usable columns; 0 where there are none."""
    count = np.maximum(usable.sum(axis=1), 1)
    mean = (z * usable).sum(axis=1) / count
    return np.asarray(np.sqrt((usable * (z - mean[:, None]) ** 2).sum(axis=1) / count))


def flat_penalty(name: str, applies: Bools, price: float) -> Penalty:
    """The same price for every rollout it applies to [n]."""
    ones = np.ones(len(applies))
    return Penalty(f"penalty:{name}", applies, ones, price * ones)


def length_penalty(tokens: Floats, per_token: float, free_tokens: int) -> Penalty:
    """`per_token` for each token [n] beyond `free_tokens`; an unknown length is NaN, no penalty."""
    price = np.full(len(tokens), per_token)
    return Penalty("penalty:length", tokens > free_tokens, tokens, price, float(free_tokens))
