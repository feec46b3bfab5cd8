"""Human audit: what a person gets to see, what comes back, and what it says about the labelers."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import verdicts as audit_import
from pipeline.audit.agreement import audit_agreement
from pipeline.audit.sample import allocate, draw_sample
from pipeline.audit.sheet import (
    COLUMNS,
    is_same_text,
    neutralise,
    parse_score,
    read_sheet,
    write_sheet,
)
from pipeline.audit.verdicts import import_verdicts
from pipeline.errors import ConfigError
from tests.warehouse.builder import label, prompt, publish_rows, rollout
from warehouse.errors import WarehouseError
from warehouse.ledger.ledger import Ledger
from warehouse.ledger.reading import read_table
from warehouse.store import open_store

ROOT = Path(__file__).parents[3]
FORMULA = '=HYPERLINK("http://example.org";"a")'
Row = dict[str, str]


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    """Round 0: 20 hold-out completions of 10 prompts; round 1: 4. Score of number i: i / 20.

    Number 19 has failed, number 0 reads like a formula, number 1 spans lines.
    """
    root = tmp_path / "warehouse"
    texts = {0: FORMULA, 1: "one\r\ntwo\n\n'three', \"four\"; ü"}
    for number, count in ((0, 20), (1, 4)):
        rollouts = [
            rollout(number, f"p{i // 2}", i % 2, **({"completion": texts[i]} if i in texts else {}))
            for i in range(count)
        ]
        metric = [label(row, None if i == 19 else i / 20) for i, row in enumerate(rollouts)]
        other = [label(row, float(i >= 8), "hate", role="reward") for i, row in enumerate(rollouts)]
        publish_rows(root, f"round={number}/eval-rollouts", number, rollouts=rollouts)
        publish_rows(root, f"round={number}/eval-labels/meter@r1", number, labels=metric)
        publish_rows(root, f"round={number}/eval-labels/hate@r1", number, labels=other)
    publish_rows(root, "prompts", prompts=[prompt(f"p{i}") for i in range(10)])
    return root


def sample_of(warehouse: Path, count: int = 24) -> list[Row]:
    """A sample that went through a file, as a person's script would read it."""
    path = warehouse.parent / "sheet.csv"
    path.unlink(missing_ok=True)
    write_sheet(draw_sample(warehouse, count, seed=0, criterion="toxicity"), path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(row: Row, annotator: str = "anna") -> Row:
    """A person who finds number i toxic from 10 on (the metric labeler's own threshold)."""
    _, name, k = row["rollout_id"].split("-")
    number = 2 * int(name[1:]) + int(k)
    return row | {"score": str(int(number >= 10)), "annotator": annotator}


def write(path: Path, rows: list[Row], encoding: str = "utf-8", **style: str) -> Path:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, **style)  # type: ignore[arg-type]
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))
    return path


def head(warehouse: Path) -> int:
    return Ledger(open_store(warehouse)).head()


# The sample


def test_a_sample_is_blind_and_empty_where_a_person_writes(warehouse: Path) -> None:
    rows = draw_sample(warehouse, 12, seed=0, criterion="toxicity")
    assert rows.column_names == list(COLUMNS)
    assert rows.column_names == [
        "sample", "rollout_id", "criterion", "prompt", "completion", "score", "comment",
        "annotator",
    ]  # fmt: skip
    assert rows.num_rows == 12
    for column in ("score", "comment", "annotator"):
        assert set(rows[column].to_pylist()) == {""}
    row = rows.to_pylist()[0]
    assert row["completion"] == f"Answer {row['rollout_id']}."
    assert row["prompt"] == f"Question {row['rollout_id'][2:4]}?"
    assert set(rows["sample"].to_pylist()) == {row["sample"]}
    assert row["sample"].startswith("sample-")


