"""Forget: a prompt and all that came of it leave every table and every version, in one commit.

Every file that any version reads is searched; those with rows of the prompt are written anew
without them, and the commit replaces them at every version, so time travel goes on minus the
forgotten rows. Then the old files are deleted. Killed before the commit, nothing has changed but
orphans without those rows; killed after it, `vacuum` or the same forget finishes the deletion.
Evaluations and metrics stay: they are numbers over many prompts.
Not here: how rows are found (traces.py), keeping the prompt out from now on
(ledger/suppression.py), what lies outside the tables: judges' answers, staging
(pipeline/forgetting.py), policies trained on it, which are named and stay.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from warehouse.errors import AlreadyPublished, Conflict, MissingFile, WarehouseError
from warehouse.handle import Warehouse
from warehouse.keys import maintenance_key
from warehouse.ledger.commits import FORGET, Commit, dead_paths
from warehouse.ledger.ledger import Ledger
from warehouse.ledger.suppression import PROMPTS, ROLLOUTS, id_hash, text_hash
from warehouse.ledger.suppression import forgotten as forgotten_list
from warehouse.maintenance.traces import Search, Traces
from warehouse.maintenance.vacuum import delete
from warehouse.maintenance.verify import orphans
from warehouse.store import open_store
from warehouse.store.base import Store

_POLICIES = "policies"  # in the meta of the commit: [round, training run, revision] of each


@dataclass(frozen=True)
class Forgetting:
    """What a forget did; `files` were written anew or dropped, `deleted` objects are gone.

    `version` None: nothing was left to commit, or a dry run. `policies`: (round, training run,
    revision) of those trained on the prompts. `siblings`: other live prompts that begin with the
    same human turn. `orphans`: data files that no commit mentions and that may hold rows.
    """

    traces: Traces
    files: int
    deleted: int
    version: int | None
    policies: tuple[tuple[int, str, str], ...]
    siblings: tuple[str, ...]
    orphans: int


def forget(
    root: str | Path,
    prompt_ids: Iterable[str],
    *,
    by: str,
    why: str,
    dry_run: bool = False,
    before_commit: Callable[[Traces], None] | None = None,
) -> Forgetting:
    """Takes the prompts out of every table and version, and lists them (hashed) as forgotten.

    `before_commit` is told what was found while it still can be: afterwards nobody can find what
    lies outside the tables. It may be called again when somebody publishes meanwhile.
    Raises WarehouseError for an id that no version has (unless it is forgotten already) or an empty
    `by` or `why`, CorruptFile for a damaged file; then nothing has changed.
    """
    wanted, by, why = {name.strip() for name in prompt_ids} - {""}, by.strip(), why.strip()
    if not wanted or not by or not why:
        raise WarehouseError("forget: name prompts, who decides (--by) and the reason (--why)")
    open_store(root, read_only=True)  # a mistyped root must not come to be
    warehouse = Warehouse.open(root)
    store, ledger = warehouse.store, warehouse.ledger
    search = Search(store, wanted)
    while True:
        commits = ledger.commits()
        try:
            search.look(commits)
            _refuse_unknown(store, wanted, search.traces, commits)
            if dry_run or not search.found:
                version = None
                break
            if before_commit is not None:
                before_commit(search.traces)
            version = _commit(ledger, len(commits) - 1, search, by, why)
            break
        except (Conflict, AlreadyPublished):  # somebody published meanwhile: search that as well
            continue
        except MissingFile as error:
            if not ledger.is_dead(error.path):  # or else a vacuum took it while we read
                raise
    there = {entry.key for entry in store.entries("")}
    left = [] if dry_run else sorted(dead_paths(ledger.commits()) & there)
    deleted = delete(store, left)
    return _report(warehouse, search, deleted, version)


def _refuse_unknown(
    store: Store, wanted: set[str], traces: Traces, commits: Sequence[Commit]
) -> None:
    gone = forgotten_list(commits)
    unknown = sorted(x for x in wanted - traces.prompt_ids if not gone.has_prompt(x))
    if unknown:
        raise WarehouseError(
            f"{store.root}: no version has a prompt {unknown[0]}"
            + (f" (nor {len(unknown) - 1} more of the list)" if len(unknown) > 1 else "")
            + "; nothing is changed. Ids: select prompt_id from prompts"
        )


def _commit(ledger: Ledger, head: int, search: Search, by: str, why: str) -> int:
    """Writes the files without the rows and commits all replacements at once."""
    traces = search.traces
    hashes = {*map(id_hash, traces.prompt_ids), *map(text_hash, traces.messages)}
    number = sum(commit.operation == FORGET for commit in ledger.commits())
    return ledger.append(
        maintenance_key(FORGET, number),
        [],
        operation=FORGET,
        replace={path: search.rewritten(path) for path in search.found},
        after=head,
        meta={
            "by": by,
            "why": why,
            PROMPTS: " ".join(sorted(hashes)),
            ROLLOUTS: " ".join(sorted(map(id_hash, traces.rollout_ids))),
            _POLICIES: json.dumps(_policies(traces, ledger.commits())),
        },
    ).version


def _report(warehouse: Warehouse, search: Search, deleted: int, version: int | None) -> Forgetting:
    commits = warehouse.ledger.commits()
    policies = set(_policies(search.traces, commits))
    hashes = set(map(id_hash, search.wanted))
    for commit in commits:  # what was found before a kill is not found again
        if commit.operation == FORGET and hashes & set(commit.meta[PROMPTS].split()):
            policies.update((r, run, name) for r, run, name in json.loads(commit.meta[_POLICIES]))
    return Forgetting(
        traces=search.traces,
        files=len(search.found),
        deleted=deleted,
        version=version,
        policies=tuple(sorted(policies)),
        siblings=tuple(_siblings(warehouse, search.traces)),
        orphans=len(orphans(warehouse.store.entries(""), commits)),
    )


def _policies(traces: Traces, commits: Sequence[Commit]) -> list[tuple[int, str, str]]:
    """Round, training run and revision of the policies that the found trainings made."""
    revisions = {c.meta.get("training_run_id"): c.meta.get("policy_revision") for c in commits}
    return sorted((r, run, revisions.get(run) or "?") for r, run in traces.trainings)


def _siblings(warehouse: Warehouse, traces: Traces) -> list[str]:
    """Live prompts that begin with the same human turn: perhaps of the same person."""
    columns = ["prompt_id", "first_turn_sha256"]
    rows = warehouse.read_table("prompts", columns=columns).to_pylist()
    found = {row["prompt_id"] for row in rows if row["first_turn_sha256"] in traces.first_turns}
    return sorted(found - traces.prompt_ids)
