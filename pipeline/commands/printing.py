"""What commands print: aligned tables, the plan and the summary of a run.

Not here: answers of `sql` and `query`, which are also CSV, JSON or long (warehouse/console).
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import duckdb

    from labeling.trust.agreement import Estimate
    from pipeline.plan import NightPlan
    from pipeline.runtime.timings import StageTiming

_WIDE = 200


def format_value(value: Any) -> str:
    """A number at four significant digits, everything else as text; NULL is empty."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {format_value(v)}" for k, v in value.items())
    return str(value)


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    """An aligned table."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for i, name in enumerate(columns):
        is_number = any(isinstance(row[i], int | float) for row in rows)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(format_value(value)) for value in row))
    # Off a terminal (cron, CI, a file) nothing may be cut to a width nobody has.
    width = None if sys.stdout.isatty() else _WIDE
    Console(width=width, highlight=False, soft_wrap=False).print(table)


def estimate_cell(number: Estimate) -> str:
    """`0.910 [0.880, 0.940]`; `-` where it is undefined."""
    if number.value is None:
        return "-"
    if number.low is None or number.high is None:
        return f"{number.value:.3f}"
    return f"{number.value:.3f} [{number.low:.3f}, {number.high:.3f}]"


def print_relation(relation: duckdb.DuckDBPyRelation) -> None:
    """A query's result as a table, with the count of its rows."""
    rows = relation.fetchall()
    print_rows(relation.columns, rows)
    print(f"({len(rows)} row{'' if len(rows) == 1 else 's'})")


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
        )
    )
    print()
    print_relation(con.sql(_POLICY_NUMBERS))
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
    from pipeline.runtime.timings import time_by_kind

    spent = time_by_kind(list(timings))
    total = sum(spent.values()) or 1.0
    largest_first = sorted(spent.items(), key=lambda item: -item[1])
    shown = (f"{k} {v:.1f} s ({v / total:.0%})" for k, v in largest_first if v >= 0.5)
    print(f"\nWall time {total:.0f} s: {', '.join(shown)}")
