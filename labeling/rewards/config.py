"""The `reward` section of a configuration, typed: the recipe that makes one number of many labels.

Not here: its arithmetic (reward.py, formulas.py, terms.py).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from labeling.section import Section


class RewardTerm(Section):
    """One labeler's part of the reward."""

    weight: float = Field(allow_inf_nan=False)
    value: Literal["raw", "score"] = Field(
        "score", description="raw: a classifier's logit, a judge's expected label"
    )
    safety: bool = Field(
        False, exclude_if=lambda value: not value, description="worst_case takes the worst of these"
    )


class LengthPenalty(Section):
    """A price per sampled token (its end token included) beyond those that are free."""

    per_token: float = Field(gt=0, allow_inf_nan=False)
    free_tokens: int = Field(ge=0)


def _is_unset(value: object) -> bool:
    return value is None


class RewardConfig(Section):
    """The recipe: z-scored terms, joined by a formula of formulas.py, minus penalties, clipped.

    Keys that are unset are left out of every dump: a recipe's text has what the recipe uses.
    """

    recipe: Literal["weighted", "worst_case", "mean_minus_disagreement"]
    terms: dict[str, RewardTerm] = Field(min_length=1)
    clip: float = Field(5.0, gt=0, allow_inf_nan=False)
    truncation_penalty: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="for completions that hit max_tokens"
    )
    disagreement: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        exclude_if=_is_unset,
        description="mean_minus_disagreement: price of one standard deviation among labelers",
    )
    length_penalty: LengthPenalty | None = Field(None, exclude_if=_is_unset)
    missing_eos_penalty: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        exclude_if=_is_unset,
        description="for completions that did not end by themselves; adds to truncation_penalty",
    )

    @model_validator(mode="after")
    def _weighs_something(self) -> RewardConfig:
        unused = [name for name, term in self.terms.items() if term.weight == 0]
        if unused:
            raise ValueError(f"reward.terms: weight 0 for {unused}; leave the term out")
        return self

    @model_validator(mode="after")
    def _keys_fit_the_recipe(self) -> RewardConfig:
        """A key that this recipe would pass over in silence is refused."""
        marked = [name for name, term in self.terms.items() if term.safety]
        if (self.recipe == "worst_case") != bool(marked):
            raise ValueError(
                f"reward.terms: safety: true on {marked or 'none'}; recipe worst_case needs at "
                "least one such term, and no other recipe reads it"
            )
        if (self.recipe == "mean_minus_disagreement") != (self.disagreement is not None):
            raise ValueError(
                "reward.disagreement: recipe mean_minus_disagreement needs it (0.5, for instance), "
                "and no other recipe reads it"
            )
        return self
