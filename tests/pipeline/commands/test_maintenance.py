"""verify, vacuum, forget and compact as a person calls them, and what lies beyond the tables."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from labeling.engines.chat import ChatRequest
from labeling.engines.config import OpenAIEngineConfig
from labeling.engines.remote.answer_cache import CachedChatEngine
from pipeline.cli import app
from pipeline.config import PromptsConfig
from pipeline.forgetting import forget_prompts, read_ids
from pipeline.ingest.importer import import_files
from pipeline.ingest.meaning import ImportOptions
from pipeline.ingest.prompts import ingest
from pipeline.policies.models import FILES, check_policies
from pipeline.runtime.shards import answers_file
from tests.labeling.scripted_chat import ScriptedChat
from tests.warehouse import conftest as stores
from tests.warehouse.builder import label, publish_rows, rollout, small_warehouse
from tests.warehouse.opened import read_table
from warehouse.errors import WarehouseError
from warehouse.ledger.ledger import Ledger
from warehouse.store import open_store

# The fixtures of both stores.
s3_endpoint, s3_root, store_root = stores.s3_endpoint, stores.s3_root, stores.store_root
SAY = ("--by", "ann", "--why", "asked by mail")


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(small_warehouse(tmp_path / "warehouse"))


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def test_verify_says_what_is_wrong_and_ends_with_1(root: str) -> None:
    assert ": 0 problems" in call("verify", root)
    (file,) = Ledger(open_store(root)).files(table="rewards")
    path = Path(root) / file.path
    path.write_bytes(path.read_bytes()[:-1])
    (Path(root) / "labels" / "nobody.parquet").write_bytes(b"x")
    said = call("verify", root, code=1)
    assert file.path in said
    assert "truncated" in said
    assert "1 problem\n" in said
    assert "1 files of 0.0 MB are in no version" in said
    assert ": 0 problems" in call("verify", root, "--as-of", "0")
    call("verify", root, "--as-of", "0", "--all-versions", code=2)


def test_verify_looks_at_the_policies_that_are_there(root: str) -> None:
    from tests.training.tiny import tiny_policy
    from training.revision import policy_revision

    made = tiny_policy(Path(root) / "policies" / "fresh")
    revision = policy_revision(made)
    home = made.rename(made.with_name(revision))
    Ledger(open_store(root)).append("t", [], meta={"policy_revision": revision})
    Ledger(open_store(root)).append("u", [], meta={"policy_revision": "long-deleted"})
    assert "1 policies: 0 problems" in call("verify", root)
    weights = next(home.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert f"policies/{revision}" in call("verify", root, code=1)


def test_verify_holds_the_files_of_a_policy_to_its_commit(store_root: str) -> None:
    small_warehouse(store_root)
    store, names = open_store(store_root), ("model.safetensors", "critic/model.safetensors", "a")
    for name in names:
        store.put(f"policies/p1/{name}", b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    meta = {"policy_revision": "p1", FILES: json.dumps(dict.fromkeys([*names, "b"], sha256))}
    Ledger(store).append("training", [], meta=meta)
    store.delete("policies/p1/a")
    store.put("policies/p1/a", b"wEights")
    problems, count = check_policies(store_root)
    assert {x.path: x.kind for x in problems} == {
        "policies/p1/a": "damaged",
        "policies/p1/b": "missing",
    }
    assert count == 1


def test_vacuum_tells_what_it_deletes(root: str) -> None:
    ledger = Ledger(open_store(root))
    (old,) = ledger.files(table="rewards")
    ledger.append("drop", [], remove=[old.path])
    said = call("vacuum", root, "--keep-versions", "1", "--dry-run")
    assert "would delete" in said
    assert (Path(root) / old.path).exists()
    said = call("vacuum", root, "--keep-versions", "1")
    assert f"version {ledger.head()} records it" in said
    assert not (Path(root) / old.path).exists()
    call("vacuum", root, "--orphans-older-than", "0.5", code=2)


def test_compact_tells_what_it_joined(root: str) -> None:
    assert "nothing to compact" in call("compact", root)
    Ledger(open_store(root))
    rows = [rollout(1, "p1", 9)]
    from warehouse.publish import publish
    from warehouse.schemas import table_from_rows

    key = "round=1/eval-rollouts"
    tables = {"rollouts": table_from_rows("rollouts", rows)}
    publish(root, f"{key}/replay-1", tables, round=1, meta={"amends": key})
    assert "2 files would become 1" in call("compact", root, "--dry-run")
    said = call("compact", root, "--table", "rollouts", "--round", "1")
    assert key in said
    assert "2 files are now 1" in said


def test_forget_counts_its_rows_and_lists_what_it_cannot_reach(root: str, tmp_path: Path) -> None:
    staging = Path(root) / "_staging" / "round=1-labels"
    staging.mkdir(parents=True)
    ids = tmp_path / "ids.txt"
    ids.write_text("# asked on Monday\nt1\n\n")
    assert read_ids(ids) == ["t1"]
    said = call("forget", root, "--file", str(ids), *SAY, "--dry-run")
    assert "would go" in said
    assert "rewards" in said
    assert read_table(root, "rewards").num_rows == 2
    said = call("forget", root, "--prompt", "t1", *SAY)
    for line in ("by version 9", str(staging), "backups", "evaluations and metrics stay"):
        assert line in said
    assert read_table(root, "rewards").num_rows == 0
    assert "nothing was left to forget" in call("forget", root, "--prompt", "t1", *SAY)
    with pytest.raises(WarehouseError, match="no version has a prompt nobody"):
        forget_prompts(root, ["nobody"], by="ann", why="asked")


def test_kept_answers_about_the_prompt_go_and_others_stay(root: str) -> None:
    """By the label's request id; short texts, which many prompts share, are left alone."""
    long = "Jane Roe of Elm Street writes so that one must know her: 7"
    texts = ["Jane says 7", long, "7", "another"]
    engine = ScriptedChat(lambda row, *_: {"status": "ok", "text": texts[row],
                                           "request_id": f"call-{row}"})  # fmt: skip
    config = OpenAIEngineConfig(kind="openai", model="m", base_url="http://127.0.0.1:1/v1")
    kept = CachedChatEngine(engine, answers_file(root), config)
    kept.complete([
        ChatRequest(f"{row}.0.0", ({"role": "user", "content": str(row)},), 8) for row in range(4)
    ])  # fmt: skip
    of = rollout(0, "t1", 0, purpose="train")
    calls = [(0, "call-0"), (1, None), (2, None)]  # not every endpoint gives its calls a name
    labels = [
        label(of, 0.5, f"judge-{row}", raw_output=texts[row], request_id=name)
        for row, name in calls
    ]
    publish_rows(root, "judges", 0, labels=labels)
    assert forget_prompts(root, ["t1"], by="ann", why="asked", dry_run=True).answers == 2
    assert len(answers(root)) == 4
    assert forget_prompts(root, ["t1"], by="ann", why="asked").answers == 2
    assert sorted(answers(root)) == ["7", "another"]
    folder = answers_file(root).parent
    assert b"Jane" not in b"".join(path.read_bytes() for path in folder.iterdir())


