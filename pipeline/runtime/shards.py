"""The one Beam shape: one element is one shard; a shard in, a shard out, a manifest row.

Beam receives paths, never rows. The DoFn reads a Parquet shard, lets a worker do its work in the
batches its engine likes best, writes rows and dead letters (temporary name, then rename), then the
manifest, and emits that manifest. This gave the same result on every runner tried, resumes by
skipping finished manifests and keeps memory flat. Not here: what a worker does, and publishing.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import BeamConfig, RunConfig
from pipeline.errors import StageError
from pipeline.runtime.machine import package_versions
from pipeline.runtime.progress import Heartbeat
from warehouse.files import file_sha256, whole_file, write_atomically
from warehouse.store.disk_full import naming_full_disk
from warehouse.store.local_cache import local_folder, user_cache

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions


@dataclass(frozen=True)
class ShardResult:
    """What a worker made of one shard: every input row is in `ok_rows` or is a dead letter."""

    rows: pa.Table
    dead: pa.Table
    ok_rows: int
    tokens: int = 0


class ShardWorker(Protocol):
    """The work of a stage. Built once per process; `run` is called shard by shard."""

    def run(self, rows: pa.Table, progress: Heartbeat) -> ShardResult:
        """Processes one input shard; a bad row becomes a dead letter, only a dead engine raises."""
        ...


# Freeing an engine costs over a second and frees nothing that the end of the stage's process, which
# comes next, does not free: so workers are kept to that end.
_KEPT: list[ShardWorker] = []
_REASON = "reason-{}.txt"
_RESUME = "free space there and run the same command again: finished shards are kept"


@dataclass(frozen=True)
class Manifest:
    """One finished shard. `rows_in == rows_ok + rows_dead`; seconds are wall time of this shard."""

    shard: str
    input_sha256: str
    config_sha256: str
    rows_in: int
    rows_ok: int
    rows_dead: int
    rows_out: int
    tokens: int
    load_seconds: float
    work_seconds: float
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StageSpec:
    """A stage's identity: its staging folder is named by `name` and the hash of what it reads."""

    name: str
    folder: Path
    config_sha256: str
    unit: str
    beam: BeamConfig

    def path(self, kind: str, shard: str, suffix: str = "parquet") -> Path:
        """Where the staged file of this kind and shard lies."""
        return self.folder / f"{kind}-{shard}.{suffix}"


def staging_folder(root: str, name: str, identity: str) -> Path:
    """`_staging/<name>-<hash>` in the warehouse's folder on this machine."""
    return local_folder(root) / "_staging" / f"{name.replace('/', '-')}-{identity[:16]}"


def stage_spec(config: RunConfig, name: str, identity: str, unit: str) -> StageSpec:
    """The spec of a stage of this run; `identity` is the hash of all that its rows depend on."""
    folder = staging_folder(config.warehouse, name, identity)
    return StageSpec(name, folder, identity, unit, config.beam)


def answers_file(root: str | None) -> Path:
    """What remote judges have answered on this machine, by warehouse; None: outside of any."""
    folder = user_cache() if root is None else local_folder(root)
    return folder / "_cache" / "answers.sqlite"


def split_rows(rows: pa.Table, shard_rows: int) -> list[pa.Table]:
    """Slices of at most `shard_rows` rows, in order."""
    return [rows.slice(i, shard_rows) for i in range(0, rows.num_rows, shard_rows)]


def run_stage(
    spec: StageSpec, shards: Sequence[pa.Table], make_worker: Callable[[], ShardWorker]
) -> list[Manifest]:
    """Brings every shard to its manifest, skipping the finished; returns all manifests in order.

    `make_worker` must be picklable: it is called in Beam's worker process. Raises StageError with
    the reason when a shard's rows do not add up or an engine is dead.
    """
    spec.folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:05d}" for i in range(len(shards))]
    for name, rows in zip(names, shards, strict=True):
        if not spec.path("input", name).exists():
            _write_parquet(rows, spec.path("input", name))
    todo = [name for name in names if _finished(spec, name) is None]
    if todo:
        import apache_beam as beam

        for reason in spec.folder.glob(_REASON.format("*")):
            reason.unlink()
        try:
            with beam.Pipeline(options=beam_options(spec.beam)) as pipeline:
                _ = (
                    pipeline
                    | "shards" >> beam.Create(todo, reshuffle=spec.beam.workers > 1)
                    | "work" >> beam.ParDo(_shard_do_fn(spec, make_worker))
                )
        except Exception as error:
            reasons = sorted(spec.folder.glob(_REASON.format("*")))
            if not reasons:
                raise
            raise StageError(f"{spec.name}: {reasons[0].read_text()}") from error
    manifests = [_finished(spec, name) for name in names]
    missing = [n for n, m in zip(names, manifests, strict=True) if m is None]
    if missing:
        raise StageError(f"{spec.name}: shards {missing} have no manifest in {spec.folder}")
    return [m for m in manifests if m is not None]


