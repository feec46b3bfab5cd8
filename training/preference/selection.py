"""Which scored rollouts train by preference, and the best against the worst of a prompt.

Best against worst per prompt and round, as iterated DPO pairs them (Dong et al. 2405.07863, section
3), with a margin of the rewards; from train prompts alone. Not here: rows for a trainer
(rows.py), files (export.py), training (methods.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from training.preference.queries import PAIRS
from warehouse.catalog import catalog
from warehouse.ledger.commits import LiveFile
from warehouse.schemas import conform

_READ = ("rollouts", "rewards", "prompts", "rounds", "preference_pairs", "policy_logprobs")


@dataclass(frozen=True)
class Selection:
    """Which scored rollouts become rows, at which version of the warehouse.

    `rounds` None takes all whose status is in `statuses`; a completion cut off at its token limit
    takes part only with `allow_truncated`. `margin` is the least difference of the rewards of a
    pair; `pairs` names a stored pair recipe to take instead of best against worst, `imported` a
    source of imported completions to take instead of rounds. `threshold` is the reward above which
    a completion is desirable (KTO); None: the mean of its round or source.
    """

    rounds: tuple[int, ...] | None = None
    statuses: tuple[str, ...] = ("completed",)
    margin: float = 0.5
    pairs: str | None = None
    imported: str | None = None
    threshold: float | None = None
    allow_truncated: bool = False
    as_of: int | None = None

    def parameters(self) -> dict[str, object]:
        """What the queries ask for to choose candidates."""
        return {
            "rounds": None if self.rounds is None else list(self.rounds),
            "statuses": list(self.statuses),
            "allow_truncated": self.allow_truncated,
            "imported": self.imported,
        }

    def reads(self, file: LiveFile) -> bool:
        """Whether the queries read this file; what they read is verified first.

        Stored pairs may be of other rounds than their completions.
        """
        if file.table in ("rollouts", "rewards") and self.pairs is None:
            return self.rounds is None or file.round is None or file.round in self.rounds
        return file.table in _READ


def preference_pairs(root: str | Path, selection: Selection) -> pa.Table:
    """`preference_pairs` rows: at most one a prompt and round, never a tie or equal texts."""
    parameters = selection.parameters() | {"margin": selection.margin}
    with catalog.connect(root, selection.as_of, only=selection.reads) as con:
        rows: pa.Table = con.sql(PAIRS, params=parameters).to_arrow_table()
    return conform("preference_pairs", rows)
