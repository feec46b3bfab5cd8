"""Rows of a small warehouse, with a default for every column that a test does not care about.

`rollout`, `label`, `reward`, `prompt` give one row each; `small_warehouse` publishes two rounds
through `publish`, the way the pipeline does. Ids are readable: rollout `0-p1-2` is sample 2 of
prompt `p1` in round 0.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa

from warehouse.ledger.data_files import parquet_writer
from warehouse.publish import publish
from warehouse.schemas import TABLES, table_from_rows
from warehouse.store import open_store

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
RECIPE_SHA256 = "recipe-1"
Row = dict[str, object]


def prompt(prompt_id: str, **columns: object) -> Row:
    """A prompt of one human turn, `Question <id>?`."""
    messages = [{"role": "user", "content": f"Question {prompt_id}?"}]
    return {
        "prompt_id": prompt_id,
        "source": "test",
        "purpose": "holdout",
        "first_turn_sha256": prompt_id,
        "messages": json.dumps(messages),
        "ingested_at": NOON,
    } | columns


def rollout(round: int, prompt_id: str, sample_index: int = 0, **columns: object) -> Row:
    """A hold-out completion of three tokens."""
    rollout_id = f"{round}-{prompt_id}-{sample_index}"
    completion = str(columns.get("completion", f"Answer {rollout_id}."))
    return {
        "rollout_id": rollout_id,
        "round": round,
        "prompt_id": prompt_id,
        "sample_index": sample_index,
        "purpose": "holdout",
        "policy_revision": f"policy-{round}",
        "prompt_ids": [1, 2],
        "completion_ids": [3, 4, 5],
        "behavior_logprobs": [-0.5, -1.0, -0.25],
        "completion": completion,
        "completion_sha256": hashlib.sha256(completion.encode()).hexdigest(),
        "finish_reason": "stop",
        "engine": "test",
        "engine_version": "1",
        "generated_at": NOON,
    } | columns


def label(of: Row, score: float | None, labeler: str = "meter", **columns: object) -> Row:
    """A final toxicity label of the rollout `of` by the metric labeler; `score` None is `empty`."""
    revision = columns.get("revision", "r1")
    sample_index = columns.get("sample_index", 0)
    key = f"{of['rollout_id']}/{labeler}/{revision}/{sample_index}"
    return {
        "label_id": f"{key}/{columns.get('attempt', 1)}",
        "label_key": key,
        "round": of["round"],
        "rollout_id": of["rollout_id"],
        "prompt_id": of["prompt_id"],
        "purpose": of["purpose"],
        "completion_sha256": of["completion_sha256"],
        "labeler": labeler,
        "revision": revision,
        "kind": "classifier",
        "role": "metric",
        "criterion": "toxicity",
        "mode": "pointwise",
        "sample_index": sample_index,
        "attempt": 1,
        "is_final": True,
        "model": "test-model",
        "model_revision": "m1",
        "backend": "test",
        "backend_version": "1",
        "status": "empty" if score is None else "ok",
        "score": score,
        "labeled_at": NOON,
    } | columns


def reward(of: Row, value: float | None, labels: Sequence[Row] = (), **columns: object) -> Row:
    """The reward of the rollout `of` out of `labels`, one term each; None is not eligible."""
    terms = [
        {
            "labeler": row["labeler"],
            "label_id": row["label_id"],
            "value": row["score"],
            "mean": 0.0,
            "sd": 1.0,
            "weight": -1.0,
            "contribution": value,
        }
        for row in labels
    ]
    return {
        "rollout_id": of["rollout_id"],
        "recipe": "weighted",
        "recipe_sha256": RECIPE_SHA256,
        "round": of["round"],
        "prompt_id": of["prompt_id"],
        "purpose": of["purpose"],
        "is_eligible": value is not None,
        "excluded_reason": "no score" if value is None else None,
        "reward": value,
        "label_count": len(terms),
        "label_ids": [term["label_id"] for term in terms],
        "terms": terms,
    } | columns


def round_row(round: int, **columns: object) -> Row:
    """A completed round."""
    return {
        "round": round,
        "status": "completed",
        "is_stopped": False,
        "policy_revision_in": f"policy-{round}",
        "policy_revision_out": f"policy-{round + 1}",
        "reference_revision": "policy-0",
        "recipe_sha256": RECIPE_SHA256,
        "config": "{}",
        "config_sha256": "c1",
        "seed": 0,
        "code_version": "test",
        "package_versions": "{}",
        "started_at": NOON,
        "finished_at": NOON,
    } | columns


def publish_rows(root: str | Path, key: str, round: int | None = None, **tables: list[Row]) -> None:
    """Publishes rows given per table name."""
    publish(
        root,
        key,
        {name: table_from_rows(name, rows) for name, rows in tables.items()},
        round=round,
    )


def write_parquet(name: str, rows: pa.Table, path: Path) -> None:
    """Writes conforming rows of table `name` as one file, as publish would encode it."""
    with parquet_writer(name, str(path)) as writer:
        writer.write_table(rows, TABLES[name].row_group_size)


def put_copy(build: Callable[[Path], object], root: str | Path) -> None:
    """What `build` publishes, put into the empty place `root`; it is published once a process."""
    store, built = open_store(root), _built(build)
    files = [path for path in built.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: "_ledger" in path.parts):
        store.put_file(path.relative_to(built).as_posix(), path)


@functools.cache
def _built(build: Callable[[Path], object]) -> Path:
    folder = tempfile.mkdtemp(prefix="roundhouse-built-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    build(Path(folder))
    return Path(folder)


def small_warehouse(root: str | Path) -> Path:
    """Two rounds: hold-out prompts p1, p2 with two samples each, train prompt t1 with two.

    Toxicity by `meter` (metric): round 0 scores .9 .2 | .6 .4, round 1 scores .1 .2 | .3 .7.
    Labeler `hate` (reward) scored the train rollouts of round 0; t1's sample 1 is the better one.
    """
    put_copy(_publish_small, root)
    return Path(root)


def _publish_small(root: Path) -> None:
    publish_rows(
        root,
        "prompts",
        prompts=[prompt("p1"), prompt("p2"), prompt("t1", purpose="train")],
    )
    for number, scores in enumerate([(0.9, 0.2, 0.6, 0.4), (0.1, 0.2, 0.3, 0.7)]):
        rollouts = [rollout(number, name, k) for name in ("p1", "p2") for k in (0, 1)]
        labels = [label(row, score) for row, score in zip(rollouts, scores, strict=True)]
        publish_rows(root, f"round={number}/eval-rollouts", number, rollouts=rollouts)
        publish_rows(root, f"round={number}/eval-labels/meter@r1", number, labels=labels)
    rollouts = [rollout(0, "t1", k, purpose="train") for k in (0, 1)]
    labels = [
        label(row, score, "hate", role="reward")
        for row, score in zip(rollouts, (0.8, 0.1), strict=True)
    ]
    rewards = [
        reward(row, value, [of])
        for row, value, of in zip(rollouts, (-1.0, 1.0), labels, strict=True)
    ]
    publish_rows(root, "round=0/train-rollouts", 0, rollouts=rollouts)
    publish_rows(root, "round=0/train-labels/hate@r1", 0, labels=labels)
    publish_rows(root, "round=0/rewards", 0, rewards=rewards)
    publish_rows(root, "round=0/training", 0, rounds=[round_row(0)])


def holdout(
    root: Path, by_prompt: dict[str, tuple[float | None, ...]], round: int = 0
) -> list[Row]:
    """Publishes one sample per score and labels it; gives the rollouts."""
    rollouts = [rollout(round, p, k) for p, scores in by_prompt.items() for k in range(len(scores))]
    scores = [score for scores in by_prompt.values() for score in scores]
    labels = [label(row, score) for row, score in zip(rollouts, scores, strict=True)]
    publish_rows(root, f"round={round}/eval-rollouts", round, rollouts=rollouts)
    publish_rows(root, f"round={round}/eval-labels/meter@r1", round, labels=labels)
    return rollouts


def rows_of(con: duckdb.DuckDBPyConnection, query: str) -> list[Row]:
    """The answer, one dict per row."""
    return con.sql(query).to_arrow_table().to_pylist()
