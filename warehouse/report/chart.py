"""The report's chart: toxicity by round as SVG that takes its colors from the page.

Not here: the numbers and the page (report.py).
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_METRIC_COLORS = ("#2f7fd1", "#c2591d", "#2e8f5b")
_OTHER_COLOR = "#8a8a8a"
# Drawn in this color, then replaced, so that text and axes follow the light or dark page.
_TEXT_COLOR = "#0a0b0c"
Row = dict[str, Any]


def toxicity_chart(toxicity: Sequence[Row]) -> Markup:
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


def _draw_labeler(axes: Axes, role: str, labeler: str, rows: Sequence[Row]) -> None:
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


def _accessible(svg: str, toxicity: Sequence[Row]) -> Markup:
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
