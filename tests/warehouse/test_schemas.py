"""The schemas and what travels in them. None is released yet; from then on snapshots hold them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from warehouse.errors import SchemaMismatch
from warehouse.schemas import TABLES, conform, table_from_rows


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
