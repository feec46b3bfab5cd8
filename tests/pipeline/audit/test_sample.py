"""What a person gets to see: blind, stratified, the same for the same seed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from pipeline.audit.sample import allocate, draw_sample
from pipeline.audit.sheet import (
    COLUMNS,
)
from pipeline.errors import ConfigError
from tests.warehouse.builder import label, prompt, publish_rows, rollout
from tests.warehouse.opened import read_table
from warehouse.errors import WarehouseError


def test_a_sample_is_blind_and_empty_where_a_person_writes(warehouse: Path) -> None:
    rows = draw_sample(warehouse, 12, seed=0, criterion="toxicity")
    assert rows.column_names == list(COLUMNS)
    assert rows.column_names == [
        "sample", "rollout_id", "criterion", "prompt", "completion", "score", "comment",
        "annotator",
    ]  # fmt: skip
    assert rows.num_rows == 12
    for column in ("score", "comment", "annotator"):
        assert set(rows[column].to_pylist()) == {""}
    row = rows.to_pylist()[0]
    assert row["completion"] == f"Answer {row['rollout_id']}."
    assert row["prompt"] == f"Question {row['rollout_id'][2:4]}?"
    assert set(rows["sample"].to_pylist()) == {row["sample"]}
    assert row["sample"].startswith("sample-")


def test_the_place_of_a_row_tells_nothing_of_its_score(warehouse: Path, tmp_path: Path) -> None:
    # The same completions with all scores turned round are the same sheet, byte for byte.
    other = tmp_path / "other"
    for table in ("prompts", "rollouts", "labels"):
        rows = read_table(warehouse, table).to_pylist()
        if table == "labels":
            rows = [r | {"score": None if r["score"] is None else 1 - r["score"]} for r in rows]
        publish_rows(other, table, **{table: rows})
    sheets = [draw_sample(root, 24, seed=0, criterion="toxicity") for root in (warehouse, other)]
    assert sheets[0].equals(sheets[1])
    assert sheets[0]["rollout_id"].to_pylist() != sorted(sheets[0]["rollout_id"].to_pylist())


def test_every_stratum_is_in_and_the_rest_go_by_size(warehouse: Path) -> None:
    # Round 0: quarters of the scores 0-4, 5-9, 10-14, 15-18, and 19 failed; round 1: 0-3.
    rows = draw_sample(warehouse, 6, seed=3, criterion="toxicity")
    numbers = [(i[0], min(2 * int(i[3]) + int(i[5]), 19)) for i in rows["rollout_id"].to_pylist()]
    strata = Counter((r, "failed" if n == 19 else n // 5) for r, n in numbers)
    assert strata == Counter({("0", 0): 1, ("0", 1): 1, ("0", 2): 1, ("0", 3): 1,
                              ("0", "failed"): 1, ("1", 0): 1})  # fmt: skip
    with pytest.raises(ConfigError, match=r"--count 5 cannot cover 6 strata .* at least 6"):
        draw_sample(warehouse, 5, seed=3, criterion="toxicity")
    assert draw_sample(warehouse, 99, seed=3, criterion="toxicity").num_rows == 24


def test_seats_by_hand() -> None:
    sizes = {(0, "a"): 70, (0, "b"): 25, (0, "c"): 5, (1, "a"): 1}
    assert list(allocate(sizes, 20).values()) == [13, 5, 1, 1]
    assert list(allocate(sizes, 4).values()) == [1, 1, 1, 1]
    assert list(allocate(sizes, 1000).values()) == [70, 25, 5, 1]
    assert list(allocate(sizes, 19, "equal").values()) == [7, 6, 5, 1]


def test_the_same_seed_draws_the_same_sample_whatever_the_order_of_files(
    warehouse: Path, tmp_path: Path
) -> None:
    first = draw_sample(warehouse, 10, seed=7, criterion="toxicity")
    assert draw_sample(warehouse, 10, seed=7, criterion="toxicity").equals(first)
    other = tmp_path / "other"
    publish_rows(other, "prompts", prompts=read_table(warehouse, "prompts").to_pylist())
    for number in (1, 0):
        for table in ("rollouts", "labels"):
            rows = read_table(warehouse, table, rounds=[number]).to_pylist()
            publish_rows(other, f"{table}-{number}", number, **{table: rows[::-1]})
    assert draw_sample(other, 10, seed=7, criterion="toxicity").equals(first)
    again = draw_sample(warehouse, 10, seed=8, criterion="toxicity")
    assert set(again["rollout_id"].to_pylist()) != set(first["rollout_id"].to_pylist())
    assert again["sample"][0] != first["sample"][0]


def test_rounds_and_criteria_that_are_not_there_are_named(warehouse: Path) -> None:
    only = draw_sample(warehouse, 4, seed=0, criterion="toxicity", rounds=[1])
    assert {i[0] for i in only["rollout_id"].to_pylist()} == {"1"}
    with pytest.raises(WarehouseError, match="no completions in round 9"):
        draw_sample(warehouse, 4, seed=0, criterion="toxicity", rounds=[1, 9])
    with pytest.raises(WarehouseError, match="no labels for criterion 'tox'; there are: toxicity"):
        draw_sample(warehouse, 4, seed=0, criterion="tox")


def test_a_dialogue_shows_who_speaks(tmp_path: Path) -> None:
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "Why?")]
    messages = json.dumps([{"role": role, "content": text} for role, text in turns])
    row = rollout(0, "p1")
    publish_rows(tmp_path, "all", rollouts=[row], labels=[label(row, 0.5)],
                 prompts=[prompt("p1", messages=messages)])  # fmt: skip
    sample = draw_sample(tmp_path, 1, seed=0, criterion="toxicity")
    assert sample["prompt"].to_pylist() == ["User: Hi\n\nAssistant: Hello\n\nUser: Why?"]
