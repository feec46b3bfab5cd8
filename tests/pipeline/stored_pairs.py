"""What preference trainers read of stored pairs, as texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.pipeline.judged import sql
from training.preference.rows import reward_rows
from training.preference.selection import Selection


def train_pairs(root: Path, prefix: str = "gold/", **selection: Any) -> list[dict[str, Any]]:
    """Every pair whose recipe begins so, the sides as text; none where there is no such recipe."""
    recipes = sql(root, "select distinct recipe from preference_pairs order by recipe")
    found = []
    for recipe in (row["recipe"] for row in recipes if row["recipe"].startswith(prefix)):
        chosen = Selection(margin=0.0, pairs=recipe, **selection)
        for row in reward_rows(root, chosen).to_pylist():
            sides = {side: row[side][0]["content"] for side in ("chosen", "rejected")}
            found.append(row | sides)
    return found
