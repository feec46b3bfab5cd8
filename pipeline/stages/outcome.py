"""The verdict on a night: its `rounds` row, with promotion, stop rule and the next KL coefficient.

Not here: the gate before training (gate.py), the numbers themselves (evaluation.py) and the guards
that they must pass (holdout/promotion.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.holdout.measures import Measured
from pipeline.holdout.promotion import judge
from pipeline.policies.policies import base_policy, policy_of_round
from pipeline.runtime.machine import package_versions
from pipeline.runtime.publishing import StageReport, code_version, publish_once
from pipeline.stages.rounds import kl_coefficient, round_row, row_files
from training.ppo.formulas import adapt_kl_coefficient
from warehouse.files import sha256_of
from warehouse.handle import Warehouse
from warehouse.keys import acceptance_key, training_key
from warehouse.schemas import table_from_rows


def night_row(
    config: RunConfig,
    warehouse: Warehouse,
    round_number: int,
    measured: Sequence[Measured],
    facts: tuple[datetime, str],
) -> pa.Table | None:
    """The `rounds` row of a night that trained; None where its row is there already (refused).

    A policy that went too far raises the KL coefficient by the controller's largest step, whatever
    its KL: the next night begins where this one did, with other prompts, and is held nearer.
    """
    training = warehouse.ledger.find(training_key(round_number))
    if training is None:
        return None
    judged = judge(measured, config.promotion, config.training.kl_budget, config.metric)
    before = policy_of_round(config, warehouse, round_number).revision
    after = training.meta["policy_revision"] if judged.is_promoted else before
    coefficient = kl_coefficient(config, warehouse, round_number)
    measured_kl = next(m.value for m in measured if m.metric == "kl_to_reference")
    kl = math.inf if judged.is_too_far else measured_kl
    row = (
        _decided(warehouse, round_number)
        | _row(config, round_number, facts)
        | {
            "status": "completed" if judged.is_promoted else "rejected",
            "reason": None if judged.is_promoted else "; ".join(judged.reasons),
            "is_stopped": judged.is_promoted and _is_below(config, measured),
            "policy_revision_in": before,
            "policy_revision_out": after,
            "training_run_id": training.meta["training_run_id"],
            "recipe_sha256": training.meta["recipe_sha256"],
            "kl_coefficient_in": coefficient,
            "kl_coefficient_out": adapt_kl_coefficient(coefficient, kl, config.training.kl_target),
        }
    )
    return table_from_rows("rounds", [row])


def _is_below(config: RunConfig, measured: Sequence[Measured]) -> bool:
    """The stop rule: the upper end of the metric's rate is under `evaluation.stop_below`."""
    threshold = config.evaluation.stop_below
    rates = [m for m in measured if (m.metric, m.labeler) == ("toxicity_rate", config.metric)]
    high = rates[0].high if rates else None
    return threshold is not None and high is not None and high < threshold


def refuse(
    config: RunConfig,
    warehouse: Warehouse,
    round_number: int,
    reason: str,
    label_set: str,
    facts: tuple[datetime, str],
) -> StageReport:
    """Publishes the row of a night whose labels the gate refused: stored, not trained on."""
    policy = policy_of_round(config, warehouse, round_number).revision
    coefficient = kl_coefficient(config, warehouse, round_number)
    row = _row(config, round_number, facts) | {
        "status": "refused",
        "reason": reason,
        "is_stopped": False,
        "policy_revision_in": policy,
        "policy_revision_out": policy,
        "kl_coefficient_in": coefficient,
        "kl_coefficient_out": coefficient,
    }
    key = acceptance_key(round_number, label_set)
    publish_once(
        config,
        key,
        {"rounds": table_from_rows("rounds", [row])},
        round_number=round_number,
        remove=row_files(warehouse, round_number),
    )
    return StageReport(key, notes={"refused": reason})


def _decided(warehouse: Warehouse, round_number: int) -> dict[str, object]:
    """A person's verdict on the round, which its final row goes on carrying."""
    row = round_row(warehouse, round_number) or {}
    return {name: row.get(name) for name in ("decided_by", "decided_why", "decided_at")}


def _row(config: RunConfig, round_number: int, facts: tuple[datetime, str]) -> dict[str, object]:
    # Where the warehouse lies is no part of what was run in it.
    resolved = config.model_dump(mode="json", exclude={"warehouse"})
    return {
        "round": round_number,
        "reference_revision": base_policy(config).revision,
        "config": json.dumps(resolved, sort_keys=True),
        "config_sha256": sha256_of(resolved),
        "seed": config.seed,
        "code_version": code_version(),
        "package_versions": json.dumps(package_versions(), sort_keys=True),
        "stage_seconds": facts[1],
        "started_at": facts[0],
        "finished_at": datetime.now(UTC),
    }
