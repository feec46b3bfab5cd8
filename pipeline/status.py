"""`roundhouse status` and `query`: what a warehouse says about itself. Reads only."""

from __future__ import annotations

from pipeline.console import print_long, print_relation, print_rows
from pipeline.progress import read_progress
from warehouse.catalog import connect, load_query
from warehouse.ledger import Ledger
from warehouse.local_cache import local_folder
from warehouse.store import WarehouseError, open_store

_SHOWN_COMMITS = 5
_LONG_QUERIES = ("why",)


def print_status(root: str) -> None:
    """Rounds, the last commits, running stages."""
    con = connect(root)
    print_relation(
        con.sql(
            "select round, status, is_stopped, policy_revision_out as policy, "
            "round(epoch(finished_at) - epoch(started_at), 0)::int as seconds, reason "
            "from rounds order by round"
        ),
        "table",
    )
    commits = Ledger(open_store(root, read_only=True)).commits()
    rows = [
        (c.version, c.key, c.committed_at, sum(f.rows for f in c.add))
        for c in commits[-_SHOWN_COMMITS:]
    ]
    print()
    print_rows(("version", "commit", "at", "rows"), rows)
    for folder in sorted((local_folder(root) / "_staging").glob("*")):
        progress = read_progress(folder)
        if progress is not None:
            print(f"unfinished: {folder.name}: {progress.done}/{progress.total} {progress.unit}")


def answer(
    root: str, name: str, *, rollout: str | None, number: int | None, style: str, as_of: int | None
) -> None:
    """Runs the named question. Raises WarehouseError for an unknown name or a missing parameter."""
    text = load_query(name)
    con = connect(root, as_of)
    if "$rollout" in text:
        if rollout is None:
            raise WarehouseError(f"query {name} needs --rollout ID")
        relation = con.sql(text, params={"rollout": rollout})
        if not relation.fetchall():
            raise WarehouseError(f"{root}: no rollout {rollout}")
        relation = con.sql(text, params={"rollout": rollout})
    else:
        relation = con.sql(text)
    if number is not None:
        if "round" not in relation.columns:
            raise WarehouseError(f"query {name} spans the rounds; leave --round out")
        relation = relation.filter(f"round = {number:d}")
    style = style or ("long" if name in _LONG_QUERIES else "table")
    if style == "long":
        print_long(relation)
    else:
        print_relation(relation, style)