def test_the_place_of_a_row_tells_nothing_of_its_score(warehouse: Path, tmp_path: Path) -> None:
    # The same completions with all scores turned round are the same sheet, byte for byte.
    other = tmp_path / "other"
    for table in ("prompts", "rollouts", "labels"):
        rows = read_table(warehouse, table).to_pylist()
        if table == "labels":
            rows = [r | {"score": None if r["score"] is None else 1 - r["score"]} for r in rows]
        publish_rows(other, table, **{table: rows})
    sheets = [draw_sample(root, 24, seed=0, criterion="toxicity") for root in (warehouse, other)]
    assert sheets[0].equals(sheets[1])
    assert sheets[0]["rollout_id"].to_pylist() != sorted(sheets[0]["rollout_id"].to_pylist())


def test_every_stratum_is_in_and_the_rest_go_by_size(warehouse: Path) -> None:
    # Round 0: quarters of the scores 0-4, 5-9, 10-14, 15-18, and 19 failed; round 1: 0-3.
    rows = draw_sample(warehouse, 6, seed=3, criterion="toxicity")
    numbers = [(i[0], min(2 * int(i[3]) + int(i[5]), 19)) for i in rows["rollout_id"].to_pylist()]
    strata = Counter((r, "failed" if n == 19 else n // 5) for r, n in numbers)
    assert strata == Counter({("0", 0): 1, ("0", 1): 1, ("0", 2): 1, ("0", 3): 1,
                              ("0", "failed"): 1, ("1", 0): 1})  # fmt: skip
    with pytest.raises(ConfigError, match=r"--count 5 cannot cover 6 strata .* at least 6"):
        draw_sample(warehouse, 5, seed=3, criterion="toxicity")
    assert draw_sample(warehouse, 99, seed=3, criterion="toxicity").num_rows == 24


def test_seats_by_hand() -> None:
    sizes = {(0, "a"): 70, (0, "b"): 25, (0, "c"): 5, (1, "a"): 1}
    assert list(allocate(sizes, 20).values()) == [13, 5, 1, 1]
    assert list(allocate(sizes, 4).values()) == [1, 1, 1, 1]
    assert list(allocate(sizes, 1000).values()) == [70, 25, 5, 1]
    assert list(allocate(sizes, 19, "equal").values()) == [7, 6, 5, 1]


def test_the_same_seed_draws_the_same_sample_whatever_the_order_of_files(
    warehouse: Path, tmp_path: Path
) -> None:
    first = draw_sample(warehouse, 10, seed=7, criterion="toxicity")
    assert draw_sample(warehouse, 10, seed=7, criterion="toxicity").equals(first)
    other = tmp_path / "other"
    publish_rows(other, "prompts", prompts=read_table(warehouse, "prompts").to_pylist())
    for number in (1, 0):
        for table in ("rollouts", "labels"):
            rows = read_table(warehouse, table, rounds=[number]).to_pylist()
            publish_rows(other, f"{table}-{number}", number, **{table: rows[::-1]})
    assert draw_sample(other, 10, seed=7, criterion="toxicity").equals(first)
    again = draw_sample(warehouse, 10, seed=8, criterion="toxicity")
    assert set(again["rollout_id"].to_pylist()) != set(first["rollout_id"].to_pylist())
    assert again["sample"][0] != first["sample"][0]


def test_rounds_and_criteria_that_are_not_there_are_named(warehouse: Path) -> None:
    only = draw_sample(warehouse, 4, seed=0, criterion="toxicity", rounds=[1])
    assert {i[0] for i in only["rollout_id"].to_pylist()} == {"1"}
    with pytest.raises(WarehouseError, match="no completions in round 9"):
        draw_sample(warehouse, 4, seed=0, criterion="toxicity", rounds=[1, 9])
    with pytest.raises(WarehouseError, match="no labels for criterion 'tox'; there are: toxicity"):
        draw_sample(warehouse, 4, seed=0, criterion="tox")


def test_a_dialogue_shows_who_speaks(tmp_path: Path) -> None:
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "Why?")]
    messages = json.dumps([{"role": role, "content": text} for role, text in turns])
    row = rollout(0, "p1")
    publish_rows(tmp_path, "all", rollouts=[row], labels=[label(row, 0.5)],
                 prompts=[prompt("p1", messages=messages)])  # fmt: skip
    sample = draw_sample(tmp_path, 1, seed=0, criterion="toxicity")
    assert sample["prompt"].to_pylist() == ["User: Hi\n\nAssistant: Hello\n\nUser: Why?"]


