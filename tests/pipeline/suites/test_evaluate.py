"""What evaluate-labeler and evaluate-policy refuse before they load anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import ConfigError


def suite(folder: Path, text: str = "text,expected\ngood,0\n") -> str:
    path = folder / "suite.csv"
    path.write_text(text)
    return str(path)


def refused(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert isinstance(done.exception, ConfigError), done.output
    return str(done.exception)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--labeler", "nobody"], "--labeler nobody: the configuration has"),
        (["--labeler", "helpful-judge"], "helpful-judge (judge) reads prompt and completion"),
        (["--like", "jigsaw"], "--like jigsaw: expected one of hatecheck, xstest, madlibs"),
        (["--like", "hatecheck"], "no column test_case, functionality, target_ident, label_gold"),
        (["--text-column", "texts"], "suite.csv:1: no column texts"),
        (["--slice-column", "kind"], "suite.csv:1: no column kind"),
        (["--format", "xml"], "--format xml: expected one of table, json, csv"),
        (["--positive", "good"], "column expected: '0' is none of"),
    ],
)
def test_a_wrong_use_of_evaluate_labeler_is_named(tmp_path: Path, words: list[str], why: str):
    out = tmp_path / "report.json"
    path = suite(tmp_path)
    if words[0] == "--positive":
        words = [*words, "--negative", "bad"]
    said = refused("evaluate-labeler", path, "--config", "demo", "--out", str(out), *words)
    assert why in said
    assert sorted(one.name for one in tmp_path.iterdir()) == ["suite.csv"]


@pytest.mark.parametrize(
    ("out", "why"), [("none/report.json", "there is no folder"), (".", "is a folder; name a file")]
)
def test_a_report_that_cannot_be_written_is_found_first(tmp_path: Path, out: str, why: str):
    words = ("evaluate-labeler", suite(tmp_path), "--config", "demo", "--labeler", "metric")
    assert why in refused(*words, "--out", str(tmp_path / out))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--policy", "x", "--round", "1"], "--policy and --round exclude each other"),
        (["--labeler", "nobody"], "--labeler nobody"),
        (["--expected-column", "label"], "suite.csv:1: no column label"),
    ],
)
def test_a_wrong_use_of_evaluate_policy_is_named(tmp_path: Path, words: list[str], why: str):
    out = tmp_path / "report.json"
    path = suite(tmp_path, "text\nWhy?\n")
    said = refused("evaluate-policy", "demo", "--suite", path, "--out", str(out), *words)
    assert why in said


def test_a_prompt_that_is_none_is_named_by_its_line(tmp_path: Path):
    path = suite(tmp_path, 'text\nWhy?\n"\n\nHuman: "\n')
    out = str(tmp_path / "report.json")
    said = refused("evaluate-policy", "demo", "--suite", path, "--out", out)
    assert "suite.csv:3: " in said
