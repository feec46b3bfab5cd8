"""`roundhouse import`: files of others -> the warehouse, one commit per file, keyed by its bytes.

One way for every format: all files are read and held against what this warehouse knows of their
source, then each is published with what the warehouse lacks of it. The rows are text only, so
preference and supervised training and audits read them, and PPO cannot: it needs the token ids and
log-probs of its own policy. Not here: the formats, what a record becomes (rows.py).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.ingest.files import FileContent, json_lines, read_records
from pipeline.ingest.hh_pairs import parse_pair
from pipeline.ingest.meaning import ImportOptions
from pipeline.ingest.messages import is_holdout
from pipeline.ingest.openai_jsonl import parse_line
from pipeline.ingest.rows import (
    ImportedRows,
    PairId,
    Ranges,
    imported_rows,
    out_of_range,
    recipe_row,
    score_ranges,
)
from pipeline.ingest.trl_completions import read_completions
from pipeline.runtime.publishing import code_version
from warehouse.errors import AlreadyPublished, Conflict
from warehouse.handle import Warehouse
from warehouse.publish import publish
from warehouse.schemas import table_from_rows


@dataclass(frozen=True)
class ImportedFile:
    """What one file brought; `train` and `holdout` count scored completions.

    `duplicates` were in the warehouse already, or twice in the file; `problems` are its malformed
    lines as `file:line: why`.
    """

    key: str
    train: int = 0
    holdout: int = 0
    labels: int = 0
    train_pairs: int = 0
    holdout_pairs: int = 0
    duplicates: int = 0
    problems: tuple[str, ...] = ()
    is_known: bool = False

    @property
    def pairs(self) -> int:
        """All its pairs."""
        return self.train_pairs + self.holdout_pairs


@dataclass(frozen=True)
class ImportResult:
    """One `ImportedFile` per file; `unscaled` maps a score without a scale to its raw range."""

    files: tuple[ImportedFile, ...]
    unscaled: Ranges


def import_files(root: str | Path, paths: Sequence[Path], options: ImportOptions) -> ImportResult:
    """Publishes what every file holds and the warehouse lacks; the same again does nothing.

    `options.holdout` must be the share by which this warehouse's prompts were split. Raises
    ConfigError for another share, for a file that cannot be read or holds nothing usable, for an
    option that no file bears out, and for other options than this source was imported with.
    """
    _refuse_missing(paths)
    warehouse = Warehouse.open(root)
    _refuse_other_split(warehouse, options.holdout)
    _refuse_other_options(warehouse, options)
    contents = [_read(path, options) for path in paths]
    ranges = score_ranges([rollout for content in contents for rollout in content.rollouts])
    options.refuse_unknown(set(ranges))
    unscaled = out_of_range(ranges, options)
    done = []
    for path, content in zip(paths, contents, strict=True):
        while True:
            with contextlib.suppress(Conflict):  # another import came between: look again
                done.append(_publish(warehouse, path, content, options, unscaled))
                break
    return ImportResult(tuple(done), {name: ranges[name] for name in unscaled})


def _refuse_missing(paths: Sequence[Path]) -> None:
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ConfigError(f"import: no such file: {', '.join(missing)}")


def _refuse_other_split(warehouse: Warehouse, share: float) -> None:
    """A share that would put a prompt of this warehouse on the other side of its split."""
    if not 0 < share < 1:
        raise ConfigError(f"--holdout {share}: expected a share between 0 and 1")
    if not warehouse.ledger.commits():
        return
    columns = ["prompt_id", "purpose", "first_turn_sha256"]
    for row in warehouse.read_table("prompts", columns=columns).to_pylist():
        if row["purpose"] not in ("train", "holdout"):
            continue
        expected = "holdout" if is_holdout(row["first_turn_sha256"], share) else "train"
        if row["purpose"] != expected:
            raise ConfigError(
                f"--holdout {share}: prompt {row['prompt_id']} of this warehouse is "
                f"{row['purpose']} and would be {expected}; name the share that the warehouse was "
                "filled with (prompts.holdout), or hold-out prompts would be trained on"
            )


def _refuse_other_options(warehouse: Warehouse, options: ImportOptions) -> None:
    if not options.has_scores:
        return
    for commit in warehouse.ledger.commits():
        known = commit.meta.get("options")
        if commit.key.startswith(options.key_prefix) and known != options.text():
            raise ConfigError(
                f"--source {options.source}: this warehouse holds imports of it with the options "
                f"{known}; scores of one source mean one thing, so repeat those options or name "
                "another --source"
            )


def _read(path: Path, options: ImportOptions) -> FileContent:
    if options.format == "trl":
        content = read_completions(path, options.source, options.rewards)
    else:
        parse = parse_line if options.has_scores else parse_pair
        lines = json_lines(path, "; nothing of it is imported")
        content = read_records(path, lines, lambda line: parse(json.loads(line)), options.stage)
    content.require(path, "completion" if options.has_scores else "pair")
    return content


def _publish(
    warehouse: Warehouse,
    path: Path,
    content: FileContent,
    options: ImportOptions,
    unscaled: Sequence[str],
) -> ImportedFile:
    """Raises Conflict where a table was published since the warehouse was read."""
    key = options.key(path)
    version = warehouse.ledger.head()
    if warehouse.is_published(key):
        return ImportedFile(key, problems=content.problems, is_known=True)
    rows = imported_rows(content, options, unscaled)
    rows.leave_out(*_known_rows(warehouse.at(version), options.key_prefix))
    tables = {
        "prompts": [*rows.prompts.values()],
        "rollouts": [*rows.rollouts.values()],
        "labels": [row for labels in rows.labels.values() for row in labels],
        "rewards": [*rows.rewards.values()],
        "preference_pairs": [*rows.pairs.values()],
        "templates": [recipe_row(options)] if options.has_scores else [],
        "dead_letters": content.dead,
    }
    meta = {"source": options.source, "path": path.name, "holdout": str(options.holdout)}
    try:
        publish(
            warehouse.root,
            key,
            {name: table_from_rows(name, found) for name, found in tables.items()},
            code_version=code_version(),
            meta=meta | ({"options": options.text()} if options.has_scores else {}),
            since=version,
        )
    except AlreadyPublished:
        return ImportedFile(key, problems=content.problems, is_known=True)
    return _counts(key, content, rows, options)


def _known_rows(warehouse: Warehouse, prefix: str) -> tuple[set[str], set[PairId]]:
    """Ids of the rollouts and pairs that commits whose key begins with `prefix` brought."""
    commits = warehouse.ledger.commits(warehouse.as_of)
    keys = [commit.key for commit in commits if commit.key.startswith(prefix)]
    if not keys:
        return set(), set()
    columns = ["chosen_id", "rejected_id"]
    rollouts = warehouse.read_table("rollouts", columns=["rollout_id"], keys=keys)
    pairs = warehouse.read_table("preference_pairs", columns=columns, keys=keys)
    chosen, rejected = (pairs[name].to_pylist() for name in columns)
    return set(rollouts["rollout_id"].to_pylist()), set(zip(chosen, rejected, strict=True))


def _counts(
    key: str, content: FileContent, rows: ImportedRows, options: ImportOptions
) -> ImportedFile:
    held = sum(row["purpose"] == "holdout" for row in rows.rewards.values())
    prompts = [rows.prompts[str(pair["prompt_id"])] for pair in rows.pairs.values()]
    held_pairs = sum(is_holdout(str(p["first_turn_sha256"]), options.holdout) for p in prompts)
    brought = len(rows.rewards) + len(rows.pairs)
    return ImportedFile(
        key,
        train=len(rows.rewards) - held,
        holdout=held,
        labels=sum(map(len, rows.labels.values())),
        train_pairs=len(rows.pairs) - held_pairs,
        holdout_pairs=held_pairs,
        duplicates=len(content.rollouts) + len(content.pairs) - brought,
        problems=content.problems,
    )
