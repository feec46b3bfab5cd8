"""Scored rollouts of others -> the warehouse: one commit per file, keyed by the file's bytes.

Rows are text only, so preference and supervised training and audits read them, and PPO cannot: it
needs the token ids and log-probs of its own policy. Their prompts have ids of their own and purpose
`imported`, so no night samples or evaluates on them; `rollouts.purpose` says on which side of the
hold-out split they are. Not here: the formats, what a row holds (rows.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.ingest.files import FileContent
from pipeline.ingest.meaning import ImportOptions
from pipeline.ingest.openai_jsonl import read_chat_lines
from pipeline.ingest.pairs import PairRows, check_import, known_rows, pair_rows
from pipeline.ingest.rows import (
    ImportedRows,
    Ranges,
    Row,
    imported_rows,
    out_of_range,
    recipe_row,
    score_ranges,
)
from pipeline.ingest.trl_completions import read_completions
from pipeline.runtime.publishing import code_version
from warehouse.errors import AlreadyPublished, Conflict
from warehouse.files import file_sha256
from warehouse.ledger.ledger import Ledger
from warehouse.publish import publish
from warehouse.schemas import table_from_rows
from warehouse.store import open_store


@dataclass(frozen=True)
class ScoredImport:
    """What one file brought; `duplicates` were in the warehouse already, or twice in the file."""

    key: str
    train: int = 0
    holdout: int = 0
    labels: int = 0
    pairs: int = 0
    duplicates: int = 0
    problems: tuple[str, ...] = ()
    is_known: bool = False


@dataclass(frozen=True)
class ImportResult:
    """One `ScoredImport` per file; `unscaled` maps a score without a scale to its raw range."""

    files: tuple[ScoredImport, ...]
    unscaled: Ranges


def import_scored(root: str | Path, paths: Sequence[Path], options: ImportOptions) -> ImportResult:
    """Publishes what every file holds and the warehouse lacks; the same again does nothing.

    Raises ConfigError for a file that cannot be read or holds nothing usable, for an option that no
    file bears out, and for other options than this source was imported with.
    """
    check_import(root, paths, options.holdout)
    _refuse_other_options(root, options)
    contents = [_read(path, options) for path in paths]
    ranges = score_ranges([rollout for content in contents for rollout in content.rollouts])
    options.refuse_unknown(set(ranges))
    unscaled = out_of_range(ranges, options)
    done = []
    for path, content in zip(paths, contents, strict=True):
        while True:
            with contextlib.suppress(Conflict):  # another import came between: look again
                done.append(_publish(root, path, content, options, unscaled))
                break
    return ImportResult(tuple(done), {name: ranges[name] for name in unscaled})


def _read(path: Path, options: ImportOptions) -> FileContent:
    if options.format == "trl":
        content = read_completions(path, options.source, options.rewards)
    else:
        content = read_chat_lines(path)
    content.require(path, "completion")
    return content


def _refuse_other_options(root: str | Path, options: ImportOptions) -> None:
    for commit in Ledger(open_store(root)).commits():
        known = commit.meta.get("options")
        if commit.key.startswith(_prefix(options)) and known != options.text():
            raise ConfigError(
                f"--source {options.source}: this warehouse holds imports of it with the options "
                f"{known}; scores of one source mean one thing, so repeat those options or name "
                "another --source"
            )


def _prefix(options: ImportOptions) -> str:
    return f"import/{options.source}/"


def _publish(
    root: str | Path,
    path: Path,
    content: FileContent,
    options: ImportOptions,
    unscaled: Sequence[str],
) -> ScoredImport:
    """Raises Conflict where a table was published since the warehouse was read."""
    key = f"{_prefix(options)}{file_sha256(path)[:16]}"
    ledger = Ledger(open_store(root))
    version = ledger.head()
    if ledger.find(key):
        return ScoredImport(key, problems=content.problems, is_known=True)
    scored = imported_rows(content.rollouts, options, unscaled)
    pairs = pair_rows(content.pairs, options.holdout, options.source)
    known_pairs, known_rollouts = known_rows(root, _prefix(options), version)
    for row_id in known_rollouts:
        scored.rollouts.pop(row_id, None)
        pairs.rollouts.pop(row_id, None)
    for pair_id in known_pairs:
        pairs.pairs.pop(pair_id, None)
    tables = _tables(scored, pairs, content, options)
    try:
        publish(
            root,
            key,
            {name: table_from_rows(name, rows) for name, rows in tables.items()},
            code_version=code_version(),
            meta={
                "source": options.source,
                "path": path.name,
                "holdout": str(options.holdout),
                "options": options.text(),
            },
            since=version,
        )
    except AlreadyPublished:
        return ScoredImport(key, problems=content.problems, is_known=True)
    held = sum(row["purpose"] == "holdout" for row in scored.rollouts.values())
    brought = len(scored.rollouts) + len(pairs.pairs)
    return ScoredImport(
        key,
        train=len(scored.rollouts) - held,
        holdout=held,
        labels=len(tables["labels"]),
        pairs=len(pairs.pairs),
        duplicates=len(content.rollouts) + len(content.pairs) - brought,
        problems=content.problems,
    )


def _tables(
    scored: ImportedRows, pairs: PairRows, content: FileContent, options: ImportOptions
) -> dict[str, list[Row]]:
    """The rows by table, of the rollouts and pairs that are new."""
    prompts = {str(row["prompt_id"]) for row in scored.rollouts.values()}
    paired = {str(row["prompt_id"]) for row in pairs.pairs.values()}
    return {
        "prompts": [
            *(row for i, row in scored.prompts.items() if i in prompts),
            *(row for i, row in pairs.prompts.items() if i in paired),
        ],
        "rollouts": [*scored.rollouts.values(), *pairs.rollouts.values()],
        "labels": [row for i in scored.rollouts for row in scored.labels[i]],
        "rewards": [scored.rewards[i] for i in scored.rollouts],
        "preference_pairs": list(pairs.pairs.values()),
        "templates": [recipe_row(options)],
        "dead_letters": content.dead,
    }
