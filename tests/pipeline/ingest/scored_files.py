"""Files of other systems, small, for the tests of the import."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from pipeline.ingest.messages import first_turn_sha256, is_holdout
from warehouse.ledger.ledger import Ledger
from warehouse.store import open_store


def questions(side: str, count: int) -> list[str]:
    """Questions that a hold-out share of one half puts on this side."""
    asked = (f"What is {n}?" for n in range(200))
    return [q for q in asked if is_holdout(digest(q), 0.5) == (side == "holdout")][:count]


def digest(question: str) -> str:
    return first_turn_sha256([{"role": "user", "content": question}])


def turn(role: str, content: object) -> list[dict[str, object]]:
    return [{"role": role, "content": content}]


def completions(path: Path, rows: list[dict[str, object]]) -> Path:
    """A file as TRL 1.16 writes it (GRPOTrainer.log): a pandas frame, `to_parquet`."""
    pd.DataFrame(rows).to_parquet(path)
    return path


def sampled(question: str, answer: str, **columns: object) -> dict[str, object]:
    """One row of a conversational GRPO run."""
    row = {"step": 5, "prompt": turn("user", question), "completion": turn("assistant", answer)}
    return row | columns | {"advantage": 0.1}


def lines(path: Path, *rows: object) -> Path:
    path.write_bytes(
        b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in rows)
    )
    return path


def chat(question: str, answer: str, **keys: object) -> dict[str, object]:
    return {"messages": turn("user", question) + turn("assistant", answer)} | keys


def preference(question: str, better: str, worse: str) -> dict[str, object]:
    return {
        "input": {"messages": turn("user", question), "tools": [], "parallel_tool_calls": True},
        "preferred_output": turn("assistant", better),
        "non_preferred_output": turn("assistant", worse),
    }


def heads(root: Path) -> list[str]:
    return [commit.key for commit in Ledger(open_store(root)).commits()]