def staged_rows(spec: StageSpec, manifests: Sequence[Manifest], kind: str) -> list[Path]:
    """The staged Parquet files of one kind (`rows` or `dead`), one per manifest."""
    return [spec.path(kind, manifest.shard) for manifest in manifests]


def _finished(spec: StageSpec, shard: str) -> Manifest | None:
    """The shard's manifest if it is there and made from this very input by this configuration."""
    path = spec.path("manifest", shard, "json")
    if not path.exists():
        return None
    manifest = Manifest(**json.loads(path.read_text()))
    same = (
        manifest.config_sha256 == spec.config_sha256
        and manifest.input_sha256 == file_sha256(spec.path("input", shard))
        and spec.path("rows", shard).exists()
        and spec.path("dead", shard).exists()
    )
    return manifest if same else None


def _shard_do_fn(spec: StageSpec, make_worker: Callable[[], ShardWorker]) -> beam.DoFn:
    import apache_beam as beam

    class ShardDoFn(beam.DoFn):
        """Reads, works, writes; see the module's docstring."""

        def setup(self) -> None:
            started = time.monotonic()
            with _reason_kept(spec, "start"):
                self._worker = make_worker()
            _KEPT.append(self._worker)
            self._load_seconds = time.monotonic() - started

        def process(self, shard: str) -> Iterator[str]:
            with _reason_kept(spec, shard):
                manifest = _process_shard(spec, shard, self._worker, self._load_seconds)
            self._load_seconds = 0.0  # counted once per process
            yield json.dumps(asdict(manifest))

    return ShardDoFn()


@contextlib.contextmanager
def _reason_kept(spec: StageSpec, name: str) -> Iterator[None]:
    """Writes down what ended the stage: Beam hands on a traceback, whose reader wants a line."""
    try:
        yield
    except Exception as error:
        with contextlib.suppress(OSError):  # where no byte more can be written, Beam's error stands
            write_atomically(spec.folder / _REASON.format(name), f"{type(error).__name__}: {error}")
        raise


def _process_shard(
    spec: StageSpec, shard: str, worker: ShardWorker, load_seconds: float
) -> Manifest:
    source = spec.path("input", shard)
    rows = pq.read_table(source)
    heartbeat = Heartbeat(spec.folder, shard, rows.num_rows, spec.unit)
    started = time.monotonic()
    result = worker.run(rows, heartbeat)
    seconds = time.monotonic() - started
    if rows.num_rows != result.ok_rows + result.dead.num_rows:
        raise StageError(
            f"{spec.name} shard {shard}: {rows.num_rows} rows in, but {result.ok_rows} ok and "
            f"{result.dead.num_rows} dead; a worker must account for every row ({source})"
        )
    _write_parquet(result.rows, spec.path("rows", shard))
    _write_parquet(result.dead, spec.path("dead", shard))
    manifest = Manifest(
        shard=shard,
        input_sha256=file_sha256(source),
        config_sha256=spec.config_sha256,
        rows_in=rows.num_rows,
        rows_ok=result.ok_rows,
        rows_dead=result.dead.num_rows,
        rows_out=result.rows.num_rows,
        tokens=result.tokens,
        load_seconds=load_seconds,
        work_seconds=seconds,
        versions=package_versions(),
    )
    write_atomically(spec.path("manifest", shard, "json"), json.dumps(asdict(manifest)))
    return manifest


def _write_parquet(rows: pa.Table, path: Path) -> None:
    with (
        whole_file(path) as fresh,
        naming_full_disk(path.parent, f"{path.name} before compression", rows.nbytes, _RESUME),
    ):
        pq.write_table(rows, fresh, compression="zstd", compression_level=1)


def beam_options(config: BeamConfig) -> PipelineOptions:
    """Pipeline options for this configuration; `config.options` (after `--`) come last and win."""
    from apache_beam.options.pipeline_options import PipelineOptions

    flags = [f"--runner={config.runner}"]
    if config.runner == "FnApiRunner" and config.workers > 1:
        flags += [
            "--direct_running_mode=multi_processing",
            f"--direct_num_workers={config.workers}",
        ]
    if config.runner.endswith("DaskRunner"):
        # Each shard must be its own partition, or all of them land on one worker.
        flags.append("--dask_partition_size=1")
    return PipelineOptions(flags + list(config.options))
