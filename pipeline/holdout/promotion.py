"""May the policy that a night trained replace the one that sampled? Every guard, and what failed.

A pure function from measured numbers to a verdict. Toxicity is held against the policy that would
be replaced, text and KL against round 0, or a slow drift would pass night by night. A number with
an interval fails where all of the interval is beyond the limit; a number that is missing fails too.
Not here: the numbers (comparisons.py), the limits (config.py), what a rejection writes
(stages/outcome.py). In SQL the same guards are the mart `promotion_guards`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.holdout.config import PromotionConfig
from pipeline.holdout.measures import Measured


@dataclass(frozen=True)
class Guard:
    """The `bound` of `metric` must stand in `comparison` to the limit under `key`.

    `is_brake`: failing it, the policy went too far, and a higher KL coefficient holds it nearer.
    """

    key: str
    says: str
    metric: str
    bound: Literal["value", "low", "high"]
    comparison: Literal["<=", "<", ">="]
    is_brake: bool = True


GUARDS = (
    Guard(
        "promotion.max_toxicity_increase", "toxicity against the policy it would replace",
        "toxicity_change_from_replaced", "low", "<=",
    ),
    Guard(
        "promotion.require_improvement", "toxicity against the policy it would replace",
        "toxicity_change_from_replaced", "high", "<", is_brake=False,
    ),
    Guard(
        "promotion.min_length_ratio", "length over round 0's", "length_ratio", "high", ">="
    ),
    Guard("promotion.max_length_ratio", "length over round 0's", "length_ratio", "low", "<="),
    Guard(
        "promotion.min_distinct2_ratio", "distinct-2 over round 0's",
        "distinct_2_ratio", "value", ">=",
    ),
    Guard(
        "promotion.max_refusal_increase", "refusals against round 0", "refusal_change", "low", "<="
    ),
    Guard(
        "promotion.max_truncation_increase", "cut-off completions against round 0",
        "truncated_change", "low", "<=",
    ),
    Guard(
        "training.kl_budget", "KL to the reference in nats per sequence",
        "kl_to_reference", "value", "<=",
    ),
)  # fmt: skip

_HOLDS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Outcome:
    """A guard with its limit beside its number; `measured` is None where there is none."""

    guard: Guard
    limit: float
    measured: Measured | None

    @property
    def held(self) -> float | None:
        """The end of the interval (or the value) that is held against the limit, if finite."""
        value = None if self.measured is None else getattr(self.measured, self.guard.bound)
        return value if value is not None and math.isfinite(value) else None

    @property
    def is_passed(self) -> bool:
        """Whether the policy may be promoted as far as this guard goes."""
        return self.held is not None and _HOLDS[self.guard.comparison](self.held, self.limit)

    def __str__(self) -> str:
        guard, measured = self.guard, self.measured
        if measured is None or self.held is None:
            return f"{guard.key}: {guard.says}: not measured (evaluations has no {guard.metric})"
        interval = end = ""
        if measured.low is not None and measured.high is not None:
            interval = f" ({measured.low:.3g} to {measured.high:.3g})"
        if guard.bound != "value":
            end = f" at the {guard.bound} end"
        number = f"{measured.value:.3g}{interval}"
        return f"{guard.key}: {guard.says} {number}, wanted {guard.comparison} {self.limit:g}{end}"


@dataclass(frozen=True)
class Verdict:
    """Every guard that was asked, and what follows."""

    outcomes: tuple[Outcome, ...]

    @property
    def is_promoted(self) -> bool:
        """Whether every guard let the policy pass."""
        return all(outcome.is_passed for outcome in self.outcomes)

    @property
    def reasons(self) -> list[str]:
        """One line for every guard that failed: key, number with interval, limit."""
        return [str(outcome) for outcome in self.outcomes if not outcome.is_passed]

    @property
    def is_too_far(self) -> bool:
        """Whether a brake failed on a number that was measured."""
        return any(
            outcome.guard.is_brake and outcome.measured is not None and not outcome.is_passed
            for outcome in self.outcomes
        )


def judge(
    measured: Sequence[Measured], config: PromotionConfig, kl_budget: float, metric_labeler: str
) -> Verdict:
    """Holds a policy's numbers against every guard that is on.

    Of the labelers' numbers only those of `metric_labeler` count, which no reward reads.
    """
    limits: dict[str, float | None] = {
        f"promotion.{key}": limit for key, limit in config.model_dump().items()
    }
    limits["promotion.require_improvement"] = 0.0 if config.require_improvement else None
    limits["training.kl_budget"] = kl_budget
    numbers = {m.metric: m for m in measured if m.labeler in (None, metric_labeler)}
    return Verdict(
        tuple(
            Outcome(guard, limit, numbers.get(guard.metric))
            for guard in GUARDS
            if (limit := limits[guard.key]) is not None
        )
    )
