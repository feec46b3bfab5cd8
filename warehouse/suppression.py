"""The list of forgotten prompts: hashes of ids in the ledger, held against all that comes in.

`publish` leaves out rows of a forgotten prompt, whoever brings them: the same source imported
again, or a stage that had read the prompt before it was forgotten. A training that used such rows
is refused: its policy has learnt from them. Only hashes are kept, never an id or a text.
Not here: taking the rows out (forgetting.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from warehouse.commits import FORGET, Commit
from warehouse.store import WarehouseError

PROMPTS = "prompts"  # in the meta of a forget's commit: hashes, separated by blanks
ROLLOUTS = "rollouts"
PROMPT_COLUMNS = ("prompt_id", "row_id")
ROLLOUT_COLUMNS = ("rollout_id", "partner_rollout_id", "chosen_id", "rejected_id", "row_id")


class TrainedOnForgotten(WarehouseError):
    """A training used rows of a prompt that was forgotten while it ran."""


@dataclass(frozen=True)
class Forgotten:
    """Hashes (`id_hash`) of forgotten prompts' ids, and of the ids of their rollouts."""

    prompts: frozenset[str]
    rollouts: frozenset[str]

    def has_prompt(self, prompt_id: str) -> bool:
        """Whether this prompt was forgotten."""
        return id_hash(prompt_id) in self.prompts


def id_hash(identifier: str) -> str:
    """32 hex digits that stand for an id where the id itself must not be kept."""
    return hashlib.sha256(identifier.encode()).hexdigest()[:32]


def forgotten(commits: Iterable[Commit]) -> Forgotten:
    """What the forgets among `commits` have listed."""
    lists: dict[str, set[str]] = {PROMPTS: set(), ROLLOUTS: set()}
    for commit in commits:
        if commit.operation == FORGET:
            for name, found in lists.items():
                found.update(commit.meta.get(name, "").split())
    return Forgotten(*(frozenset(found) for found in lists.values()))


def without_forgotten(key: str, table: str, rows: pa.Table, gone: Forgotten) -> pa.Table:
    """The rows of `table` less those of forgotten prompts.

    Raises TrainedOnForgotten where the commit `key` would say that a policy was trained on them.
    """
    if not gone.prompts:
        return rows
    is_gone = pa.array([False] * rows.num_rows)
    for names, hashes in ((PROMPT_COLUMNS, gone.prompts), (ROLLOUT_COLUMNS, gone.rollouts)):
        for name in set(names) & set(rows.column_names):
            values = pc.unique(rows[name]).drop_null()
            hit = [value for value in values.to_pylist() if id_hash(value) in hashes]
            if hit:
                found = pc.is_in(rows[name], value_set=pa.array(hit, values.type))
                is_gone = pc.or_(is_gone, found)
    if table == "train_use" and pc.any(pc.and_(is_gone, rows["is_used"])).as_py():
        raise TrainedOnForgotten(
            f"{key}: a prompt of these training rows was forgotten while the training ran; "
            "nothing is published; run it again, it then trains without the prompt"
        )
    return rows.filter(pc.invert(is_gone))
