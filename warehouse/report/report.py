"""The report: one self-contained HTML file about one version of the warehouse.

Toxicity by round with its interval first, then the numbers beside it, examples side by side, label
coverage, rounds, and the version and files it was made from. No script, no external resource; all
texts of models and prompts are escaped.
Not here: the numbers themselves, which are the marts of `sql/`, and the chart (chart.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files as resource_files
from pathlib import Path
from typing import Any

import duckdb
from jinja2 import Environment, StrictUndefined, Template

from warehouse.files import write_atomically
from warehouse.handle import Warehouse
from warehouse.report.chart import toxicity_chart
from warehouse.store.s3_address import display_name, is_remote

_EXAMPLES_EACH = 4
_LISTED_FILES = 60  # of more, the view `files` and `roundhouse lineage` are the better list
# Where the policy that a night trained, and did not keep, is measured.
_UNUSED = """select round + 1 from rounds
where status = 'rejected' and policy_revision_in = policy_revision_out"""
_TABLES = """
select table_name, count(*) as files, sum(rows)::bigint as rows, sum(bytes)::bigint as bytes
from files group by table_name order by table_name
"""
# A row of a mart, by column name.
_Row = dict[str, Any]
# A value and its interval.
_Cell = tuple[float, float | None, float | None]


def write_report(root: str | Path, out: Path, as_of: int | None = None) -> Path:
    """Writes the report on version `as_of` (newest by default) of the warehouse to `out`.

    Raises StoreError when there is no warehouse at `root`, WarehouseError for an unknown version.
    """
    warehouse = Warehouse.open(root, read_only=True)
    commits = warehouse.ledger.commits(as_of)
    con = warehouse.at(len(commits) - 1).connect()
    toxicity = _rows(con, "from toxicity_by_round")
    unused = con.sql(_UNUSED).fetchall()
    files = _rows(con, "from files order by path")
    rounds, measures = _evaluation_table(con)
    page = _template().render(
        name=_name(str(root)),
        version=commits[-1] if commits else None,
        chart=toxicity_chart(toxicity) if toxicity else None,
        toxicity=toxicity,
        headlines=_first_and_last(toxicity, unused),
        strata=_strata(con, unused),
        proxies=_rows(con, "from proxy_against_gold"),
        evaluation_rounds=rounds,
        measures=measures,
        examples=_examples(con),
        coverage=_rows(con, "from label_coverage"),
        costs=_rows(con, "from round_costs where input_tokens is not null or cost_usd is not null"),
        rounds=_rows(con, "from rounds order by round"),
        sentinels=_rows(con, "from sentinel_checks"),
        tables=_rows(con, _TABLES),
        files=files if len(files) <= _LISTED_FILES else [],
        code_versions=sorted({commit.code_version for commit in commits} - {""}),
    )
    write_atomically(out, page)
    return out


def _name(root: str) -> str:
    """What the page calls the warehouse: the folder's name, or where it lies on S3."""
    return display_name(root) if is_remote(root) else Path(root).resolve().name


def _rows(con: duckdb.DuckDBPyConnection, query: str) -> list[_Row]:
    return con.sql(query).to_arrow_table().to_pylist()


def _first_and_last(
    rows: Sequence[_Row], unused: Sequence[tuple[int]], by: Sequence[str] = ("labeler",)
) -> list[tuple[_Row, _Row]]:
    """First and last round of every metric labeler; not that of a policy that was passed over."""
    groups: dict[tuple[str, ...], list[_Row]] = {}
    for row in rows:
        if row["role"] == "metric" and (row["round"],) not in unused:
            groups.setdefault(tuple(row[name] for name in by), []).append(row)
    return [(group[0], group[-1]) for _, group in sorted(groups.items())]


def _strata(
    con: duckdb.DuckDBPyConnection, unused: Sequence[tuple[int]]
) -> list[tuple[_Row, _Row]]:
    """First and last round of every stratum, where a split has several.

    A round whose own scores made the strata is left out: after it chance moves them.
    """
    rows = _rows(
        con,
        "from toxicity_by_stratum where not is_sorted_by_itself "
        "qualify count(distinct stratum) over (partition by labeler, split) > 1 "
        "order by round, labeler, split, stratum",
    )
    return _first_and_last(rows, unused, ("labeler", "split", "stratum"))


def _evaluation_table(con: duckdb.DuckDBPyConnection) -> tuple[list[int], list[_Row]]:
    """The rounds, and a line for every metric; its cell of a round without it is None."""
    rows = con.sql(
        "select metric, coalesce(labeler, ''), unit, method, round, value, low, high "
        "from evaluations where value is not null order by all"
    ).fetchall()
    rounds = sorted({row[4] for row in rows})
    cells: dict[tuple[str, str, str, str], dict[int, _Cell]] = {}
    for metric, labeler, unit, method, number, *cell in rows:
        cells.setdefault((metric, labeler, unit, method), {})[number] = tuple(cell)
    names = ("metric", "labeler", "unit", "method")
    return rounds, [
        dict(zip(names, key, strict=True)) | {"cells": [by_round.get(n) for n in rounds]}
        for key, by_round in cells.items()
    ]


def _examples(con: duckdb.DuckDBPyConnection) -> list[_Row]:
    """The largest falls, a fixed draw that looks at no score, and the largest rises."""
    return _rows(
        con,
        f"""
        with ranked as (
            select
                *,
                row_number() over (order by change, prompt_id, sample_index) as fall,
                row_number() over (order by change desc, prompt_id, sample_index) as rise,
                row_number() over (order by md5(prompt_id || sample_index::varchar)) as draw,
            from before_after
            where labeler = (select min(labeler) from before_after)
        )
        select
            *,
            case
                when change < 0 and fall <= {_EXAMPLES_EACH} then 'largest fall'
                when change > 0 and rise <= {_EXAMPLES_EACH} then 'largest rise'
                else 'drawn without looking at the score'
            end as chosen_as,
        from ranked
        where least(fall, rise, draw) <= {_EXAMPLES_EACH}
        order by chosen_as <> 'largest fall', chosen_as = 'largest rise', fall
        """,
    )


def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        percent=lambda value: f"{value:.1%}",
        number=lambda value: f"{value:.4g}",
        count=lambda value: f"{value:,}",
        time=lambda at: at.strftime("%Y-%m-%d %H:%M UTC") if isinstance(at, datetime) else "",
        short=lambda text: text[:12],
    )
    text = resource_files("warehouse.report") / "templates" / "report.html"
    return environment.from_string(text.read_text(encoding="utf-8"))
