"""`roundhouse lineage`: one thing at a time, as text to read and as JSON with every row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from tests.training.tiny import tiny_policy
from tests.warehouse.lineage.test_trace import two_nights
from training.revision import policy_revision
from warehouse.lineage.trace import NotFound
from warehouse.publish import publish
from warehouse.store import open_store

run = CliRunner()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("lineage") / "night"
    two_nights(root)
    return str(root)


def ask(root: str, *arguments: str) -> str:
    result = run.invoke(app, ["lineage", root, *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_number_is_told_section_by_section(root: str) -> None:
    told = ask(root, "--round", "1", "--metric", "toxicity_rate", "--labeler", "meter")
    titles = ["number", "written by", "policy", "sampling (1)", "labelers (1)", "files (5)"]
    lines = told.splitlines()
    assert [line for line in lines if line in titles] == titles
    assert "  key            round=1/evaluation" in lines
    assert any(line.split() == ["config.training.epochs", "2"] for line in lines)


def test_json_has_the_same_sections(root: str) -> None:
    found = json.loads(ask(root, "--round", "1", "--metric", "length", "--format", "json"))
    assert found["number"]["value"] == 12.0
    assert [row["rollout_id"] for row in found["rows"]] == ["1-p1-0"]
    assert found["config"]["config"] == {"seed": 7, "training": {"epochs": 2}}


@pytest.mark.parametrize(
    ("arguments", "section"),
    [
        (["--round", "0"], "commits"),
        (["--rollout", "0-t1-0"], "rewards"),
        (["--label", "0-t1-0/hate/r1/0/1"], "trained"),
        (["--policy", "policy-1"], "rows"),
        (["--policy", "policy-1", "--as-of", "8"], "rows"),
    ],
)
def test_everything_that_can_be_asked_for(root: str, arguments: list[str], section: str) -> None:
    assert json.loads(ask(root, *arguments, "--format", "json"))[section]
    assert section in ask(root, *arguments)


def test_a_file_by_its_path(root: str) -> None:
    files = json.loads(ask(root, "--round", "0", "--format", "json"))["files"]
    found = json.loads(ask(root, "--file", files[0]["path"], "--format", "json"))
    assert found["file"]["sha256"] == files[0]["sha256"]
    assert found["added by"]["key"] == files[0]["commit"]


def test_long_sections_are_cut_as_text_and_whole_as_json(tmp_path: Path) -> None:
    from tests.warehouse.builder import prompt, publish_rows, rollout

    publish_rows(tmp_path, "prompts", prompts=[prompt("p1")])
    publish_rows(tmp_path, "r", 0, rollouts=[rollout(0, "p1", k) for k in range(12)])
    file = next((tmp_path / "rollouts").rglob("*.parquet")).relative_to(tmp_path).as_posix()
    assert "and 7 more: --format json has them" in ask(str(tmp_path), "--file", file)
    assert len(json.loads(ask(str(tmp_path), "--file", file, "--format", "json"))["rows"]) == 12


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "say of what: one of --round, --rollout, --label, --policy, --file"),
        (["--round", "1", "--label", "x"], "--round and --label exclude each other"),
        (["--label", "x", "--metric", "length"], "--metric names a number of a round"),
        (["--round", "1", "--labeler", "meter"], "--labeler says whose number it is"),
    ],
)
def test_what_does_not_go_together_is_refused(root: str, arguments: list[str], reason: str) -> None:
    result = run.invoke(app, ["lineage", root, *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert reason in result.output


# A folder of weights


def test_a_folder_is_known_by_its_weights(tmp_path: Path) -> None:
    """Wherever it lies: the revision is that of the training's commit."""
    folder = tiny_policy(tmp_path / "copied")
    meta = {"policy_revision": policy_revision(folder), "training_run_id": "run"}
    publish(tmp_path / "night", "round=0/training", {}, round=0, meta=meta)
    found = json.loads(ask(str(tmp_path / "night"), "--policy", str(folder), "--format", "json"))
    assert found["policy"]["made_by"] == "round=0/training"


def test_a_folder_that_no_night_made_says_itself_how(root: str, tmp_path: Path) -> None:
    folder = tiny_policy(tmp_path / "dpo")
    with pytest.raises(NotFound, match="no training made it and no rollout is its own"):
        ask(root, "--policy", str(folder))
    record = {"method": "dpo", "policy_revision_in": "policy-1", "config": {"beta": 0.1}}
    (folder / "training.json").write_text(json.dumps(record))
    ids = {"chosen_id": ["0-t1-1"], "rejected_id": ["0-t1-0"]}
    (folder / "training_rows.json").write_text(json.dumps(ids))
    found = json.loads(ask(root, "--policy", str(folder), "--format", "json"))
    assert (found["policy"]["made_by"], found["config"]) == ("dpo", {"beta": 0.1})
    assert [row["rollout_id"] for row in found["rows"]] == ["0-t1-0", "0-t1-1"]
    assert found["base"]["made_by"] == "round=0/training"


def test_a_model_that_the_warehouse_keeps_is_found_by_its_revision(tmp_path: Path) -> None:
    two_nights(tmp_path)
    store = open_store(tmp_path)
    record = {"method": "reward", "policy_revision_in": "policy-0", "rounds": [0]}
    store.put("reward-models/feedbeef/training.json", json.dumps(record).encode())
    ids = json.dumps({"chosen_id": ["0-t1-1"], "rejected_id": ["0-t1-0"]}).encode()
    store.put("reward-models/feedbeef/training_rows.json", ids)
    found = json.loads(ask(str(tmp_path), "--policy", "feed", "--format", "json"))
    assert found["policy"] == {"policy_revision": "feedbeef", "made_by": "reward"}
    assert [row["rollout_id"] for row in found["rows"]] == ["0-t1-0", "0-t1-1"]
    assert [row["commit"] for row in found["read"]] == ["round=0/train-rollouts"]


def test_a_folder_without_weights_is_named(root: str, tmp_path: Path) -> None:
    result = run.invoke(app, ["lineage", root, "--policy", str(tmp_path)])
    assert "no *.safetensors" in str(result.exception)
