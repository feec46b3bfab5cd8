"""`roundhouse lineage`: what is behind a number, a row, a file or a policy. Reads only.

Not here: the answers (warehouse/lineage/trace.py and its siblings).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.commands.options import AsOf, Root
from pipeline.commands.printing import print_rows

if TYPE_CHECKING:
    from warehouse.lineage.trace import Lineage, Row, Trace

_SHOWN_ROWS = 5
_NARROW = 10  # columns that a table of a terminal's width can take


def lineage(
    warehouse: Root,
    number: Annotated[int | None, typer.Option("--round", min=0, help="a round")] = None,
    metric: Annotated[str | None, typer.Option(help="one number of the round's evaluation")] = None,
    labeler: Annotated[str | None, typer.Option(help="whose number, where several have it")] = None,
    rollout: Annotated[str | None, typer.Option(help="a rollout's id")] = None,
    label: Annotated[str | None, typer.Option(help="a label's id")] = None,
    policy: Annotated[
        str | None, typer.Option(help="a policy: its revision (or how it begins), or its folder")
    ] = None,
    file: Annotated[str | None, typer.Option(help="a file's path in the warehouse")] = None,
    style: Annotated[
        Literal["text", "json"], typer.Option("--format", help="json has every row")
    ] = "text",
    as_of: AsOf = None,
) -> None:
    """What is behind a number of a round, a row, a file; and which rows trained a policy."""
    from warehouse.lineage.trace import Lineage

    asked = {"--round": number, "--rollout": rollout, "--label": label, "--policy": policy}
    thing = _check_use(asked | {"--file": file}, metric, labeler)
    source = Lineage(warehouse, as_of)
    if thing == "--round":
        assert number is not None
        found = _answer_round(source, number, metric, labeler)
    else:
        found = _answer(source, thing, str((asked | {"--file": file})[thing]))
    if style == "json":
        typer.echo(json.dumps(found, default=str, ensure_ascii=False, indent=2))
    else:
        _print_trace(found)


def _check_use(asked: Mapping[str, object], metric: str | None, labeler: str | None) -> str:
    """The one option that says of what. Raises BadParameter for none and for several."""
    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} exclude each other: one thing at a time")
    if not given:
        raise typer.BadParameter(f"say of what: one of {', '.join(asked)}")
    if metric is not None and given != ["--round"]:
        raise typer.BadParameter("--metric names a number of a round; it needs --round")
    if labeler is not None and metric is None:
        raise typer.BadParameter("--labeler says whose number it is; it needs --metric")
    return given[0]


def _answer_round(source: Lineage, number: int, metric: str | None, labeler: str | None) -> Trace:
    from warehouse.lineage.numbers import trace_number
    from warehouse.lineage.trace import trace_round

    if metric is None:
        return trace_round(source, number)
    return trace_number(source, number, metric, labeler)


def _answer(source: Lineage, thing: str, value: str) -> Trace:
    from warehouse.lineage.rows import trace_file, trace_label, trace_rollout

    traces = {"--rollout": trace_rollout, "--label": trace_label, "--file": trace_file}
    return traces.get(thing, _answer_policy)(source, value)


def _answer_policy(source: Lineage, policy: str) -> Trace:
    """By revision or by folder; a model that no night made says itself how it was made."""
    from warehouse.lineage.policies import known_revision, stored_record, trace_policy, trace_record

    folder = Path(policy)
    if folder.is_dir():
        revision, made = _revision_of(folder), _record_of(folder)
    else:
        revision = known_revision(source, policy)
        made = stored_record(source, revision)
    if source.training_of(revision) is not None or made is None:
        return trace_policy(source, revision)
    return trace_record(source, revision, *made)


def _revision_of(folder: Path) -> str:
    from pipeline.errors import ConfigError
    from training.revision import policy_revision

    try:
        return policy_revision(folder)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from error


def _record_of(folder: Path) -> tuple[Row, dict[str, list[str]]] | None:
    """The folder's training.json and training_rows.json, if it was made by a trainer of ours."""
    record, rows = folder / "training.json", folder / "training_rows.json"
    if not record.is_file():
        return None
    return json.loads(record.read_text()), json.loads(rows.read_text()) if rows.is_file() else {}


def _print_trace(trace: Trace) -> None:
    """Section by section: a single row as lines, several as a table, cut where it gets long."""
    for title, section in trace.items():
        rows = section if isinstance(section, list) else [section]
        typer.echo(f"\n{title}{f' ({len(rows)})' if isinstance(section, list) else ''}")
        if isinstance(section, dict):
            _print_lines(section)
        elif rows:
            _print_list(rows)
    typer.echo()


def _print_list(rows: Sequence[Row]) -> None:
    shown = rows[:_SHOWN_ROWS] if len(rows) > 2 * _SHOWN_ROWS else rows
    columns = [name for name in shown[0] if any(row.get(name) is not None for row in shown)]
    if len(columns) <= _NARROW:
        print_rows(
            columns,
            [[_short(row.get(name)) for name in columns] for row in shown],
        )
    else:
        for row in shown:
            _print_lines({name: row.get(name) for name in columns})
            typer.echo()
    if len(shown) < len(rows):
        typer.echo(f"  and {len(rows) - len(shown)} more: --format json has them")


def _print_lines(row: Row) -> None:
    flat = dict(_flattened(row))
    width = max((len(name) for name in flat), default=0)
    for name, value in flat.items():
        if value is not None:
            typer.echo(f"  {name:<{width}}  {_short(value)}")


def _flattened(row: Row, prefix: str = "") -> list[tuple[str, Any]]:
    """A nested configuration as `section.key`, one level deep; what is deeper stays JSON."""
    found: list[tuple[str, Any]] = []
    for name, value in row.items():
        if isinstance(value, dict) and prefix.count(".") < 2:
            found += _flattened(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, value))
    return found


def _short(value: Any) -> Any:
    """Lists and dicts as JSON on one line; numbers stay numbers."""
    if isinstance(value, list | dict):
        return json.dumps(value, default=str, ensure_ascii=False)
    return value