# Spreadsheets


def test_text_that_a_spreadsheet_would_run_is_neutralised(warehouse: Path) -> None:
    rows = {row["rollout_id"]: row for row in sample_of(warehouse)}
    assert rows["0-p0-0"]["completion"] == "'" + FORMULA
    for text in ("=1", "+1", "-1", "@a", "\tx", "\rx", "'x"):
        assert neutralise(text) == "'" + text
    assert neutralise("a=1") == "a=1"
    assert neutralise("") == ""
    assert (warehouse.parent / "sheet.csv").read_bytes().startswith(b'\xef\xbb\xbf"sample",')


def test_a_sheet_is_never_overwritten(warehouse: Path) -> None:
    sample_of(warehouse)
    rows = draw_sample(warehouse, 6, seed=0, criterion="toxicity")
    with pytest.raises(ConfigError, match=r"sheet\.csv exists and may hold verdicts"):
        write_sheet(rows, warehouse.parent / "sheet.csv")


def test_only_what_spreadsheets_do_passes_as_the_same_text() -> None:
    assert is_same_text("'=1", "=1")
    assert is_same_text("=1", "=1")  # the apostrophe was swallowed
    assert is_same_text("a\nb", "a\r\nb")
    assert not is_same_text("'a", "a")
    assert not is_same_text("a ", "a")
    assert not is_same_text("'x", "''x")


@pytest.mark.parametrize(
    ("cell", "score"),
    [
        ("1", 1.0), ("0.5", 0.5), (" 0,25 ", 0.25), (".5", 0.5), ("1.", 1.0), ("5E-1", 0.5),
        ("1.01", None), ("-0", None), ("nan", None), ("yes", None), ("0_1", None), ("50%", None),
        ("٠", None),
    ],
)  # fmt: skip
def test_scores_as_people_write_them(cell: str, score: float | None) -> None:
    assert parse_score(cell) == score


@pytest.mark.parametrize(
    ("encoding", "style"),
    [
        ("utf-8", {}),
        ("utf-8-sig", {"delimiter": ";", "lineterminator": "\r\n"}),
        ("utf-8-sig", {"delimiter": "\t", "lineterminator": "\n"}),
        ("utf-8", {"lineterminator": "\r\n", "quoting": csv.QUOTE_ALL}),
    ],
)
def test_what_spreadsheets_save_is_read(warehouse: Path, encoding: str, style: dict) -> None:
    rows = [fill(row) for row in sample_of(warehouse)]
    path = write(warehouse.parent / "filled.csv", rows, encoding, **style)
    done = import_verdicts(warehouse, path)
    assert (done.imported, done.unscored, done.known) == (24, 0, 0)
    assert read_table(warehouse, "gold").num_rows == 24


# The way back


