"""`roundhouse export`: preference rows as one file that `datasets.load_dataset` and TRL read.

Texts are message lists, which TRL renders with the policy's chat template; the sampled token ids
and the stored reference log-probs stand beside them. Not here: the rows (rows.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from training.preference.rows import ROWS
from training.preference.selection import Selection
from warehouse.files import whole_file

# TRL's collators take what is there for every row: a NULL among them would stop its trainer.
_ALL_OR_NONE = (
    ("ref_chosen_logps", "ref_rejected_logps", "reference_revision"),
    ("ref_logps", "ref_KL_logps", "reference_revision"),
    ("prompt_ids", "chosen_ids", "rejected_ids"),
    ("prompt_ids", "completion_ids", "KL_completion_ids"),
    ("prompt_ids", "chosen_completion_ids", "rejected_completion_ids"),
    ("input_ids", "labels"),
)


def export_rows(root: str | Path, kind: str, out: Path, selection: Selection) -> pa.Table:
    """Writes the rows of one trainer to `out` (.jsonl or .parquet) in one rename; what was written.

    Token ids and reference log-probs are left out where a row has none. Raises ValueError for
    another suffix, TrainingError as rows.py does.
    """
    if out.suffix not in _WRITERS:
        raise ValueError(f"{out}: name the export *.jsonl or *.parquet")
    table = ROWS[kind](root, selection)
    for group in _ALL_OR_NONE:
        there = [name for name in group if name in table.column_names]
        if len(there) == len(group) and any(table[name].null_count for name in there):
            table = table.drop_columns(there)
    with whole_file(out) as fresh:
        _WRITERS[out.suffix](table, fresh)
    return table


def _write_jsonl(table: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in table.to_pylist():
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


_WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    ".jsonl": _write_jsonl,
    ".parquet": pq.write_table,
}
SUFFIXES = tuple(_WRITERS)
