"""Lineage: what is behind the things of a warehouse. Here the means, and the answer for a round.

An answer is a dict of sections in reading order, each one row or a list of rows, ready to print or
to dump as JSON. Files and commits come from the ledger, rows from the views.
Not here: numbers (numbers.py), rollouts, labels and files (rows.py), policies
(policies.py), printing (pipeline).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from warehouse.errors import WarehouseError
from warehouse.handle import Warehouse
from warehouse.keys import is_of_round
from warehouse.ledger.commits import Commit, LiveFile, origins

Row = dict[str, Any]
Trace = dict[str, Row | list[Row]]


class NotFound(WarehouseError):
    """The warehouse has no such number, row, file or policy; the message says what there is."""


class Lineage:
    """The questions to one version of a warehouse (`as_of`, newest by default)."""

    def __init__(self, root: str | Path, as_of: int | None = None) -> None:
        self.root = root
        warehouse = Warehouse.open(root, read_only=True)
        self.store, self.ledger = warehouse.store, warehouse.ledger
        self.commits = self.ledger.commits(as_of)
        self.version = len(self.commits) - 1
        # Of all versions: what a later commit replaces, it replaces at every one.
        every = self.ledger.commits()
        self._by_key = {commit.key: commit for commit in every}
        self._writers = {file.path: commit for commit in every for file in brought_by(commit)}
        self._origins = origins(every)
        self._con = warehouse.at(self.version).connect()

    def at(self, version: int) -> Lineage:
        """The same warehouse at another version."""
        return self if version == self.version else Lineage(self.root, version)

    def ask(self, query: str, **parameters: object) -> list[Row]:
        """The rows of a query over the views."""
        rows = self._con.sql(query, params=parameters or None).to_arrow_table()
        found: list[Row] = rows.to_pylist()
        return found

    def rollouts(self, rollout_ids: Sequence[str]) -> list[Row]:
        """Where these rollouts come from, by id; those that are not there are left out."""
        self._con.register("_wanted", pa.table({"rollout_id": pa.array(rollout_ids, pa.string())}))
        return self.ask(_FROM_IDS)

    def files_with(
        self, table: str, rounds: Sequence[int | None] | None, column: str, values: Collection[Any]
    ) -> list[LiveFile]:
        """The live files of `table` that hold a row with one of these values in `column`."""
        wanted = set(values)
        found = []
        for file in self.ledger.files(self.version, table, rounds):
            rows = pq.read_table(self.store.open(file.path, file.bytes), columns=[column])
            if not wanted.isdisjoint(pc.unique(rows[column]).to_pylist()):
                found.append(file)
        return found

    def writer(self, file: LiveFile) -> Commit:
        """The commit whose work the file's rows are, also where compact or forget wrote it anew."""
        return self._by_key[self._origins.get(file.path, self._writers[file.path].key)]

    def training_of(self, revision: str) -> Commit | None:
        """The commit of the training that made this policy; None for one that no night trained."""
        made = (c for c in self.commits if c.meta.get("policy_revision") == revision)
        return next(made, None)

    # Sections that several answers share.

    def file_rows(self, files: Sequence[LiveFile]) -> list[Row]:
        """What there is to say of files: where, how many rows, which digest, by which commit."""
        return [
            {
                "path": file.path,
                "rows": file.rows,
                "bytes": file.bytes,
                "sha256": file.sha256,
                "version": (work := self.writer(file)).version,
                "commit": work.key,
                "rewritten_by": None if (last := self._writers[file.path]) is work else last.key,
            }
            for file in files
        ]

    def policy_row(self, revision: str) -> Row:
        """A policy, and the training that made it."""
        training = self.training_of(revision)
        if training is None:
            return {"policy_revision": revision, "made_by": "no training here: a base policy"}
        return {
            "policy_revision": revision,
            "made_by": training.key,
            "version": training.version,
            "training_run_id": training.meta.get("training_run_id"),
            "code_version": training.code_version,
        }


def brought_by(commit: Commit) -> list[LiveFile]:
    """The files that a commit brought, added or in the place of others."""
    return [*commit.add, *(file for file in commit.replace.values() if file is not None)]


def commit_row(commit: Commit) -> Row:
    """A commit without its files."""
    return {
        "version": commit.version,
        "key": commit.key,
        "operation": commit.operation,
        "committed_at": commit.committed_at,
        "code_version": commit.code_version,
        "config_sha256": commit.config_sha256,
        **{f"meta.{name}": value for name, value in commit.meta.items()},
    }


def trace_round(lineage: Lineage, round: int) -> Trace:
    """A round as a whole: its row, policies, configuration, commits, labelers and files."""
    commits = [c for c in lineage.commits if is_of_round(c.key, round)]
    rows = lineage.ask("select * exclude (config) from rounds where round = $round", round=round)
    if not commits and not rows:
        known = lineage.ask(
            "select distinct round from rollouts where round is not null order by 1"
        )
        raise NotFound(f"{lineage.root}: no round {round}; rounds: {values(known, 'round')}")
    revisions = {
        revision
        for row in rows
        for revision in (row["policy_revision_in"], row["policy_revision_out"])
    }
    revisions |= {c.meta["policy_revision"] for c in commits if "policy_revision" in c.meta}
    sampled = [
        row
        for purpose in ("holdout", "train")
        for row in lineage.ask(SAMPLING, purpose=purpose, rounds=[round])
    ]
    return {
        "round": rows[0] if rows else {"round": round, "status": "not decided yet"},
        "policies": [lineage.policy_row(revision) for revision in sorted(revisions)],
        "sampling": sampled,
        "labelers": lineage.ask(_ROUND_LABELERS, round=round),
        "commits": [commit_row(commit) for commit in commits],
        "files": lineage.file_rows(lineage.ledger.files(lineage.version, rounds=[round])),
        "config": stored_config(lineage, round),
    }


def stored_config(lineage: Lineage, round: int) -> Row:
    """The configuration that a round's row carries, whole."""
    rows = lineage.ask("select * from rounds where round = $round", round=round)
    if not rows:
        return {"round": round, "config": "not stored: the round has no verdict yet"}
    names = ("round", "config_sha256", "seed", "code_version")
    return {name: rows[0][name] for name in names} | {"config": json.loads(rows[0]["config"])}


def values(rows: Sequence[Row], name: str) -> list[Any]:
    """The distinct values of a column that are not NULL, in their order."""
    return list(dict.fromkeys(row[name] for row in rows if row[name] is not None))


_FROM_IDS = """
select
    rollouts.rollout_id, rollouts.round, rollouts.prompt_id, rollouts.sample_index,
    rollouts.policy_revision, rollouts.seed, current_rewards.reward, current_rewards.recipe_sha256,
    current_rewards.label_ids
from rollouts
semi join _wanted on rollouts.rollout_id = _wanted.rollout_id
left join current_rewards on rollouts.rollout_id = current_rewards.rollout_id
order by rollouts.rollout_id
"""
SAMPLING = """
select
    round, purpose, policy_revision, engine, engine_version, dtype, temperature, top_p, top_k,
    max_tokens, sampling_json, count(*) as rollouts, min(seed) as lowest_seed,
    max(seed) as highest_seed
from rollouts
where purpose = $purpose and list_contains($rounds, round)
group by all
order by all
"""
LABELERS = """
select
    round, labeler, revision, role, criterion, model, model_revision, template, template_sha256,
    sampling_json, backend, backend_version, dtype, code_version, count(*) as labels,
    count(score) as scores
from {rows}
group by all
order by all
"""
_ROUND_LABELERS = LABELERS.format(rows="labels where round = $round")
