"""Hold-out numbers of a policy, paired against round 0, and the verdict on the night that made it.

The same prompts every round, k samples each. Toxicity comes from the mart `toxicity_by_round`, so
a report and a stop decision can never disagree; this file adds what SQL cannot: KL to the reference
from fresh samples, and bootstrap intervals over prompts (a prompt's samples are not independent).
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.decisions import row_files
from pipeline.device import choose_device
from pipeline.labels import rollouts_key
from pipeline.measures import (
    Measured,
    bootstrapped,
    is_toxic,
    kl_to_reference,
    mean_by_prompt,
    text_numbers,
)
from pipeline.policies import base_policy
from pipeline.publishing import StageReport, publish_once
from pipeline.rewards import round_labels
from pipeline.verdict import night_row
from training.actor_critic import ActorCritic, sequence_logprobs
from warehouse.catalog import connect, read_table
from warehouse.schemas import table_from_rows


def evaluate(config: RunConfig, round_number: int, facts: tuple[datetime, str]) -> StageReport:
    """Publishes `round=r/evaluation`: the numbers of policy r and, for r > 0, night r - 1's row."""
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
    replaced: list[str] = []
    if round_number > 0:
        night = night_row(config, round_number - 1, measured, facts)
        if night is not None:
            tables["rounds"] = night
            # A round that was refused and then accepted has a row; a round has one.
            replaced = row_files(config.warehouse, round_number - 1)
    key = f"round={round_number}/evaluation"
    # No `round=` here: the commit holds numbers of round r and the row of night r - 1.
    publish_once(config, key, tables, round_number=None, remove=replaced)
    return StageReport(key, made=len(measured), unit="numbers", load_seconds=load_seconds)


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
        before = mean_by_prompt(first_rollouts, first_labels, labeler.name, is_toxic)
        after = mean_by_prompt(rollouts, labels, labeler.name, is_toxic)
        shared = sorted(before.keys() & after.keys())
        if shared:
            differences = np.array([after[p] - before[p] for p in shared])
            changes.append(
                bootstrapped(
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
        means = mean_by_prompt(rollouts, labels, labeler.name, float)
        if means:
            numbers.append(
                bootstrapped(
                    "mean_score", np.array(list(means.values())), "score in [0, 1]", config.seed,
                    labeler.name,
                )
            )  # fmt: skip
    return numbers


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
