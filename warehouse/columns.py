"""How a table is written down: its columns as `"name type, name type?"`, and what else it states.

Not here: the tables themselves (schemas.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

_TERM = pa.struct(
    [("labeler", pa.string()), ("label_id", pa.string())]
    + [(name, pa.float64()) for name in ("value", "mean", "sd", "weight", "contribution")]
)
_LABEL_LOGPROB = pa.struct(
    [("label", pa.string()), ("token_id", pa.int32()), ("logprob", pa.float64())]
)
_TYPES: dict[str, pa.DataType] = {
    "str": pa.string(),
    "text": pa.large_string(),
    "bool": pa.bool_(),
    "i16": pa.int16(),
    "i32": pa.int32(),
    "i64": pa.int64(),
    "f32": pa.float32(),
    "f64": pa.float64(),
    "time": pa.timestamp("us", tz="UTC"),
    "ids": pa.list_(pa.int32()),
    "floats": pa.list_(pa.float32()),
    "names": pa.list_(pa.string()),
    "label_logprobs": pa.list_(_LABEL_LOGPROB),
    "terms": pa.list_(_TERM),
}


@dataclass(frozen=True)
class Table:
    """One table of the warehouse.

    `dictionary` names the columns worth a dictionary encoding (few distinct values);
    `delta` the near-unique, sorted strings stored as DELTA_BYTE_ARRAY. The value of `folder` stands
    in the path of a file that has but one: who asks for another need not open it.
    """

    name: str
    grain: str
    schema: pa.Schema
    key: tuple[str, ...]
    sort: tuple[str, ...]
    row_group_size: int = 122_880
    by_round: bool = True
    volatile: tuple[str, ...] = ()
    dictionary: tuple[str, ...] = ()
    delta: tuple[str, ...] = ()
    folder: str | None = None


def schema(columns: str) -> pa.Schema:
    """`"name type, name type?"` as a schema: field ids count from 1, a `?` makes it nullable."""
    fields = []
    for number, column in enumerate(columns.split(","), start=1):
        name, kind = column.split()
        about = {"PARQUET:field_id": str(number)}
        is_nullable = kind.endswith("?")
        fields.append(pa.field(name, _TYPES[kind.rstrip("?")], is_nullable, about))
    return pa.schema(fields)


def words(text: str) -> tuple[str, ...]:
    """The words of `text`."""
    return tuple(text.split())
