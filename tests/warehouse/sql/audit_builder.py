"""Rows with planted defects, and the way around `publish`, which would refuse most of them.

`plant` writes rows as they are: an audit looks for what the checks did not keep out. `ask` runs an
audit question.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from tests.warehouse.builder import Row, label, rollout
from warehouse.catalog.catalog import connect, load_query
from warehouse.ledger.commits import LiveFile
from warehouse.ledger.ledger import Ledger
from warehouse.schemas import SCHEMA_VERSION, table_from_rows
from warehouse.store import open_store


def plant(root: Path, **tables: list[Row]) -> None:
    """Commits the rows, given per table name, without any check."""
    ledger = Ledger(open_store(root))
    key = f"planted-{ledger.head()}"
    files = []
    for name, rows in tables.items():
        path = root / name / f"{key}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table_from_rows(name, rows), path)
        place = str(path.relative_to(root))
        files.append(LiveFile(name, None, place, len(rows), 0, "", SCHEMA_VERSION))
    ledger.append(key, files)


def ask(root: Path, name: str) -> list[Row]:
    """The answer to the question `name`, one dict per row."""
    return connect(root).sql(load_query(name)).to_arrow_table().to_pylist()


def picked(rows: list[Row], *columns: str) -> list[tuple[object, ...]]:
    """The rows as tuples of these columns."""
    return [tuple(row[column] for column in columns) for row in rows]


def judged(of: Row, score: float | None, labeler: str = "judge", **columns: object) -> Row:
    """A final helpfulness label of the rollout `of` by a judge that feeds the reward."""
    defaults = {"kind": "judge", "role": "reward", "criterion": "helpfulness"}
    return label(of, score, labeler, **(defaults | columns))


def preference(of: Row, partner: Row, order: str, score: float | None, **columns: object) -> Row:
    """A pairwise label: how far the judge prefers `of` to `partner`, shown in this order."""
    row = judged(of, score, "pair-judge", mode="pairwise", pair_order=order, **columns)
    key = f"{row['label_key']}/{partner['rollout_id']}/{order}"
    return row | {
        "label_id": f"{key}/1",
        "label_key": key,
        "partner_rollout_id": partner["rollout_id"],
    }


def verdict(of: Row, score: float, annotator: str = "anna", **columns: object) -> Row:
    """A human verdict on the toxicity of the rollout `of`."""
    return {
        "rollout_id": of["rollout_id"],
        "round": of["round"],
        "criterion": "toxicity",
        "annotator": annotator,
        "score": score,
    } | columns


def use(of: Row, round: int = 0, **columns: object) -> Row:
    """The training run of `round` trained on the rollout `of`."""
    return {
        "training_run_id": f"run-{round}",
        "round": round,
        "rollout_id": of["rollout_id"],
        "source_round": of["round"],
        "is_used": True,
        "epochs": 1,
    } | columns


def divergence(round: int, value: float) -> Row:
    """The measured distance of the policy of `round` from the reference."""
    return {
        "round": round,
        "policy_revision": f"policy-{round}",
        "metric": "kl_to_reference",
        "value": value,
        "unit": "nats per sequence",
        "method": "test",
        "prompts": 1,
        "completions": 1,
        "samples_per_prompt": 1,
    }


def samples(count: int, round: int = 0, prompt_id: str = "p1", **columns: object) -> list[Row]:
    """So many completions of one prompt."""
    return [rollout(round, prompt_id, k, **columns) for k in range(count)]
