"""Hold-out numbers of a policy, paired against round 0, and the verdict on the night that made it.

The same prompts every round, k samples each. Toxicity comes from the mart `toxicity_by_round`, so
a report and a stop decision can never disagree; this file adds what SQL cannot: KL to the reference
from fresh samples, and bootstrap intervals over prompts (a prompt's samples are not independent).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from pipeline.config import RunConfig
from pipeline.device import choose_device
from pipeline.labels import rollouts_key
from pipeline.policies import base_policy
from pipeline.publishing import StageReport, publish_once
from pipeline.rewards import round_labels
from training.actor_critic import ActorCritic, sequence_logprobs
from warehouse.catalog import connect, read_table
from warehouse.schemas import SCORED_STATUSES, table_from_rows

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


def evaluate(config: RunConfig, round_number: int, facts: tuple[datetime, str]) -> StageReport:
    """Publishes `round=r/evaluation`: the numbers of policy r and, for r > 0, night r - 1's row."""
    from pipeline.verdict import night_row  # it reads the numbers made here

    rollouts = read_table(
        config.warehouse,
        "rollouts",
        rounds=[round_number],
        keys=[rollouts_key(round_number, "holdout")],
    )
    labels = round_labels(config, round_number, "holdout")
    reference = base_policy(config)
    started = time.monotonic()
    model = ActorCritic.load(reference.folder, device=choose_device(config.device))
    load_seconds = time.monotonic() - started
    logprobs = sequence_logprobs(
        model, rollouts["prompt_ids"].to_pylist(), rollouts["completion_ids"].to_pylist()
    )
    measured = [
        *toxicity_numbers(config, round_number),
        *paired_changes(config, round_number, rollouts, labels),
        *score_means(config, rollouts, labels),
        kl_to_reference(rollouts, logprobs, config.seed),
        *text_numbers(rollouts, config.seed),
    ]
    rows = evaluation_rows(round_number, rollouts, measured)
    tables = {
        "evaluations": rows,
        "policy_logprobs": _reference_rows(rollouts, logprobs, reference.revision),
    }
    if round_number > 0:
        night = night_row(config, round_number - 1, measured, facts)
        if night is not None:
            tables["rounds"] = night
    key = f"round={round_number}/evaluation"
    # No `round=` here: the commit holds numbers of round r and the row of night r - 1.
    publish_once(config, key, tables, round_number=None)
    return StageReport(key, rows=len(measured), load_seconds=load_seconds)


def toxicity_numbers(config: RunConfig, round_number: int) -> list[Measured]:
    """Rate with its interval, mean score and expected maximum, as the mart has them."""
    con = connect(config.warehouse)
    con.execute("set threads = 1")  # sums of floats in one order: equal nights, equal numbers
    rows = con.execute(
        "select labeler, toxicity_rate, toxicity_low, toxicity_high, mean_score, expected_max, "
        "samples_per_prompt from toxicity_by_round where round = ?",
        [round_number],
    ).fetchall()
    con.close()
    numbers = []
    for labeler, rate, low, high, mean, maximum, k in rows:
        wilson = "wilson, clustered by prompt"
        numbers += [
            Measured("toxicity_rate", rate, low, high, "completions", wilson, labeler),
            Measured("mean_score", mean, None, None, "score in [0, 1]", "mean", labeler),
            Measured(
                "expected_max", maximum, None, None, f"max of {k}", "mean over prompts", labeler
            ),
        ]
    return numbers


def paired_changes(
    config: RunConfig, round_number: int, rollouts: pa.Table, labels: pa.Table
) -> list[Measured]:
    """Change of each toxicity labeler's rate against round 0 on the same prompts."""
    if round_number == 0:
        return []
    first_rollouts = read_table(
        config.warehouse,
        "rollouts",
        rounds=[0],
        columns=["rollout_id", "prompt_id"],
        keys=[rollouts_key(0, "holdout")],
    )
    first_labels = round_labels(config, 0, "holdout")
    changes = []
    for labeler in config.labelers:
        if labeler.criterion != "toxicity":
            continue
        before = _by_prompt(first_rollouts, first_labels, labeler.name, _is_toxic)
        after = _by_prompt(rollouts, labels, labeler.name, _is_toxic)
        shared = sorted(before.keys() & after.keys())
        if shared:
            differences = np.array([after[p] - before[p] for p in shared])
            changes.append(
                _bootstrapped(
                    "toxicity_change", differences, "rate, paired by prompt", config.seed,
                    labeler.name,
                )
            )  # fmt: skip
    return changes


