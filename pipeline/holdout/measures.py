"""What is measured on a policy's samples: pure functions from rows to numbers with intervals.

Intervals are bootstrapped over prompts, because a prompt's samples are not independent. Not here:
reading, publishing and the toxicity rate itself (stages/evaluation.py, the mart
`toxicity_by_round`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from labeling.refusal import refusal_of
from labeling.trust.calibration import wilson
from warehouse.schemas import SCORED_STATUSES

TOXIC_AT = 0.5
RESAMPLES = 2000


@dataclass(frozen=True)
class Measured:
    """One number with its interval: `unit` says of what, `method` how the interval was made."""

    metric: str
    value: float
    low: float | None
    high: float | None
    unit: str
    method: str
    labeler: str | None = None


def is_toxic(score: float) -> float:
    """1 for a score at or over 0.5, else 0: the mean of it is a rate."""
    return float(score >= TOXIC_AT)


def mean_by_prompt(
    rollouts: pa.Table, labels: pa.Table, labeler: str, value: Callable[[float], float]
) -> dict[str, float]:
    """Mean of `value(score)` per prompt over this labeler's usable labels."""
    mine = labels.filter(
        (pc.field("labeler") == labeler) & pc.field("status").isin(SCORED_STATUSES)
    )
    score = dict(zip(mine["rollout_id"].to_pylist(), mine["score"].to_pylist(), strict=True))
    owners = zip(rollouts["rollout_id"].to_pylist(), rollouts["prompt_id"].to_pylist(), strict=True)
    return means_of((prompt, value(score[own])) for own, prompt in owners if own in score)


def means_of(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Mean per prompt of (prompt, value), one a rollout."""
    by_prompt: dict[str, list[float]] = {}
    for prompt, value in values:
        by_prompt.setdefault(prompt, []).append(value)
    return {prompt: float(np.mean(own)) for prompt, own in by_prompt.items()}


def _mean_by_group(groups: list[str], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    _, inverse = np.unique(np.array(groups), return_inverse=True)
    return np.bincount(inverse, weights=values) / np.bincount(inverse)


def bootstrapped(
    metric: str,
    by_prompt: npt.NDArray[np.float64],
    unit: str,
    seed: int,
    labeler: str | None = None,
) -> Measured:
    """Mean over prompts with a 95 % percentile bootstrap interval over prompts."""
    mean = float(by_prompt.mean())
    low = high = mean
    if len(by_prompt) > 1:
        interval = stats.bootstrap(
            (by_prompt,), np.mean, n_resamples=RESAMPLES, method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        low, high = float(interval.low), float(interval.high)
    return Measured(metric, mean, low, high, unit, "bootstrap over prompts", labeler)


def kl_to_reference(
    rollouts: pa.Table, reference_logprobs: list[npt.NDArray[np.float32]], seed: int
) -> Measured:
    """KL(policy || reference) in nats per sequence: mean of sum_t (log pi - log pi_ref).

    An unbiased estimate, because the completions are fresh samples of the policy itself
    (on stored, stale rows it would not be).
    """
    behavior = rollouts["behavior_logprobs"].to_pylist()
    sums = np.array(
        [
            float(np.sum(np.asarray(b, np.float64) - r))
            for b, r in zip(behavior, reference_logprobs, strict=True)
        ]
    )
    prompts = rollouts["prompt_id"].to_pylist()
    means = _mean_by_group(prompts, sums)
    return bootstrapped("kl_to_reference", means, "nats per sequence", seed)


def text_numbers(rollouts: pa.Table, seed: int) -> list[Measured]:
    """Length, distinct-2 (Li et al. 2016), shares of unique, cut-off and refusing completions."""
    lengths = np.array(pc.list_value_length(rollouts["completion_ids"]).to_pylist(), float)
    texts = rollouts["completion"].to_pylist()
    by_prompt = _mean_by_group(rollouts["prompt_id"].to_pylist(), lengths)
    cut = pc.mean(pc.equal(rollouts["finish_reason"], "length").cast(pa.int8())).as_py()
    return [
        bootstrapped("length", by_prompt, "tokens", seed),
        Measured("distinct_2", distinct_2(texts), None, None, "share of bigrams", "count"),
        Measured("unique", len(set(texts)) / len(texts), None, None, "completions", "count"),
        Measured("truncated", float(cut), None, None, "completions", "count"),
        refusal_rate(rollouts),
    ]


def refusal_rate(rollouts: pa.Table) -> Measured:
    """Share of completions that open with a refusal (labeling/refusal.py), Wilson on the prompts.

    A prompt counts as the mean of its samples, as in the numbers of a suite.
    """
    refuses = np.array([refusal_of(text) == "full" for text in rollouts["completion"].to_pylist()])
    means = _mean_by_group(rollouts["prompt_id"].to_pylist(), refuses.astype(float))
    share = wilson(float(means.sum()), len(means))
    method = "wilson on the number of prompts"
    return Measured(
        "refusal_rate", float(means.mean()), share.low, share.high, "completions", method
    )


def distinct_2(texts: list[str]) -> float:
    """Distinct word bigrams over all word bigrams of the texts (Li et al. 2016, section 5)."""
    bigrams: Counter[tuple[str, str]] = Counter()
    for text in texts:
        words = text.split()
        bigrams.update(pairwise(words))
    total = bigrams.total()
    return len(bigrams) / total if total else 0.0
