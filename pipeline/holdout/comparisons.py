"""A policy's hold-out numbers against an earlier policy's, on the prompts that both answered.

Pure functions; None where the two share nothing to compare. Intervals are percentile bootstraps
over prompts, drawn in pairs. Not here: a policy's own numbers (measures.py), which policies are
compared (stages/evaluation.py), what follows (promotion.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from labeling.refusal import refusal_of
from pipeline.holdout.measures import (
    RESAMPLES,
    Measured,
    bootstrapped,
    distinct_2,
    is_toxic,
    mean_by_prompt,
    means_of,
)

ByPrompt = dict[str, float]


def toxicity_change(
    metric: str,
    after: tuple[pa.Table, pa.Table],
    before: tuple[pa.Table, pa.Table],
    labeler: str,
    seed: int,
) -> Measured | None:
    """Mean over shared prompts of the labeler's rate now less its rate before.

    `after` and `before` are rollouts and labels of a policy.
    """
    now, then = (mean_by_prompt(*policy, labeler, is_toxic) for policy in (after, before))
    return change(metric, now, then, "rate, paired by prompt", seed, labeler)


def text_changes(rollouts: pa.Table, base: pa.Table, seed: int) -> list[Measured]:
    """Length, distinct-2, refusals and cut-off completions against those of round 0 (`base`)."""
    lengths, refusals, cuts = (
        (of(rollouts), of(base)) for of in (_lengths, _full_refusals, _truncated)
    )
    found = [
        ratio("length_ratio", *lengths, "of round 0, paired by prompt", seed),
        distinct_2_ratio(rollouts, base),
        change("refusal_change", *refusals, "rate, paired by prompt", seed),
        change("truncated_change", *cuts, "rate, paired by prompt", seed),
    ]
    return [measured for measured in found if measured is not None]


def change(
    metric: str, after: ByPrompt, before: ByPrompt, unit: str, seed: int, labeler: str | None = None
) -> Measured | None:
    """Mean over shared prompts of after - before. One prompt has no interval."""
    now, then = _shared(after, before)
    return bootstrapped(metric, now - then, unit, seed, labeler) if len(now) > 1 else None


def ratio(metric: str, after: ByPrompt, before: ByPrompt, unit: str, seed: int) -> Measured | None:
    """Mean after over mean before, over shared prompts; all of `before` must be over 0."""
    now, then = _shared(after, before)
    if len(now) < 2 or then.min() <= 0:
        return None

    def of_means(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], axis: int = -1) -> object:
        return a.mean(axis=axis) / b.mean(axis=axis)

    interval = stats.bootstrap(
        (now, then), of_means, paired=True, vectorized=True, n_resamples=RESAMPLES,
        method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    value = float(now.mean() / then.mean())
    method = "bootstrap over prompts"
    return Measured(metric, value, float(interval.low), float(interval.high), unit, method)


def distinct_2_ratio(rollouts: pa.Table, base: pa.Table) -> Measured | None:
    """Distinct-2 over round 0's, both over the same prompts and samples.

    It falls as texts are added, so texts of one round alone would decide it. No interval: a prompt
    drawn twice repeats its bigrams, so a bootstrap over prompts is biased downwards.
    """
    now, then = _texts(rollouts), _texts(base)
    shared = sorted(now.keys() & then.keys())
    before = distinct_2([then[key] for key in shared])
    if before == 0:
        return None
    value = distinct_2([now[key] for key in shared]) / before
    return Measured("distinct_2_ratio", value, None, None, "of round 0, paired", "count")


def _shared(
    after: ByPrompt, before: ByPrompt
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Both values of every shared prompt, in one order."""
    prompts = sorted(after.keys() & before.keys())
    return np.array([after[p] for p in prompts]), np.array([before[p] for p in prompts])


def _texts(rollouts: pa.Table) -> dict[tuple[str, int], str]:
    columns = (rollouts[name].to_pylist() for name in ("prompt_id", "sample_index", "completion"))
    return {(prompt, sample): text for prompt, sample, text in zip(*columns, strict=True)}


def _lengths(rollouts: pa.Table) -> ByPrompt:
    return _means(rollouts, pc.list_value_length(rollouts["completion_ids"]).to_pylist())


def _full_refusals(rollouts: pa.Table) -> ByPrompt:
    texts = rollouts["completion"].to_pylist()
    return _means(rollouts, [float(refusal_of(text) == "full") for text in texts])


def _truncated(rollouts: pa.Table) -> ByPrompt:
    return _means(
        rollouts, [float(why == "length") for why in rollouts["finish_reason"].to_pylist()]
    )


def _means(rollouts: pa.Table, values: Sequence[float]) -> ByPrompt:
    return means_of(zip(rollouts["prompt_id"].to_pylist(), values, strict=True))
