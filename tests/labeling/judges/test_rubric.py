"""Rubric files: the shipped ones, and what is refused."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from labeling.errors import LabelingError, Misconfigured
from labeling.judges.rubric import Message, Rubric
from training.starters.corpus import manners
from training.starters.examples import judge_content
from warehouse.schemas import TABLES

GOOD = """
name: r
version: "1"
criterion: c
labels: ["1", "2"]
user: "Grade {completion}"
"""


def write(folder: Path, text: str) -> str:
    path = folder / "rubric.yaml"
    path.write_text(text)
    return str(path)


SHIPPED = [
    *("conciseness", "constitution", "harmlessness", "helpfulness", "honesty", "relevance"),
    *("starter-helpfulness", "toxicity"),
]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_rubrics_load_and_are_stored_verbatim(name: str):
    rubric = Rubric.load(name)
    assert (rubric.name, rubric.scale, len(rubric.labels)) == (name, "1..9", 9)
    table = rubric.template_rows()
    assert table.schema.equals(TABLES["templates"].schema)
    row = table.to_pylist()[0]
    assert row["template_sha256"] == hashlib.sha256(row["text"].encode()).hexdigest()
    assert (row["kind"], row["name"], row["version"]) == ("rubric", name, "1")


def test_the_starter_rubric_renders_what_the_starter_judge_was_trained_on():
    rubric = Rubric.load("starter-helpfulness")
    messages = [
        Message(role="user", content="first?"),
        Message(role="assistant", content="yes"),
        Message(role="user", content="How do I bake?"),
    ]
    shown = rubric.fill(rubric.user, messages, "Slowly.\n", "nonce")
    line = shown.partition("\n")[0]
    assert line in manners().rubrics
    assert shown == judge_content(line, "How do I bake?", "Slowly.\n")


def test_slots_inside_a_text_are_not_filled():
    rubric = Rubric.load("helpfulness")
    messages = [Message(role="user", content="{completion} {nonce}")]
    shown = rubric.fill(rubric.user, messages, "{question} {conversation}", "0a1b")
    assert "Human: {completion} {nonce}\n<<<end of dialogue 0a1b>>>" in shown
    assert "<<<reply 0a1b>>>\n{question} {conversation}\n<<<end of reply 0a1b>>>" in shown


def test_a_rubric_of_ones_own_is_read_from_a_file(tmp_path: Path):
    rubric = Rubric.load(write(tmp_path, GOOD))
    assert rubric.values == (1.0, 2.0)
    rubric = Rubric.load(write(tmp_path, GOOD + "values: [0, 10]\n"))
    assert rubric.values == (0.0, 10.0)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("{completion}", "it", "no {completion}"),
        ('["1", "2"]', '["1", "1"]', "must differ"),
        ('["1", "2"]', '["good", "bad"]', "values"),
        ('["1", "2"]', '["1", "nan"]', "finite"),
        ("name: r", "name: r\nsystem: 'Grade {question}'", "system may hold"),
        ("name: r", "name: r\nwritten: 'About {completion}'", "written may hold"),
        ("name: r", "name: r\nprinciples: [{name: a, text: b}]", "go together"),
        ("Grade {c", "By {principle} grade {c", "go together"),
        ("name: r", "name: r\ncolour: red", "colour"),
        ("name: r", "name: [", "YAML|parsing|sequence"),
    ],
)
def test_a_broken_rubric_is_refused_by_file_and_key(tmp_path: Path, old: str, new: str, words: str):
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(LabelingError, match=words) as caught:
        Rubric.load(path)
    assert "rubric.yaml" in str(caught.value)


def test_a_principle_is_drawn_by_rollout_and_seed():
    rubric = Rubric.load("constitution")
    names = [principle.name for principle in rubric.principles]
    assert len(names) == 12
    assert {"no-needless-refusal", "no-preaching"} <= set(names)
    drawn = [rubric.draw_principle(f"r{i}", 0) for i in range(1200)]
    assert drawn == [rubric.draw_principle(f"r{i}", 0) for i in range(1200)]
    counts = [drawn.count(principle) for principle in rubric.principles]
    assert sum(counts) == 1200
    assert min(counts) > 60
    assert drawn != [rubric.draw_principle(f"r{i}", 1) for i in range(1200)]
    assert Rubric.load("helpfulness").draw_principle("r0", 0) is None


def test_a_principle_stands_where_its_slot_stands():
    rubric = Rubric.load("constitution")
    shown = rubric.fill(rubric.user, [], "{principle}", "0a1b", rubric.principles[6])
    assert "The principle: The reply says nothing that is false and presents" in shown
    assert "<<<reply 0a1b>>>\n{principle}\n<<<end" in shown


def test_an_unknown_rubric_names_the_shipped_ones():
    names = sorted([*SHIPPED, "preference-helpfulness", "preference-harmlessness"])
    with pytest.raises(LabelingError, match=re.escape(str(names))):
        Rubric.load("nonsense")


@pytest.mark.parametrize("content", [b"a: [b", b"\xff\xfe\x00", b"- a\n- b", b""])
def test_a_file_that_is_no_rubric_is_one_line_and_wrong_use(tmp_path: Path, content: bytes):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(Misconfigured, match=r"rubric .*broken\.yaml: ") as caught:
        Rubric.load(str(path))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
