"""The schemas are frozen: a column may be added at the end, nothing else may change.

`schemas_v1.json`, `schemas_v2.json` and so on hold every schema version there was. To add columns:
append them, nullable, raise SCHEMA_VERSION and write a snapshot beside the others.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from warehouse.errors import SchemaMismatch
from warehouse.schemas import SCHEMA_VERSION, TABLES, conform, table_from_rows

SNAPSHOTS = {
    version: json.loads((Path(__file__).parent / f"schemas_v{version}.json").read_text())
    for version in range(1, SCHEMA_VERSION + 1)
}
SNAPSHOT = SNAPSHOTS[SCHEMA_VERSION]


def describe(field: pa.Field) -> str:
    number = field.metadata[b"PARQUET:field_id"].decode()
    return f"{number} {field.name}: {field.type}{'?' if field.nullable else ''}"


def test_no_table_is_gone_and_none_is_unrecorded() -> None:
    assert sorted(TABLES) == sorted(SNAPSHOT)


@pytest.mark.parametrize("name", TABLES)
def test_name_type_id_and_nullability_are_those_of_the_snapshot(name: str) -> None:
    table = TABLES[name]
    assert list(table.key) == SNAPSHOT[name]["key"]
    assert [describe(field) for field in table.schema] == SNAPSHOT[name]["columns"]


@pytest.mark.parametrize("version", range(2, SCHEMA_VERSION + 1))
def test_a_version_only_appends_nullable_columns_to_the_one_before(version: int) -> None:
    """Their ids count on, so that none is used a second time; keys stay, tables may be new."""
    before, after = SNAPSHOTS[version - 1], SNAPSHOTS[version]
    assert set(before) <= set(after)
    added = 0
    for name, table in before.items():
        assert after[name]["key"] == table["key"]
        columns, known = after[name]["columns"], len(table["columns"])
        assert columns[:known] == table["columns"]
        fresh = columns[known:]
        assert all(column.endswith("?") for column in fresh), f"{name}: {fresh}"
        ids = [int(column.split()[0]) for column in columns]
        assert ids == list(range(1, len(columns) + 1))
        added += len(fresh)
    assert added or set(after) - set(before), "a version without a change"


@pytest.mark.parametrize("name", TABLES)
def test_key_sort_and_encodings_name_columns_of_the_table(name: str) -> None:
    table = TABLES[name]
    named = {*table.key, *table.sort, *table.dictionary, *table.delta, *table.volatile}
    assert named <= set(table.schema.names)
    assert not set(table.dictionary) & set(table.delta)
    assert table.by_round == ("round" in table.schema.names)


def test_conform_orders_casts_and_fills() -> None:
    rows = pa.table({"text": ["t"], "kind": ["rubric"], "name": ["n"], "version": ["1"]})
    rows = conform("templates", rows.append_column("template_sha256", pa.array(["a"])))
    assert rows.schema.equals(TABLES["templates"].schema)
    assert rows.to_pylist()[0]["text"] == "t"


def test_conform_names_what_does_not_fit() -> None:
    row = {"template_sha256": "a", "kind": "rubric", "name": "n", "version": "1", "text": "t"}
    with pytest.raises(SchemaMismatch, match=r"templates: unknown columns \['mood'\]"):
        table_from_rows("templates", [row | {"mood": "good"}])
    with pytest.raises(SchemaMismatch, match="column kind has 1 NULLs"):
        table_from_rows("templates", [row | {"kind": None}])
    del row["name"]
    with pytest.raises(SchemaMismatch, match=r"missing columns \['name'\]"):
        table_from_rows("templates", [row])
