"""Sources become prompts; a broken row costs only itself; no question is on both sides."""

from __future__ import annotations

import gzip
import json
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import PromptsConfig
from pipeline.errors import ConfigError
from pipeline.ingest.messages import (
    MalformedPrompt,
    first_turn_sha256,
    is_holdout,
    messages_of,
    parse_transcript,
)
from pipeline.ingest.prompts import ingest
from pipeline.stages.rollouts import prompts_of_round
from tests.warehouse.opened import read_table

HH = Path(__file__).parents[4] / "shared" / "data" / "hh-rlhf"


def config(path: Path, source: str = "jsonl", **more: object) -> PromptsConfig:
    return PromptsConfig.model_validate(
        {"source": source, "path": str(path), "holdout": 0.5, **more}
    )


def test_a_transcript_ends_with_the_last_human_turn():
    text = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant: Because"
    assert parse_transcript(text) == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Why?"},
    ]


def test_consecutive_turns_of_one_role_are_joined():
    text = "\n\nHuman: Hi\n\nHuman: Why?\n\nAssistant: Because"
    assert parse_transcript(text) == [{"role": "user", "content": "Hi\n\nWhy?"}]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "empty human turn"),
        ("   ", "empty human turn"),
        (None, "expected text or messages"),
        (7, "expected text or messages"),
        ([], "no messages"),
        ([{"role": "assistant", "content": "x"}], "no messages"),
        ([{"role": "user"}], "without text"),
        ([{"role": "user", "content": ["x"]}], "without text"),
        ([{"role": "robot", "content": "x"}], "unknown role"),
        ("\n\nHuman: \n\nAssistant: x", "empty human turn"),
        ("\n\nHuman:", "empty human turn"),
    ],
)
def test_what_is_no_prompt_says_why(value: object, why: str):
    with pytest.raises(MalformedPrompt, match=why):
        messages_of(value)


@given(st.one_of(st.text(), st.lists(st.dictionaries(st.text(), st.text()))))
def test_any_value_is_a_prompt_or_malformed(value: object):
    try:
        messages = messages_of(value)
    except MalformedPrompt:
        return
    assert messages[0]["role"] in ("user", "system")
    assert messages[-1]["role"] == "user"


def test_broken_rows_are_counted_named_and_left_out(tmp_path):
    file = tmp_path / "prompts.jsonl"
    good = [json.dumps({"prompt": f"What is {i}?"}) for i in range(40)]
    lines = [*good[:20], "{broken", '"text"', '{"other": 1}', '{"prompt": ""}', *good[20:]]
    file.write_text("\n".join([*lines, '{"prompt": "\\ud800 half a character"}', good[0]]))
    root = str(tmp_path / "warehouse")
    result = ingest(root, config(file), 0)
    assert (result.train + result.holdout, result.malformed, result.duplicates) == (40, 5, 1)
    assert "prompts.jsonl:21: not valid JSON" in result.examples[0]
    dead = read_table(root, "dead_letters")
    assert dead["row_id"].to_pylist() == [f"prompts.jsonl:{n}" for n in (21, 22, 23, 24, 45)]
    assert ingest(root, config(file), 0) is None, "the same source brings nothing new"


def test_hh_files_parquet_and_jsonl_agree_on_ids(tmp_path):
    transcripts = [f"\n\nHuman: Question {i}\n\nAssistant: Fine" for i in range(20)]
    packed = tmp_path / "hh.jsonl.gz"
    with gzip.open(packed, "wt") as out:
        out.writelines(json.dumps({"chosen": t, "rejected": t}) + "\n" for t in transcripts)
    table = tmp_path / "p.parquet"
    pq.write_table(pa.table({"prompt": [f"Question {i}" for i in range(20)]}), table)
    ingest(str(tmp_path / "a"), config(packed, "hh"), 0)
    ingest(str(tmp_path / "b"), config(table, "parquet"), 0)
    columns = ["prompt_id", "purpose", "messages"]
    first = read_table(str(tmp_path / "a"), "prompts", columns=columns)
    assert first.equals(read_table(str(tmp_path / "b"), "prompts", columns=columns))
    assert first.num_rows == 20


def test_unreadable_files_are_named(tmp_path):
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PAR1 not really")
    with pytest.raises(ConfigError, match=r"bad\.parquet: not a readable Parquet file"):
        ingest(str(tmp_path / "w"), config(bad, "parquet"), 0)
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(gzip.compress(b'{"chosen": "x"}\n' * 1000)[:30])
    with pytest.raises(ConfigError, match=r"torn\.jsonl\.gz: cannot be read"):
        ingest(str(tmp_path / "w"), config(torn, "hh"), 0)
    with pytest.raises(ConfigError, match="no such file"):
        ingest(str(tmp_path / "w"), config(tmp_path / "nowhere.jsonl"), 0)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("{}\n")
    with pytest.raises(ConfigError, match="no usable prompt"):
        ingest(str(tmp_path / "w"), config(empty), 0)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"text": ["x"]}), other)
    with pytest.raises(ConfigError, match=r"no column prompt; it has \['text'\]"):
        ingest(str(tmp_path / "w"), config(other, "parquet"), 0)


def test_the_split_ignores_case_and_spacing_and_follow_up_turns():
    first = [{"role": "user", "content": "How  do I\nswim?"}]
    longer = [{"role": "user", "content": "how do i swim? "}, {"role": "assistant", "content": "?"}]
    assert first_turn_sha256(first) == first_turn_sha256(longer)
    shares = [is_holdout(f"{i:08x}", 0.25) for i in (0, 2**30 - 1, 2**30, 2**32 - 1)]
    assert shares == [True, True, False, False]


def test_rounds_use_every_prompt_before_any_returns():
    ids = [f"p{i:03d}" for i in range(100)]
    rounds = [prompts_of_round(ids, r, 25, seed=3) for r in range(8)]
    assert sorted(chain(*rounds[:4])) == ids
    assert sorted(chain(*rounds[4:])) == ids
    assert rounds[0] != rounds[4], "the next permutation is another"
    assert rounds == [prompts_of_round(list(reversed(ids)), r, 25, seed=3) for r in range(8)]
    assert len(prompts_of_round(ids, 5, 1000, seed=3)) == 100


@pytest.mark.skipif(not HH.is_dir(), reason="../shared/data/hh-rlhf is absent")
def test_real_hh_files_have_no_question_on_both_sides(tmp_path):
    root = str(tmp_path / "w")
    result = ingest(root, config(HH, "hh", holdout=0.2), 0)
    rows = read_table(root, "prompts").to_pylist()
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(row["first_turn_sha256"], set()).add(row["purpose"])
    assert all(len(side) == 1 for side in sides.values())
    assert len(rows) + result.duplicates + result.malformed == 1478 + 383
    assert result.holdout > 200
