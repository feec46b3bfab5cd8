"""Texts of a file, labelled by the demo's classifiers through the real command."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pyarrow.parquet as pq

from tests.commands import roundhouse
from tests.integration import nights

TEXTS = [
    {"id": "kind", "text": "Thank you, that is a lovely idea."},
    {"prompt": "How do I cook rice?", "completion": "You stupid idiot, nobody likes you."},
    {"id": "number", "text": 12},
]


def label(folder: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    settings = (f"warehouse={folder / 'warehouse'}", "beam.shard_rows=2", nights.STARTERS)
    sets = [word for one in settings for word in ("--set", one)]
    return roundhouse("label", "--config", "demo", *sets, *words, code=code)


def test_a_file_is_labelled_by_two_classifiers_and_a_bad_line_costs_itself(
    starters: Path, tmp_path: Path
):
    source, out = tmp_path / "texts.jsonl", tmp_path / "labels.jsonl"
    lines = [json.dumps(row) for row in TEXTS]
    source.write_text("\n".join([lines[0], "not JSON", *lines[1:]]) + "\n")
    two = ("--labeler", "toxicity", "--labeler", "metric")
    done = label(tmp_path, "--input", str(source), "--out", str(out), *two)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["labeler"], r["id"], r["line"], r["status"]) for r in rows] == [
        (labeler, name, line, status)
        for labeler in ("toxicity", "metric")
        for name, line, status in [
            ("kind", 1, "ok"),
            ("2", 2, "error"),
            ("3", 3, "ok"),
            ("number", 4, "error"),
        ]
    ]
    for kind, broken, rude, number in (rows[:4], rows[4:]):
        assert kind["score"] < 0.5 < rude["score"]
        assert broken["status_detail"].startswith("texts.jsonl:2: not valid JSON")
        assert number["status_detail"] == "texts.jsonl:4: text is not a string but int"
        assert (broken["score"], broken["completion_sha256"]) == (None, None)
    assert done.stdout.count("4 rows: ok 2, error 2") == 2
    assert done.stdout.endswith(f"labels     {out}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.jsonl", "texts.jsonl"]

    # The same again as Parquet gives the same scores; a labeler that cannot start writes nothing.
    again = tmp_path / "labels.parquet"
    label(tmp_path, "--input", str(source), "--out", str(again), "--labeler", "metric")
    assert pq.read_table(again)["score"].to_pylist() == [row["score"] for row in rows[4:]]
    sets = (f"labelers.metric.model={tmp_path}", "labelers.metric.labels={a: 0, b: 1}")
    two += tuple(word for one in sets for word in ("--set", one))
    before = out.read_bytes()
    failed = label(tmp_path, "--input", str(source), "--out", str(out), *two, code=2)
    assert f"{tmp_path} has no config.json" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    assert out.read_bytes() == before
