"""A person's verdict on a round: `roundhouse accept` and `reject`, in the ledger and in `rounds`.

A verdict is a commit that replaces the round's row; the row before it stays in the ledger's history
(`--as-of`). An accepted round is trained by the next `run`, as long as no later night has begun; a
rejected one feeds neither training nor export. A trained round whose policy was not promoted can be
accepted until the next night has sampled: that night then starts from its policy.
Not here: the gate that refused it (gate.py), the guards that rejected it (holdout/promotion.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import ConfigError
from pipeline.runtime.publishing import code_version
from pipeline.stages.rounds import has_begun, round_row, row_files
from warehouse.handle import Warehouse
from warehouse.keys import accepted_labels, decision_key, is_of_round, training_key
from warehouse.ledger.commits import Commit
from warehouse.publish import publish
from warehouse.schemas import table_from_rows

ACCEPT, REJECT = "accept", "reject"
_OPERATION = "decide"


@dataclass(frozen=True)
class Decision:
    """Who said what, and for what reason."""

    verdict: str
    by: str
    why: str


def last_decision(warehouse: Warehouse, round_number: int, label_set: str) -> Decision | None:
    """The newest verdict of a person on these labels, or on the round as it is, or None."""
    for commit in reversed(warehouse.ledger.commits()):
        if _is_decision(commit, round_number) and commit.meta["label_set"] in ("", label_set[:16]):
            return Decision(*(commit.meta[key] for key in ("verdict", "by", "why")))
    return None


def decide(warehouse: Warehouse, round_number: int, verdict: str, by: str, why: str) -> str:
    """Publishes the verdict; returns what follows from it, for people. Raises ConfigError."""
    by, why = by.strip(), why.strip()
    if not by or not why:
        raise ConfigError(f"{verdict}: --by and --why must say who decides, and for what reason")
    row = round_row(warehouse, round_number)
    if row is None:
        there = sorted(warehouse.read_table("rounds", columns=["round"])["round"].to_pylist())
        raise ConfigError(
            f"{warehouse.root}: round {round_number} has no verdict yet; rounds: {there}"
        )
    changed, follows = (_accepted if verdict == ACCEPT else _rejected)(warehouse, row)
    status = changed["status"]
    row |= changed | {"decided_by": by, "decided_why": why, "decided_at": datetime.now(UTC)}
    commits = warehouse.ledger.commits()
    label_set = _label_set(commits, round_number)
    number = sum(_is_decision(commit, round_number) for commit in commits)
    publish(
        warehouse.root,
        decision_key(round_number, label_set, verdict, number),
        {"rounds": table_from_rows("rounds", [row])},
        round=round_number,
        remove=row_files(warehouse, round_number),
        code_version=code_version(),
        operation=_OPERATION,
        meta={"verdict": verdict, "by": by, "why": why, "label_set": label_set},
    )
    return f"round {round_number} is {status}, by {by}: {follows}"


def _accepted(warehouse: Warehouse, row: dict[str, Any]) -> tuple[dict[str, str], str]:
    """What an `accept` changes in the row, and what follows. Raises ConfigError."""
    number, status = row["round"], row["status"]
    if status == "accepted":
        raise ConfigError(f"round {number} is accepted already, by {row['decided_by']}")
    if row["training_run_id"] is not None:
        return _promoted(warehouse, row)
    if has_begun(warehouse, number + 1):
        follows = "a later night has begun, so no night trains on it by itself"
    else:
        follows = "the next `roundhouse run` or `nightly` trains on it"
    return {"status": "accepted"}, follows


def _promoted(warehouse: Warehouse, row: dict[str, Any]) -> tuple[dict[str, str], str]:
    """A trained round whose policy was rejected, by guards or by a person, gets it after all."""
    number = row["round"]
    if row["status"] == "completed":
        raise ConfigError(f"round {number} is completed: it was accepted by the gate")
    if has_begun(warehouse, number + 1, "train"):
        reason = row["reason"] or row["decided_why"]
        raise ConfigError(
            f"round {number} was trained and then rejected ({reason}), and night {number + 1} went "
            f"on from policy {row['policy_revision_out']}: what came of that stays as it is"
        )
    training = warehouse.ledger.find(training_key(number))
    if training is None:
        raise ConfigError(f"round {number}: its training is not in the ledger of {warehouse.root}")
    policy = training.meta["policy_revision"]
    changed = {"status": "completed", "policy_revision_out": policy}
    return changed, f"the next night starts from policy {policy}"


def _rejected(warehouse: Warehouse, row: dict[str, Any]) -> tuple[dict[str, str], str]:
    """What a `reject` changes in the row, and what follows. Raises ConfigError."""
    number, status, before = row["round"], row["status"], row["policy_revision_in"]
    if status == "rejected":
        who = row["decided_by"] or "the guards of section promotion"
        raise ConfigError(f"round {number} is rejected already, by {who}")
    follows = "neither training nor export uses it"
    if status != "completed":
        return {"status": "rejected"}, follows
    if has_begun(warehouse, number + 1, "train"):
        follows += "; later nights went on from its policy, which stays as it is"
        return {"status": "rejected"}, follows
    follows += f"; the next night starts from policy {before}"
    return {"status": "rejected", "policy_revision_out": before}, follows


def _is_decision(commit: Commit, round_number: int) -> bool:
    return commit.operation == _OPERATION and is_of_round(commit.key, round_number)


def _label_set(commits: Sequence[Commit], round_number: int) -> str:
    """The labels that the gate refused last: 16 hex digits, empty where it refused none."""
    refused = [
        accepted_labels(commit.key)
        for commit in commits
        if commit.operation != _OPERATION and is_of_round(commit.key, round_number)
    ]
    return next((labels for labels in reversed(refused) if labels is not None), "")