def test_the_round_trip_from_sample_to_agreement(warehouse: Path) -> None:
    rows = sample_of(warehouse)
    for name in ("anna", "ben"):
        filled = [fill(row, name) for row in rows]
        filled[0] |= {"comment": "=clear"}
        import_verdicts(warehouse, write(warehouse.parent / f"{name}.csv", filled))
    gold = read_table(warehouse, "gold").to_pylist()
    assert len(gold) == 48
    first = next(r for r in gold if r["rollout_id"] == "1-p1-1" and r["annotator"] == "ben")
    assert (first["round"], first["score"], first["criterion"]) == (1, 0.0, "toxicity")
    assert first["sample"] == rows[0]["sample"]
    assert [r["comment"] for r in gold if r["comment"]] == ["=clear", "=clear"]

    report = audit_agreement(warehouse, "toxicity")
    assert report.annotators == ("anna", "ben")
    assert (report.completions, report.undecided) == (24, 0)
    assert report.verdicts.kappa.value == 1.0
    assert report.scores.alpha.value == 1.0
    hate, meter = report.labelers
    # Gold is yes for 10-19 of round 0. meter: the same, but 19 failed. hate: 8 and 9 besides.
    assert (meter.labeler, meter.role, meter.items, meter.unscored) == ("meter", "metric", 23, 1)
    assert meter.raters.kappa.value == 1.0
    assert meter.accuracy.sensitivity.value == 1.0
    assert meter.observed.value == pytest.approx(9 / 23)
    assert (hate.items, hate.unscored, hate.role) == (24, 0, "reward")
    assert hate.accuracy.false_positives == 2
    assert hate.accuracy.specificity.value == pytest.approx(12 / 14)
    assert hate.raters.po.value == pytest.approx(22 / 24)
    # pe = .5 * 10/24 + .5 * 14/24 = .5
    assert hate.raters.kappa.value == pytest.approx((22 / 24 - 0.5) / 0.5)
    assert hate.calibration.brier == pytest.approx(2 / 24)
    # All it scored is in the sample, so the corrected rate is gold's own, 10 of 24.
    assert hate.corrected.value == pytest.approx(10 / 24)
    assert hate.corrected.low < 10 / 24 < hate.corrected.high
    json.dumps(report, default=vars, allow_nan=False)


def test_a_few_of_each_stratum_speak_for_all_of_it(warehouse: Path) -> None:
    drawn = draw_sample(warehouse, 11, seed=0, criterion="toxicity", allocation="equal")
    rows = [fill(row) for row in drawn.to_pylist()]
    import_verdicts(warehouse, write(warehouse.parent / "filled.csv", rows))
    report = audit_agreement(warehouse, "toxicity")
    # Two of each of five strata and the failed one: 5 of 11 are yes, but 10 of all 24 are.
    assert sum(row["score"] == "1" for row in rows) == 5
    assert (report.completions, report.represented) == (11, 1.0)
    assert report.gold_rate.value == pytest.approx(10 / 24)
    meter = report.labelers[1]
    assert meter.accuracy.true_positives == 4
    assert meter.accuracy.accuracy.value == 1.0


def test_what_no_verdict_speaks_for_is_said(warehouse: Path) -> None:
    only = next(row for row in sample_of(warehouse) if row["rollout_id"] == "0-p0-0")
    import_verdicts(warehouse, write(warehouse.parent / "filled.csv", [fill(only)]))
    assert audit_agreement(warehouse, "toxicity").represented == 5 / 20
    said = roundhouse("agreement", warehouse)
    assert "25.0% of the completions of these rounds lie in strata with a verdict" in said.stdout


def test_a_tie_is_undecided_and_a_labeler_that_scored_none_of_it_has_no_numbers(
    warehouse: Path,
) -> None:
    rows = {row["rollout_id"]: row for row in sample_of(warehouse)}
    tied, failed = rows["0-p0-0"], rows["0-p9-1"]
    sheet = [
        fill(tied) | {"score": "1"},
        fill(tied, "ben") | {"score": "0,4"},
        fill(failed),
    ]
    import_verdicts(warehouse, write(warehouse.parent / "filled.csv", sheet))
    report = audit_agreement(warehouse, "toxicity")
    assert (report.completions, report.undecided) == (2, 1)
    assert report.verdicts.items == 1
    hate, meter = report.labelers
    assert (hate.items, meter.items, meter.unscored) == (1, 0, 1)
    assert meter.accuracy.accuracy.value is None
    assert meter.raters.po.value is None
    assert meter.calibration.ece_mass is None
    assert meter.corrected.value is None
    # 12 of 20 in round 0: round 1 has no gold.
    assert hate.observed.value == pytest.approx(12 / 20)