def answers(root: str) -> list[str]:
    with closing(sqlite3.connect(answers_file(root))) as connection:
        return [json.loads(a)["text"] for (a,) in connection.execute("select answer from answers")]


def test_the_same_source_again_does_not_bring_it_back(tmp_path: Path) -> None:
    root, source = str(tmp_path / "warehouse"), tmp_path / "prompts.jsonl"
    questions = ["What is my name, Jane Roe?", "What is the time?"]
    source.write_text("".join(json.dumps({"prompt": q}) + "\n" for q in questions))
    config = PromptsConfig(source="jsonl", path=str(source))
    ingest(root, config, 0)
    about = {json.loads(row["messages"])[0]["content"]: row["prompt_id"]
             for row in read_table(root, "prompts").to_pylist()}  # fmt: skip
    forget_prompts(root, [about[questions[0]]], by="ann", why="asked")
    assert ingest(root, config, 0) is None  # the very same file is known
    source.write_text("".join(json.dumps({"prompt": q}) + "\n" for q in [*questions, "And now?"]))
    done = ingest(root, config, 0)
    assert done is not None
    assert (done.train + done.holdout, done.duplicates, done.forgotten) == (1, 1, 1)
    # As a pair of people's preferences the text has another id, and stays out as well.
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(
        json.dumps({"chosen": f"\n\nHuman: {q}\n\nAssistant: yes",
                    "rejected": f"\n\nHuman: {q}\n\nAssistant: no"}) + "\n" for q in questions
    ))  # fmt: skip
    import_files(root, [pairs], ImportOptions("hh-pairs", "hh-pairs", 0.2))
    assert read_table(root, "preference_pairs").num_rows == 1
    texts = "".join(read_table(root, "prompts")["messages"].to_pylist())
    assert "Jane" not in texts
    assert read_table(root, "rollouts").num_rows == 2
