"""Human preference pairs (HH's chosen/rejected) -> the warehouse, one commit per file.

A pair is text only, so it lies where pairs of sampled completions lie: both completions in
`rollouts` (round, token ids and log-probs NULL: no policy of this warehouse sampled them), which of
them people chose in `preference_pairs`, and the dialogue before them in `prompts`. `gold` is not
for them: it holds verdicts on one completion. Their prompts have ids of their own and purpose
`pairs`, so no night samples or evaluates on them; `rollouts.purpose` says on which side of the
hold-out split they are, by the rule of prompts.py. How much better the chosen one is nobody said:
margin 0, rewards and probability NULL. Annotators who disagree about a pair give two rows.
`pair_rows` serves other formats too. Not here: what a row of HH's files holds (hh_pairs.py), pairs
as trainers read them (training/preference/rows.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.ingest.files import FileContent, Pair
from pipeline.ingest.hh_pairs import read_pairs
from pipeline.ingest.messages import first_turn_sha256, is_holdout
from pipeline.runtime.publishing import code_version
from warehouse.errors import AlreadyPublished, Conflict
from warehouse.files import file_sha256
from warehouse.ledger.ledger import Ledger
from warehouse.ledger.reading import read_table
from warehouse.publish import publish
from warehouse.schemas import table_from_rows
from warehouse.store import open_store

SOURCE = "hh-pairs"
PARSER_VERSION = "1"


@dataclass(frozen=True)
class PairsImport:
    """What one file brought, in pairs; `problems` are its malformed lines as `file:line: why`."""

    key: str
    train: int = 0
    holdout: int = 0
    duplicates: int = 0
    problems: tuple[str, ...] = ()
    is_known: bool = False


def pairs_key(path: Path) -> str:
    """Ledger key of a file's pairs: the file's bytes, whatever it is called."""
    return f"gold-pairs/{file_sha256(path)[:16]}"


def import_pairs(root: str | Path, paths: Sequence[Path], holdout: float) -> list[PairsImport]:
    """Publishes the pairs of every file that the warehouse lacks; the same again does nothing.

    `holdout` must be the share by which this warehouse's prompts were split. Raises ConfigError for
    a file that cannot be read or holds no pair, and for another share; files before it stay.
    """
    check_import(root, paths, holdout)
    return [_import_file(root, path, holdout) for path in paths]


def check_import(root: str | Path, paths: Sequence[Path], share: float) -> None:
    """Raises ConfigError for a file that is not there.

    And for a share that would put a prompt of this warehouse on the other side of the split.
    """
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ConfigError(f"import: no such file: {', '.join(missing)}")
    if not 0 < share < 1:
        raise ConfigError(f"--holdout {share}: expected a share between 0 and 1")
    if not Ledger(open_store(root)).commits():
        return
    columns = ["prompt_id", "purpose", "first_turn_sha256"]
    for row in read_table(root, "prompts", columns=columns).to_pylist():
        if row["purpose"] not in ("train", "holdout"):
            continue
        expected = "holdout" if is_holdout(row["first_turn_sha256"], share) else "train"
        if row["purpose"] != expected:
            raise ConfigError(
                f"--holdout {share}: prompt {row['prompt_id']} of this warehouse is "
                f"{row['purpose']} and would be {expected}; name the share that the warehouse was "
                "filled with (prompts.holdout), or hold-out prompts would be trained on"
            )


def _import_file(root: str | Path, path: Path, holdout: float) -> PairsImport:
    content = read_pairs(path)
    content.require(path, "pair")
    while True:
        with contextlib.suppress(Conflict):  # another import came between: look again
            return _publish(root, path, content, holdout)


def _publish(root: str | Path, path: Path, content: FileContent, holdout: float) -> PairsImport:
    """Raises Conflict where rollouts or pairs were published since the warehouse was read."""
    key = pairs_key(path)
    ledger = Ledger(open_store(root))
    version = ledger.head()
    if ledger.find(key):
        return PairsImport(key, problems=content.problems, is_known=True)
    rows = pair_rows(content.pairs, holdout, SOURCE)
    known_pairs, known_rollouts = known_rows(root, "gold-pairs/", version)
    fresh = [r for i, r in rows.pairs.items() if i not in known_pairs]
    new_rollouts = [r for i, r in rows.rollouts.items() if i not in known_rollouts]
    ids = {row["prompt_id"] for row in fresh}
    tables = {
        "prompts": [row for i, row in rows.prompts.items() if i in ids],
        "rollouts": new_rollouts,
        "preference_pairs": fresh,
        "dead_letters": content.dead,
    }
    try:
        publish(
            root,
            key,
            {name: table_from_rows(name, found) for name, found in tables.items()},
            code_version=code_version(),
            meta={"source": SOURCE, "path": path.name, "holdout": str(holdout)},
            since=version,
        )
    except AlreadyPublished:
        return PairsImport(key, problems=content.problems, is_known=True)
    held = sum(rows.rollouts[str(r["chosen_id"])]["purpose"] == "holdout" for r in fresh)
    duplicates = len(content.pairs) - len(fresh)
    return PairsImport(key, len(fresh) - held, held, duplicates, content.problems)


@dataclass(frozen=True)
class PairRows:
    """Rows of three tables by their keys, each once."""

    prompts: dict[str, dict[str, object]]
    rollouts: dict[str, dict[str, object]]
    pairs: dict[tuple[str, str], dict[str, object]]


def pair_rows(pairs: Sequence[Pair], holdout: float, source: str) -> PairRows:
    """What pairs of `source` are in the warehouse; their recipe is `gold/<source>`."""
    rows, now = PairRows({}, {}, {}), datetime.now(UTC)
    for pair in pairs:
        messages = json.dumps(pair.messages, ensure_ascii=False)
        prompt_id = f"gold-{short_digest(source, messages)}"
        digest = first_turn_sha256(pair.messages)
        rows.prompts[prompt_id] = {
            "prompt_id": prompt_id,
            "source": source,
            "purpose": "pairs",
            "first_turn_sha256": digest,
            "messages": messages,
            "ingested_at": now,
        }
        purpose = "holdout" if is_holdout(digest, holdout) else "train"
        ids = []
        for text in (pair.chosen, pair.rejected):
            ids.append(f"{prompt_id}-{short_digest(text)}")
            rows.rollouts[ids[-1]] = {
                "rollout_id": ids[-1],
                "prompt_id": prompt_id,
                "sample_index": 0,
                "purpose": purpose,
                "policy_revision": "unknown",
                "completion": text,
                "completion_sha256": hashlib.sha256(text.encode()).hexdigest(),
                "engine": f"import/{source}",
                "engine_version": PARSER_VERSION,
                "generated_at": now,
            }
        rows.pairs[ids[0], ids[1]] = {
            "prompt_id": prompt_id,
            "recipe": f"gold/{source}",
            "chosen_id": ids[0],
            "rejected_id": ids[1],
            "margin": 0.0,
        }
    return rows


def short_digest(*parts: str) -> str:
    """16 hex digits that name these texts."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def known_rows(
    root: str | Path, prefix: str, version: int
) -> tuple[set[tuple[str, str]], set[str]]:
    """Ids of the pairs and rollouts that commits whose key begins with `prefix` brought."""
    commits = Ledger(open_store(root)).commits(version)
    keys = [commit.key for commit in commits if commit.key.startswith(prefix)]
    if not keys:
        return set(), set()
    columns = ["chosen_id", "rejected_id"]
    pairs = read_table(root, "preference_pairs", columns=columns, as_of=version, keys=keys)
    rollouts = read_table(root, "rollouts", columns=["rollout_id"], as_of=version, keys=keys)
    chosen, rejected = (pairs[name].to_pylist() for name in columns)
    return set(zip(chosen, rejected, strict=True)), set(rollouts["rollout_id"].to_pylist())