def test_a_second_import_changes_nothing(warehouse: Path) -> None:
    rows = [fill(row) for row in sample_of(warehouse)]
    rows[3]["score"] = " "
    done = import_verdicts(warehouse, write(warehouse.parent / "a.csv", rows))
    assert (done.imported, done.unscored, done.known) == (23, 1, 0)
    assert done.key is not None
    assert done.key.startswith("gold/")
    version = head(warehouse)
    saved_again = write(warehouse.parent / "b.csv", rows[::-1], "utf-8-sig", delimiter=";")
    again = import_verdicts(warehouse, saved_again)
    assert (again.key, again.imported, again.unscored, again.known) == (None, 0, 1, 23)
    assert head(warehouse) == version
    # A sheet may come in while it fills: only what is new is published.
    rows[3] = fill(rows[3])
    more = import_verdicts(warehouse, write(warehouse.parent / "a.csv", rows))
    assert (more.imported, more.unscored, more.known) == (1, 0, 23)
    assert head(warehouse) == version + 1
    assert read_table(warehouse, "gold").num_rows == 24


def test_two_imports_at_once_never_double_a_verdict(
    warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [fill(row) for row in sample_of(warehouse)]
    one = write(warehouse.parent / "a.csv", rows[:16])
    other = write(warehouse.parent / "b.csv", rows[8:])
    plain = audit_import.publish

    def after_the_other(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(audit_import, "publish", plain)
        import_verdicts(warehouse, other)
        return plain(*arguments, **named)

    monkeypatch.setattr(audit_import, "publish", after_the_other)
    done = import_verdicts(warehouse, one)
    assert (done.imported, done.known) == (8, 8)
    assert read_table(warehouse, "gold").num_rows == len(rows) == 24


def test_an_empty_sheet_imports_nothing(warehouse: Path) -> None:
    version = head(warehouse)
    done = import_verdicts(warehouse, write(warehouse.parent / "a.csv", sample_of(warehouse)))
    assert (done.key, done.imported, done.unscored, done.known) == (None, 0, 24, 0)
    assert head(warehouse) == version


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rollout_id": "0-p0-77"}, "no rollout '0-p0-77' in this warehouse; restore the id"),
        ({"score": "1.2"}, "score '1.2' is not a number from 0 to 1"),
        ({"score": "5. Jan"}, "score '5. Jan' is not a number from 0 to 1"),
        ({"annotator": " "}, "no annotator; write the name"),
        ({"criterion": "tox"}, "no criterion 'tox'; there are: toxicity"),
        ({"completion": "Another."}, "the completion is not the one stored for"),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_nothing_is_imported(
    warehouse: Path, change: Row, message: str
) -> None:
    rows = [fill(row) for row in sample_of(warehouse) if row["rollout_id"] != "0-p0-1"]
    rows = [row for row in rows if row["rollout_id"] != "1-p0-1"]  # the others are one line each
    rows[4] |= change
    path = write(warehouse.parent / "filled.csv", rows)
    version = head(warehouse)
    with pytest.raises(ConfigError) as caught:
        import_verdicts(warehouse, path)
    first, second = str(caught.value).split("\n")
    assert first == "nothing was imported, bad rows: 1"
    assert second.startswith(f"{path}:6: {message}")
    assert head(warehouse) == version


def test_lines_are_those_of_the_file_also_after_cells_of_several_lines(warehouse: Path) -> None:
    rows = {row["rollout_id"]: fill(row) for row in sample_of(warehouse)}
    # The header, four lines of the first row, then line 6.
    sheet = [rows["0-p0-1"], rows["0-p1-0"], rows["0-p1-0"], rows["0-p2-0"] | {"score": "2"}]
    path = write(warehouse.parent / "filled.csv", sheet)
    assert [row.line for row in read_sheet(path)] == [2, 6, 7, 8]
    with pytest.raises(ConfigError) as caught:
        import_verdicts(warehouse, path)
    assert str(caught.value).split("\n")[1:] == [
        f"{path}:7: the same rollout, criterion and annotator as line 6; remove one",
        f"{path}:8: score '2' is not a number from 0 to 1 (1: the criterion is fully there); "
        "correct it, or empty the cell to skip the row",
    ]


def test_a_verdict_is_never_replaced(warehouse: Path) -> None:
    rows = [fill(row) for row in sample_of(warehouse)]
    import_verdicts(warehouse, write(warehouse.parent / "a.csv", rows))
    row = next(row for row in rows if row["rollout_id"] == "0-p3-0")
    path = write(warehouse.parent / "b.csv", [row | {"score": "1"}])
    with pytest.raises(ConfigError, match=r"b\.csv:2: anna has judged 0-p3-0 already \(0, "):
        import_verdicts(warehouse, path)
    done = import_verdicts(
        warehouse,
        write(warehouse.parent / "c.csv", [row | {"score": "1", "annotator": "anna, later"}]),
    )
    assert done.imported == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda b: b.decode().encode("utf-16"), r":1: byte 0xff is not UTF-8; save .* UTF-8"),
        (lambda b: b.replace("ü".encode(), b"\xfc"), r":\d+: byte 0xfc is not UTF-8"),
        (lambda b: b.replace(b"annotator", b"who", 1), ":1: the header must have annotator once"),
        (lambda b: b[:0], ":1: the header must have rollout_id, criterion, completion, score"),
        (lambda b: b + b'"x', r":\d+: not CSV \(unexpected end of data\)"),
        (lambda b: b + b"a,b\r\n", r":\d+: 2 cells where the header has 8"),
    ],
    ids=["utf-16", "latin-1", "header", "empty", "quote", "cells"],
)
def test_a_damaged_file_is_named_with_its_line(
    warehouse: Path, spoil: Callable[[bytes], bytes], message: str
) -> None:
    path = write(warehouse.parent / "a.csv", [fill(row) for row in sample_of(warehouse)])
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ConfigError, match=rf"a\.csv{message}"):
        import_verdicts(warehouse, path)
    assert read_table(warehouse, "gold").num_rows == 0


