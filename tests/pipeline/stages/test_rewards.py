"""Stored rollouts and labels -> rewards whose penalties the question `why` can show."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from labeling.rewards.reward import RewardScale, compute_rewards
from labeling.rewards.terms import TermScale
from pipeline.config import RunConfig
from pipeline.configs.loading import load_config
from pipeline.stages.rewards import _rollouts
from tests.warehouse.builder import label, publish_rows, rollout
from tests.warehouse.opened import read_table
from warehouse.catalog.catalog import connect, load_query
from warehouse.handle import Warehouse

SCALE = RewardScale((TermScale("toxicity", 0.5, 0.25, 9), TermScale("helpful-judge", 0.5, 0.5, 9)))


def config(root: Path, **reward: object) -> RunConfig:
    sets = [f"warehouse={root}", "reward.terms.toxicity.value=score"]
    return load_config("demo", sets + [f"reward.{key}={value}" for key, value in reward.items()])


def stored_round(root: Path) -> None:
    """Two train rollouts of three tokens, one cut off, one imported without its tokens."""
    first = rollout(0, "t1", purpose="train", finish_reason="length")
    second = rollout(0, "t2", purpose="train", completion_ids=None, behavior_logprobs=None)
    publish_rows(root, "round=0/train-rollouts", 0, rollouts=[first, second])
    labels = [
        label(row, score, name, role="reward", criterion=criterion)
        for row in (first, second)
        for name, criterion, score in (
            ("toxicity", "toxicity", 0.25),
            ("helpful-judge", "helpfulness", 1.0),
        )
    ]
    publish_rows(root, "round=0/train-labels", 0, labels=labels)


def test_lengths_are_read_only_where_they_have_a_price(tmp_path: Path):
    stored_round(tmp_path)
    assert "length" not in _rollouts(config(tmp_path), Warehouse.open(tmp_path), 0).column_names
    priced = _rollouts(
        config(tmp_path, length_penalty="{per_token: 0.5, free_tokens: 1}"),
        Warehouse.open(tmp_path),
        0,
    )
    assert dict(
        zip(priced["rollout_id"].to_pylist(), priced["length"].to_pylist(), strict=True)
    ) == {"0-t1-0": 3, "0-t2-0": None}
    assert "completion_ids" not in priced.column_names


def test_why_shows_penalties_beside_the_terms(tmp_path: Path):
    stored_round(tmp_path)
    settings = config(tmp_path, length_penalty="{per_token: 0.5, free_tokens: 1}")
    rewards: pa.Table = compute_rewards(
        _rollouts(settings, Warehouse.open(tmp_path), 0),
        read_table(tmp_path, "labels"),
        settings.reward,
        SCALE,
        set(),
    )
    publish_rows(tmp_path, "round=0/rewards", 0, rewards=rewards.to_pylist())
    con = connect(tmp_path)
    rows = con.sql(load_query("why"), params={"rollout": "0-t1-0"}).to_arrow_table().to_pylist()
    # -1 * (.25 - .5) / .25 = 1; .3 * (1 - .5) / .5 = .3; truncation 1; .5 * (3 - 1) = 1
    assert {row["labeler"]: row["contribution"] for row in rows} == {
        "toxicity": 1.0,
        "helpful-judge": pytest.approx(0.3),
        "penalty:truncation": -1.0,
        "penalty:length": -1.0,
    }
    assert [row["reward"] for row in rows] == [pytest.approx(-0.7)] * 4
    by_name = {row["labeler"]: row for row in rows}
    length = by_name["penalty:length"]
    assert (length["weight"], length["value"], length["mean"], length["sd"]) == (
        -0.5,
        3.0,
        1.0,
        1.0,
    )
    assert (length["label_id"], length["status"]) == (None, None)
    excluded = con.sql(load_query("why"), params={"rollout": "0-t2-0"}).to_arrow_table()
    assert set(excluded["excluded_reason"].to_pylist()) == {"no completion length"}
