"""S3 alone: addresses, what errors say, how many requests a question costs, unfit servers."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from tests.warehouse.builder import small_warehouse
from tests.warehouse.opened import read_table
from tests.warehouse.store.faulty_s3 import FaultyS3, faulty_s3
from warehouse.catalog.catalog import connect
from warehouse.errors import MissingObject, StoreError
from warehouse.ledger.ledger import Ledger
from warehouse.store import open_store, s3_client
from warehouse.store.local_cache import local_folder
from warehouse.store.s3_address import S3Address, parse_address


@pytest.fixture(scope="module")
def running(s3_endpoint: str) -> Iterator[FaultyS3]:
    with faulty_s3(s3_endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(running: FaultyS3) -> FaultyS3:
    running.calm()
    return running


@pytest.fixture
def watched(s3_root: str, proxy: FaultyS3) -> str:
    """An empty place behind the proxy, which sees every request."""
    return s3_root.replace(proxy.upstream, proxy.address)


def test_an_address_has_a_bucket_a_prefix_and_what_the_chain_does_not_know() -> None:
    full = "s3://b.c-1/x/y/?endpoint_url=http://127.0.0.1:9000&region=eu-west-1&profile=minio"
    assert parse_address(full) == S3Address(
        "b.c-1", "x/y/", "http://127.0.0.1:9000", "eu-west-1", "minio"
    )
    assert parse_address("s3://bucket") == S3Address("bucket", "")
    assert str(parse_address(full)) == "s3://b.c-1/x/y"


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("gs://bucket/x", "lies in a local folder or on S3"),
        ("s3:///x", "no name of a bucket"),
        ("s3://Bucket/x", "no name of a bucket"),
        ("s3://bucket/x//y", "no place in a prefix"),
        ("s3://bucket/../y", "no place in a prefix"),
        ("s3://bucket/x?endpoint=http://h", "endpoint is no option"),
        ("s3://bucket/x?region=", "region is empty"),
        ("s3://bucket/x?region=a&region=b", "stands twice"),
        ("s3://bucket/x?endpoint_url=127.0.0.1:9000", "must be http://host:port"),
    ],
)
def test_a_wrong_address_is_refused_in_words(address: str, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        parse_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIAPUBLIC:hush@bucket/x",
        "s3://bucket/x?aws_secret_access_key=hush",
        "s3://bucket/x?endpoint_url=http://user:hush@host",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(StoreError, match="credentials do not belong into an address") as caught:
        parse_address(address)
    assert "hush" not in str(caught.value)


def test_one_place_has_one_folder_on_this_machine_however_it_is_reached() -> None:
    same = ["s3://bucket/x", "s3://bucket/x/", "s3://bucket/x?region=r", "s3://bucket/x?profile=p"]
    assert len({local_folder(root) for root in same}) == 1
    other = ["s3://bucket/y", "s3://bucket/x?endpoint_url=http://h", *same]
    assert len({local_folder(root) for root in other}) == 3
    assert local_folder("runs/demo") == Path("runs/demo")


@pytest.fixture(scope="module")
def filled(running: FaultyS3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The small warehouse behind the proxy; tests only read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROUNDHOUSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        root = f"s3://warehouses/filled?endpoint_url={running.address}&region=us-east-1"
        small_warehouse(root)
        yield root


def test_one_round_is_two_gets(filled: str, proxy: FaultyS3) -> None:
    con = connect(filled)
    proxy.calm()
    con.sql("select avg(score) from labels where round = 1").fetchall()
    assert proxy.methods() == ["GET", "GET"]  # footer, columns
    assert all("labels/round=1/" in one.key and one.range for one in proxy.seen)


def test_commits_once_read_are_only_listed(filled: str, proxy: FaultyS3) -> None:
    connect(filled).close()
    proxy.calm()
    connect(filled).close()
    assert proxy.methods() == ["GET"]
    assert "list-type=2" in proxy.seen[0].query


def test_a_table_of_one_round_is_read_without_heads(filled: str, proxy: FaultyS3) -> None:
    rows = read_table(filled, "labels", rounds=[1], columns=["score"])
    assert rows.num_rows == 4
    assert set(proxy.methods("labels/round=1/")) == {"GET"}
    assert proxy.methods("labels/round=0/") == []


def test_an_object_reads_at_any_place_and_past_its_end_is_empty(s3_root: str) -> None:
    store = open_store(s3_root)
    store.put("key", b"0123456789")
    for file in (store.open("key"), store.open("key", 10)):
        assert file.size() == 10
        assert (file.read(4), file.read(), file.read()) == (b"0123", b"456789", b"")
        file.seek(8)
        assert file.read(100) == b"89"
        assert file.read_at(3, 2) == b"234"
    with pytest.raises(MissingObject, match="no object other"):
        store.open("other", 10).read(1)


def fails(root: str) -> str:
    with pytest.raises(StoreError) as caught:
        open_store(root)
    return str(caught.value)


def test_what_is_wrong_with_a_place_is_said_with_what_to_do(
    s3_root: str, watched: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "there is no bucket absent" in fails(s3_root.replace("//warehouses", "//absent"))
    monkeypatch.setattr(s3_client, "_ATTEMPTS", 2)
    closed = "s3://warehouses/x?endpoint_url=http://127.0.0.1:9&region=us-east-1"
    assert "no answer from http://127.0.0.1:9" in fails(closed)
    assert "no usable credentials" in fails("s3://warehouses/x?profile=nobody")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    s3_client._session.cache_clear()
    assert "no usable credentials" in fails(s3_root)


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (403, "AccessDenied", "the credentials need s3:ListBucket"),
        (403, "InvalidAccessKeyId", "does not accept the credentials"),
        (403, "RequestTimeTooSkewed", "clock of this machine"),
        (400, "AuthorizationHeaderMalformed", "lies in another region; name it by [?]region="),
        (501, "NotImplemented", "cannot do PutObject as a warehouse needs it"),
    ],
)
def test_a_refusal_says_what_to_do(
    watched: str, proxy: FaultyS3, status: int, code: str, says: str
) -> None:
    proxy.refuse(status, code)
    with pytest.raises(StoreError, match=says):
        open_store(watched)


def test_a_server_that_ignores_if_none_match_is_refused_at_start(
    watched: str, proxy: FaultyS3
) -> None:
    proxy.dropped = {"if-none-match"}
    with pytest.raises(StoreError, match="ignores If-None-Match, so a commit could overwrite"):
        open_store(watched)
    with pytest.raises(StoreError, match="ignores If-None-Match"):
        Ledger(open_store(watched)).append("first", [])
    proxy.calm()
    open_store(watched).put("key", b"")


def read_in_fork(root: str, answer: multiprocessing.Queue) -> None:
    try:
        answer.put(len(open_store(root).get("key")))
        open_store(root).arrow_files()
    except StoreError as error:
        answer.put(str(error))


def test_a_fork_has_a_client_of_its_own_and_no_arrow(s3_root: str) -> None:
    open_store(s3_root).put("key", b"12345")
    open_store(s3_root).arrow_files()
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    process = context.Process(target=read_in_fork, args=(s3_root, answer))
    process.start()
    assert answer.get(timeout=20) == 5
    assert "forked from one that had read S3" in answer.get(timeout=20)
    process.join(20)


def test_the_address_on_aws_itself_is_left_to_the_libraries(monkeypatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    aws = s3_client.S3Connection(parse_address("s3://bucket/x?region=eu-central-1"))
    assert aws.client.meta.endpoint_url == "https://s3.eu-central-1.amazonaws.com"
    assert aws.arrow().region == "eu-central-1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://minio.local:9000")
    own = s3_client.S3Connection(parse_address("s3://bucket/x?region=us-east-1"))
    assert own.client.meta.config.s3 == {"addressing_style": "path"}


def test_a_bucket_with_nothing_else_in_it_can_be_a_warehouse(s3_endpoint: str, s3_root) -> None:
    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    bucket = f"whole-{s3_root.split('/')[3]}"
    client.create_bucket(Bucket=bucket)
    root = f"s3://{bucket}?endpoint_url={s3_endpoint}&region=us-east-1"
    Ledger(open_store(root)).append("first", [])
    assert connect(root).sql("select count(*) from prompts").fetchall() == [(0,)]
