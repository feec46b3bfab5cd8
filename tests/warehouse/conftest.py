"""Fixtures of the warehouse tests: a small warehouse built once, copies of it, and both stores."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from tests.s3_server import s3_server
from tests.warehouse.builder import small_warehouse


@pytest.fixture(scope="session")
def shared_warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The warehouse of `small_warehouse`; tests only read it."""
    return small_warehouse(tmp_path_factory.mktemp("shared") / "warehouse")


@pytest.fixture
def warehouse(shared_warehouse: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    return Path(shutil.copytree(shared_warehouse, tmp_path / "warehouse"))


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 server with the bucket `warehouses`; credentials in the environment."""
    with pytest.MonkeyPatch.context() as patch, s3_server() as endpoint:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(
            Bucket="warehouses"
        )
        yield endpoint


@pytest.fixture
def s3_root(
    s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> str:
    """An empty place on the S3 server; what a machine keeps of it lies in a cache of its own."""
    monkeypatch.setenv("ROUNDHOUSE_CACHE", str(tmp_path_factory.mktemp("cache")))
    place = f"s3://warehouses/{uuid.uuid4().hex}/night"
    return f"{place}?endpoint_url={s3_endpoint}&region=us-east-1"


@pytest.fixture(params=["folder", "s3"])
def store_root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for a warehouse, on each store in turn."""
    if request.param == "s3":
        root: str = request.getfixturevalue("s3_root")
        return root
    return str(tmp_path / "root")
