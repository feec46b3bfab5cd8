"""OpenAI's lines come in as rollouts and pairs; a bad line says what is wrong with it."""

from __future__ import annotations

import pytest

from pipeline.ingest.importer import import_files
from pipeline.ingest.meaning import ImportOptions
from pipeline.ingest.messages import MalformedPrompt
from pipeline.ingest.openai_jsonl import parse_line
from tests.pipeline.ingest.scored_files import chat, lines, preference, questions, turn
from tests.pipeline.judged import sql
from training.preference.rows import dpo_rows, sft_rows
from training.preference.selection import Selection

OPENAI = ImportOptions("openai", "openai", holdout=0.5)


def test_openai_lines_of_both_kinds(tmp_path):
    one, two, three = questions("train", 3)
    path = lines(
        tmp_path / "lines.jsonl",
        chat(one, "Good.", score=0.9, model="gpt-x"),
        chat(one, "Bad.", score={"helpful": 0.1, "harmless": 0.5}),
        chat(two, "Shown."),
        chat(two, "Not for training.", weight=0),
        preference(three, "Yes.", "No."),
        b"{",
        {"prompt": "x"},
    )
    (done,) = import_files(tmp_path / "w", [path], OPENAI).files
    assert (done.train, done.labels, done.pairs, len(done.problems)) == (4, 3, 1, 2)
    rewards = sql(
        tmp_path / "w",
        "select completion, reward, excluded_reason, policy_revision from rewards "
        "join rollouts using (rollout_id) order by completion",
    )
    assert [tuple(row.values()) for row in rewards] == [
        ("Bad.", pytest.approx(0.6), None, "unknown"),
        ("Good.", pytest.approx(0.9), None, "gpt-x"),
        ("Not for training.", None, "its file gives it weight 0", "unknown"),
        ("Shown.", 1.0, None, "unknown"),
    ]
    assert [row["completion"] for row in sql(tmp_path / "w", "select completion from rollouts "
            "where not exists (from rewards where rewards.rollout_id = rollouts.rollout_id) "
            "order by 1")] == ["No.", "Yes."]  # fmt: skip
    (pair,) = dpo_rows(tmp_path / "w", Selection(margin=0.0, pairs="gold/openai")).to_pylist()
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("Yes.", "No.")
    shown = sft_rows(tmp_path / "w", Selection(imported="openai")).to_pylist()
    assert sorted(row["completion"][0]["content"] for row in shown) == ["Good.", "Shown."]
    dead = sql(tmp_path / "w", "select stage, row_id, message from dead_letters order by row_id")
    assert [(row["stage"], row["row_id"]) for row in dead] == [
        ("import", "lines.jsonl:6"),
        ("import", "lines.jsonl:7"),
    ]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (["x"], "expected an object, found list"),
        ({"text": "x"}, "neither 'messages' nor 'preferred_output'"),
        ({"messages": []}, "do not end with an answer"),
        ({"messages": turn("user", "Why?")}, "do not end with an answer"),
        ({"messages": turn("assistant", "So.")}, "no messages"),
        (chat("Why?", "So.", score="high"), "score score is 'high', not a number"),
        (chat("Why?", "So.", score=True), "not a number"),
        (chat("Why?", "So.", score={"a": 10**400}), "score a is not finite"),
        (chat("Why?", "So.", weight="1"), "weight is '1', not a number"),
        (chat("Why?", "\ud800"), "surrogates not allowed"),
        ({"messages": [{"role": "user", "content": "4?"},
          {"role": "assistant", "content": None, "tool_calls": [{}]}]}, "call of a tool"),
        (preference("Why?", "So.", "So."), "the same text"),
        (preference("Why?", "So.", " "), "non_preferred_output is empty"),
        ({"preferred_output": turn("assistant", "So.")}, "without 'input'"),
    ],
)  # fmt: skip
def test_a_bad_line_of_openai_says_what_is_wrong(row, why):
    with pytest.raises((MalformedPrompt, UnicodeEncodeError), match=why):
        parse_line(row)


def test_a_developer_is_a_system_and_the_answer_may_carry_the_weight():
    messages = turn("developer", "Be kind.") + turn("user", "Hi") + turn("assistant", "Hello")
    messages[-1]["weight"] = 0
    found = parse_line({"messages": messages})
    assert found.messages[0] == {"role": "system", "content": "Be kind."}
    assert found.weight == 0
