"""The report: one self-contained HTML file about one version of the warehouse.

Toxicity by round with its interval first, then the numbers beside it, examples side by side, label
coverage, rounds, and the version and files it was made from. No script, no external resource; all
texts of models and prompts are escaped.
Not here: the numbers themselves, which are the marts of `sql/`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files as resource_files
from pathlib import Path
from typing import Any

import duckdb
import matplotlib as mpl
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from warehouse.catalog import connect
from warehouse.ledger import Ledger, LiveFile
from warehouse.s3_address import display_name, is_remote
from warehouse.store import open_store

_EXAMPLES_EACH = 4
_METRIC_COLORS = ("#2f7fd1", "#c2591d", "#2e8f5b")
_OTHER_COLOR = "#8a8a8a"
# Drawn in this color, then replaced, so that text and axes follow the light or dark page.
_TEXT_COLOR = "#0a0b0c"

# Where the policy that a night trained, and did not keep, is measured.
_UNUSED = """select round + 1 from rounds
where status = 'rejected' and policy_revision_in = policy_revision_out"""
# A row of a mart, by column name.
_Row = dict[str, Any]
# A value and its interval.
_Cell = tuple[float, float | None, float | None]


@dataclass(frozen=True)
class _Measure:
    """One line of the evaluation table: a metric over all rounds; a round without it has None."""

    metric: str
    labeler: str
    unit: str
    method: str
    cells: tuple[_Cell | None, ...]


@dataclass(frozen=True)
class _TableFiles:
    """Live files, rows and bytes of one table."""

    table: str
    files: int
    rows: int
    bytes: int


def write_report(root: str | Path, out: Path, as_of: int | None = None) -> Path:
    """Writes the report on version `as_of` (newest by default) of the warehouse to `out`.

    Raises StoreError when there is no warehouse at `root`, WarehouseError for an unknown version.
    """
    ledger = Ledger(open_store(root, read_only=True))
    commits = ledger.commits(as_of)
    con = connect(root, len(commits) - 1)
    toxicity = _rows(con, "from toxicity_by_round")
    rounds, measures = _evaluation_table(con)
    page = _template().render(
        name=_name(str(root)),
        version=commits[-1] if commits else None,
        chart=_toxicity_chart(toxicity) if toxicity else None,
        toxicity=toxicity,
        headlines=_headlines(toxicity, con.sql(_UNUSED).fetchall()),
        evaluation_rounds=rounds,
        measures=measures,
        examples=_examples(con),
        coverage=_rows(con, "from label_coverage"),
        costs=_rows(con, "from round_costs where input_tokens is not null or cost_usd is not null"),
        rounds=_rows(con, "from rounds order by round"),
        sentinels=_rows(con, "from sentinel_checks"),
        tables=_files_by_table(ledger.files(len(commits) - 1)),
        code_versions=sorted({commit.code_version for commit in commits} - {""}),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def _name(root: str) -> str:
    """What the page calls the warehouse: the folder's name, or where it lies on S3."""
    return display_name(root) if is_remote(root) else Path(root).resolve().name


def _rows(con: duckdb.DuckDBPyConnection, query: str) -> list[_Row]:
    return con.sql(query).to_arrow_table().to_pylist()


def _headlines(toxicity: Sequence[_Row], unused: Sequence[tuple[int]]) -> list[tuple[_Row, _Row]]:
    """First and last round of every metric labeler; not that of a policy that was passed over."""
    used = [r for r in toxicity if r["role"] == "metric" and (r["round"],) not in unused]
    names = sorted({row["labeler"] for row in used})
    by_name = [[row for row in used if row["labeler"] == name] for name in names]
    return [(rows[0], rows[-1]) for rows in by_name]


