"""A judge behind HTTP, from the command or the stage to rows that DuckDB reads; faults included."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from pipeline.config import RunConfig
from pipeline.configs.loading import load_config
from pipeline.errors import StageError
from tests.labeling.chat_bodies import INPUT_TOKENS, OUTPUT_TOKENS
from tests.labeling.chat_server import ChatServer, Plan, serving
from tests.labeling.scripted_chat import verdict
from tests.pipeline.judged import label
from tests.warehouse.builder import prompt, publish_rows, rollout
from warehouse.catalog.catalog import connect
from warehouse.keys import rollouts_key

PRICE = {"input": 1.0, "output": 1.0}
COST = (INPUT_TOKENS + OUTPUT_TOKENS) / 1e6
BUDGET = 60 * COST  # of which the worst of a call, some 40, must be left for it to be sent
# What a text meets at its first calls; after them all goes well.
FAULTS = {
    3: ["429"],
    4: ["500", "429"],
    5: ["malformed"],
    6: ["400"] * 9,
    7: ["500"] * 9,
    8: ["filtered"] * 9,
    9: ["length"] * 9,
    10: ["no_usage"],
}


def number_of(text: str) -> int:
    found = re.search(r"Answer (?:0-p)?(\d+)", text)
    return int(found[1]) if found else -1


def of_rollouts(counts: Counter[str]) -> int:
    """Calls about the rows, without those about sentinels."""
    return sum(count for text, count in counts.items() if number_of(text) >= 0)


def fault(text: str, attempt: int) -> str:
    faults = FAULTS.get(number_of(text), [])
    return faults[attempt] if attempt < len(faults) else "ok"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    made = ChatServer(Plan(delay=0.01), fault, reply=lambda text: verdict(number_of(text) % 9 + 1))
    with serving(made) as running:
        yield running


def settings(server: ChatServer, root: Path, **keys: object) -> dict[str, Any]:
    """The demo's, with one labeler behind HTTP beside its own; `keys` are the engine's."""
    config = load_config("demo").model_dump(mode="json")
    engine = {
        "kind": "openai", "base_url": server.base_url, "model": "m-1", "price": PRICE,
        "max_in_flight": 4, "max_retries": 2, **keys,
    }  # fmt: skip
    judge = {
        "name": "api", "kind": "judge", "role": "shadow", "criterion": "helpfulness",
        "rubric": "helpfulness", "engine": engine,
    }  # fmt: skip
    return config | {"warehouse": str(root), "labelers": [*config["labelers"], judge]}


def label_file(
    folder: Path, config: dict[str, Any], count: int, code: int = 0
) -> tuple[str, subprocess.CompletedProcess[str]]:
    """`roundhouse label --input`: the output's name and what the command said."""
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    texts, out = folder / "texts.jsonl", folder / "labels.parquet"
    rows = [
        {"id": f"t{n}", "prompt": "How are you?", "completion": f"Answer {n}"} for n in range(count)
    ]
    texts.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    command = [sys.executable, "-m", "pipeline.cli", "label", "--config", str(folder / "c.yaml")]
    command += ["--labeler", "api", "--input", str(texts), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return str(out), done


def test_a_file_is_labelled_over_http_and_every_fault_is_a_row_with_its_status(
    server: ChatServer, tmp_path: Path
):
    out, _ = label_file(tmp_path, settings(server, tmp_path / "w"), 40)
    found = duckdb.sql(f"select * from '{out}' order by line").to_arrow_table().to_pylist()
    rows = {row["id"]: row for row in found}
    assert list(rows) == [f"t{n}" for n in range(40)]
    bad = {"t6": "error", "t7": "error", "t8": "filtered", "t9": "truncated"}
    assert {i: row["status"] for i, row in rows.items()} == {i: bad.get(i, "ok") for i in rows}
    good = {int(i[1:]): row for i, row in rows.items() if row["status"] == "ok"}
    assert {n: round(8 * row["score"]) for n, row in good.items()} == {n: n % 9 for n in good}
    assert {rows[i]["score"] for i in bad} == {None}
    retries = {"t3": 1, "t4": 2, "t5": 1, "t7": 2}
    assert {i: row["retries"] for i, row in rows.items()} == {i: retries.get(i, 0) for i in rows}
    assert {row["request_id"] for row in good.values()} == {"chatcmpl-1"}
    assert {row["price_table_version"] for row in good.values()} == {"given"}
    paid = [row for i, row in rows.items() if i not in ("t6", "t7", "t10")]
    assert [row["cost_usd"] for row in paid] == pytest.approx([COST] * 37)
    usage = [(row["input_tokens"], row["output_tokens"], row["is_usage_estimated"]) for row in paid]
    assert set(usage) == {(INPUT_TOKENS, OUTPUT_TOKENS, False)}
    assert [(rows[i]["error_type"], rows[i]["cost_usd"]) for i in ("t6", "t7")] == [
        ("invalid_request", None),
        ("server_error", None),
    ]
    uncounted = rows["t10"]
    assert (uncounted["is_usage_estimated"], uncounted["cost_usd"]) == (True, None)
    assert uncounted["input_tokens"] > 100
    assert server.most_in_flight <= 4


def test_a_spent_budget_ends_the_command_and_says_which_key_to_raise(
    server: ChatServer, tmp_path: Path
):
    server.choose = Plan()
    config = settings(server, tmp_path / "w") | {"budget_usd": BUDGET}
    _, done = label_file(tmp_path, config, 80, code=1)
    assert f"budget_usd: {BUDGET:g} USD are spent" in done.stderr
    assert "raise budget_usd" in done.stderr
    assert 10 < server.answered.total() < 60
    assert not (tmp_path / "labels.parquet").exists()


def configured(server: ChatServer, root: Path, **keys: object) -> RunConfig:
    return RunConfig.model_validate(
        settings(server, root, **keys) | {"beam": {"shard_rows": 8, "workers": 1}}
    )


def store_rollouts(root: Path, count: int) -> None:
    publish_rows(
        root,
        rollouts_key(0, "train"),
        0,
        rollouts=[rollout(0, f"p{n}", purpose="train") for n in range(count)],
        prompts=[prompt(f"p{n}", purpose="train") for n in range(count)],
    )


def test_a_round_is_labelled_over_http_and_its_rows_are_in_the_warehouse(
    server: ChatServer, tmp_path: Path
):
    root = tmp_path / "w"
    store_rollouts(root, 20)
    server.choose = Plan(throttled=0.1, broken=0.1, malformed=0.05)
    report = label(configured(server, root, max_retries=9), 0, "train", "api")
    assert (report.rows, report.tokens) == (20, 20 * INPUT_TOKENS)
    with connect(str(root)) as con:
        query = (
            "select count(*), count(distinct rollout_id), count(score), sum(cost_usd), "
            "sum(retries), min(latency_ms) > 9 from labels where labeler = 'api' and is_final"
        )
        found = con.sql(query).fetchall()
    faults = of_rollouts(server.calls) - 20
    assert found == [(20, 20, 20, pytest.approx(20 * COST), faults, True)]


def test_a_stage_whose_budget_is_spent_says_so_in_a_line_and_goes_on_when_it_is_raised(
    server: ChatServer, tmp_path: Path
):
    root = tmp_path / "w"
    store_rollouts(root, 80)
    server.choose = Plan()
    config = configured(server, root)
    small = config.model_copy(update={"budget_usd": BUDGET})
    spent = rf"^round=0/train-labels-api: BudgetSpent: budget_usd: {BUDGET:g} USD are spent: 0\.00"
    for _ in range(2):  # it stays spent
        with pytest.raises(StageError, match=spent):
            label(small, 0, "train", "api")
    assert 0 < of_rollouts(server.answered) < 60
    assert label(config, 0, "train", "api").rows == 80
    with connect(str(root)) as con:
        found = con.sql("select count(score) from labels where labeler = 'api'").fetchall()
    assert found == [(80,)]
    # A finished shard is not asked again; of the one that was not, no more than its eight rows.
    assert 80 <= of_rollouts(server.answered) <= 80 + 8
