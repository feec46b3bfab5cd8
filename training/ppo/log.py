"""What a training run leaves behind: rows of train_use, training_metrics and policy_logprobs.

Not here: the numbers themselves (formulas.py, trainer.py) or publishing them (pipeline).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from training.ppo.config import TrainingConfig
from training.ppo.dataset import TrainingSet
from warehouse.schemas import conform, table_from_rows

if TYPE_CHECKING:
    from training.ppo.stored_round import StoredRound

Floats = npt.NDArray[np.float32]


def training_run_id(rows: TrainingSet, config: TrainingConfig, *parts: object) -> str:
    """16 hex digits of everything that decides the trained weights: equal runs, equal ids.

    `parts`: round, policy, reference, KL coefficient, seed, the adapter if there is one.
    """
    digest = hashlib.sha256(config.model_dump_json().encode())
    digest.update(repr((parts, rows.rollout_ids)).encode())
    digest.update(rows.rewards.tobytes())
    return digest.hexdigest()[:16]


class MetricsLog:
    """Collects `training_metrics` of one run. A number of the whole round is step 0, epoch NULL."""

    def __init__(self, run_id: str, round: int) -> None:
        self._constant: dict[str, object] = {"training_run_id": run_id, "round": round}
        self._rows: list[dict[str, object]] = []

    def add(self, metrics: dict[str, float], *, step: int = 0, epoch: int | None = None) -> None:
        """Adds the metrics of one step; what is not finite is stored as NULL."""
        now = datetime.now(UTC)
        self._rows += [
            self._constant
            | {
                "metric": name,
                "step": step,
                "epoch": epoch,
                "value": value if math.isfinite(value) else None,
                "logged_at": now,
            }
            for name, value in metrics.items()
        ]

    def table(self) -> pa.Table:
        """The rows so far."""
        return table_from_rows("training_metrics", self._rows)

    def restore(self, table: pa.Table) -> None:
        """Goes on from the rows that an interrupted run had logged."""
        self._rows = table.to_pylist()


def train_use_table(
    rows: TrainingSet, stored: StoredRound, run_id: str, round: int, epochs: int
) -> pa.Table:
    """One row per rollout considered: means over its tokens where it trained, else the reason.

    Importance weights are truncated, advantages whitened, as the loss had them.
    """
    used, left = len(rows.rollout_ids), rows.excluded.num_rows
    weights, advantages = map(stored.row_means, (stored.weights, stored.advantages))
    columns = {
        "training_run_id": pa.array([run_id] * (used + left)),
        "round": pa.array([round] * (used + left), pa.int32()),
        "rollout_id": pa.array([*rows.rollout_ids, *rows.excluded["rollout_id"].to_pylist()]),
        "source_round": pa.array(
            [*rows.source_rounds, *rows.excluded["source_round"].to_pylist()], pa.int32()
        ),
        "is_used": pa.array([True] * used + [False] * left),
        "excluded_reason": pa.array(
            [None] * used + rows.excluded["excluded_reason"].to_pylist(), pa.string()
        ),
        "reward": pa.array([*rows.rewards.tolist(), *rows.excluded["reward"].to_pylist()]),
        "importance_weight": pa.array([*weights.tolist(), *[None] * left]),
        "advantage_mean": pa.array([*advantages.tolist(), *[None] * left]),
        "epochs": pa.array([epochs] * used + [0] * left, pa.int16()),
    }
    return conform("train_use", pa.table(columns))


def policy_logprobs_table(
    rows: TrainingSet,
    round: int,
    revision: str,
    role: str,
    logprobs: Sequence[Floats],
    chosen: Sequence[bool] | None = None,
) -> pa.Table:
    """`policy_logprobs` rows of one policy, for all rows or the `chosen` [n].

    `round` is the night that scored them, which is later than the rollout's own on replay.
    """
    table = pa.table(
        {
            "rollout_id": rows.rollout_ids,
            "round": pa.array([round] * len(rows.rollout_ids), pa.int32()),
            "policy_revision": [revision] * len(rows.rollout_ids),
            "role": [role] * len(rows.rollout_ids),
            "logprobs": pa.array(list(logprobs), pa.list_(pa.float32())),
        }
    )
    if chosen is not None:
        table = table.filter(pa.array(chosen))
    return conform("policy_logprobs", table)
