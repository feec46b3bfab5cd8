"""A configuration that asks for what cannot be had: one line that says what to do, exit code 2."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml

from labeling.errors import Misconfigured
from labeling.labelers.build import build_labeler
from labeling.labelers.config import ClassifierConfig
from pipeline import cli

CONFIG = {
    "warehouse": "w",
    "rounds": 1,
    "device": "cpu",
    "policy": {"model": "starter"},
    "prompts": {"source": "starter", "holdout": 0.2},
    "rollouts": {"engine": "vllm", "prompts": 8, "samples": 2, "max_tokens": 8},
    "labelers": [
        {"name": "hate", "kind": "classifier", "role": "reward", "criterion": "toxicity",
         "model": "starter-toxicity"},
        {"name": "helpful", "kind": "judge", "role": "shadow", "criterion": "helpfulness",
         "rubric": "helpfulness", "engine": {"kind": "transformers", "model": "starter-judge"}},
        {"name": "metric", "kind": "classifier", "role": "metric", "criterion": "toxicity",
         "model": "starter-metric"},
    ],
    "reward": {"recipe": "weighted", "terms": {"hate": {"weight": -1.0}}},
    "training": {"algorithm": "ppo"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("labelers.helpful.rubric=helpfulnes", "rubric helpfulnes: neither a file nor"),
        ("labelers.helpful.rubric=broken.yaml", "rubric broken.yaml: criterion: Field required"),
        ("labelers.helpful.rubric=toxicity", "labelers.helpful.rubric: toxicity measures toxicity"),
        ("gate.sentinels=defualt", "gate.sentinels: sentinels defualt: neither a file nor"),
        ("reward.terms.hat.weight=1", "reward.terms.hat: no labeler has this name"),
        ("reward.terms.hate.wieght=1", "did you mean weight?"),
        ("reward.terms.hate.weight=0", "weight 0 for ['hate']; leave the term out"),
        ("labelers.hate.labels={}", "labelers.hate"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    setting: str, words: str, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("night.yaml").write_text(yaml.safe_dump(CONFIG))
    Path("broken.yaml").write_text("name: x\nversion: '1'\nlabels: ['1', '2']\nuser: no slot\n")
    words_of_command = ["roundhouse", "run", "night.yaml", "--set", setting, "--dry-run"]
    monkeypatch.setattr(sys, "argv", words_of_command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 2
    assert said.startswith("roundhouse: ")
    assert words in said
    assert "\n" not in said


def hate(model: Path, **keys: object) -> ClassifierConfig:
    fields = {
        "kind": "classifier", "name": "hate", "role": "reward", "criterion": "toxicity",
        "model": str(model), "labels": {"nothate": 0, "hate": 1}, "self_test": (),
    }  # fmt: skip
    return ClassifierConfig.model_validate(fields | keys)


def damaged(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("case", ["labels", "missing", "empty", "weights", "tokenizer", "type"])
def test_a_model_that_does_not_fit_is_one_line_and_exit_code_2(
    case: str, word_folder: Path, tmp_path: Path
):
    copy = Path(shutil.copytree(word_folder, tmp_path / "model"))
    (tmp_path / "empty").mkdir()
    config, words = {
        "labels": lambda: (hate(copy, labels={"nothate": 0, "bate": 1}), "labelers.hate.labels"),
        "missing": lambda: (hate(tmp_path / "no"), "there is no folder"),
        "empty": lambda: (hate(tmp_path / "empty"), "is it a model folder?"),
        "weights": lambda: (
            hate(damaged(copy, "model.safetensors", b"\xff" * 99)), "labelers.hate.model: cannot"),
        "tokenizer": lambda: (
            hate(damaged(copy, "tokenizer.json", b"{}")), "labelers.hate.model: cannot"),
        "type": lambda: (
            hate(damaged(copy, "config.json", (copy / "config.json").read_bytes()
                         .replace(b"RobertaForSeq", b"NobertaForSeq")
                         .replace(b'"roberta"', b'"noberta"'))), "labelers.hate.model: cannot"),
    }[case]()  # fmt: skip
    with pytest.raises(Misconfigured) as caught:
        build_labeler(config, device="cpu", resolve=str)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
