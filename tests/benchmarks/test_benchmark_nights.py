"""The made-up nights are a real warehouse: they pass the checks, and every figure can be taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import warehouse, warehouse_publish
from tests.benchmarks.warehouse_nights import LABELERS, Nights, made_up_nights
from warehouse.catalog.catalog import connect, load_checks
from warehouse.ledger.ledger import Ledger
from warehouse.store import open_store

SMALL = Nights(rounds=2, labels=400, words=5, tokens=8)


def test_nights_pass_every_check_and_are_made_once(tmp_path: Path) -> None:
    root = made_up_nights(tmp_path / "nights", SMALL)
    con = connect(root)
    assert {name: con.sql(sql).fetchall() for name, sql in load_checks().items()} == {
        name: [] for name in load_checks()
    }
    assert con.sql("select count(*), count(distinct labeler) from labels").fetchall() == [
        (SMALL.rounds * SMALL.labels, len(LABELERS))
    ]
    assert con.sql("select count(*) from toxicity_by_round").fetchall() == [(4,)]
    ((share,),) = con.sql("select avg((purpose = 'holdout')::int) from rollouts").fetchall()
    assert share == pytest.approx(800 / 2848, abs=0.03)
    ledger = Ledger(open_store(root))
    assert ledger.head() + 1 == 6 * SMALL.rounds
    made_up_nights(root, SMALL)
    assert ledger.head() + 1 == 6 * SMALL.rounds
    with pytest.raises(ValueError, match="other nights"):
        made_up_nights(root, Nights(3, 400))


def test_the_figures_of_reading_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether they are met is no matter at this size; that both ways give the same rows is."""
    monkeypatch.setattr(warehouse, "REPEATS", 1)
    warehouse.print_against_one_file(tmp_path, SMALL)
    warehouse.print_year(tmp_path, SMALL)
    warehouse_publish.print_one_more_night(tmp_path, SMALL)
    names = [line[:28].strip() for line in capsys.readouterr().out.splitlines()]
    assert names == [
        "toxicity by round, the mart",
        "and on labels alone",
        "a year opens",
        "a year's toxicity by round",
        "one round of a year",
        "a night's publishing",
    ]


def test_the_figures_of_publish_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warehouse_publish, "REPEATS", 1)
    warehouse_publish.print_publish(tmp_path, 400)
    names = [line[:28].strip() for line in capfd.readouterr().out.splitlines()]
    assert names == ["publish labels", "publish rollouts", "memory of publish"]
