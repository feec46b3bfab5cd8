"""Scored rollouts as rows that TRL's trainers read: pairs, desirable or not, best of n.

The token ids are those that were sampled, the reference's log-probs those that PPO's pass over the
round stored, summed over the completion, in nats. Texts are message lists. No row is of a hold-out
prompt. Not here: which rollouts take part (selection.py), files (export.py).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from training.errors import TrainingError
from training.preference.queries import KTO_ROWS, PAIR_ROWS, SFT_ROWS, STORED_PAIRS
from training.preference.selection import Selection, preference_pairs
from warehouse.catalog import catalog
from warehouse.handle import Warehouse
from warehouse.ledger.evidence import verify_files

_TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_IDS = pa.list_(pa.int32())
_TYPES = {
    **dict.fromkeys(("prompt", "chosen", "rejected", "completion"), _TURNS),
    **dict.fromkeys(("prompt_ids", "chosen_ids", "rejected_ids", "completion_ids"), _IDS),
    **dict.fromkeys(("KL_completion_ids", "input_ids", "labels"), _IDS),
    **dict.fromkeys(("ref_chosen_logps", "ref_rejected_logps"), pa.float32()),
    **dict.fromkeys(("ref_logps", "ref_KL_logps", "margin", "reward", "threshold"), pa.float32()),
    **dict.fromkeys(("chosen_id", "rejected_id", "rollout_id", "prompt_id"), pa.string()),
    "label": pa.bool_(),
    "reference_revision": pa.string(),
    "round": pa.int32(),
}


def dpo_rows(root: str | Path, selection: Selection) -> pa.Table:
    """Pairs as DPO reads them; `chosen_ids` and `rejected_ids` are the completions alone.

    Ids and reference log-probs are NULL where the warehouse has none. Raises TrainingError for a
    pair of a hold-out prompt, or of rollouts that answer different prompts or are not there.
    """
    selection = _verified(root, selection)
    pairs = _pairs(root, selection)
    with catalog.connect(root, selection.as_of, only=selection.reads) as con:
        con.register("pairs", pairs)
        rows: pa.Table = con.sql(PAIR_ROWS).to_arrow_table()
    _refuse(rows, pc.invert(rows["is_stored"]), "name a rollout that the warehouse does not hold")
    _refuse(rows, pc.invert(rows["is_train"]), "are of hold-out prompts, which nothing trains on")
    _refuse(rows, pc.invert(rows["is_one"]), "join completions of different prompts")
    return _typed(rows.drop_columns(["is_stored", "is_train", "is_one"]))


def reward_rows(root: str | Path, selection: Selection) -> pa.Table:
    """Pairs as a reward model reads them: the texts, for it reads the dialogue by its own template.

    The sampled ids stand beside them under names that TRL's RewardTrainer does not take for whole
    dialogues.
    """
    rows = dpo_rows(root, selection).drop_columns(
        ["ref_chosen_logps", "ref_rejected_logps", "reference_revision"]
    )
    own = {"chosen_ids": "chosen_completion_ids", "rejected_ids": "rejected_completion_ids"}
    return rows.rename_columns([own.get(name, name) for name in rows.column_names])


def kto_rows(root: str | Path, selection: Selection) -> pa.Table:
    """Every scored completion with `label`: whether its reward is above the threshold.

    A reward at the threshold itself says nothing and is left out. `KL_completion_ids` is the next
    sample of the same prompt and round (of an only sample: itself).
    """
    return _candidate_rows(root, selection, KTO_ROWS, {"threshold": selection.threshold})


def sft_rows(root: str | Path, selection: Selection) -> pa.Table:
    """The best completion of each prompt and round; of equal rewards, the first rollout id.

    `labels` is -100 at the prompt's tokens: the loss is the completion's. With stored pairs their
    chosen side as text, `prompt` and `completion`: nobody sampled a revision or a person's answer.
    Imported completions are text as well.
    """
    if selection.pairs is not None:
        rows = dpo_rows(root, selection).select(
            ["prompt", "chosen", "chosen_id", "prompt_id", "round"]
        )
        return rows.rename_columns(["prompt", "completion", "rollout_id", "prompt_id", "round"])
    rows = _candidate_rows(root, selection, SFT_ROWS, {})
    return rows if selection.imported is None else rows.drop_columns(["input_ids", "labels"])


# The rows of each kind, by what `roundhouse export` calls it.
ROWS: Mapping[str, Callable[[str | Path, Selection], pa.Table]] = {
    "dpo": dpo_rows,
    "kto": kto_rows,
    "sft": sft_rows,
    "reward": reward_rows,
}


def require(rows: pa.Table, columns: tuple[str, ...]) -> None:
    """Raises TrainingError where a row has no value in one of these columns, or there is no row."""
    if not rows.num_rows:
        raise TrainingError(
            "there is no row to train on: no completed round has eligible rewards or stored pairs "
            "that differ by the margin; see `roundhouse status`, choose other rounds or a smaller "
            "margin"
        )
    for column in columns:
        is_log = column.startswith("ref_")
        what = "have no stored reference log-probs" if is_log else f"have no token ids ({column})"
        remedy = (
            "`roundhouse train CONFIG --round N` stores them for a round; or leave the round out"
            if is_log
            else "they were imported as text; leave their round out, or train a reward model"
        )
        _refuse(rows, pc.is_null(rows[column]), what, remedy)


def sample(rows: pa.Table, most: int | None, seed: int) -> pa.Table:
    """At most `most` rows, drawn without replacement, in their order."""
    if most is None or rows.num_rows <= most:
        return rows
    chosen = np.random.default_rng(seed).choice(rows.num_rows, most, replace=False)
    return rows.take(pa.array(np.sort(chosen)))


def _pairs(root: str | Path, selection: Selection) -> pa.Table:
    if selection.pairs is None:
        _refuse_unknown_source(root, selection)
        return preference_pairs(root, selection)
    asked = selection.parameters() | {"recipe": selection.pairs, "margin": selection.margin}
    del asked["allow_truncated"], asked["imported"]
    with catalog.connect(root, selection.as_of, only=selection.reads) as con:
        pairs: pa.Table = con.sql(STORED_PAIRS, params=asked).to_arrow_table()
        known = con.sql("select distinct recipe from preference_pairs order by recipe").fetchall()
    if (selection.pairs,) not in known:
        recipes = ", ".join(recipe for (recipe,) in known) or "none"
        raise TrainingError(f"{root}: no pairs of recipe {selection.pairs!r}; there are: {recipes}")
    return pairs


def _candidate_rows(
    root: str | Path, selection: Selection, sql: str, parameters: dict[str, Any]
) -> pa.Table:
    selection = _verified(root, selection)
    _refuse_unknown_source(root, selection)
    with catalog.connect(root, selection.as_of, only=selection.reads) as con:
        rows: pa.Table = con.sql(sql, params=selection.parameters() | parameters).to_arrow_table()
    return _typed(rows)


def _refuse_unknown_source(root: str | Path, selection: Selection) -> None:
    if selection.imported is None:
        return
    with catalog.connect(root, selection.as_of) as con:
        found = con.sql(
            "select distinct substr(recipe, 10) as source from rewards "
            "where starts_with(recipe, 'imported/') order by source"
        ).fetchall()
    if (selection.imported,) not in found:
        sources = ", ".join(source for (source,) in found) or "none"
        raise TrainingError(
            f"{root}: no scored completions of a source {selection.imported!r} were imported; "
            f"there are: {sources}"
        )


def _typed(rows: pa.Table) -> pa.Table:
    """The rows with message lists in place of texts, in the types that both formats keep."""
    columns = {name: rows[name] for name in rows.column_names}
    columns["prompt"] = [json.loads(text) for text in rows["prompt"].to_pylist()]
    for side in {"chosen", "rejected", "completion"} & set(columns):
        texts = rows[side].to_pylist()
        columns[side] = [[{"role": "assistant", "content": text}] for text in texts]
    schema = pa.schema([(name, _TYPES[name]) for name in columns])
    return pa.table(
        [
            values.cast(kind) if isinstance(values, pa.ChunkedArray) else pa.array(values, kind)
            for values, kind in zip(columns.values(), schema.types, strict=True)
        ],
        schema=schema,
    )


def _refuse(rows: pa.Table, is_bad: Any, what: str, remedy: str = "") -> None:
    """Raises TrainingError with count and ids where a row is bad."""
    bad = rows.filter(is_bad)
    if bad.num_rows:
        name = "chosen_id" if "chosen_id" in rows.column_names else "rollout_id"
        ids = bad[name].to_pylist()[:3]
        raise TrainingError(
            f"{bad.num_rows} of {rows.num_rows} rows {what}, first {name} {ids}"
            + (f"; {remedy}" if remedy else "")
        )


def _verified(root: str | Path, selection: Selection) -> Selection:
    """One version for all queries, whatever is published meanwhile, and its files proven whole.

    DuckDB would read a flipped bit in silence. Raises CorruptFile naming the files.
    """
    warehouse = Warehouse.open(root, read_only=True)
    as_of = warehouse.ledger.head() if selection.as_of is None else selection.as_of
    files = [file for file in warehouse.ledger.files(as_of) if selection.reads(file)]
    verify_files(warehouse.store, files)
    return dataclasses.replace(selection, as_of=as_of)
