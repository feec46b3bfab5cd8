"""`roundhouse verify`, `vacuum`, `forget` and `compact`, one thin function each.

Registered in cli.py; light to import. Not here: the work (warehouse/maintenance).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands.options import AsOf, By, DryRun, Root, Why
from pipeline.commands.printing import print_rows

if TYPE_CHECKING:
    from warehouse.store.base import Entry

_MEGABYTE = 1_000_000


def verify(
    warehouse: Root,
    as_of: AsOf = None,
    all_versions: Annotated[
        bool, typer.Option("--all-versions", help="also files that only old versions read")
    ] = False,
) -> None:
    """Hold every file to the ledger: there, whole, its sha256, its rows. Exit code 1 if not."""
    from pipeline.policies.models import check_policies
    from warehouse.maintenance import verify as verification

    if as_of is not None and all_versions:
        raise typer.BadParameter("--as-of and --all-versions exclude each other")
    with _progress("verify") as told:
        found = verification.verify(warehouse, as_of, all_versions=all_versions, progress=told)
        damaged, policies = check_policies(warehouse)
    problems = [*found.problems, *damaged]
    if problems:
        print_rows(("file", "is", "because"), [(x.path, x.kind, x.detail) for x in problems])
    count = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
    typer.echo(
        f"{found.files} files, {found.rows} rows, {_size(found.bytes)} MB, {policies} policies: "
        f"{count}"
    )
    if found.orphans:
        typer.echo(
            f"{len(found.orphans)} files of {_size(sum(x.bytes for x in found.orphans))} MB are in "
            "no version: leftovers for `roundhouse vacuum`, no harm"
        )
    if problems:
        typer.echo("restore damaged files from a backup; size and sha256 are in the ledger")
        raise typer.Exit(1)


def vacuum(
    warehouse: Root,
    keep_versions: Annotated[
        int | None, typer.Option(min=1, help="only the newest N stay readable")
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, help="DAYS: older versions need not stay readable")
    ] = None,
    orphans_older_than: Annotated[
        float, typer.Option(min=1, help="HOURS after which an unknown file is nobody's")
    ] = 24.0,
    policies: Annotated[
        bool, typer.Option("--policies", help="also policies that no round names")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Delete files that no kept version reads (default: all are kept) and old leftovers."""
    from warehouse.maintenance.vacuum import vacuum as work

    done = work(
        warehouse,
        keep_versions=keep_versions,
        older_than=None if older_than is None else timedelta(days=older_than),
        orphans_older_than=timedelta(hours=orphans_older_than),
        with_policies=policies,
        dry_run=dry_run,
    )
    rows = [
        _counted(f"only read before version {done.oldest}", done.expired),
        _counted("left by a killed forget or vacuum", done.leftovers),
        _counted("in no version", done.orphans),
    ]
    print_rows(("would delete" if dry_run else "deleted", "files", "MB"), rows)
    for name, entries in done.policies.items():
        what = "deleted" if policies and not dry_run else "no round names it (--policies)"
        typer.echo(f"policy {name}: {_size(sum(x.bytes for x in entries))} MB, {what}")
    if done.young:
        typer.echo(f"{done.young} unknown files are too young to be judged, they stay")
    if done.version is not None:
        typer.echo(f"version {done.version} records it; earlier than {done.oldest} may be gone")


def forget(
    warehouse: Root,
    by: By,
    why: Why,
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", help="a prompt_id, repeatable")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="a text file, one prompt_id a line")] = None,
    dry_run: DryRun = False,
) -> None:
    """Take prompts out of every table and every version, for good; list what cannot be reached."""
    from pipeline.forgetting import forget_prompts, read_ids

    ids = [*(prompts or ()), *(read_ids(file) if file is not None else ())]
    done = forget_prompts(warehouse, ids, by=by, why=why, dry_run=dry_run)
    tables, verb = done.tables, "would go" if dry_run else "gone"
    if tables.traces.rows:
        print_rows(("table", f"rows {verb}"), list(tables.traces.rows.items()))
    typer.echo(f"kept answers of judges {verb}: {done.answers}")
    if tables.version is not None:
        typer.echo(f"{tables.files} files are replaced at every version, by version "
                   f"{tables.version}; {tables.deleted} old ones are deleted")  # fmt: skip
    elif not dry_run:
        typer.echo(f"nothing was left to forget; {tables.deleted} leftovers are deleted")
    typer.echo("\nOut of reach:")
    for line in done.unreachable:
        typer.echo(f"  - {line}")


def compact(
    warehouse: Root,
    table: Annotated[str | None, typer.Option(help="only this table")] = None,
    rounds: Annotated[
        list[int] | None, typer.Option("--round", min=0, help="repeatable; none: all")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Make one sorted file of several that are one piece of work (amended rollouts, labels)."""
    from warehouse.maintenance.compaction import compact as work

    done = work(warehouse, table=table, rounds=rounds, dry_run=dry_run)
    if not done:
        typer.echo("nothing to compact: every piece of work is one file per table and round")
        return
    rows = [(x.key, x.table, x.round, x.files, x.rows, _size(x.bytes)) for x in done]
    print_rows(("work", "table", "round", "files", "rows", "MB"), rows)
    typer.echo(f"{sum(x.files for x in done)} files {'would become' if dry_run else 'are now'} "
               f"{len(done)}; old versions keep theirs until a vacuum")  # fmt: skip


def _counted(what: str, entries: Sequence[Entry]) -> tuple[str, int, str]:
    return what, len(entries), _size(sum(entry.bytes for entry in entries))


def _size(count: int) -> str:
    return f"{count / _MEGABYTE:.1f}"


@contextmanager
def _progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error while it is a terminal; told bytes done and bytes in all."""
    from tqdm import tqdm

    bar: Any = tqdm(desc=label, unit="B", unit_scale=True, leave=False, disable=None)

    def tell(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    try:
        yield tell
    finally:
        bar.close()