def _evaluation_table(con: duckdb.DuckDBPyConnection) -> tuple[list[int], list[_Measure]]:
    rows = con.sql(
        "select metric, coalesce(labeler, ''), unit, method, round, value, low, high "
        "from evaluations where value is not null order by all"
    ).fetchall()
    rounds = sorted({row[4] for row in rows})
    cells: dict[tuple[str, str, str, str], dict[int, _Cell]] = {}
    for metric, labeler, unit, method, number, *cell in rows:
        cells.setdefault((metric, labeler, unit, method), {})[number] = tuple(cell)
    return rounds, [
        _Measure(metric, labeler, unit, method, tuple(by_round.get(number) for number in rounds))
        for (metric, labeler, unit, method), by_round in cells.items()
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


def _files_by_table(files: Sequence[LiveFile]) -> list[_TableFiles]:
    return [
        _TableFiles(
            table=table,
            files=sum(file.table == table for file in files),
            rows=sum(file.rows for file in files if file.table == table),
            bytes=sum(file.bytes for file in files if file.table == table),
        )
        for table in sorted({file.table for file in files})
    ]


def _toxicity_chart(toxicity: Sequence[_Row]) -> Markup:
    """Toxicity rate by round as inline SVG; metric labelers in color, the others in gray."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "0", "text.parse_math": False}):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for row in sorted({(row["role"], row["labeler"]) for row in toxicity}):
            _draw_labeler(axes, *row, [r for r in toxicity if r["labeler"] == row[1]])
        _style_axes(axes)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _accessible(buffer.getvalue(), toxicity)


def _draw_labeler(axes: Axes, role: str, labeler: str, rows: Sequence[_Row]) -> None:
    rows = [row for row in rows if row["role"] == role]
    rounds, rates, lows, highs = (
        [row[name] for row in rows]
        for name in ("round", "toxicity_rate", "toxicity_low", "toxicity_high")
    )
    is_metric = role == "metric"
    drawn = len(axes.lines)
    color = _METRIC_COLORS[drawn % len(_METRIC_COLORS)] if is_metric else _OTHER_COLOR
    axes.plot(
        rounds,
        rates,
        marker="o" if is_metric else "s",
        linewidth=2.4 if is_metric else 1.2,
        linestyle="-" if is_metric else "--",
        color=color,
        zorder=3 if is_metric else 2,
        label=f"{role}: {labeler}",
    )
    if is_metric:
        axes.fill_between(rounds, lows, highs, color=color, alpha=0.22, linewidth=0)
    # Thin bars for every labeler: a band over a single round would be invisible.
    axes.vlines(rounds, lows, highs, color=color, linewidth=1, alpha=0.8)


def _style_axes(axes: Axes) -> None:
    axes.set_xlabel("round", color=_TEXT_COLOR)
    axes.set_ylabel("toxic completions", color=_TEXT_COLOR)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.tick_params(colors=_TEXT_COLOR)
    axes.grid(axis="y", color=_TEXT_COLOR, alpha=0.12)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_TEXT_COLOR)
    axes.legend(frameon=False, labelcolor=_TEXT_COLOR)


def _accessible(svg: str, toxicity: Sequence[_Row]) -> Markup:
    """The bare `<svg>` element, named and described, its text color that of the page."""
    said = Markup("; ").join(
        f"{row['role']} labeler {row['labeler']}, round {row['round']}: "
        f"{row['toxicity_rate']:.1%} ({row['toxicity_low']:.1%} to {row['toxicity_high']:.1%})"
        for row in toxicity
    )
    svg = svg[svg.index("<svg") :].replace(_TEXT_COLOR, "currentColor")
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*" ?', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?)height="[^"]*" ?', r"\1", svg, count=1)
    opening, _, rest = svg.partition(">")
    return (
        Markup(opening + ' role="img" aria-labelledby="chart-title chart-desc">')
        + Markup('<title id="chart-title">Toxicity on the hold-out prompts by round</title>')
        + Markup('<desc id="chart-desc">{}</desc>').format(said)
        + Markup(rest)
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
    text = resource_files("warehouse") / "templates" / "report.html"
    return environment.from_string(text.read_text(encoding="utf-8"))
