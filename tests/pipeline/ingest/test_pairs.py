"""HH's pairs come in whole and once; a broken line costs only itself; no hold-out pair trains."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.audit.sample import read_strata
from pipeline.cli import app
from pipeline.config import PromptsConfig
from pipeline.errors import ConfigError
from pipeline.ingest.hh_pairs import parse_pair
from pipeline.ingest.importer import ImportedFile, import_files
from pipeline.ingest.meaning import ImportOptions
from pipeline.ingest.messages import MalformedPrompt, first_turn_sha256, is_holdout
from pipeline.ingest.prompts import ingest
from tests.pipeline.judged import sql
from tests.pipeline.stored_pairs import train_pairs
from tests.warehouse.builder import label, publish_rows, rollout
from warehouse.catalog.catalog import connect, load_query
from warehouse.files import file_sha256
from warehouse.ledger.ledger import Ledger
from warehouse.store import open_store

HH = Path(__file__).parents[4] / "shared" / "data" / "hh-rlhf"


def transcript(*turns: str) -> str:
    speakers = ("Human", "Assistant")
    return "".join(f"\n\n{speakers[i % 2]}: {turn}" for i, turn in enumerate(turns))


def pair(question: str, chosen: str = "Yes.", rejected: str = "No.") -> dict[str, str]:
    return {"chosen": transcript(question, chosen), "rejected": transcript(question, rejected)}


def write(path: Path, *rows: object) -> Path:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wb") as file:
        for row in rows:
            file.write((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n")
    return path


def questions(side: str, count: int, share: float = 0.5) -> list[str]:
    """Questions that the split rule puts on this side."""
    asked = (f"What is {n}?" for n in range(1000))
    held = [is_holdout(first_turn_sha256([{"role": "user", "content": q}]), share) for q in asked]
    wanted = side == "holdout"
    return [f"What is {n}?" for n, is_held in enumerate(held) if is_held == wanted][:count]


def import_pairs(root: Path, files: list[Path], share: float) -> list[ImportedFile]:
    return list(import_files(root, files, ImportOptions("hh-pairs", "hh-pairs", share)).files)


def commits(root: Path) -> list[str]:
    return [commit.key for commit in Ledger(open_store(root)).commits()]


def test_a_pair_is_the_shared_dialogue_and_two_answers():
    turns = ("Hi", "Hello", "Why?")
    row = {"chosen": transcript(*turns, "Because. "), "rejected": transcript(*turns, "No idea.")}
    found = parse_pair(row)
    assert [m["content"] for m in found.messages] == ["Hi", "Hello", "Why?"]
    assert [m["role"] for m in found.messages] == ["user", "assistant", "user"]
    assert (found.chosen, found.rejected) == ("Because.", "No idea.")


def test_answers_in_two_turns_of_the_assistant_are_one_answer():
    row = pair("Why?") | {"chosen": transcript("Why?", "So.") + "\n\nAssistant: And so."}
    assert parse_pair(row).chosen == "So.\n\nAnd so."


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (["x"], "expected an object, found list"),
        ({"chosen": transcript("a", "b")}, "under the key 'rejected'"),
        (pair("Why?") | {"chosen": 7}, "under the key 'chosen'"),
        (pair("Why?") | {"chosen": "Why? Because."}, "not a transcript"),
        (pair("Why?") | {"chosen": ""}, "not a transcript"),
        (pair("Why?") | {"chosen": transcript("Why?")}, "chosen ends with a human turn"),
        (pair("Why?", chosen="  "), "the answer of chosen is empty"),
        (pair("Why?", rejected=""), "the answer of rejected is empty"),
        (pair("Why?") | {"rejected": transcript("How?", "No.")}, "answer different dialogues"),
        (pair("Why?", "Same.", " Same. "), "the same text"),
        (pair(" "), "empty human turn"),
        ({k: "\n\nAssistant: a\n\nHuman: b" + v for k, v in pair("c").items()}, "begins and ends"),
    ],
)
def test_a_row_that_is_no_pair_says_why(row: object, why: str):
    with pytest.raises(MalformedPrompt, match=why):
        parse_pair(row)


def test_broken_lines_are_named_and_cost_only_themselves(tmp_path: Path):
    root = tmp_path / "w"
    (good, other) = questions("train", 2)
    file = write(
        tmp_path / "p.jsonl", pair(good), b"{not json", pair("Why?", "Same.", "Same."), b"",
        pair("\ud800"), b'"\xff"', b"[" * 100_000, pair(other),
    )  # fmt: skip
    (done,) = import_pairs(root, [file], 0.5)
    assert (done.train_pairs, done.holdout_pairs, done.duplicates) == (2, 0, 0)
    places = [problem.split(": ")[0] for problem in done.problems]
    assert places == ["p.jsonl:2", "p.jsonl:3", "p.jsonl:5", "p.jsonl:6", "p.jsonl:7"]
    stored = sql(root, "select row_id, message, stage from dead_letters order by row_id")
    assert [f"{row['row_id']}: {row['message']}" for row in stored] == list(done.problems)
    assert {row["stage"] for row in stored} == {"gold-pairs"}
    assert train_pairs(root) != []


def test_what_was_imported_is_read_back_and_only_train_prompts(tmp_path: Path):
    root = tmp_path / "w"
    train, held = questions("train", 3), questions("holdout", 2)
    file = write(tmp_path / "p.jsonl.gz", *(pair(q, f"Good {q}", f"Bad {q}") for q in train + held))
    assert import_pairs(root, [file], 0.5) == [
        ImportedFile(f"gold-pairs/{file_sha256(file)[:16]}", train_pairs=3, holdout_pairs=2)
    ]
    rows = {row["prompt"][0]["content"]: row for row in train_pairs(root)}
    assert set(rows) == set(train)
    for question, row in rows.items():
        assert row["prompt"] == [{"role": "user", "content": question}]
        assert (row["chosen"], row["rejected"]) == (f"Good {question}", f"Bad {question}")
    (pairs,) = sql(root, "select count(*) as n, min(margin) as m, any_value(round) as r from "
                         "preference_pairs where recipe = 'gold/hh-pairs'")  # fmt: skip
    assert (pairs["n"], pairs["m"], pairs["r"]) == (5, 0.0, None)
    nulls = sql(root, "select count(round) + count(prompt_ids) + count(completion_ids) + "
                      "count(behavior_logprobs) as n from rollouts")  # fmt: skip
    assert nulls[0]["n"] == 0


def test_the_same_file_again_does_nothing_whatever_it_is_called(tmp_path: Path):
    root = tmp_path / "w"
    file = write(tmp_path / "p.jsonl", *(pair(q) for q in questions("train", 3)))
    import_pairs(root, [file], 0.5)
    (again,) = import_pairs(root, [file.rename(tmp_path / "q.jsonl")], 0.5)
    assert again.is_known
    assert len(commits(root)) == 1


def test_a_pair_that_comes_twice_is_stored_once(tmp_path: Path):
    root = tmp_path / "w"
    first, second, third = questions("train", 3)
    one = write(tmp_path / "1.jsonl", pair(first), pair(first), pair(second))
    reversed_pair = pair(first, "No.", "Yes.")  # another annotator preferred the other answer
    two = write(tmp_path / "2.jsonl", pair(second), pair(third), reversed_pair)
    done = import_pairs(root, [one, two], 0.5)
    assert [(d.train_pairs, d.duplicates) for d in done] == [(2, 1), (2, 1)]
    assert len(train_pairs(root)) == 4
    (counts,) = sql(root, "select count(*) as n, count(distinct rollout_id) as d from rollouts")
    assert counts == {"n": 6, "d": 6}


def test_imports_at_the_same_time_store_what_they_share_once(tmp_path: Path):
    root, asked = tmp_path / "w", questions("train", 12)
    files = [write(tmp_path / f"{n}.jsonl", *(pair(q) for q in asked[n : n + 8])) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda file: import_pairs(root, [file], 0.5)[0], files))
    assert sum(d.train_pairs for d in done) == len(train_pairs(root)) == 11
    assert sum(d.duplicates for d in done) == 4 * 8 - 11
    (counts,) = sql(root, "select count(*) as n, count(distinct rollout_id) as d from rollouts")
    assert counts == {"n": 22, "d": 22}


def test_a_file_that_breaks_off_leaves_nothing(tmp_path: Path):
    whole = write(tmp_path / "p.jsonl.gz", *(pair(q, q * 50) for q in questions("train", 50)))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"cut\.jsonl\.gz: cannot be read: .*nothing of it"):
        import_pairs(tmp_path / "w", [cut], 0.5)
    with pytest.raises(ConfigError, match=r"no usable pair \(1 malformed lines: e\.jsonl:1:"):
        import_pairs(tmp_path / "w", [write(tmp_path / "e.jsonl", b"{")], 0.5)
    with pytest.raises(ConfigError, match="no such file"):
        import_pairs(tmp_path / "w", [tmp_path / "none.jsonl"], 0.5)
    assert commits(tmp_path / "w") == []


def ingested(root: Path, folder: Path, asked: list[str], share: float) -> None:
    source = write(folder / "prompts.jsonl", *({"prompt": q} for q in asked))
    settings = {"source": "jsonl", "path": str(source), "holdout": share}
    ingest(str(root), PromptsConfig.model_validate(settings), 0)


def test_a_share_that_would_move_a_prompt_is_refused(tmp_path: Path):
    root = tmp_path / "w"
    ingested(root, tmp_path, [*questions("train", 20), *questions("holdout", 20)], 0.5)
    file = write(tmp_path / "p.jsonl", pair("Why?"))
    for share in (0.05, 0.95):
        with pytest.raises(ConfigError, match=r"--holdout 0\.\d+: prompt \w+ of this warehouse is"):
            import_pairs(root, [file], share)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        import_pairs(root, [file], 1.5)
    assert import_pairs(root, [file], 0.5)[0].is_known is False


def test_a_hold_out_question_never_trains_even_if_its_pairs_came_first_under_another_share(
    tmp_path: Path,
):
    """Nothing can be checked in an empty warehouse, so the reader asks again."""
    root = tmp_path / "w"
    held, free = questions("holdout", 2), questions("train", 2)
    import_pairs(root, [write(tmp_path / "p.jsonl", *(pair(q) for q in held + free))], 0.001)
    assert len(train_pairs(root)) == 4
    ingested(root, tmp_path, held, 0.5)
    assert {row["prompt"][0]["content"] for row in train_pairs(root)} == set(free)


def test_the_night_neither_samples_nor_audits_imported_pairs(tmp_path: Path):
    root = tmp_path / "w"
    asked = [*questions("train", 5), *questions("holdout", 5)]
    import_pairs(root, [write(tmp_path / "p.jsonl", *(pair(q) for q in asked))], 0.5)
    ingested(root, tmp_path, asked, 0.5)
    rows = sql(root, "select purpose, count(*) as n from prompts group by all order by purpose")
    assert [(row["purpose"], row["n"]) for row in rows] == [
        ("holdout", 5),
        ("pairs", 10),
        ("train", 5),
    ]
    sampled = rollout(0, "p1")
    publish_rows(root, "round=0", 0, rollouts=[sampled], labels=[label(sampled, 0.1)])
    con = connect(root)
    assert con.sql(load_query("repeated_completions")).fetchall() == []
    drawn = read_strata(con, root, "toxicity", None)
    assert list(drawn.values()) == [[sampled["rollout_id"]]]
    con.close()


def test_the_command_reports_pairs_and_bad_lines(tmp_path: Path):
    root = tmp_path / "w"
    file = write(tmp_path / "p.jsonl", *(pair(q) for q in questions("train", 2)), *[b"{"] * 12)
    command = ["import", str(root), "--format", "hh-pairs", "--holdout", "0.5", str(file)]
    first, second = (CliRunner().invoke(app, command) for _ in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0)
    lines = first.output.splitlines()
    assert "2 train pairs, 0 hold-out pairs as gold-pairs/" in lines[0]
    assert "0 duplicates, 12 malformed lines left out" in lines[0]
    assert lines[1].startswith("  p.jsonl:3: not valid JSON")
    assert lines[-1] == "  ... and 2 more: select * from dead_letters"
    assert "imported before as gold-pairs/" in second.output
    wrong = CliRunner().invoke(app, ["import", str(root), "--format", "csv", str(file)])
    assert wrong.exit_code == 2


@pytest.mark.skipif(not HH.is_dir(), reason="../shared/data/hh-rlhf is absent")
def test_real_hh_files_come_in_but_for_their_empty_answers(tmp_path: Path):
    root = tmp_path / "w"
    files = [HH / "train.jsonl.gz", HH / "test.jsonl.gz"]
    done = import_pairs(root, files, 0.2)
    assert sum(d.pairs + d.duplicates + len(d.problems) for d in done) == 1478 + 383
    assert {p for d in done for p in d.problems} == {
        f"{place}: the answer of chosen is empty"
        for place in ("train.jsonl.gz:572", "train.jsonl.gz:679", "test.jsonl.gz:18",
                      "test.jsonl.gz:97")
    }  # fmt: skip
    ingest(str(root), PromptsConfig(source="hh", path=str(HH), holdout=0.2), 0)
    found = train_pairs(root)
    assert len(found) == sum(d.train_pairs for d in done) > 1000
    held = sql(root, "select first_turn_sha256 as t from prompts where purpose = 'holdout'")
    turns = {first_turn_sha256(row["prompt"]) for row in found}
    assert held
    assert turns.isdisjoint(row["t"] for row in held)
