"""Every column of every table, mart and view of the ledger says what it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

import warehouse
from warehouse.catalog.catalog import connect, load_query, query_names, view_columns
from warehouse.catalog.descriptions import Descriptions, load_descriptions
from warehouse.catalog.ledger_views import GRAINS
from warehouse.schemas import TABLES


def unused(descriptions: Descriptions, columns: dict[str, list[str]]) -> list[str]:
    """Sentences that describe no column of `columns` (name -> columns), as `name.column`."""
    everywhere, own_ones = descriptions._everywhere, descriptions._own
    all_columns = {column for names in columns.values() for column in names}
    left = [f"everywhere.{column}" for column in everywhere if column not in all_columns]
    for name, own in own_ones.items():
        there = {"same_as", *columns.get(name, ())}
        left += [f"{name}.{column}" for column in own if column not in there]
    return left


def test_every_column_has_a_sentence_and_every_sentence_a_column(tmp_path: Path) -> None:
    columns = view_columns(connect(tmp_path))
    assert columns.keys() > TABLES.keys() | GRAINS.keys()
    descriptions = load_descriptions()
    missing = [
        f"{view}.{column}"
        for view, names in columns.items()
        for column in names
        if column not in descriptions.of(view, names)
    ]
    assert missing == []
    assert unused(descriptions, columns) == []


def test_so_have_the_columns_of_the_questions(tmp_path: Path) -> None:
    con = connect(tmp_path)
    columns = view_columns(con)
    for name in query_names().keys() - columns.keys():
        sql = load_query(name)
        answer = con.sql(sql, params={"rollout": ""} if "$rollout" in sql else None)
        columns[name] = answer.columns
    descriptions = load_descriptions(with_questions=True)
    missing = [
        f"{name}.{column}"
        for name, names in columns.items()
        for column in names
        if column not in descriptions.of(name, names)
    ]
    assert missing == []
    assert unused(descriptions, columns) == []


def test_views_and_columns_carry_the_sentences_as_comments(shared_warehouse: Path) -> None:
    con = warehouse.connect(shared_warehouse)
    bare = con.sql(
        "select table_name, column_name from duckdb_columns() "
        "where schema_name = 'main' and not internal and comment is null "
        "union all select view_name, null from duckdb_views() "
        "where not internal and comment is null"
    )
    assert bare.fetchall() == []
    score = con.sql(
        "select comment from duckdb_columns() "
        "where table_name = 'labels' and column_name = 'score' and schema_name = 'main'"
    )
    assert score.fetchall() == [
        ("how much of the criterion is there, from 0 to 1; NULL unless the status is ok",)
    ]


@pytest.fixture
def descriptions() -> Descriptions:
    return Descriptions(
        {
            "everywhere": {"round": "the night"},
            "tables": {
                "labels": {"score": "a label's", "status": "of a label", "device": "what ran it"},
                "gold": {"score": "a person's", "round": "the night it was judged in"},
            },
            "marts": {"latest": {"same_as": "labels", "status": "of the last label"}},
        }
    )


def test_the_nearest_sentence_counts(descriptions: Descriptions) -> None:
    columns = ["round", "score", "status", "device"]
    assert descriptions.of("gold", columns)["round"] == "the night it was judged in"
    assert descriptions.of("latest", columns) == {
        "round": "the night",
        "score": "a label's",
        "status": "of the last label",
        "device": "what ran it",
    }


def test_a_name_with_two_meanings_is_not_guessed(descriptions: Descriptions) -> None:
    assert descriptions.of("another", ["score", "device"]) == {"device": "what ran it"}


def test_a_sentence_for_no_column_is_found(descriptions: Descriptions) -> None:
    columns = {"labels": ["score", "status"], "gold": ["score", "round"], "latest": ["status"]}
    assert unused(descriptions, columns) == ["labels.device"]
    assert unused(descriptions, {"labels": ["score", "status", "device"]}) == [
        "everywhere.round",
        "gold.score",
        "gold.round",
        "latest.status",
    ]
