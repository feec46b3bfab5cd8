"""`roundhouse status`: what a warehouse says about itself. Reads only."""

from __future__ import annotations

from pipeline.console import print_relation, print_rows
from pipeline.progress import read_progress
from warehouse.catalog import connect
from warehouse.local_cache import local_folder

_SHOWN_COMMITS = 5


def print_status(root: str, as_of: int | None = None) -> None:
    """Rounds and the last commits, at version `as_of`; and what is running now."""
    con = connect(root, as_of)
    print_relation(
        con.sql(
            "select round, status, is_stopped, policy_revision_out as policy, "
            "round(epoch(finished_at) - epoch(started_at), 0)::int as seconds, reason "
            "from rounds order by round"
        ),
        "table",
    )
    commits = con.sql(
        "from (select version, key as commit, committed_at as at, rows_added as rows "
        f"from commits order by version desc limit {_SHOWN_COMMITS}) order by version"
    )
    print()
    print_rows(commits.columns, commits.fetchall())
    for folder in sorted((local_folder(root) / "_staging").glob("*")):
        progress = read_progress(folder)
        if progress is not None:
            print(f"unfinished: {folder.name}: {progress.done}/{progress.total} {progress.unit}")
