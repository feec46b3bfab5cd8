"""Revision as a stage: the worst completions in, revised rows and pairs out, in one commit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config import RunConfig
from pipeline.configs.loading import load_config
from pipeline.errors import ConfigError, StageError
from pipeline.runtime.publishing import StageReport
from pipeline.stages import entry
from pipeline.stages.revise import read_selected
from tests.labeling.chat_server import ChatServer, serving
from tests.pipeline.judged import here, opened, sql
from tests.pipeline.stored_pairs import train_pairs
from tests.warehouse.builder import Row, label, prompt, publish_rows, rollout, round_row
from warehouse.keys import labels_key, revising_name, rollouts_key
from warehouse.ledger.ledger import Ledger
from warehouse.store import open_store

PRICE = {"input": 1.0, "output": 1.0}
COST = 110 / 1e6  # of one call of the test server
_NUMBER = re.compile(r"Answer 0-t(\d+)-0\.")
# What the reviser does with a completion by its prompt's number; of all others it writes better.
REPLIES = {
    5: json.dumps({"critique": "None.", "revision": "Answer 0-t5-0."}),
    6: json.dumps({"critique": "Empty.", "revision": " "}),
    7: "I'm sorry, I cannot do that.",
    8: "no JSON",
}


def number_of(text: str) -> int:
    found = _NUMBER.search(text)
    assert found is not None, text
    return int(found[1])


def reply(text: str) -> str:
    number = number_of(text)
    better = json.dumps({"critique": f"Critique {number}.", "revision": f"Better {number}."})
    return REPLIES.get(number, better)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving(ChatServer(reply=reply)) as running:
        yield running


def configured(server: ChatServer, root: Path, **keys: Any) -> RunConfig:
    engine = {"kind": "openai", "base_url": server.base_url, "model": "m-1", "price": PRICE,
              "max_retries": 0}  # fmt: skip
    select = keys.pop("select", {"labeler": "hate", "at_least": 0.25})
    settings = load_config("demo").model_dump(mode="json") | {
        "warehouse": str(root),
        "revision": {"name": "kind", "engine": engine, "select": select} | keys,
        "beam": {"shard_rows": 4, "workers": 1},
    }
    settings["labelers"][0]["name"] = "hate"
    settings["reward"] = {"recipe": "weighted", "terms": {"hate": {"weight": -1.0}}}
    return RunConfig.model_validate(settings)


def store_round(root: Path, count: int = 10) -> list[Row]:
    """Train prompts t0, t1, ..., one completion each, of which `hate` gave n / count."""
    rollouts = [rollout(0, f"t{n}", purpose="train") for n in range(count)]
    scores = [label(row, n / count, "hate", role="reward") for n, row in enumerate(rollouts)]
    prompts = [prompt(f"t{n}", purpose="train") for n in range(count)]
    publish_rows(root, rollouts_key(0, "train"), 0, rollouts=rollouts, prompts=prompts)
    publish_rows(root, labels_key(0, "train", "hate", "r1"), 0, labels=scores)
    return rollouts


def revise(config: RunConfig, number: int) -> StageReport:
    return entry.revise(config, revising_name(number, "kind"), number)


def commits(root: Path) -> list[str]:
    keys = [commit.key for commit in Ledger(open_store(root)).commits()]
    return [key for key in keys if "/revision/" in key]


def test_the_completions_beyond_the_threshold_are_revised_and_paired(
    server: ChatServer, tmp_path: Path
):
    root = tmp_path / "w"
    store_round(root)
    report = revise(configured(server, root), 0)
    assert report.notes == {"pairs": "3", "unchanged": "1", "failed": "3"}
    assert (report.rows, report.made) == (7, 8), "t3 to t9; t8 was asked twice"
    (key,) = commits(root)
    assert re.fullmatch(r"round=0/revision/kind@[0-9a-f]{16}", key)
    recipe = key.removeprefix("round=0/")
    rows = sql(
        root,
        "select pairs.*, revised.completion, revised.round as revised_round, revised.purpose, "
        "coalesce(revised.prompt_ids, revised.completion_ids) as ids, revised.behavior_logprobs "
        "from preference_pairs as pairs "
        "join rollouts as revised on pairs.chosen_id = revised.rollout_id order by rejected_id",
    )
    assert [(row["rejected_id"], row["completion"]) for row in rows] == [
        ("0-t3-0", "Better 3."),
        ("0-t4-0", "Better 4."),
        ("0-t9-0", "Better 9."),
    ]
    assert {(row["recipe"], row["round"], row["margin"]) for row in rows} == {(recipe, 0, 0.0)}
    assert {(r["revised_round"], r["ids"], r["behavior_logprobs"]) for r in rows} == {
        (None, None, None)
    }
    assert {row["purpose"] for row in rows} == {"train"}


def test_the_mart_shows_every_completion_that_was_read(server: ChatServer, tmp_path: Path):
    root = tmp_path / "w"
    store_round(root)
    revise(configured(server, root), 0)
    rows = {row["rollout_id"]: row for row in sql(root, "from revisions")}
    found = {name: (row["status"], row["is_revised"]) for name, row in rows.items()}
    assert found == {
        "0-t3-0": ("ok", True),
        "0-t4-0": ("ok", True),
        "0-t5-0": ("ok", False),
        "0-t6-0": ("empty", None),
        "0-t7-0": ("refusal", None),
        "0-t8-0": ("malformed", None),
        "0-t9-0": ("ok", True),
    }
    row = rows["0-t3-0"]
    assert (row["prompt"], row["original"]) == ("Question t3?", "Answer 0-t3-0.")
    assert (row["critique"], row["revised"]) == ("Critique 3.", "Better 3.")
    assert row["principle"]
    assert [rows[f"0-t{n}-0"]["calls"] for n in (3, 8)] == [1, 2]
    assert rows["0-t8-0"]["cost_usd"] == pytest.approx(2 * COST)
    (cost,) = sql(root, "select attempts, cost_usd from round_costs where labeler = 'kind'")
    assert cost == {"attempts": 8, "cost_usd": pytest.approx(8 * COST)}


def test_revisions_are_no_labels_of_the_round(server: ChatServer, tmp_path: Path):
    root = tmp_path / "w"
    store_round(root)
    queries = [
        f"from {mart} order by all"
        for mart in ("label_coverage", "completion_scores", "current_labels")
    ]
    before = [sql(root, query) for query in queries]
    revise(configured(server, root), 0)
    assert [sql(root, query) for query in queries] == before


def test_trainers_read_the_pairs_of_completed_rounds(server: ChatServer, tmp_path: Path):
    root = tmp_path / "w"
    store_round(root)
    revise(configured(server, root), 0)
    assert not train_pairs(root, "revision/"), "nobody has accepted the round yet"
    publish_rows(root, "round=0/training", 0, rounds=[round_row(0, status="refused")])
    assert not train_pairs(root, "revision/")
    found = train_pairs(root, "revision/", statuses=("refused",), rounds=(0,))
    assert [(row["chosen"], row["rejected"]) for row in found] == [
        (f"Better {n}.", f"Answer 0-t{n}-0.") for n in (3, 4, 9)
    ]
    assert found[0]["prompt"] == [{"role": "user", "content": "Question t3?"}]
    assert not train_pairs(root, "revision/", statuses=("refused",), rounds=(1,))
    assert not train_pairs(root, "gold/")


def test_the_same_again_does_nothing_and_another_threshold_pays_only_for_what_is_new(
    server: ChatServer, tmp_path: Path
):
    root = tmp_path / "w"
    store_round(root)
    config = configured(server, root)
    revise(config, 0)
    asked = server.calls.total()
    assert revise(config, 0) == StageReport(commits(root)[0])
    assert server.calls.total() == asked
    wider = configured(server, root, select={"labeler": "hate", "at_least": 0.15})
    assert revise(wider, 0).notes["pairs"] == "4"
    assert len(commits(root)) == 2
    # t2 is new; what the cache keeps is not asked again, and that is every answer there was.
    assert server.calls.total() == asked + 1
    (count,) = sql(root, "select count(*) as n, count(distinct recipe) as d from preference_pairs")
    assert count == {"n": 7, "d": 2}


@pytest.mark.parametrize(
    ("select", "wanted"),
    [
        ({"at_least": 0.0, "max_rows": 2}, [8, 9]),
        ({"at_most": 0.2}, [0, 1, 2]),
        ({"at_most": 0.9, "max_rows": 1}, [0]),
        ({"at_least": 0.95}, []),
    ],
)
def test_the_worst_come_first(
    server: ChatServer, tmp_path: Path, select: dict[str, Any], wanted: list[int]
):
    root = tmp_path / "w"
    store_round(root)
    config = configured(server, root, select={"labeler": "hate"} | select)
    section = config.revision
    assert section is not None
    found = read_selected(opened(config), section, 0)["completion"].to_pylist()
    assert [number_of(text) for text in found] == wanted


def test_where_nothing_is_bad_enough_the_work_is_done(server: ChatServer, tmp_path: Path):
    root = tmp_path / "w"
    store_round(root)
    config = configured(server, root, select={"labeler": "hate", "at_least": 0.95})
    assert revise(config, 0).rows == 0
    assert (len(commits(root)), server.calls.total()) == (1, 0)


def test_hold_out_prompts_and_empty_completions_are_never_revised(
    server: ChatServer, tmp_path: Path
):
    root = tmp_path / "w"
    rows = [
        rollout(0, "t1", purpose="train"),
        rollout(0, "t2"),  # hold-out
        rollout(0, "t3", purpose="train"),  # its prompt is held out
        rollout(0, "t4", purpose="train", completion="  "),
    ]
    prompts = [prompt(f"t{n}", purpose="train" if n in (1, 4) else "holdout") for n in (1, 2, 3, 4)]
    publish_rows(root, rollouts_key(0, "train"), 0, rollouts=rows, prompts=prompts)
    publish_rows(root, "labels", 0, labels=[label(row, 0.9, "hate") for row in rows])
    assert revise(configured(server, root), 0).rows == 1
    assert [number_of(text) for text in server.calls] == [1]


def test_a_stage_that_died_goes_on_where_it_was(server: ChatServer, tmp_path: Path):
    root = tmp_path / "w"
    store_round(root)
    server.choose = lambda text, _: "401" if number_of(text) == 9 else "ok"
    config = configured(server, root, reuse_answers=False)
    with pytest.raises(StageError, match="round=0/revision-kind"):
        revise(config, 0)
    assert commits(root) == []
    first = {number_of(text): count for text, count in server.calls.items()}
    assert set(first) >= {3, 4, 5, 6}
    server.choose = None
    assert revise(config, 0).notes["pairs"] == "3"
    again = {number_of(text): count for text, count in server.calls.items()}
    assert {n: again[n] for n in (3, 4, 5, 6)} == {n: first[n] for n in (3, 4, 5, 6)}


def test_a_round_without_scores_is_refused_and_nothing_is_published(
    server: ChatServer, tmp_path: Path
):
    root = tmp_path / "w"
    store_round(root)
    with pytest.raises(ConfigError, match="hate has scored no train completion of round 1"):
        revise(configured(server, root), 1)
    assert commits(root) == []


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"select": {"labeler": "metric", "at_least": 0.5}}, "must not measure it; there are: "),
        ({"select": {"labeler": "nobody", "at_least": 0.5}}, "nobody is no labeler"),
        ({"name": "hate"}, "revision.name: hate is a labeler's name"),
    ],
)
def test_a_section_that_cannot_run_is_refused(
    server: ChatServer, tmp_path: Path, keys: dict[str, Any], why: str
):
    with pytest.raises(ValidationError, match=why):
        configured(server, tmp_path, **keys)


def test_a_budget_needs_the_reviser_s_price(server: ChatServer, tmp_path: Path):
    settings = configured(server, tmp_path).model_dump(mode="json") | {"budget_usd": 1.0}
    RunConfig.model_validate(settings)
    settings["revision"]["engine"]["price"] = None
    with pytest.raises(ValidationError, match=r"revision\.engine\.price: m-1 is not in the price"):
        RunConfig.model_validate(settings)


def test_the_command_runs_the_stage(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "w"
    store_round(root)
    here(monkeypatch, prepared=True)
    file = tmp_path / "c.yaml"
    settings = configured(server, root).model_dump(mode="json")
    file.write_text(yaml.safe_dump(settings))
    done = CliRunner().invoke(app, ["revise", str(file), "--round", "0"])
    assert done.exit_code == 0, done.output
    assert "8 calls" in done.output
    assert "pairs 3, unchanged 1, failed 3" in done.output
    assert len(commits(root)) == 1
    file.write_text(yaml.safe_dump(settings | {"revision": None}))
    with pytest.raises(ConfigError, match="no such section"):
        CliRunner().invoke(app, ["revise", str(file), "--round", "0"], catch_exceptions=False)
