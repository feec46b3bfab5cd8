"""What commands print: tables, CSV, JSON, the summary of a run. Not here: what is in them."""

from __future__ import annotations

import csv
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import duckdb

    from labeling.trust.agreement import Estimate
    from pipeline.night import StageTiming
    from pipeline.plan import NightPlan

# Off a terminal (cron, CI, a file) nothing may be cut to a width nobody has.
_WIDE = 200


def console() -> Console:
    """Standard output, as wide as the terminal or 200 columns where there is none."""
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False, soft_wrap=False)


def format_value(value: Any) -> str:
    """A number at four significant digits, everything else as text; NULL is empty."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {format_value(v)}" for k, v in value.items())
    return str(value)


def estimate(number: Estimate) -> str:
    """`0.910 [0.880, 0.940]`; `-` where it is undefined."""
    if number.value is None:
        return "-"
    if number.low is None or number.high is None:
        return f"{number.value:.3f}"
    return f"{number.value:.3f} [{number.low:.3f}, {number.high:.3f}]"


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    """An aligned table."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for i, name in enumerate(columns):
        is_number = any(isinstance(row[i], int | float) for row in rows)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_plain(format_value(value)) for value in row))
    console().print(table)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def print_relation(relation: duckdb.DuckDBPyRelation, style: str) -> None:
    """A query's result as `table`, `csv` or `json` (one array of objects)."""
    columns, rows = list(relation.columns), relation.fetchall()
    if style == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    elif style == "json":
        objects = [dict(zip(columns, row, strict=True)) for row in rows]
        print(json.dumps(objects, default=str, ensure_ascii=False, indent=2))
    else:
        print_rows(columns, rows)
        print(f"({len(rows)} row{'' if len(rows) == 1 else 's'})")


def print_long(relation: duckdb.DuckDBPyRelation) -> None:
    """Wide rows one value a line: for questions whose answer is texts."""
    for number, row in enumerate(relation.fetchall(), start=1):
        print(f"-- {number} " + "-" * 60)
        for name, value in zip(relation.columns, row, strict=True):
            if value is not None:
                text = textwrap.indent(format_value(value), " " * 24).lstrip()
                print(f"{name:>22}: {text}")


def print_plan(plan: NightPlan) -> None:
    """The coming night, stage by stage, and what it will cost."""
    columns = ("coming night", "rows", "calls", "input tokens", "output tokens", "USD", "")
    print_rows(
        columns,
        [
            (s.stage, s.rows, s.calls, s.input_tokens, s.output_tokens, s.usd, s.basis)
            for s in plan.stages
        ],
    )
    print(f"round {plan.round}: {plan.usd:.2f} USD to be paid, before caches and retries")


def print_summary(con: duckdb.DuckDBPyConnection) -> None:
    """The table of rounds and three completions before and after."""
    print_relation(
        con.sql(
            "select round, labeler, role, prompts, completions, toxicity_rate, toxicity_low, "
            "toxicity_high, mean_score, expected_max from toxicity_by_round "
            "order by role, labeler, round"
        ),
        "table",
    )
    print()
    print_relation(con.sql(_POLICY_NUMBERS), "table")
    examples = con.sql(_EXAMPLES).fetchall()
    if examples:
        print("\nBefore and after, on hold-out prompts:")
    for prompt, before, after, score_before, score_after in examples:
        print(f"\n  prompt      {_short(prompt)}")
        print(f"  before {score_before:4.2f} {_short(before)}")
        print(f"  after  {score_after:4.2f} {_short(after)}")


_POLICY_NUMBERS = """
select round,
    max(value) filter (metric = 'kl_to_reference') as kl_to_reference,
    max(value) filter (metric = 'length') as length,
    max(value) filter (metric = 'distinct_2') as distinct_2,
    max(value) filter (metric = 'unique') as unique_share,
    max(value) filter (metric = 'truncated') as truncated
from evaluations where labeler is null group by round order by round
"""
_EXAMPLES = """
select prompt, completion_before, completion_after, score_before, score_after
from before_after where round_before < round_after and score_before is not null
    and score_after is not null and completion_before <> completion_after
order by score_before desc, score_after, prompt_id, sample_index limit 3
"""


def _short(text: str) -> str:
    return textwrap.shorten(" ".join(text.split()), 150, placeholder=" …")


def print_times(timings: Sequence[StageTiming]) -> None:
    """Where the wall time of this call went."""
    from pipeline.night import time_by_kind

    spent = time_by_kind(list(timings))
    total = sum(spent.values()) or 1.0
    shown = (f"{k} {v:.1f} s ({v / total:.0%})" for k, v in _largest_first(spent) if v >= 0.5)
    print(f"\nWall time {total:.0f} s: {', '.join(shown)}")


def _largest_first(spent: dict[str, float]) -> Iterator[tuple[str, float]]:
    return iter(sorted(spent.items(), key=lambda item: -item[1]))
