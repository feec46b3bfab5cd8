"""What the table `rounds` says of a night: its row, its files, whether it is open."""

from __future__ import annotations

from typing import Any

from pipeline.config import RunConfig
from warehouse.ledger.ledger import Ledger
from warehouse.ledger.reading import read_table
from warehouse.store import open_store


def is_stopped(root: str) -> bool:
    """Whether the last round reached the stop rule."""
    rows = read_table(root, "rounds", columns=["round", "is_stopped"]).to_pylist()
    return bool(rows) and bool(max(rows, key=lambda r: r["round"])["is_stopped"])


def round_row(root: str, round_number: int) -> dict[str, Any] | None:
    """The `rounds` row of a round, or None."""
    rows = read_table(root, "rounds", rounds=[round_number]).to_pylist()
    return rows[0] if rows else None


def row_files(root: str, round_number: int) -> list[str]:
    """The live files that hold the round's row: what a commit with a newer row removes."""
    ledger = Ledger(open_store(root))
    return [file.path for file in ledger.files(table="rounds", rounds=[round_number])]


def awaits_training(root: str, round_number: int) -> bool:
    """Whether a person accepted the round and it is still the newest, untrained night."""
    row = round_row(root, round_number)
    is_accepted = row is not None and row["status"] == "accepted"
    return is_accepted and not has_begun(root, round_number + 1)


def has_begun(root: str, round_number: int, work: str = "") -> bool:
    """Whether anything of this night (or of one kind of work in it) is published."""
    prefix = f"round={round_number}/{work}"
    return any(commit.key.startswith(prefix) for commit in Ledger(open_store(root)).commits())


def kl_coefficient(config: RunConfig, round_number: int) -> float:
    """The coefficient this round trains with: what the last night left, or the configured start."""
    rows = read_table(config.warehouse, "rounds", columns=["round", "kl_coefficient_out"])
    earlier = [r for r in rows.to_pylist() if r["round"] < round_number]
    if not earlier:
        return config.training.kl_coefficient
    return float(max(earlier, key=lambda r: r["round"])["kl_coefficient_out"])
