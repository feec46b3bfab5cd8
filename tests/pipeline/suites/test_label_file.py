"""Files of texts: what a row may be, what a bad one costs, what the output holds; no model."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from labeling.label import LabelIdentity, Measurement, label_rows
from pipeline.cli import app
from pipeline.configs.loading import load_config
from pipeline.errors import ConfigError
from pipeline.runtime.progress import Heartbeat, read_progress
from pipeline.suites import label_file
from pipeline.suites.texts import Subject, check_input, count_rows, read_subjects


class Lengths:
    """A labeler that gives each text its length in characters, in hundredths."""

    def __init__(self, kind: str = "classifier") -> None:
        self.identity = LabelIdentity(
            labeler="lengths", revision="r1", kind=kind, role="metric", criterion="length",
            model="none", model_revision="none", backend="python", backend_version="3",
            score_method="length", score_scale="0..1",
        )  # fmt: skip
        self.seen: list[list[str]] = []

    def label(self, subjects: pa.Table, progress: Callable[[int], None] | None = None) -> pa.Table:
        texts = subjects["completion"].to_pylist()
        self.seen.append(texts)
        scores = [len(text) / 100 for text in texts]
        if progress is not None:
            progress(len(texts))
        measured = [Measurement("ok", score=s, score_raw=100 * s) for s in scores]
        return label_rows(self.identity, subjects, measured)

    def template_rows(self) -> pa.Table:
        raise AssertionError("templates are of a warehouse")

    def close(self) -> None:
        pass


def subjects_of(path: Path, shard_rows: int = 100) -> list[Subject]:
    return [subject for shard in read_subjects(path, shard_rows) for subject in shard]


def jsonl(folder: Path, *lines: object) -> Path:
    path = folder / "texts.jsonl"
    path.write_bytes(
        b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
    )
    return path


def test_a_row_is_a_text_or_a_prompt_and_its_completion(tmp_path: Path):
    path = jsonl(
        tmp_path,
        {"text": "Good morning"},
        {"id": "b", "prompt": "Why?", "completion": "Because", "text": "passed over"},
        b"",
        {"id": 7, "prompt": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?", "completion": ""},
    )
    assert subjects_of(path) == [
        Subject(1, "1", "texts.jsonl:1", None, "Good morning"),
        Subject(2, "b", "texts.jsonl:2", '[{"role": "user", "content": "Why?"}]', "Because"),
        Subject(
            4,
            "7",
            "texts.jsonl:4",
            '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, '
            '{"role": "user", "content": "Why?"}]',
            "",
        ),
    ]
    assert count_rows(path) == 3


@pytest.mark.parametrize(
    ("line", "name", "why"),
    [
        (b"{", "1", "not valid JSON"),
        (b'{"text": "caf\xe9"}', "1", "not valid JSON"),
        (b"[" * 100_000, "1", "not valid JSON"),
        (b"[1]", "1", "expected an object, found list"),
        ({"id": "x"}, "x", "no text: expected text, or prompt and completion; it has ['id']"),
        ({"completion": "Because"}, "1", "it has ['completion']"),
        ({"id": "x", "text": 3}, "x", "text is not a string but int"),
        ({"prompt": "Why?", "completion": ["a"]}, "1", "completion is not a string but list"),
        ({"prompt": " ", "completion": "a"}, "1", "an empty human turn"),
        ({"id": 1.5, "text": "a"}, "1", "id is neither text nor a whole number: float"),
        ({"text": "\ud800"}, "1", "surrogates not allowed"),
        ({"id": "\ud800", "text": "a"}, "1", "surrogates not allowed"),
    ],
)
def test_a_bad_row_costs_only_itself(tmp_path: Path, line: object, name: str, why: str):
    bad, good = subjects_of(jsonl(tmp_path, line, {"text": "fine"}))
    assert (bad.line, bad.id, bad.completion) == (1, name, None)
    assert bad.problem is not None
    assert bad.problem.startswith("texts.jsonl:1: ")
    assert why in bad.problem
    assert good == Subject(2, "2", "texts.jsonl:2", None, "fine")


def test_parquet_and_gzip_are_read_like_jsonl(tmp_path: Path):
    path = tmp_path / "texts.parquet"
    pq.write_table(
        pa.table({"id": [5, None, 7], "text": ["a", None, "c"], "other": [1, 2, 3]}), path
    )
    rows = subjects_of(path, 2)
    assert [(row.line, row.id, row.completion) for row in rows] == [
        (1, "5", "a"),
        (2, "2", None),
        (3, "7", "c"),
    ]
    assert rows[1].problem == (
        "texts.parquet:2: no text: expected text, or prompt and completion; it has neither"
    )
    assert count_rows(path) == 3
    packed = tmp_path / "texts.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"text": "a"}\n{"text": "b"}\n'))
    assert [row.completion for row in subjects_of(packed)] == ["a", "b"]


def test_shards_are_no_larger_than_asked(tmp_path: Path):
    path = jsonl(tmp_path, *({"text": str(i)} for i in range(5)))
    assert [len(shard) for shard in read_subjects(path, 2)] == [2, 2, 1]
    assert list(read_subjects(jsonl(tmp_path), 2)) == []


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nothing\.jsonl: no such file"):
        check_input(tmp_path / "nothing.jsonl")
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(ConfigError, match=r"a\.csv: expected a name that ends in \.jsonl"):
        check_input(tmp_path / "a.csv")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="not a readable Parquet file"):
        subjects_of(broken)
    pq.write_table(pa.table({"words": ["a"]}), broken)
    with pytest.raises(ConfigError, match="no column text"):
        subjects_of(broken)
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"text": "a"}\n' * 99)[:-9])
    with pytest.raises(ConfigError, match="cannot be read"):
        subjects_of(cut)


def test_every_row_gets_a_label_or_an_error_in_the_order_of_the_file(tmp_path: Path):
    labeler = Lengths()
    rows = subjects_of(jsonl(tmp_path, {"id": "a", "text": "four"}, b"{", {"text": "sixsix"}))
    heartbeat = Heartbeat(tmp_path, "lengths", 3, "texts")
    labels = label_file.label_shard(labeler, rows, heartbeat)
    assert labels.schema.equals(label_file.SCHEMA)
    assert {"round", "rollout_id", "prompt_id"}.isdisjoint(labels.column_names)
    found = labels.select(["id", "line", "labeler", "status", "score"]).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        ("a", 1, "lengths", "ok", 0.04),
        ("2", 2, "lengths", "error", None),
        ("3", 3, "lengths", "ok", 0.06),
    ]
    assert labels["status_detail"].to_pylist()[1].startswith("texts.jsonl:2: not valid JSON")
    assert [x is None for x in labels["completion_sha256"].to_pylist()] == [False, True, False]
    assert labeler.seen == [["four", "sixsix"]], "a bad row never reaches the model"
    progress = read_progress(tmp_path)
    assert progress is not None
    assert (progress.done, progress.total) == (3, 3)


def test_a_shard_of_bad_rows_only_asks_no_model(tmp_path: Path):
    labeler = Lengths()
    rows = subjects_of(jsonl(tmp_path, b"{", b"}"))
    labels = label_file.label_shard(labeler, rows, Heartbeat(tmp_path, "x", 2, "texts"))
    assert labels["status"].to_pylist() == ["error", "error"]
    assert labeler.seen == []


def test_a_judge_needs_the_prompt(tmp_path: Path):
    rows = subjects_of(jsonl(tmp_path, {"text": "a"}, {"prompt": "Why?", "completion": "abc"}))
    heartbeat = Heartbeat(tmp_path, "x", 2, "texts")
    labels = label_file.label_shard(Lengths("judge"), rows, heartbeat)
    assert labels["score"].to_pylist() == [None, 0.03]
    assert labels["status_detail"].to_pylist()[0] == (
        "texts.jsonl:1: judges and reward models need prompt and completion; this row is a text"
    )


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "name a configuration"),
        (["demo"], "either --round N"),
        (["demo", "--config", "demo", "--round", "0"], "exclude each other"),
        (["demo", "--round", "0", "--input", "a.jsonl", "--out", "b.jsonl"], "either --round N"),
        (["demo", "--input", "a.jsonl"], "needs --out"),
        (["demo", "--round", "0", "--out", "b.jsonl"], "go with --input"),
        (["demo", "--round", "0", "--labeler", "metric"], "go with --input"),
        (["demo", "--input", "a.jsonl", "--out", "b.jsonl", "--labeler", "x"], "--labeler x: the"),
        (["demo", "--input", "a.jsonl", "--out", "b.csv"], "expected a name that ends in .jsonl"),
        (["demo", "--input", "a.jsonl", "--out", "no/where/b.jsonl"], "there is no folder"),
        (["demo", "--input", "same.jsonl", "--out", "./same.jsonl"], "or the input itself"),
        (["demo", "--input", "missing.jsonl", "--out", "b.jsonl"], "missing.jsonl: no such file"),
    ],
)
def test_wrong_use_says_why(
    words: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(app, ["label", *words]).exception
    assert isinstance(error, ConfigError)  # which the console script turns into exit code 2
    assert why in str(error)
    assert list(tmp_path.iterdir()) == []


def test_labelers_come_in_the_order_of_the_configuration():
    config = load_config("demo")
    chosen = label_file.chosen_labelers(config, ["metric", "toxicity"])
    assert [labeler.name for labeler in chosen] == ["toxicity", "metric"]
    every = ["toxicity", "helpful-judge", "metric"]
    assert [labeler.name for labeler in label_file.chosen_labelers(config, ())] == every


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_parts_become_one_file_in_one_step(tmp_path: Path, suffix: str):
    work = tmp_path / "work"
    work.mkdir()
    rows = subjects_of(jsonl(tmp_path, {"id": "ä", "text": "four"}, b"{"))
    labels = label_file.label_shard(Lengths(), rows, Heartbeat(tmp_path, "x", 2, "texts"))
    parts = [work / "one.parquet", work / "two.parquet"]
    for part in parts:
        pq.write_table(labels, part)
    out = tmp_path / f"out.{suffix}"
    out.write_text("what was there before")
    label_file._write(out, parts)
    if suffix == "parquet":
        assert pq.read_table(out).equals(pa.concat_tables([labels, labels]))
    else:
        read = [json.loads(line) for line in out.read_text().splitlines()]
        assert [(row["id"], row["status"]) for row in read] == [("ä", "ok"), ("2", "error")] * 2
        assert list(read[0]) == label_file.SCHEMA.names
        assert read[0]["labeled_at"] == labels["labeled_at"][0].as_py().isoformat()
    assert sorted(path.name for path in work.iterdir()) == ["one.parquet", "two.parquet"]
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_write_that_fails_half_way_leaves_the_file_of_yesterday(tmp_path: Path, suffix: str):
    rows = subjects_of(jsonl(tmp_path, {"text": "four"}))
    labels = label_file.label_shard(Lengths(), rows, Heartbeat(tmp_path, "x", 1, "texts"))
    pq.write_table(labels, tmp_path / "one.parquet")
    out = tmp_path / f"out.{suffix}"
    out.write_text("yesterday's")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        label_file._write(out, [tmp_path / "one.parquet", tmp_path / "lost.parquet"])
    assert out.read_text() == "yesterday's"
    assert sorted(tmp_path.iterdir()) == before
