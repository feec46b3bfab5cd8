"""Where a night's wall time goes: a stage's timing, its line on the screen, the sum over kinds."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.runtime.publishing import StageReport


@dataclass(frozen=True)
class StageTiming:
    """Wall seconds of a stage: `startup` (process, imports), `load` (models), `work`, the rest."""

    stage: str
    kind: str
    total: float
    startup: float
    load: float
    work: float


def time_by_kind(timings: list[StageTiming]) -> dict[str, float]:
    """Where the wall time went, in seconds: start-up and loading apart from the work itself."""
    spent: dict[str, float] = {}
    for timing in timings:
        loading = "starter models" if timing.kind == "set-up" else "model loading"
        parts = {"imports and processes": timing.startup, loading: timing.load}
        rest = timing.total - timing.startup - timing.load
        if timing.kind in ("sampling", "labelling", "training"):
            parts[timing.kind] = timing.work
            rest -= timing.work
        for name, seconds in (parts | {"everything else": rest}).items():
            spent[name] = spent.get(name, 0.0) + seconds
    return spent


def line_of(report: StageReport, timing: StageTiming) -> str:
    """What a night says of a stage that is done."""
    made = f"   {report.made} {report.unit}" if report.made else ""
    rate = f", {report.made / timing.work:.0f}/s" if report.made and timing.work else ""
    dead = f", {report.dead} dead letters" if report.dead else ""
    said_apart = ("refused", "rejected")
    notes = "".join(f", {k} {v}" for k, v in report.notes.items() if k not in said_apart)
    return f"  {timing.stage:<38} {timing.total:6.1f} s{made}{rate}{dead}{notes}"
