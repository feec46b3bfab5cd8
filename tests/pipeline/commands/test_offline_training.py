"""`export` and the `train-…` commands from the command line, on a tiny round in a warehouse."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from tests.training.stored import stored_round
from training.errors import TrainingError
from training.revision import policy_revision


def classifier(name, role):
    return {"name": name, "kind": "classifier", "role": role, "criterion": "toxicity",
            "model": name, "labels": {"a": 0, "b": 1}}  # fmt: skip


KEYS = {
    "device": "cpu",
    "prompts": {"source": "starter"},
    "labelers": [classifier("meter", "metric"), classifier("hate", "reward")],
    "reward": {"recipe": "weighted", "terms": {"hate": {"weight": -1}}},
    "preference_training": {"margin": 0.0, "learning_rate": 1e-3, "batch_size": 8},
}


@pytest.fixture
def config(tmp_path):
    """The configuration file of a warehouse with one trained round."""
    root = tmp_path / "house"
    root.mkdir()
    keys = KEYS | {"warehouse": str(root), "policy": {"model": str(stored_round(root))}}
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(keys))
    return path


def said(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("command", "home"),
    [
        ("train-dpo", "policies"),
        ("train-kto", "policies"),
        ("train-sft", "policies"),
        ("train-reward-model", "reward-models"),
    ],
)
def test_each_trainer_leaves_a_model_under_its_revision(config, command, home):
    code, text = said(command, config)
    assert code == 0
    (folder,) = (config.parent / "house" / home).iterdir()
    assert folder.name == policy_revision(folder)
    assert f"{folder} ({folder.name})" in text
    assert re.search(r"loss       \d\.\d{4} -> \d\.\d{4} \(the first and last 1 of \d", text)
    assert ("desirable" in text) == (command == "train-kto")
    assert said(command, config)[0] == 0  # the same again: the same folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_policy_that_was_trained_can_be_trained_on(config, tmp_path):
    assert said("train-sft", config, "--out", tmp_path / "sft")[0] == 0
    code, text = said("train-dpo", config, "--policy", tmp_path / "sft", "--out", tmp_path / "dpo")
    assert code == 0
    assert f"policy     {policy_revision(tmp_path / 'sft')}" in text
    with pytest.raises(TrainingError, match="sft exists already"):
        said("train-sft", config, "--out", tmp_path / "sft")


def test_the_rounds_and_their_number_of_rows_can_be_chosen(config, tmp_path):
    assert (
        "rows       4\n" in said("train-dpo", config, "--set", "preference_training.max_rows=4")[1]
    )
    with pytest.raises(TrainingError, match="there is no row to train on"):
        said("train-dpo", config, "--round", 7)


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("dpo", "11 pairs in"),
        ("kto", " desirable, "),
        ("sft", "11 completions in"),
        ("reward", "11 pairs in"),
    ],
)
def test_export_counts_what_it_writes(config, tmp_path, kind, first):
    out = tmp_path / "rows.jsonl"
    code, text = said("export", tmp_path / "house", kind, "--out", out, "--margin", 0)
    assert code == 0
    assert first in text
    assert text.startswith(f"{len(out.read_text().splitlines())} ")


def test_wrong_use_is_named(config, tmp_path):
    for arguments, message in (
        (("ppo", "--out", "x.jsonl"), "ppo: expected one of dpo, kto, sft, reward"),
        (("dpo", "--out", "x.csv"), "x.csv: name the export .jsonl or .parquet"),
        (("dpo", "--out", "x.jsonl", "--status", "done"), "--status done: expected one of"),
    ):
        code, text = said("export", tmp_path / "house", *arguments)
        assert code == 2
        assert message in " ".join(text.replace("│", " ").split())
