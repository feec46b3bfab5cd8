"""Whoever reads while a vacuum or a forget deletes: no damage is seen where there is none.

The other's work is done before the first read of a data file, then before the second, and so on
until there is no further read: every moment at which a file can go.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.warehouse.builder import label, rollout, small_warehouse
from tests.warehouse.maintenance.test_compact import amend
from tests.warehouse.maintenance.test_forget import SAY
from tests.warehouse.opened import read_table
from warehouse.errors import Conflict, CorruptFile, MissingFile, Vacuumed, WarehouseError
from warehouse.ledger.evidence import verify_files
from warehouse.ledger.ledger import Ledger
from warehouse.maintenance.compaction import compact
from warehouse.maintenance.forgetting import Forgetting, forget
from warehouse.maintenance.vacuum import vacuum
from warehouse.maintenance.verify import Verification, verify
from warehouse.publish import publish
from warehouse.schemas import table_from_rows
from warehouse.store import open_store
from warehouse.store.base import Store

HATE = "round=0/train-labels/hate@r1"


class Beside:
    """Does `act` once, before read number `moment` of a data file; `is_done`: it came to that."""

    def __init__(
        self, root: str, moment: int, act: Callable[[], object], patch: pytest.MonkeyPatch
    ) -> None:
        self.is_done = False
        self._reads = itertools.count()
        self._moment, self._act = moment, act
        for name in ("get", "open"):
            patch.setattr(type(open_store(root)), name, self._counted(root, name))

    def _counted(self, root: str, name: str) -> Callable[..., object]:
        real = getattr(type(open_store(root)), name)

        def read(store: object, key: str, *size: int | None) -> object:
            is_data = key.endswith(".parquet") and not self.is_done
            if is_data and next(self._reads) == self._moment:
                self.is_done = True
                self._act()
            return real(store, key, *size)

        return read


def every_moment(
    roots: Callable[[], str], read: Callable[[str], object], act: Callable[[str], object]
) -> Iterator[tuple[str, object]]:
    """Each warehouse, and what `read` gave or raised there while `act` came between."""
    for moment in itertools.count():
        root = roots()
        with pytest.MonkeyPatch.context() as patch:
            beside = Beside(root, moment, lambda root=root: act(root), patch)
            try:
                found = read(root)
            except WarehouseError as error:
                found = error
        if not beside.is_done:
            assert moment > 0, "no file was read"
            return
        yield root, found


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A warehouse in whose history rows of prompt t1 were labelled three times, and amendments."""
    root = small_warehouse(tmp_path_factory.mktemp("pattern") / "warehouse")
    for number in range(2):
        old = Ledger(open_store(root)).files_of([HATE], table="labels")
        ours = [rollout(0, "t1", k, purpose="train") for k in (0, 1)]
        rows = [label(of, 0.5, "hate", role="reward") for of in ours]
        publish(
            root,
            f"round=0/relabel-{number}",
            {"labels": table_from_rows("labels", rows)},
            round=0,
            remove=[file.path for file in old],
            meta={"amends": HATE},
        )
    amend(root)
    return open_store(root)


def copies(pattern: Store, place: str) -> Callable[[], str]:
    """Makes copies of the pattern, beside `place`."""
    numbers = itertools.count()

    def copy() -> str:
        path, mark, options = place.partition("?")
        root = f"{path}-{next(numbers)}{mark}{options}"
        store = open_store(root)
        for key in pattern.list(""):
            store.put(key, pattern.get(key))
        return root

    return copy


@pytest.fixture
def roots(pattern: Store, tmp_path: Path) -> Callable[[], str]:
    return copies(pattern, str(tmp_path / "root"))


@pytest.fixture
def roots_on_both(pattern: Store, store_root: str) -> Callable[[], str]:
    return copies(pattern, store_root)


def shrink(root: str) -> object:
    return vacuum(root, keep_versions=1)


def forget_t1(root: str) -> object:
    return forget(root, ["t1"], **SAY)


def ids(root: str, table: str = "labels") -> set[str]:
    return set(read_table(root, table)["prompt_id"].to_pylist())


