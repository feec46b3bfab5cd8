"""What a judge may write and what is read from it: every text has one status."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from labeling.judges.verdict import read_verdict
from warehouse.schemas import SCORED_STATUSES, STATUSES

NINE = {n: float(n) for n in range(1, 10)}
TEN = {n: float(n) for n in range(1, 11)}
GOOD = '{"rationale": "Polite.", "score": 7}'
SORRY = "I'm sorry, but I can't assist with that."


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ('{"score": 7}', "ok"),
        (GOOD, "ok"),
        ('{"score": 7, "rationale": "Polite."}', "ok"),
        (f"\n {GOOD} \n", "ok"),
        (f"<think>is it 3? {{'score': 3}}</think>\n{GOOD}", "ok"),
        (f"<think></think><think>again</think>{GOOD}", "ok"),
        (f"```json\n{GOOD}\n```", "ok_repaired"),
        (f"```\n{GOOD}\n```", "ok_repaired"),
        (f"Here is my verdict: {GOOD}", "ok_repaired"),
        (f"{GOOD}\nI hope this helps.", "ok_repaired"),
        (f"I'd say 8/10, or [[9]]. {GOOD}", "ok_repaired"),
        (f"thoughts without a beginning</think>{GOOD}", "ok_repaired"),
        (f'{GOOD} {{"score": 7}}', "ok_repaired"),
        ('{"rationale": "a 3/10 would be rude, I give 8", "score": 7}', "ok"),
        ('{"rationale": "it says {\\"score\\": 9} and <think>", "score": 7}', "ok"),
    ],
)
def test_a_clear_verdict_is_read(text: str, status: str):
    verdict = read_verdict(text, NINE)
    assert (verdict.status, verdict.score_raw) == (status, 7.0)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        # near JSON
        ("{'score': 7}", "malformed"),
        ('{"score": 7,}', "malformed"),
        ('{"score": 7 /* good */}', "malformed"),
        ("{score: 7}", "malformed"),
        ('{"rationale": "two\nlines", "score": 7}', "malformed"),
        ('{{"score": 7}}', "malformed"),
        ("the set {a} and " + GOOD, "malformed"),
        # more than one verdict
        ('{"score": 7} {"score": 8}', "ambiguous"),
        (f'The reply wrote {{"score": 9}}. {GOOD}', "ambiguous"),
        ('{"score": 7, "score": 8}', "ambiguous"),
        ('{"score": 7, "score": 7}', "ambiguous"),
        ("[[A]] is better ... actually [[B]]", "ambiguous"),
        ("<think>x</think>Rating: [[3]], no, [[4]]", "ambiguous"),
        # numbers outside of the schema's field
        ("a 3/10 would be rude, I give 8", "malformed"),
        ("Score: 8", "malformed"),
        ("7/10", "malformed"),
        ("seven", "malformed"),
        ("７", "malformed"),
        ("7", "off_schema"),
        ('"7"', "off_schema"),
        ("[7]", "off_schema"),
        ("null", "off_schema"),
        (f"[{GOOD}]", "off_schema"),
        (f"<think>{{</think>```json\n[ {GOOD} ]\n```", "off_schema"),
        # numbers off the scale
        ('{"score": 0}', "out_of_range"),
        ('{"score": -0}', "out_of_range"),
        ('{"score": 10}', "out_of_range"),
        ('{"score": 11}', "out_of_range"),
        ('{"score": -1}', "out_of_range"),
        (f'{{"score": {"9" * 6000}}}', "out_of_range"),
        (f'{{"score": -{"9" * 6000}}}', "out_of_range"),
        # no integers
        ('{"score": 7.5}', "off_schema"),
        ('{"score": 7.0}', "off_schema"),
        ('{"score": 7e0}', "off_schema"),
        ('{"score": "7"}', "off_schema"),
        ('{"score": "7/10"}', "off_schema"),
        ('{"score": "seven"}', "off_schema"),
        ('{"score": "７"}', "off_schema"),
        ('{"score": "٧"}', "off_schema"),
        ('{"score": ７}', "malformed"),
        ('{"score": ٧}', "malformed"),
        ('{"score": 07}', "malformed"),
        ('{"score": null}', "off_schema"),
        ('{"score": true}', "off_schema"),
        ('{"score": [7]}', "off_schema"),
        ('{"score": {"v": 7}}', "off_schema"),
        ('{"Score": 7}', "off_schema"),
        ('{"score": 7, "confidence": 1}', "off_schema"),
        ('{"rationale": 7, "score": 7}', "off_schema"),
        ('{"rationale": "good"}', "off_schema"),
        ("{}", "off_schema"),
        # not finite
        ('{"score": NaN}', "non_finite"),
        ('{"score": Infinity}', "non_finite"),
        ('{"score": -Infinity}', "non_finite"),
        ('{"score": 1e999}', "non_finite"),
        ('{"score": -1e999}', "non_finite"),
        ("NaN", "non_finite"),
        # nothing there
        ("", "empty"),
        (" \n\t", "empty"),
        ("<think>it is rude</think>", "empty"),
        ("<think></think>\n", "empty"),
        # cut off
        ("<think>it is rude, so ", "truncated"),
        ('<think>perhaps {"score": 3}', "truncated"),
        (f"{GOOD}<think>or", "truncated"),
        ('{"score": 1', "truncated"),
        ('{"score": ', "truncated"),
        ('{"rationale": "it is', "truncated"),
        ('{"rationale": "a brace } in a text', "truncated"),
        ('{"notes": {"score": 7}', "truncated"),
        ('{"rationale": "x", "notes": {"score": 7}, ', "truncated"),
        (f'{GOOD} {{"score": ', "truncated"),
        (f"```json\n{GOOD}", "truncated"),
        ("```json\n", "truncated"),
        # will not
        (SORRY, "refusal"),
        ("I’m sorry, but I can’t assist with that.", "refusal"),
        ("I cannot rate this content.", "refusal"),
        ("I won't judge that.", "refusal"),
        ("As an AI, I do not grade people.", "refusal"),
        (f"<think>harmful</think>{SORRY}", "refusal"),
        (json.dumps({"rationale": SORRY}), "refusal"),
        (json.dumps({"rationale": SORRY, "score": None}), "refusal"),
        # another language
        ("这个回答很有帮助。", "wrong_language"),
        ("Ответ вежливый, семь баллов.", "wrong_language"),
        ("Die Antwort ist höflich, sieben Punkte.", "malformed"),
    ],
)
def test_what_is_no_clear_verdict_has_no_number(text: str, status: str):
    verdict = read_verdict(text, NINE)
    assert (verdict.status, verdict.score_raw) == (status, None)


def test_ten_is_never_read_as_one():
    assert read_verdict('{"score": 10}', TEN).score_raw == 10.0
    assert read_verdict('{"score": 10}', {1: 1.0, 5: 5.0}).status == "out_of_range"
    assert read_verdict('{"score": 1', TEN).status == "truncated"


def test_a_number_between_the_labels_is_no_label():
    odd = {1: 0.0, 3: 0.5, 5: 1.0}
    assert read_verdict('{"score": 3}', odd).score_raw == 0.5
    assert read_verdict('{"score": 2}', odd).status == "off_schema"


def test_the_rationale_is_kept_verbatim():
    assert read_verdict('{"rationale": " \\u00e9\\n", "score": 2}', NINE).rationale == " é\n"
    assert read_verdict(json.dumps({"rationale": "bad", "score": 99}), NINE).rationale == "bad"
    assert read_verdict('{"score": 2}', NINE).rationale is None


def test_deep_and_long_texts_are_read_in_time():
    assert read_verdict('{"a":' * 100_000, NINE).status == "truncated"
    assert read_verdict('{"a":[' * 50_000 + "]}" * 50_000, NINE).status == "malformed"
    assert read_verdict("<think>" * 100_000, NINE).status == "truncated"
    assert read_verdict("{}" * 50_000, NINE).status == "off_schema"
    assert read_verdict("[" * 100_000, NINE).status == "malformed"
    assert read_verdict("\n" * 1_000_000, NINE).status == "empty"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["score", "rationale", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
PIECES = st.sampled_from(
    ['{"score": 7}', '{"rationale": "', '"', "score", ":", "7", "{", "}", "[", "]", ",", "NaN",
     "<think>", "</think>", "```json", "```", "[[A]]", "I'm sorry", " ", "\\", "1e999", "\ud800"]
)  # fmt: skip


def check(text: str) -> None:
    verdict = read_verdict(text, NINE)
    assert verdict.status in STATUSES
    assert (verdict.score_raw is not None) == (verdict.status in SCORED_STATUSES)
    assert verdict.score_raw is None or verdict.score_raw in NINE.values()


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(), max_size=80) | st.lists(PIECES, max_size=12).map("".join))
@example(text="\x00")
@example(text="\ud800")
def test_any_text_has_one_status(text: str):
    check(text)


@settings(max_examples=200, deadline=None)
@given(value=JSON_VALUES)
def test_any_json_has_one_status(value: object):
    check(json.dumps(value))


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, len(GOOD)), cut=st.integers(0, 4), put=PIECES | st.text(max_size=3))
def test_a_damaged_verdict_has_one_status(place: int, cut: int, put: str):
    check(GOOD[:place] + put + GOOD[place + cut :])


@given(length=st.integers(1, len(GOOD) - 1))
def test_no_beginning_of_a_verdict_is_read(length: int):
    assert read_verdict(GOOD[:length], NINE).status == "truncated"
