"""What a TRL trainer is given and leaves behind: a fit policy folder in, a new folder out.

The new folder is in Hugging Face layout, with the tokenizer byte for byte and `training.json`,
which says how it was made, and `training_rows.json`, the ids of the rows; it appears in one rename.
Not here: training (trl_trainer.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import AutoConfig

from training.errors import TrainingError
from training.revision import TOKENIZER_FILES, policy_revision
from warehouse.files import text_sha256, whole_folder

RECORD = "training.json"
ROWS = "training_rows.json"


@dataclass(frozen=True)
class Trained:
    """A trained model on disk.

    `losses` has one entry per optimizer step, taken before it; `first` and `last` are TRL's metrics
    of the first and the last step.
    """

    folder: Path
    revision: str
    losses: list[float]
    first: dict[str, float]
    last: dict[str, float]


def refuse_existing(out_dir: Path) -> None:
    """Raises TrainingError where there is something at `out_dir` already."""
    if out_dir.exists():
        raise TrainingError(f"{out_dir} exists already; name another folder, or remove it")


def refuse_unfit(policy_dir: Path, rows: pa.Table, columns: Sequence[str]) -> None:
    """Raises TrainingError for a model that is no decoder, and ids that its vocabulary lacks."""
    config = AutoConfig.from_pretrained(policy_dir)
    if config.is_encoder_decoder:
        raise TrainingError(f"{policy_dir}: an encoder-decoder model; TRL trains decoders only")
    size = config.get_text_config().vocab_size
    for column in columns:
        highest = max(max(ids, default=0) for ids in rows[column].to_pylist())
        if highest >= size:
            raise TrainingError(
                f"{column} holds token {highest}, the vocabulary of {policy_dir} ends at "
                f"{size - 1}: the rows were tokenized for another policy; name that one"
            )


def rows_record(rows: pa.Table) -> dict[str, Any]:
    """Which rows trained: their number, their rounds, and the hash of their ids' file.

    What the rows' Arrow metadata says of where they come from (`made_from`) stands beside it.
    """
    rounds = set(rows["round"].to_pylist()) if "round" in rows.column_names else set()
    made_from = {
        name.decode(): value.decode() for name, value in (rows.schema.metadata or {}).items()
    }
    return {
        "rows": rows.num_rows,
        "rows_sha256": text_sha256(rows_file(rows)),
        "rounds": sorted(rounds - {None}),
        "made_from": made_from,
    }


def rows_file(rows: pa.Table) -> str:
    """The JSON of `training_rows.json`: a list of ids per id column there is, in parallel.

    The columns are chosen_id and rejected_id, or rollout_id.
    """
    named = [n for n in ("chosen_id", "rejected_id", "rollout_id") if n in rows.column_names]
    return json.dumps({name: rows[name].to_pylist() for name in named})


def save_trained(
    model: Any, out_dir: Path, policy_dir: Path, record: dict[str, Any], rows: pa.Table
) -> str:
    """Writes the model beside `out_dir`, then renames it in; its revision."""
    # The trainer turned the key-value cache off, which would make every later generation slow.
    model.config.use_cache = getattr(AutoConfig.from_pretrained(policy_dir), "use_cache", True)
    with whole_folder(out_dir) as fresh:
        model.save_pretrained(fresh)
        for name in TOKENIZER_FILES:
            if (policy_dir / name).is_file():
                shutil.copyfile(policy_dir / name, fresh / name)
        (fresh / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        (fresh / ROWS).write_text(rows_file(rows))
        return policy_revision(fresh)