def score_means(config: RunConfig, rollouts: pa.Table, labels: pa.Table) -> list[Measured]:
    """Mean score of every labeler whose criterion is not toxicity."""
    numbers = []
    for labeler in config.labelers:
        if labeler.criterion == "toxicity":
            continue
        means = _by_prompt(rollouts, labels, labeler.name, float)
        if means:
            numbers.append(
                _bootstrapped(
                    "mean_score", np.array(list(means.values())), "score in [0, 1]", config.seed,
                    labeler.name,
                )
            )  # fmt: skip
    return numbers


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
    return _bootstrapped("kl_to_reference", means, "nats per sequence", seed)


def text_numbers(rollouts: pa.Table, seed: int) -> list[Measured]:
    """Length, distinct-2 (Li et al. 2016), share of unique and of cut-off completions."""
    lengths = np.array(pc.list_value_length(rollouts["completion_ids"]).to_pylist(), float)
    texts = rollouts["completion"].to_pylist()
    by_prompt = _mean_by_group(rollouts["prompt_id"].to_pylist(), lengths)
    cut = pc.mean(pc.equal(rollouts["finish_reason"], "length").cast(pa.int8())).as_py()
    return [
        _bootstrapped("length", by_prompt, "tokens", seed),
        Measured("distinct_2", distinct_2(texts), None, None, "share of bigrams", "count"),
        Measured("unique", len(set(texts)) / len(texts), None, None, "completions", "count"),
        Measured("truncated", float(cut), None, None, "completions", "count"),
    ]


def distinct_2(texts: list[str]) -> float:
    """Distinct word bigrams over all word bigrams of the texts (Li et al. 2016, section 5)."""
    bigrams: Counter[tuple[str, str]] = Counter()
    for text in texts:
        words = text.split()
        bigrams.update(pairwise(words))
    total = bigrams.total()
    return len(bigrams) / total if total else 0.0


def evaluation_rows(round_number: int, rollouts: pa.Table, measured: list[Measured]) -> pa.Table:
    """The `evaluations` rows of these numbers."""
    per_prompt = Counter(rollouts["prompt_id"].to_pylist())
    constant = {
        "round": round_number,
        "policy_revision": rollouts["policy_revision"][0].as_py(),
        "prompts": len(per_prompt),
        "completions": rollouts.num_rows,
        "samples_per_prompt": max(per_prompt.values()),
    }
    return table_from_rows(
        "evaluations",
        [
            constant
            | {
                "labeler": m.labeler,
                "metric": m.metric,
                "value": m.value,
                "low": m.low,
                "high": m.high,
                "unit": m.unit,
                "method": m.method,
            }
            for m in measured
        ],
    )


def _reference_rows(
    rollouts: pa.Table, logprobs: list[npt.NDArray[np.float32]], revision: str
) -> pa.Table:
    return pa.table(
        {
            "rollout_id": rollouts["rollout_id"],
            "round": rollouts["round"],
            "policy_revision": pa.array([revision] * rollouts.num_rows),
            "role": pa.array(["reference"] * rollouts.num_rows),
            "logprobs": pa.array([row.tolist() for row in logprobs], pa.list_(pa.float32())),
        }
    )


def _is_toxic(score: float) -> float:
    return float(score >= TOXIC_AT)


def _by_prompt(
    rollouts: pa.Table, labels: pa.Table, labeler: str, value: Callable[[float], float]
) -> dict[str, float]:
    """Mean of `value(score)` per prompt over this labeler's usable labels."""
    mine = labels.filter(
        (pc.field("labeler") == labeler) & pc.field("status").isin(SCORED_STATUSES)
    )
    score = dict(zip(mine["rollout_id"].to_pylist(), mine["score"].to_pylist(), strict=True))
    by_prompt: dict[str, list[float]] = {}
    for rollout, prompt in zip(
        rollouts["rollout_id"].to_pylist(), rollouts["prompt_id"].to_pylist(), strict=True
    ):
        if rollout in score:
            by_prompt.setdefault(prompt, []).append(value(score[rollout]))
    return {prompt: float(np.mean(values)) for prompt, values in by_prompt.items()}


def _mean_by_group(groups: list[str], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    _, inverse = np.unique(np.array(groups), return_inverse=True)
    return np.bincount(inverse, weights=values) / np.bincount(inverse)


def _bootstrapped(
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
