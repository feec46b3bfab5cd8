"""What is published of a night: its `rounds` row, files and rollouts, and whether it is open."""

from __future__ import annotations

from typing import Any

from pipeline.config import RunConfig
from warehouse.handle import Warehouse
from warehouse.keys import is_of_round, rollouts_key


def is_stopped(warehouse: Warehouse) -> bool:
    """Whether the last round reached the stop rule."""
    rows = warehouse.read_table("rounds", columns=["round", "is_stopped"]).to_pylist()
    return bool(rows) and bool(max(rows, key=lambda r: r["round"])["is_stopped"])


def round_row(warehouse: Warehouse, round_number: int) -> dict[str, Any] | None:
    """The `rounds` row of a round, or None."""
    rows = warehouse.read_table("rounds", rounds=[round_number]).to_pylist()
    return rows[0] if rows else None


def row_files(warehouse: Warehouse, round_number: int) -> list[str]:
    """The live files that hold the round's row: what a commit with a newer row removes."""
    files = warehouse.ledger.files(table="rounds", rounds=[round_number])
    return [file.path for file in files]


def rollout_values(warehouse: Warehouse, number: int, purpose: str, column: str) -> set[str]:
    """The values of a column among the round's rollouts of one purpose."""
    key = rollouts_key(number, purpose)
    rows = warehouse.read_table("rollouts", rounds=[number], columns=[column], keys=[key])
    return set(rows[column].to_pylist())


def awaits_training(warehouse: Warehouse, round_number: int) -> bool:
    """Whether a person accepted the round and it is still the newest, untrained night."""
    row = round_row(warehouse, round_number)
    is_accepted = row is not None and row["status"] == "accepted"
    return is_accepted and not has_begun(warehouse, round_number + 1)


def has_begun(warehouse: Warehouse, round_number: int, purpose: str | None = None) -> bool:
    """Whether anything of this night (or its rollouts or labels of a purpose) is published."""
    commits = warehouse.ledger.commits()
    return any(is_of_round(commit.key, round_number, purpose) for commit in commits)


def kl_coefficient(config: RunConfig, warehouse: Warehouse, round_number: int) -> float:
    """The coefficient this round trains with: what the last night left, or the configured start."""
    rows = warehouse.read_table("rounds", columns=["round", "kl_coefficient_out"])
    earlier = [r for r in rows.to_pylist() if r["round"] < round_number]
    if not earlier:
        return config.training.kl_coefficient
    return float(max(earlier, key=lambda r: r["round"])["kl_coefficient_out"])
