"""What verdicts say about the labelers, and the commands from sample to agreement."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.audit.agreement import audit_agreement
from pipeline.audit.sample import draw_sample
from pipeline.audit.verdicts import import_verdicts
from tests.commands import roundhouse
from tests.pipeline.audit.filled import fill, sample_of, write
from tests.warehouse.opened import read_table
from warehouse.errors import WarehouseError


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
    said = roundhouse("audit", "agreement", warehouse)
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


def test_agreement_without_verdicts_says_how_to_get_them(warehouse: Path) -> None:
    with pytest.raises(WarehouseError, match="no human verdicts on 'toxicity'; draw a sample"):
        audit_agreement(warehouse, "toxicity")


def test_the_commands_from_sample_to_agreement(warehouse: Path) -> None:
    sheet = warehouse.parent / "cli.csv"
    done = roundhouse("audit", "sample", warehouse, "--count", 24, "--out", sheet, "--seed", 0)
    assert done.stdout.startswith(f"24 completions in {sheet} (sample-")
    rows = [fill(row) for row in sample_of(warehouse)]
    rows[0]["annotator"] = ""
    bad = roundhouse("audit", "import", warehouse, write(sheet, rows), code=2)
    assert f"{sheet}:2: no annotator" in bad.stderr
    rows[0]["annotator"] = "anna"
    done = roundhouse("audit", "import", warehouse, write(sheet, rows))
    assert done.stdout.startswith("24 verdicts imported as gold/")
    shown = roundhouse("audit", "agreement", warehouse)
    assert "toxicity: 24 completions judged by anna; 0 undecided" in shown.stdout
    assert "0.917 [" in shown.stdout
    numbers = json.loads(roundhouse("audit", "agreement", warehouse, "--format", "json").stdout)
    assert numbers["labelers"][0]["accuracy"]["false_positives"] == 2


def test_the_commands_import_nothing_heavy() -> None:
    script = (
        "import sys, pipeline.commands.audit\n"
        "heavy = {'numpy', 'duckdb', 'pyarrow', 'sklearn', 'scipy', 'statsmodels', 'pydantic'}\n"
        "sys.exit(str(heavy & set(sys.modules) or '') or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
