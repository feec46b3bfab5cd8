"""Hold-out numbers of a policy, paired against earlier ones, and the verdict on its night.

The same prompts every round, k samples each. Toxicity comes from the mart `toxicity_by_round`, so
a report and a stop decision can never disagree; this file adds what SQL cannot: KL to the reference
from fresh samples, and bootstrap intervals over prompts (a prompt's samples are not independent).
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import RunConfig
from pipeline.holdout.comparisons import text_changes, toxicity_change
from pipeline.holdout.measures import (
    Measured,
    bootstrapped,
    kl_to_reference,
    mean_by_prompt,
    text_numbers,
)
from pipeline.policies.policies import base_policy
from pipeline.runtime.machine import choose_device
from pipeline.runtime.publishing import StageReport, publish_once
from pipeline.stages.labels import revision_of
from pipeline.stages.outcome import night_row
from pipeline.stages.rewards import round_labels
from pipeline.stages.rounds import row_files
from training.policy.actor_critic import ActorCritic
from training.policy.sequences import sequence_logprobs
from warehouse.handle import Warehouse
from warehouse.keys import labels_key, rollouts_key
from warehouse.schemas import table_from_rows


def evaluate(
    config: RunConfig,
    warehouse: Warehouse,
    key: str,
    round_number: int,
    facts: tuple[datetime, str],
) -> StageReport:
    """Publishes the numbers of policy r and, for r > 0, night r - 1's row."""
    rollouts = warehouse.read_table(
        "rollouts", rounds=[round_number], keys=[rollouts_key(round_number, "holdout")]
    )
    labels = round_labels(config, warehouse, round_number, "holdout")
    reference = base_policy(config)
    started = time.monotonic()
    model = ActorCritic.load(reference.folder, device=choose_device(config.device))
    load_seconds = time.monotonic() - started
    logprobs = sequence_logprobs(
        model, rollouts["prompt_ids"].to_pylist(), rollouts["completion_ids"].to_pylist()
    )
    measured = [
        *toxicity_numbers(warehouse, round_number),
        *comparisons(config, warehouse, round_number, rollouts, labels),
        *score_means(config, rollouts, labels),
        kl_to_reference(rollouts, logprobs, config.seed),
        *text_numbers(rollouts, config.seed),
    ]
    tables = {
        "evaluations": evaluation_rows(round_number, rollouts, measured),
        "policy_logprobs": _reference_rows(rollouts, logprobs, reference.revision),
    }
    old_row: list[str] = []
    night = None
    if round_number > 0:
        night = night_row(config, warehouse, round_number - 1, measured, facts)
    if night is not None:
        tables["rounds"] = night
        # A round that was refused and then accepted has a row; a round has one.
        old_row = row_files(warehouse, round_number - 1)
    # No `round=` here: the commit holds numbers of round r and the row of night r - 1.
    publish_once(config, key, tables, remove=old_row)
    return StageReport(
        key, made=len(measured), unit="numbers", load_seconds=load_seconds, notes=_rejection(night)
    )


def _rejection(night: pa.Table | None) -> dict[str, str]:
    """What the driver says of a night whose policy was not promoted."""
    if night is None or night["status"][0].as_py() != "rejected":
        return {}
    return {"rejected": night["reason"][0].as_py()}


def toxicity_numbers(warehouse: Warehouse, round_number: int) -> list[Measured]:
    """Rate with its interval, mean score and expected maximum, as the mart has them."""
    con = warehouse.connect()
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


def comparisons(
    config: RunConfig,
    warehouse: Warehouse,
    round_number: int,
    rollouts: pa.Table,
    labels: pa.Table,
) -> list[Measured]:
    """The policy against round 0, and on the metric against the one that it would replace."""
    if round_number == 0:
        return []
    toxicity = [labeler.name for labeler in config.labelers if labeler.criterion == "toxicity"]
    pairs = [("toxicity_change", 0, name) for name in toxicity]
    candidate = rollouts["policy_revision"][0].as_py()
    replaced = replaced_in(warehouse, round_number, candidate)
    if replaced is not None:
        pairs.append(("toxicity_change_from_replaced", replaced, config.metric))
    compared = {0, *(pair[1] for pair in pairs)}
    before = {earlier: _holdout(warehouse, earlier) for earlier in compared}
    found = text_changes(rollouts, before[0], config.seed)
    for metric, earlier, name in pairs:
        known = _earlier_labels(config, warehouse, earlier, name)
        after = (rollouts, labels)
        changed = toxicity_change(metric, after, (before[earlier], known), name, config.seed)
        found += [changed] if changed else []
    return found


def replaced_in(warehouse: Warehouse, round_number: int, candidate: str) -> int | None:
    """The round that measured the policy which `candidate`, trained in the night before, replaces.

    After a rejected night that is an older round than the one before. None where the night left
    its policy as it was (refused), or where that policy was never measured. From the tables alone:
    to hash the base's weights again takes a while.
    """
    columns = ["round", "policy_revision"]
    rows = warehouse.read_table("evaluations", columns=columns).to_pylist()
    measured = {row["round"]: row["policy_revision"] for row in rows if row["round"] < round_number}
    nights = warehouse.read_table("rounds", columns=["round", "policy_revision_out"])
    left = {row["round"]: row["policy_revision_out"] for row in nights.to_pylist()}
    before = [number for number in left if number < round_number - 1]
    sampled = left[max(before)] if before else measured.get(0)
    if sampled == candidate:
        return None
    return max((r for r, revision in measured.items() if revision == sampled), default=None)


def _holdout(warehouse: Warehouse, round_number: int) -> pa.Table:
    """The round's hold-out rollouts, without what only training reads."""
    columns = ["rollout_id", "prompt_id", "sample_index", "completion", "completion_ids"]
    return warehouse.read_table(
        "rollouts",
        rounds=[round_number],
        columns=[*columns, "finish_reason"],
        keys=[rollouts_key(round_number, "holdout")],
    )


def _earlier_labels(
    config: RunConfig, warehouse: Warehouse, round_number: int, name: str
) -> pa.Table:
    """A labeler's final hold-out labels of the round, none where this revision has not labelled it.

    Scores of two revisions are on two scales: no change between them is measured.
    """
    key = labels_key(round_number, "holdout", name, revision_of(config, config.labeler(name)))
    if not warehouse.is_published(key):
        return table_from_rows("labels", [])
    labels = warehouse.read_table("labels", rounds=[round_number], keys=[key])
    return labels.filter(pc.field("is_final"))


def score_means(config: RunConfig, rollouts: pa.Table, labels: pa.Table) -> list[Measured]:
    """Mean score of every labeler whose criterion is not toxicity."""
    numbers = []
    for labeler in config.labelers:
        if labeler.criterion == "toxicity" or getattr(labeler, "mode", None) == "pairwise":
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
    return table_from_rows("evaluations", [constant | asdict(number) for number in measured])


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
