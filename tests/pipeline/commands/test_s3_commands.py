"""Every reading command, and the verdicts of people, on a warehouse on S3."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.configs.loading import load_config
from pipeline.errors import ConfigError
from pipeline.runtime.progress import Heartbeat
from pipeline.runtime.shards import staging_folder
from tests.pipeline.commands.test_offline_training import KEYS
from tests.warehouse import conftest as stores
from tests.warehouse.builder import small_warehouse

s3_endpoint = stores.s3_endpoint


@pytest.fixture(scope="module")
def root(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The small warehouse on S3, for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROUNDHOUSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        address = f"s3://warehouses/commands?endpoint_url={s3_endpoint}&region=us-east-1"
        small_warehouse(address)
        yield address


def said(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_status_shows_commits_there_and_staging_here(root: str) -> None:
    folder = staging_folder(root, "round=1/train-rollouts", "0" * 16)
    folder.mkdir(parents=True)
    Heartbeat(folder, "00000", 8, "completions")
    shown = said("status", root)
    assert "round=0/training" in shown
    assert "unfinished: round=1-train-rollouts-0000000000000000: 0/8 completions" in shown


def test_sql_and_query_answer(root: str) -> None:
    rows = json.loads(said("sql", root, "select count(*) as n from labels", "--format", "json"))
    assert rows == [{"n": 10}]
    shown = said("query", root, "toxicity_by_round", "--format", "csv")
    assert [line.split(",")[:2] for line in shown.splitlines()[1:]] == [
        ["0", "meter"],
        ["1", "meter"],
    ]
    older = said("sql", root, "select count(*) as n from labels", "--format", "csv", "--as-of", 2)
    assert older.split() == ["n", "4"]


def test_sql_is_locked_down_beside_the_bucket(root: str, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a\n1\n")
    with pytest.raises(Exception, match=r"(?i)permission|disabled"):
        said("sql", root, f"from read_csv('{tmp_path}/other.csv')")


def test_the_report_says_where_the_warehouse_lies(root: str, tmp_path: Path) -> None:
    said("report", root, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "s3://warehouses/commands" in page
    assert "endpoint_url" not in page


def test_export_and_audit_write_here(root: str, tmp_path: Path) -> None:
    assert "1 pairs" in said("export", root, "dpo", "--out", tmp_path / "dpo.jsonl")
    shown = said("audit", "sample", root, "--out", tmp_path / "sheet.csv", "--count", 8)
    assert f"roundhouse audit import {shlex.quote(root)} {tmp_path}/sheet.csv" in shown
    sheet = (tmp_path / "sheet.csv").read_text().splitlines()
    assert len(sheet) == 9


def test_a_verdict_is_written_there(root: str) -> None:
    said("reject", root, "--round", 0, "--by", "Ann", "--why", "seen enough")
    rows = said("sql", root, "select status from rounds", "--format", "csv")
    assert rows.split() == ["status", "rejected"]
    assert "0 problems" in said("verify", root)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("s3://bucket/x?secret_key=hush", "warehouse: s3://bucket/x: secret_key is no option"),
        ("s3://KEY:hush@bucket/x", "warehouse: .*credentials do not belong into an address"),
        ("gs://bucket/x", "warehouse: gs://bucket/x: a warehouse lies in a local folder or on S3"),
    ],
)
def test_a_configuration_with_a_wrong_address_names_the_key(
    tmp_path: Path, address: str, says: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(KEYS | {"warehouse": address, "policy": {"model": "starter"}}))
    with pytest.raises(ConfigError, match=says) as caught:
        load_config(str(path))
    assert "hush" not in str(caught.value)