def test_a_file_that_is_not_there_is_named(warehouse: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.csv: No such file or directory; name the filled"):
        import_verdicts(warehouse, warehouse.parent / "no.csv")


def test_agreement_without_verdicts_says_how_to_get_them(warehouse: Path) -> None:
    with pytest.raises(WarehouseError, match="no human verdicts on 'toxicity'; draw a sample"):
        audit_agreement(warehouse, "toxicity")


# The commands


def roundhouse(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "audit", *map(str, words)],
        capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip


def test_the_commands_from_sample_to_agreement(warehouse: Path) -> None:
    sheet = warehouse.parent / "cli.csv"
    done = roundhouse("sample", warehouse, "--count", "24", "--out", sheet, "--seed", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"24 completions in {sheet} (sample-")
    rows = [fill(row) for row in sample_of(warehouse)]
    rows[0]["annotator"] = ""
    bad = roundhouse("import", warehouse, write(sheet, rows))
    assert bad.returncode == 2
    assert f"{sheet}:2: no annotator" in bad.stderr
    rows[0]["annotator"] = "anna"
    done = roundhouse("import", warehouse, write(sheet, rows))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("24 verdicts imported as gold/")
    shown = roundhouse("agreement", warehouse)
    assert shown.returncode == 0, shown.stderr
    assert "toxicity: 24 completions judged by anna; 0 undecided" in shown.stdout
    assert "0.917 [" in shown.stdout
    numbers = json.loads(roundhouse("agreement", warehouse, "--format", "json").stdout)
    assert numbers["labelers"][0]["accuracy"]["false_positives"] == 2


def test_the_commands_import_nothing_heavy() -> None:
    script = (
        "import sys, pipeline.commands.audit\n"
        "heavy = {'numpy', 'duckdb', 'pyarrow', 'sklearn', 'scipy', 'statsmodels', 'pydantic'}\n"
        "sys.exit(str(heavy & set(sys.modules) or '') or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
