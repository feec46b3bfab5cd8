"""A server that fails: nothing lost, nothing doubled, whatever fails at whichever request."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import duckdb
import pytest

from tests.warehouse.builder import publish_rows, rollout
from tests.warehouse.opened import read_table
from tests.warehouse.store.faulty_s3 import FaultyS3, Kind, faulty_s3
from warehouse.catalog.catalog import connect
from warehouse.errors import AlreadyExists, AlreadyPublished, CorruptFile, StoreError
from warehouse.ledger.ledger import Ledger
from warehouse.store import open_store, s3_client, s3_upload
from warehouse.store import s3 as s3_store

# What may happen to a request of each kind; only what makes a client wait is tried apart.
KINDS: dict[str, tuple[Kind, ...]] = {
    "GET": ("error 503", "cut before", "cut body"),
    "HEAD": ("error 500", "cut before"),
    "PUT": ("error 500", "conflict 409", "cut before", "done, then cut", "done, then 500"),
}


@pytest.fixture(scope="module")
def running(s3_endpoint: str) -> Iterator[FaultyS3]:
    with faulty_s3(s3_endpoint) as proxy:
        proxy.delay = 0.5
        yield proxy


@pytest.fixture
def proxy(running: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> FaultyS3:
    """A proxy at peace, and a client that does not wait before it tries again."""
    running.calm()
    backoff = "botocore.retries.standard.ExponentialBackoff.delay_amount"
    monkeypatch.setattr(backoff, lambda *_: 0)
    return running


@pytest.fixture
def place(s3_root: str, proxy: FaultyS3) -> Callable[[str], str]:
    """Places on the server behind the proxy, by name; the probe of the store is done."""

    def root(name: str) -> str:
        return s3_root.replace(proxy.upstream, proxy.address).replace("/night", f"/{name}")

    return root


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "PATIENCE", {"connect_timeout": 1, "read_timeout": 0.3})


def publish_night(root: str) -> None:
    """Two files and one commit."""
    publish_rows(root, "night", rollouts=[rollout(number, "p1") for number in (0, 1)])


def assert_whole(root: str) -> None:
    """One commit, its rows once, every file as the ledger says."""
    store = open_store(root, read_only=True)
    (commit,) = Ledger(store).commits()
    assert commit.key == "night"
    assert [(file.round, file.rows) for file in commit.add] == [(0, 1), (1, 1)]
    for file in commit.add:
        data = store.get(file.path)
        assert (len(data), sha256(data).hexdigest()) == (file.bytes, file.sha256)
    assert read_table(root, "rollouts")["rollout_id"].to_pylist() == ["0-p1-0", "1-p1-0"]


@pytest.mark.parametrize(("method", "kind"), [(m, kind) for m, of in KINDS.items() for kind in of])
def test_a_publish_survives_that_every_request_fails_once(
    place, proxy: FaultyS3, method: str, kind: Kind
) -> None:
    fault = proxy.plan(kind, method, times=99, every_other=True)
    publish_night(place("night"))
    # The probe twice, two files and the commit; listings; what the 412 of the probe was about.
    assert fault.done >= {"PUT": 5, "GET": 4, "HEAD": 1}[method]
    proxy.calm()
    assert_whole(place("night"))


@pytest.mark.parametrize("kind", KINDS["PUT"])
@pytest.mark.parametrize("path", ["/rollouts/round=1", "/_ledger/"])
def test_a_publish_survives_one_failing_write(place, proxy: FaultyS3, path: str, kind) -> None:
    fault = proxy.plan(kind, "PUT", path)
    publish_night(place("night"))
    assert fault.done == 1
    assert_whole(place("night"))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("kind", "method", "path"),
    [
        ("slow", "GET", "/warehouses"),
        ("slow", "PUT", "_ledger/"),
        ("done, then slow", "PUT", "rollouts/"),
        ("done, then slow", "PUT", "_ledger/"),
    ],
)
def test_a_publish_survives_an_answer_that_does_not_come(
    place, proxy: FaultyS3, kind, method, path
) -> None:
    fault = proxy.plan(kind, method, path)
    publish_night(place("night"))
    assert fault.done == 1
    assert_whole(place("night"))


@pytest.mark.parametrize("kind", ["done, then cut", "done, then 500"])
def test_a_put_knows_its_own_object_from_another_writers(place, proxy: FaultyS3, kind) -> None:
    store = open_store(place("night"))
    proxy.plan(kind, "PUT", "/key$")
    store.put("key", b"mine")
    assert store.get("key") == b"mine"
    proxy.calm()
    proxy.plan("error 500", "PUT", "/key$")
    with pytest.raises(AlreadyExists, match="key is there already"):
        store.put("key", b"mine")  # the same bytes, but of a later put


def test_racing_writers_whose_answers_are_lost_have_one_winner(place, proxy: FaultyS3) -> None:
    store = open_store(place("night"))
    store.put("first", b"")
    proxy.plan("done, then cut", "PUT", "/race$", times=4)
    proxy.plan("error 500", "PUT", "/race$", times=4)

    def write(number: int) -> bool:
        try:
            store.put("race", str(number).encode())
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))
    assert sum(won) == 1
    assert store.get("race") == str(won.index(True)).encode()


def test_racing_commits_under_faults_are_each_there_once(place, proxy: FaultyS3) -> None:
    root = place("night")
    open_store(root).put("first", b"")
    dice = random.Random(5)
    for skip in range(0, 60, 2):
        proxy.plan(dice.choice(KINDS["PUT"]), "PUT", "_ledger/", skip=skip)

    def commit(writer: int) -> None:
        for number in range(5):
            Ledger(open_store(root)).append(f"writer={writer}/{number}", [])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(commit, range(4)))
    commits = Ledger(open_store(root)).commits()
    assert [commit.version for commit in commits] == list(range(20))
    assert len({commit.key for commit in commits}) == 20


def test_a_server_that_stays_down_is_named_and_the_publish_can_be_repeated(
    place, proxy: FaultyS3
) -> None:
    root = place("night")
    proxy.plan("error 503", "PUT", "_ledger/", times=99)
    with pytest.raises(StoreError, match=r"s3://.*/_ledger/0{10}\.json: .*slow down.*same command"):
        publish_night(root)
    assert Ledger(open_store(root)).commits() == []
    proxy.calm()
    publish_night(root)
    assert_whole(root)


def test_a_commit_whose_fate_nobody_could_tell_is_found_by_the_next_run(
    place, proxy: FaultyS3
) -> None:
    root = place("night")
    proxy.plan("done, then cut", "PUT", "_ledger/", times=99)
    proxy.plan("cut before", "HEAD", "_ledger/", times=99)
    with pytest.raises(StoreError, match=r"no answer from http.*the same command goes on"):
        publish_night(root)
    proxy.calm()
    with pytest.raises(AlreadyPublished):
        publish_night(root)
    assert_whole(root)


def test_conflicts_are_tried_again_and_end(
    place, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_store, "_ATTEMPTS", 3)
    store = open_store(place("night"))
    proxy.plan("conflict 409", "PUT", "/key$", times=2)
    store.put("key", b"1")
    proxy.plan("conflict 409", "PUT", "/other$", times=99)
    with pytest.raises(StoreError, match="other: the server answers with a conflict, 3 times"):
        store.put("other", b"1")


@pytest.mark.parametrize("kind", ["error 503", "cut before", "cut body", "flip"])
def test_a_file_comes_down_whole_whatever_fails_once(
    place, proxy: FaultyS3, tmp_path: Path, kind
) -> None:
    store = open_store(place("night"))
    store.put("key", b"0123456789")
    fault = proxy.plan(kind, "GET", "/key$")
    store.get_file("key", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"0123456789"
    assert store.get_many(["key", "key"]) == [b"0123456789"] * 2
    assert fault.done == 1


@pytest.mark.parametrize("kind", ["cut body", "flip"])
def test_a_download_that_never_comes_whole_is_an_error(place, proxy: FaultyS3, kind) -> None:
    store = open_store(place("night"))
    store.put("key", b"0123456789")
    proxy.plan(kind, "GET", "/key$", times=99)
    with pytest.raises(StoreError, match="/night/key: "):
        store.get("key")
    assert 1 < proxy.methods("/key$").count("GET") < 10


def test_a_flipped_page_is_named(place, proxy: FaultyS3) -> None:
    root = place("night")
    publish_night(root)
    proxy.plan("flip", "GET", "/rollouts/", times=99)
    with pytest.raises(CorruptFile, match=r"rollouts/round=[01]/\w+\.parquet"):
        read_table(root, "rollouts")


@pytest.mark.parametrize("kind", ["error 500", "error 503", "cut before", "cut body"])
def test_a_query_survives_a_failing_read(place, proxy: FaultyS3, kind) -> None:
    root = place("night")
    publish_night(root)
    fault = proxy.plan(kind, "GET", "/rollouts/", times=2)
    found = connect(root).sql("select count(*), min(completion) from rollouts").fetchall()
    assert found == [(2, "Answer 0-p1-0.")]
    assert fault.done == 2


def test_a_query_notices_a_flipped_bit(place, proxy: FaultyS3) -> None:
    root = place("night")
    publish_night(root)
    con = connect(root)
    con.sql("select count(completion) from rollouts").fetchall()  # the footers are known now
    proxy.plan("flip", "GET", "/rollouts/", times=99)
    with pytest.raises(duckdb.Error, match=r"(?i)crc|checksum"):
        con.sql("select completion from rollouts").fetchall()


def test_a_large_file_goes_up_in_parts_under_faults(
    place, proxy: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_upload, "_ONE_PUT", 6 << 20)
    monkeypatch.setattr(s3_upload, "_PART", 5 << 20)
    path = tmp_path / "weights"
    path.write_bytes(random.Random(0).randbytes(12 << 20))
    store = open_store(place("night"))
    proxy.plan("error 500", "PUT", "partNumber=2")
    proxy.plan("done, then cut", "PUT", "partNumber=3")
    proxy.plan("done, then cut", "POST", "uploadId")
    store.put_file("weights", path)
    store.get_file("weights", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    with pytest.raises(AlreadyExists):
        store.put_file("weights", path)


def test_a_cached_commit_is_not_read_from_a_bucket_filled_anew(
    place, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROUNDHOUSE_CACHE", str(tmp_path / "cache"))
    root = place("night")
    Ledger(open_store(root)).append("before", [])
    assert [c.key for c in Ledger(open_store(root)).commits()] == ["before"]
    proxy.calm()
    assert [c.key for c in Ledger(open_store(root)).commits()] == ["before"]
    assert proxy.methods() == ["GET"]  # the listing
    (kept,) = (tmp_path / "cache").rglob("*.json.*")
    kept.write_bytes(kept.read_bytes().replace(b"before", b"behind"))
    assert [c.key for c in Ledger(open_store(root)).commits()] == ["before"]
    open_store(root).delete("_ledger/0000000000.json")
    Ledger(open_store(root)).append("after", [])
    assert [c.key for c in Ledger(open_store(root)).commits()] == ["after"]


def test_the_bytes_of_a_commit_are_json_on_the_server(place) -> None:
    publish_night(place("night"))
    commit = json.loads(open_store(place("night")).get("_ledger/0000000000.json"))
    assert commit["key"] == "night"