def test_a_forget_beside_a_vacuum(roots: Callable[[], str]) -> None:
    for root, done in every_moment(roots, forget_t1, shrink):
        assert isinstance(done, Forgetting)
        assert {prompt for t in ("prompts", "rollouts", "labels") for prompt in ids(root, t)} == {
            "p1",
            "p2",
        }
        assert verify(root, all_versions=True).problems == ()
        assert verify(root).orphans == ()


def test_rows_beside_a_forget_are_those_before_or_after_it(
    roots_on_both: Callable[[], str],
) -> None:
    def labels(root: str) -> list[str]:
        return read_table(root, "labels", verified=True)["prompt_id"].to_pylist()

    found = [sorted(rows) for _, rows in every_moment(roots_on_both, labels, forget_t1)]
    after = ["p1"] * 5 + ["p2"] * 5
    assert all(rows in (after, [*after, "t1", "t1"]) for rows in found)
    assert after in found


def test_an_old_version_beside_a_vacuum_is_whole_or_vacuumed(
    roots_on_both: Callable[[], str],
) -> None:
    def labels_before(root: str) -> int:
        commit = Ledger(open_store(root)).find("round=0/relabel-0")
        return read_table(root, "labels", as_of=commit.version).num_rows

    found = [rows for _, rows in every_moment(roots_on_both, labels_before, shrink)]
    assert {10 if rows == 10 else type(rows) for rows in found} <= {10, Vacuumed}
    assert any(isinstance(rows, Vacuumed) for rows in found)


def test_verify_beside_a_vacuum_sees_no_damage(roots: Callable[[], str]) -> None:
    for _, found in every_moment(roots, lambda root: verify(root, all_versions=True), shrink):
        assert isinstance(found, Verification)
        assert found.problems == ()


def test_verify_beside_a_forget_sees_no_damage(roots: Callable[[], str]) -> None:
    for root, found in every_moment(roots, verify, forget_t1):
        assert isinstance(found, Verification)
        assert {problem.kind for problem in found.problems} <= {"forgotten"}
        assert found.files >= len(Ledger(open_store(root)).files())


def test_a_compact_beside_a_forget_is_done_or_says_so(roots: Callable[[], str]) -> None:
    def forget_p1(root: str) -> object:
        return forget(root, ["p1"], **SAY)

    ends = set()
    for root, done in every_moment(roots, compact, forget_p1):
        ends.add(type(done))
        assert isinstance(done, list) or "run it again" in str(done)
        assert verify(root).orphans == ()
        assert ids(root) == {"p2", "t1"}
        compact(root)
        assert verify(root, all_versions=True).problems == ()
    assert Conflict in ends
    assert ends <= {list, Conflict}


def test_files_of_an_older_look_at_the_ledger_are_deleted_not_lost(
    roots: Callable[[], str],
) -> None:
    root = roots()
    store = open_store(root)
    files = Ledger(store).files(table="labels")
    forget_t1(root)
    with pytest.raises(Conflict, match=r"deleted meanwhile by a forget or a vacuum; run again"):
        verify_files(store, files)
    files = Ledger(store).files(table="labels")
    verify_files(store, files)
    store.delete(files[0].path)
    with pytest.raises(CorruptFile, match=rf"{files[0].path}: missing"):
        verify_files(store, files)


@pytest.mark.parametrize(
    "read",
    [forget_t1, lambda root: read_table(root, "labels"), compact],
    ids=["forget", "read", "compact"],
)
def test_a_lost_file_is_damage_whatever_runs_beside(
    roots: Callable[[], str], read: Callable[[str], object]
) -> None:
    def lose_and_shrink(root: str) -> None:
        store = open_store(root)
        files = Ledger(store).files(table="labels")
        shrink(root)
        for file in files:
            store.delete(file.path)

    found = [end for _, end in every_moment(roots, read, lose_and_shrink)]
    assert any(isinstance(end, MissingFile) for end in found)
    assert not any(isinstance(end, Conflict) for end in found)
