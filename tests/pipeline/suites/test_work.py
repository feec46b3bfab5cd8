"""What stays of the hidden folder in which a command works: nothing, or a failed stage's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError, StageFailed
from pipeline.runtime.machine import choose_device
from pipeline.suites.work import PROGRESS, logs_of, run_stage, stage_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def use(out: Path, error: BaseException | None = None) -> None:
    with stage_folder(out) as work:
        assert work.parent == out.parent
        (work / "rows.parquet").write_bytes(b"PAR1")
        logs_of(work).mkdir()
        (logs_of(work) / "stage.log").write_text("why\n")
        if error is not None:
            raise error


def test_nothing_stays_of_what_went_well_or_was_wrong_use(tmp_path: Path):
    out = tmp_path / "out.csv"
    use(out)
    assert names(tmp_path) == []
    for error in (ConfigError("a wrong name"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            use(out, error)
        assert names(tmp_path) == []


def test_the_logs_of_a_failed_stage_stay_and_are_where_the_error_says(tmp_path: Path):
    out = tmp_path / "out.csv"
    out.write_text("yesterday's")
    with pytest.raises(StageFailed) as caught:
        run_failing(out)
    reason, log, unwritten = str(caught.value).split("\n")
    assert reason == "ZeroDivisionError: no more"
    assert unwritten == f"{out} is not written."
    assert "ZeroDivisionError: no more" in Path(log.removeprefix("Its log: ")).read_text()
    kept, report = names(tmp_path)
    assert (kept[:9], kept[-5:], report) == (".out.csv.", ".logs", "out.csv")
    assert out.read_text() == "yesterday's"


def run_failing(out: Path) -> None:
    with stage_folder(out) as work:
        (work / PROGRESS).mkdir()
        run_stage(work, "one", "labelling", failing, device=choose_device("cpu"))


def failing() -> None:
    raise ZeroDivisionError("no more")


@pytest.mark.parametrize(
    ("out", "why"), [("none/report.json", "there is no folder"), (".", "is a folder; name a file")]
)
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, out: str, why: str):
    with pytest.raises(ConfigError, match=why), stage_folder(tmp_path / out):
        pass
