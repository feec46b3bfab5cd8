"""The list of forgotten prompts: hashes in the ledger, held against all that comes in.

`publish` leaves out rows of a forgotten prompt, whoever brings them: the same source imported
again, the same text under the id of another source, or a stage that had read the prompt before it
was forgotten. A training that used such rows is refused: its policy has learnt from them. Only
hashes are kept, never an id or a text.
Not here: taking the rows out (maintenance/forgetting.py).
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from warehouse.errors import WarehouseError
from warehouse.files import text_sha256
from warehouse.ledger.commits import FORGET, Commit

PROMPTS = "prompts"  # in the meta of a forget's commit: hashes, separated by blanks
ROLLOUTS = "rollouts"
PROMPT_COLUMNS = ("prompt_id", "row_id")
ROLLOUT_COLUMNS = ("rollout_id", "partner_rollout_id", "chosen_id", "rejected_id", "row_id")


class TrainedOnForgotten(WarehouseError):
    """A training used rows of a prompt that was forgotten while it ran."""


@dataclass(frozen=True)
class Forgotten:
    """Hashes of forgotten prompts (ids and texts) and of the ids of their rollouts."""

    prompts: frozenset[str]
    rollouts: frozenset[str]

    def has_prompt(self, prompt_id: str, messages: str | None = None) -> bool:
        """Whether the prompt of this id, or of this text (JSON list of turns), was forgotten."""
        return bool(self.prompts) and (
            id_hash(prompt_id) in self.prompts
            or (messages is not None and text_hash(messages) in self.prompts)
        )


def normalise(text: str) -> str:
    """Unicode NFC, trimmed, whitespace runs as one space, caseless: equal questions look equal."""
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold()


def id_hash(identifier: str) -> str:
    """32 hex digits that stand for an id where the id itself must not be kept."""
    return text_sha256(identifier)[:32]


def text_hash(messages: str) -> str:
    """32 hex digits that stand for a prompt's turns (JSON), equal where the turns look equal."""
    try:
        turns = [f"{turn['role']}\x1f{normalise(turn['content'])}" for turn in json.loads(messages)]
    except (ValueError, TypeError, KeyError):  # no prompt: publish's checks say so
        turns = [messages]
    return id_hash("\x1e".join(turns))


def forgotten(commits: Iterable[Commit]) -> Forgotten:
    """What the forgets among `commits` have listed."""
    lists: dict[str, set[str]] = {PROMPTS: set(), ROLLOUTS: set()}
    for commit in commits:
        if commit.operation == FORGET:
            for name, found in lists.items():
                found.update(commit.meta.get(name, "").split())
    return Forgotten(*(frozenset(found) for found in lists.values()))


def without_forgotten(
    key: str, tables: Mapping[str, pa.Table], gone: Forgotten
) -> dict[str, pa.Table]:
    """The tables of one commit less the rows of forgotten prompts.

    Raises TrainedOnForgotten where the commit `key` would say that a policy was trained on them.
    """
    if not gone.prompts:
        return dict(tables)
    renamed = set()  # forgotten texts under other ids: their rows go as well
    if "prompts" in tables:
        prompts = tables["prompts"].select(["prompt_id", "messages"]).to_pylist()
        renamed = {row["prompt_id"] for row in prompts if gone.has_prompt(**row)}
    return {name: _kept(key, name, rows, gone, renamed) for name, rows in tables.items()}


def _kept(key: str, table: str, rows: pa.Table, gone: Forgotten, renamed: set[str]) -> pa.Table:
    is_gone = pa.array([False] * rows.num_rows, pa.bool_())
    for names, hashes, ids in (
        (PROMPT_COLUMNS, gone.prompts, renamed),
        (ROLLOUT_COLUMNS, gone.rollouts, set()),
    ):
        for name in set(names) & set(rows.column_names):
            values = pc.unique(rows[name]).drop_null()
            hit = [x for x in values.to_pylist() if x in ids or id_hash(x) in hashes]
            if hit:
                is_gone = pc.or_(is_gone, pc.is_in(rows[name], pa.array(hit, values.type)))
    if table == "train_use" and pc.any(pc.and_(is_gone, rows["is_used"])).as_py():
        raise TrainedOnForgotten(
            f"{key}: a prompt of these training rows was forgotten while the training ran; "
            "nothing is published; run it again, it then trains without the prompt. The policy it "
            "made is in no round: `roundhouse vacuum --policies` deletes it"
        )
    return rows.filter(pc.invert(is_gone))
