"""Models that several test files of this room use, built once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.labeling.engines.bedrock.batch_server import BatchServer, batches
from tests.labeling.models import save_judge, save_random_classifier, save_word_classifier
from tests.s3_server import s3_server


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_judge(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_classifier(tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="session")
def word_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_word_classifier(tmp_path_factory.mktemp("word"))


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bedrock(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    """Bedrock's batches over a bucket of their own; AWS's variables lead there."""
    with batches(s3_url) as (server, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield server
