"""Suites: which files are read, under which column names, and what a bad row is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.suites.formats import SuiteFormat, suite_format
from pipeline.suites.suite import read_suite

DATA = Path(__file__).parents[4] / "shared" / "data"
HATECHECK = (
    ",functionality,case_id,test_case,label_gold,target_ident\n"
    '0,derog_neg_emote_h,1,"I hate ""them"", all of them",hateful,women\n'
    "1,ident_neutral_nh,2,I am a woman,non-hateful,women\n"
    "2,profanity_nh,3,Damn this weather,non-hateful,\n"
)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "suite.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_plain_suite_is_text_expected_and_slice(tmp_path: Path):
    suite = read_suite(
        written(tmp_path, "text,expected,slice\ngood,0,a\nbad,1,a;b\n"), SuiteFormat()
    )
    assert [(r.line, r.text, r.expected) for r in suite.rows] == [(2, "good", 0), (3, "bad", 1)]
    assert suite.slices == {("slice", "a"): [0, 1], ("slice", "b"): [1]}
    assert suite.groups == {}


def test_slices_are_optional_and_a_prompt_is_read_where_there_is_one(tmp_path: Path):
    suite = read_suite(written(tmp_path, "text,expected,prompt\nYes,1,Why?\n"), SuiteFormat())
    assert suite.slices == {}
    assert suite.rows[0].prompt == "Why?"


def test_hatecheck_drops_in_by_name_and_by_columns(tmp_path: Path):
    path = written(tmp_path, HATECHECK)
    named = read_suite(path, suite_format("hatecheck"))
    mapped = read_suite(
        path,
        suite_format(
            None, text="test_case", expected="label_gold",
            slices=["functionality", "target_ident"], positive=["hateful"],
            negative=["non-hateful"],
        ),
    )  # fmt: skip
    assert named.rows == mapped.rows
    assert named.rows[0].text == 'I hate "them", all of them'
    assert [row.expected for row in named.rows] == [1, 0, 0]
    assert named.slices[("target_ident", "women")] == [0, 1]
    assert ("target_ident", "") not in named.slices
    groups = read_suite(path, suite_format("hatecheck", identity_columns=["target_ident"])).groups
    assert groups == {"women": [0, 1]}


def test_identity_terms_are_whole_words_of_the_text(tmp_path: Path):
    path = written(tmp_path, "text,expected\nA gay man,0\nGAYNESS,0\nwhite and Gay,1\n")
    suite = read_suite(path, suite_format(None, identity_terms=["gay", "white"]))
    assert suite.groups == {"gay": [0, 2], "white": [2]}


def test_lines_are_those_of_the_file_also_after_a_cell_that_spans_some(tmp_path: Path):
    content = '\ufefftext,expected\n"one\u2028more\nline",1\n\nlast,0\n'
    suite = read_suite(written(tmp_path, content), SuiteFormat())
    assert [(row.line, row.text) for row in suite.rows] == [(2, "one\u2028more\nline"), (5, "last")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,expected\ngood,0\nbad,maybe\n", "suite.csv:3: column expected: 'maybe' is none of"),
        ("text,expected\n \t,0\n", "suite.csv:2: column text: is empty"),
        ("text,expected\na,0,x\n", "suite.csv:2: 3 cells where the header has 2 columns"),
        ("texts,expected\na,0\n", "suite.csv:1: no column text; it has ['texts', 'expected']"),
        ("text,expected,text\na,0,b\n", "suite.csv:1: a column stands twice"),
        ("text,expected\n", "suite.csv: it has no rows"),
        ("", "suite.csv:1: no column text, expected"),
        (b"text,expected\ngood,0\n\xff,1\n", "suite.csv:3: not valid UTF-8"),
        ('text,expected\n"a"b,0\n', "suite.csv:2: not valid CSV"),
    ],
)
def test_a_bad_suite_is_refused_by_line_and_column(
    tmp_path: Path, content: str | bytes, message: str
):
    with pytest.raises(ConfigError) as caught:
        read_suite(written(tmp_path, content), SuiteFormat())
    assert message in str(caught.value)


def test_many_bad_rows_are_counted_and_a_few_shown(tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        read_suite(written(tmp_path, "text,expected\n" + "a,x\n" * 8), SuiteFormat())
    assert str(caught.value).count("column expected") == 5
    assert str(caught.value).endswith("and 3 more")


def test_a_missing_file_and_an_unknown_format_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such file"):
        read_suite(tmp_path / "none.csv", SuiteFormat())
    with pytest.raises(ConfigError, match="--like x: expected one of hatecheck, xstest, madlibs"):
        suite_format("x")


def test_prompts_alone_need_no_expected_column(tmp_path: Path):
    path = written(tmp_path, "text\nWhy?\n")
    assert read_suite(path, SuiteFormat(), needs_expected=False).rows[0].expected is None
    with pytest.raises(ConfigError, match="no column expected"):
        read_suite(path, SuiteFormat())


@pytest.mark.parametrize(
    ("like", "name", "positive", "negative", "slices"),
    [
        ("xstest", "xstest/xstest_prompts.csv", 200, 250, 18),
        ("madlibs", "unintended-bias-madlibs/bias_madlibs_77k.csv", 38282, 38282, 6),
    ],
)
def test_published_suites_are_read_whole(
    like: str, name: str, positive: int, negative: int, slices: int
):
    if not (DATA / name).is_file():
        pytest.skip(f"there is no {DATA / name}")
    suite = read_suite(DATA / name, suite_format(like))
    expected = [row.expected for row in suite.rows]
    assert (expected.count(1), expected.count(0)) == (positive, negative)
    assert len(suite.slices) == slices
    if like == "madlibs":
        assert len(suite.groups) == 50
        # Names of people and occupations speak of no group.
        assert sum(bool(row.groups) for row in suite.rows) < len(suite.rows)
