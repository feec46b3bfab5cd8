"""Where a prompt has left traces: rows of every table, in every file that a version reads.

Rows are found by ids: the prompt's, and those of its rollouts. Dead letters of an ingest have no
id; they count when they hold the opening of a human turn of the prompt. Tables of numbers over many
prompts (evaluations, metrics) and of the house's own texts (templates, sentinels) are not searched.
Not here: the commit that takes the rows out (forgetting.py).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from warehouse.ledger.commits import Commit, LiveFile, Replacements, files_ever, taken_files
from warehouse.ledger.data_files import put_like
from warehouse.ledger.evidence import naming, read_rows
from warehouse.ledger.suppression import PROMPT_COLUMNS, ROLLOUT_COLUMNS
from warehouse.store.base import Store

# Prompts first: their texts find dead letters; then rollouts: their ids find rows of the others.
SEARCHED = (
    *("prompts", "rollouts", "labels", "prompt_sums", "rewards", "train_use", "preference_pairs"),
    *("gold", "policy_logprobs", "dead_letters"),
)
_SHORTEST_PROBE, _LONGEST_PROBE = 16, 100


@dataclass
class Traces:
    """What was found of the prompts, for the report and for what lies outside the tables.

    `rows`: table -> rows in files of any version. `trainings`: (round, training run) that used
    them. `request_ids`, `outputs`: of judges' answers. `first_turns`: digests of their first turns.
    """

    prompt_ids: set[str] = field(default_factory=set)
    rollout_ids: set[str] = field(default_factory=set)
    rows: Counter[str] = field(default_factory=Counter)
    trainings: set[tuple[int, str]] = field(default_factory=set)
    request_ids: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    first_turns: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)


class Search:
    """The files that hold rows of the prompts; each file is read once, however often we look."""

    def __init__(self, store: Store, wanted: set[str]) -> None:
        self._store, self.wanted = store, wanted
        self._seen: set[str] = set()
        self._written: dict[str, LiveFile | None] = {}
        self._probes: list[str] = []
        self._names = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, sorted(wanted)))})(?!\w)")
        self.found: dict[str, LiveFile] = {}
        self.traces = Traces()

    def look(self, commits: Sequence[Commit]) -> None:
        """Searches every file that any version of `commits` reads and that is still there.

        Raises MissingFile, also for a file that was deleted by the word of a later commit.
        """
        replaced = Replacements(commits)
        files = files_ever(commits, replaced)
        taken = taken_files(commits, replaced).keys()
        alive = files.keys() - taken
        self.found = {path: file for path, file in self.found.items() if path in alive}
        for table in SEARCHED:
            for file in files.values():
                if file.table == table and file.path in alive - self._seen:
                    self._look_into(file)
                    self._seen.add(file.path)

    def rewritten(self, path: str) -> LiveFile | None:
        """The file without the rows that were found, None if no row is left; written once."""
        if path not in self._written:
            file = self.found[path]
            rows = read_rows(self._store, file)
            rows = rows.filter(pc.invert(self._hits(file.table, rows)))
            self._written[path] = put_like(self._store, file, rows) if rows.num_rows else None
        return self._written[path]

    def _look_into(self, file: LiveFile) -> None:
        hits = self._hits(file.table, self._ids(file))
        count = pc.sum(hits).as_py() or 0
        if not count:
            return
        self._remember(file.table, read_rows(self._store, file).filter(hits))
        self.found[file.path] = file
        self.traces.rows[file.table] += count

    def _ids(self, file: LiveFile) -> pa.Table:
        """The columns by which rows are found, and no others."""
        texts = ("payload", "message") if file.table == "dead_letters" else ()
        wanted = {*PROMPT_COLUMNS, *ROLLOUT_COLUMNS, *texts}
        with naming(self._store, file):
            parquet = pq.ParquetFile(self._store.open(file.path, file.bytes))
            return parquet.read(columns=[n for n in parquet.schema_arrow.names if n in wanted])

    def _hits(self, table: str, rows: pa.Table) -> pa.Array:
        """Which rows are of the prompts, [rows.num_rows] bool."""
        found = pa.array([False] * rows.num_rows, pa.bool_())
        for columns, ids in (
            (PROMPT_COLUMNS, self.wanted),
            (ROLLOUT_COLUMNS, self.traces.rollout_ids),
        ):
            for name in set(columns) & set(rows.column_names):
                is_in = pc.is_in(rows[name], value_set=pa.array(sorted(ids), pa.string()))
                found = pc.or_(found, is_in)
        if table == "dead_letters":
            found = pc.or_(
                found, pa.array([self._quotes(row) for row in rows.to_pylist()], pa.bool_())
            )
        return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found

    def _quotes(self, row: dict[str, Any]) -> bool:
        """Whether a dead letter names the prompt (`3-<prompt>-0` was never stored) or holds it."""
        text = f"{row['payload'] or ''}\n{row['message']}"
        return bool(self._names.search(row["row_id"])) or any(x in text for x in self._probes)

    def _remember(self, table: str, rows: pa.Table) -> None:
        traces = self.traces
        if "prompt_id" in rows.column_names:
            traces.prompt_ids.update(rows["prompt_id"].to_pylist())
        if table == "dead_letters":
            traces.prompt_ids.update(self.wanted & set(rows["row_id"].to_pylist()))
        elif table == "prompts":
            traces.first_turns.update(rows["first_turn_sha256"].to_pylist())
            traces.messages += rows["messages"].to_pylist()
            self._probes += [p for text in rows["messages"].to_pylist() for p in _probes(text)]
        elif table == "rollouts":
            traces.rollout_ids.update(rows["rollout_id"].to_pylist())
        elif table == "labels":
            traces.request_ids.update(filter(None, rows["request_id"].to_pylist()))
            traces.outputs.update(filter(None, rows["raw_output"].to_pylist()))
        elif table == "train_use":
            used = rows.filter(pc.field("is_used"))
            runs = zip(used["round"].to_pylist(), used["training_run_id"].to_pylist(), strict=True)
            traces.trainings.update(runs)


def _probes(messages: str) -> list[str]:
    """Openings of the human turns, as they stand in a text and in JSON."""
    turns = [m["content"] for m in json.loads(messages) if m["role"] == "user"]
    openings = [turn[:_LONGEST_PROBE] for turn in turns if len(turn) >= _SHORTEST_PROBE]
    escaped = [json.dumps(text, ensure_ascii=is_ascii)[1:-1]
               for text in openings for is_ascii in (True, False)]  # fmt: skip
    return sorted({*openings, *escaped})
