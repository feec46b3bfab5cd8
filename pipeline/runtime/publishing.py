"""From staged shards to one commit, and the report a stage hands back to the night."""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.runtime.shards import Manifest, StageSpec, staged_rows
from warehouse.errors import AlreadyPublished
from warehouse.files import sha256_of
from warehouse.publish import publish, read_staged


@dataclass(frozen=True)
class StageReport:
    """What a stage did, in counts and seconds; `load` is models, `work` what the stage is for.

    `rows` went in and `dead` of them failed beside them; `made` `unit`s came out.
    """

    key: str
    rows: int = 0
    dead: int = 0
    made: int = 0
    unit: str = "rows"
    tokens: int = 0
    load_seconds: float = 0.0
    work_seconds: float = 0.0
    notes: dict[str, str] = field(default_factory=dict)


def publish_stage(
    config: RunConfig,
    spec: StageSpec,
    manifests: Sequence[Manifest],
    table: str,
    *,
    key: str,
    round_number: int | None = None,
    extra: Mapping[str, pa.Table] | None = None,
) -> StageReport:
    """Publishes the staged rows and dead letters under `key`, then sweeps the staging folder.

    With `round_number`, every row of a table by round must carry it. If another run has published
    the key meanwhile, its rows stand and ours are dropped.
    """
    tables = {
        table: read_staged(staged_rows(spec, manifests, "rows"), table),
        "dead_letters": read_staged(staged_rows(spec, manifests, "dead"), "dead_letters"),
        **(extra or {}),
    }
    report = report_of(key, spec, manifests)
    publish_once(
        config,
        key,
        tables,
        round_number=round_number,
        config_sha256=spec.config_sha256,
        meta=work_meta(report),
    )
    shutil.rmtree(spec.folder, ignore_errors=True)
    return report


def report_of(key: str, spec: StageSpec, manifests: Sequence[Manifest]) -> StageReport:
    """The sums over a stage's shards."""
    return StageReport(
        key=key,
        rows=sum(m.rows_ok for m in manifests),
        dead=sum(m.rows_dead for m in manifests),
        made=sum(m.rows_out for m in manifests),
        unit=spec.unit,
        tokens=sum(m.tokens for m in manifests),
        load_seconds=sum(m.load_seconds for m in manifests),
        work_seconds=sum(m.work_seconds for m in manifests),
    )


def work_meta(report: StageReport) -> dict[str, str]:
    """What a commit says of the work behind it, for the mart `stage_throughput`.

    Seconds are of all workers together; a stage that was resumed counts what its parts took.
    """
    return {
        "made": str(report.made),
        "unit": report.unit,
        "dead": str(report.dead),
        "tokens": str(report.tokens),
        "load_seconds": f"{report.load_seconds:.3f}",
        "work_seconds": f"{report.work_seconds:.3f}",
    }


def publish_once(
    config: RunConfig,
    key: str,
    tables: Mapping[str, pa.Table],
    *,
    round_number: int | None = None,
    config_sha256: str = "",
    meta: Mapping[str, str] | None = None,
    remove: Sequence[str] = (),
) -> None:
    """Publishes unless the key is there already.

    `remove`: live files whose rows these replace.
    """
    with contextlib.suppress(AlreadyPublished):
        publish(
            config.warehouse,
            key,
            tables,
            round=round_number,
            code_version=code_version(),
            config_sha256=config_sha256 or sha256_of(config.model_dump(mode="json")),
            meta=dict(meta or {}),
            remove=remove,
        )


@functools.cache
def code_version() -> str:
    """The package's version and, in a checkout, its commit."""
    version = metadata.version("roundhouse")
    git = shutil.which("git")
    if git is None:
        return version
    head = subprocess.run(
        [git, "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{version}+{head.stdout.strip()}" if head.returncode == 0 else version
