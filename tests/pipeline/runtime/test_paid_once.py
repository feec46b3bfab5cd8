"""Where the answers that were paid for lie: by warehouse, and for files of texts by user."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from labeling.gate.sentinels import SentinelSet
from pipeline.runtime.shards import answers_file, staging_folder
from pipeline.suites.label_file import label_texts
from tests.pipeline.judged import config, judges, label, sql, store_rollouts


def test_answers_lie_in_the_warehouse_or_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ROUNDHOUSE_CACHE", str(tmp_path / "cache"))
    assert answers_file("runs/demo") == Path("runs/demo/_cache/answers.sqlite")
    assert answers_file(None) == tmp_path / "cache/_cache/answers.sqlite"
    remote, other = (answers_file(f"s3://bucket/{name}") for name in ("a", "b"))
    assert remote != other
    staging = staging_folder("s3://bucket/a", "stage", "0" * 64)
    assert remote.parents[1] == staging.parents[1]
    assert remote.parents[2] == tmp_path / "cache"


def test_a_night_s_sentinels_are_asked_anew_though_their_texts_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ROUNDHOUSE_CACHE", str(tmp_path / "cache"))
    known = SentinelSet.load("default").of("helpfulness")
    with judges() as judging:
        settings = config(tmp_path / "warehouse", judging, "gate.sentinels=default")
        for number in (0, 1):
            store_rollouts(tmp_path / "warehouse", number, "train", prompts=3)
            label(settings, number, "train", "api")
    sentinels = sql(tmp_path / "warehouse", "from sentinels")
    assert len(sentinels) == 2 * len(known)
    assert judging.asked.count("sampled") == 2 * len(known)
    stored = sql(tmp_path / "warehouse", "from labels")
    assert [row["rollout_id"][:2] for row in stored] == ["0-"] * 3 + ["1-"] * 3


def test_a_file_labelled_twice_is_paid_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROUNDHOUSE_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "texts.jsonl"
    rows = [{"id": f"r{i}", "prompt": "Why?", "completion": f"Answer 0-t{i}-0."} for i in range(4)]
    source.write_text("\n".join(map(json.dumps, rows)))
    made = []
    with judges() as judging:
        for _ in range(2):
            settings = config(tmp_path / "warehouse", judging)
            out = tmp_path / "labels-api.parquet"
            assert label_texts(settings, settings.labeler("api"), source, out) == {"ok": 4}
            made.append(pq.read_table(out))
        assert len(judging.asked) == 4
    assert [table["is_cached"].to_pylist() for table in made] == [[False] * 4, [True] * 4]
    assert made[0]["score"].equals(made[1]["score"])
    assert not (tmp_path / "warehouse").exists()
