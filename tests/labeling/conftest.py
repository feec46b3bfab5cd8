"""Models that several test files of this room use, built once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.labeling.batch_server import BatchServer
from tests.labeling.chat_server import serving
from tests.labeling.models import save_judge, save_random_classifier, save_word_classifier


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
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bedrock(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    """The control plane, Converse, and a bucket of its own; AWS's variables lead there."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_url)
    s3 = boto3.client("s3", region_name="us-east-1")
    with serving(BatchServer(s3=s3)) as server:
        s3.create_bucket(Bucket=f"bucket-{server.port}")
        for service in ("BEDROCK", "BEDROCK_RUNTIME"):
            monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", f"http://127.0.0.1:{server.port}")
        yield server  # type: ignore[misc]
