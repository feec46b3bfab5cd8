"""Judges that write: which rows come out, and that nothing unread has a number."""

from __future__ import annotations

import json

import pytest

from tests.labeling.scripted_chat import Reply, build, labelled, verdict
from tests.labeling.subjects import subjects, subjects_of_bytes
from warehouse.schemas import SCORED_STATUSES, TABLES

# ----- one call, one row


def test_a_written_verdict_is_a_label_with_its_provenance():
    reply = {
        "status": "ok", "text": verdict(7), "stop_reason": "stop", "input_tokens": 300,
        "output_tokens": 20, "cached_input_tokens": 256, "cost_usd": 0.001,
        "price_table_version": "p1", "model": "big-judge-2026-01-01", "request_id": "q1",
        "retries": 2, "seconds": 1.5, "queued_seconds": 0.25,
    }  # fmt: skip
    (row,) = labelled(["Fine."], lambda *_: reply)
    assert (row["status"], row["score_raw"], row["score"]) == ("ok", 7.0, 0.75)
    assert (row["score_method"], row["score_scale"]) == ("parsed", "1..9")
    assert (row["rationale"], row["raw_output"]) == ("because", verdict(7))
    assert (row["attempt"], row["is_final"], row["supersedes"]) == (0, True, None)
    assert (row["model"], row["model_revision"]) == ("big-judge-2026-01-01", "big-judge@there")
    assert (row["backend"], row["structured_mode"]) == ("scripted", "json_schema")
    assert json.loads(row["sampling_json"]) == {"temperature": 0.0, "max_tokens": 512}
    assert (row["input_tokens"], row["output_tokens"], row["cached_input_tokens"]) == (300, 20, 256)
    assert (row["cost_usd"], row["price_table_version"]) == (0.001, "p1")
    assert (row["latency_ms"], row["queue_ms"], row["retries"]) == (1500.0, 250.0, 2)
    assert (row["request_id"], row["stop_reason"]) == ("q1", "stop")
    assert row["is_usage_estimated"] is False


def test_tokens_that_the_endpoint_did_not_count_are_estimated_and_say_so_and_cost_nothing_known():
    (row,) = labelled(["Fine."], lambda *_: verdict(7))
    assert (row["cost_usd"], row["is_usage_estimated"]) == (None, True)
    shown = "".join(message["content"] for message in json.loads(row["rendered_prompt"]))
    assert row["input_tokens"] == -(-len(shown.encode()) // 3)
    assert row["output_tokens"] == -(-len(verdict(7)) // 3)


def test_a_call_without_an_answer_has_no_tokens_not_even_estimated_ones():
    (row,) = labelled(["Fine."], lambda *_: {"status": "timeout"})
    assert (row["input_tokens"], row["output_tokens"]) == (None, None)
    assert row["is_usage_estimated"] is None


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        *[
            ({"status": name, "error_type": "E", "error_message": "no"}, name)
            for name in ("filtered", "timeout", "throttled", "error", "empty")
        ],
        # a number in the text of a call that failed is nobody's verdict
        ({"status": "filtered", "text": verdict(9)}, "filtered"),
        ({"status": "truncated", "text": verdict(9)}, "truncated"),
        ({"status": "surprise", "text": verdict(9)}, "error"),
        ({"status": "ok", "text": None}, "empty"),
        ("I'm sorry, but I can't assist with that.", "refusal"),
        ('{"score": NaN}', "non_finite"),
        (verdict(10), "out_of_range"),
        (verdict(True), "off_schema"),
        ("这个回答很有帮助。", "wrong_language"),
        ('{"score": 1} {"score": 2}', "ambiguous"),
    ],
)
def test_what_was_not_read_has_no_number(reply: Reply, status: str):
    rows = labelled(["Fine.", "Good."], lambda row, *_: reply if row == 0 else verdict(5))
    failed = [row for row in rows if row["rollout_id"] == "r0"]
    assert {row["status"] for row in failed} == {status}
    for row in failed:
        assert (row["score"], row["score_raw"]) == (None, None)
        assert (row["score_method"], row["score_scale"]) == (None, None)
    assert [row["score"] for row in rows if row["rollout_id"] == "r1"] == [0.5]


def test_an_error_keeps_what_the_endpoint_said():
    said = {"status": "throttled", "error_type": "Throttling", "error_message": "x" * 900}
    (row,) = labelled(["Fine."], lambda *_: said)
    assert (row["error_type"], row["error_message"]) == ("Throttling", "x" * 500)


def test_one_bad_row_does_not_cost_the_others():
    texts = [b"good", b"\xed\xa0\x80", b"", b"a\0b", b"\n" * 1_000_000, b"last"]
    replies = {0: verdict(3, "\ud800 lone"), 2: '{"score": "\ud800"}', 3: "x" * 100_000}
    labeler, engine = build(lambda row, *_: replies.get(row, verdict(5)))
    done: list[int] = []
    rows = labeler.label(subjects_of_bytes(texts), done.append).to_pylist()
    final = [row for row in rows if row["is_final"]]
    assert [row["rollout_id"] for row in final] == [f"r{i}" for i in range(6)]
    assert [row["status"] for row in final] == [
        *("ok", "error", "off_schema", "malformed", "ok", "ok")
    ]
    assert [row["score_raw"] for row in final] == [3.0, None, None, None, 5.0, 5.0]
    assert final[0]["rationale"] == "\\ud800 lone"
    assert sum(done) == 6
    assert {request.key for request in engine.calls}.isdisjoint({"1.0.0"})
    assert labeler.label(subjects([])).num_rows == 0


def test_an_answer_that_never_came_is_an_error():
    labeler, engine = build(lambda *_: verdict(5))
    complete = engine.complete
    engine.complete = lambda requests, done=None: complete(requests, done)[1:]  # type: ignore
    rows = labeler.label(subjects(["a", "b"])).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "error"]
    assert "no answer to this request" in rows[1]["status_detail"]


# ----- a second try


@pytest.mark.parametrize(
    "bad", ["8/10", '{"score": "8"}', {"status": "truncated", "text": '{"score": 1'}]
)
def test_an_unreadable_verdict_is_asked_for_once_more(bad: Reply):
    labeler, engine = build(lambda *place: verdict(6) if place[2] else bad)
    first, second = labeler.label(subjects(["Fine."])).to_pylist()
    assert (first["attempt"], first["is_final"], first["score"]) == (0, False, None)
    assert (second["attempt"], second["is_final"], second["score_raw"]) == (1, True, 6.0)
    assert second["supersedes"] == first["label_id"] != second["label_id"]
    assert second["label_key"] == first["label_key"]
    assert (first["sample_index"], second["sample_index"]) == (0, 0)
    one, two = engine.calls
    assert one.messages == two.messages
    assert (one.max_tokens, two.max_tokens) == (512, 1024)
    assert (first["seed"], second["seed"]) == (one.seed, two.seed)
    assert one.seed != two.seed


def test_there_is_no_third_try_and_no_second_for_a_refusal():
    replies = {0: "nonsense", 1: "I cannot do that.", 2: verdict(99)}
    labeler, engine = build(lambda row, *_: replies[row])
    rows = labeler.label(subjects(["a", "b", "c"])).to_pylist()
    assert [(row["rollout_id"], row["status"], row["is_final"]) for row in rows] == [
        ("r0", "malformed", False),
        ("r0", "malformed", True),
        ("r1", "refusal", True),
        ("r2", "out_of_range", True),
    ]
    assert len(engine.calls) == 4


def test_the_same_night_again_gives_the_same_ids_and_requests():
    nights = [build(lambda *place: verdict(5) if place[2] else "?") for _ in range(2)]
    tables = [labeler.label(subjects(["a", "b"])) for labeler, _ in nights]
    volatile = list(TABLES["labels"].volatile)
    assert tables[0].drop_columns(volatile).equals(tables[1].drop_columns(volatile))
    assert nights[0][1].calls == nights[1][1].calls


# ----- samples


def test_samples_are_averaged_and_all_kept():
    replies = [verdict(5), "I'm sorry, I can't.", f"Well: {verdict(8)}"]
    rows = labelled(["Fine."], lambda *place: replies[place[1]], samples=3, temperature=0.7)
    assert [(r["sample_index"], r["attempt"], r["status"], r["is_final"]) for r in rows] == [
        (0, 0, "ok", False),
        (1, 1, "refusal", False),
        (2, 2, "ok_repaired", False),
        (0, 3, "ok_repaired", True),
    ]
    final = rows[-1]
    assert (final["score_raw"], final["score"]) == (6.5, 0.6875)
    assert (final["score_method"], rows[0]["score_method"]) == ("sampled_mean", "parsed")
    assert json.loads(final["raw_output"]) == replies
    assert final["status_detail"] == "2 of 3 samples: ok 1, refusal 1, ok_repaired 1"
    assert len({row["label_key"] for row in rows}) == 1
    assert len({row["label_id"] for row in rows}) == 4
    assert len({row["seed"] for row in rows[:3]}) == 3


def test_the_cost_of_samples_is_counted_once():
    reply = {"status": "ok", "text": verdict(5), "cost_usd": 0.5, "input_tokens": 9,
             "output_tokens": 1}  # fmt: skip
    rows = labelled(["Fine."], lambda *_: reply, samples=2, temperature=1.0)
    assert [row["cost_usd"] for row in rows] == [0.5, 0.5, None]
    assert [row["input_tokens"] for row in rows] == [9, 9, None]


def test_samples_without_any_score_have_no_mean():
    replies = ["I cannot.", verdict(0), "I cannot."]
    rows = labelled(["Fine."], lambda *place: replies[place[1]], samples=3, temperature=0.7)
    assert (rows[-1]["status"], rows[-1]["score"], rows[-1]["score_method"]) == (
        *("refusal", None),
        None,
    )


def test_a_sample_that_was_asked_again_counts_once():
    def reply(row: int, sample: int, attempt: int) -> str:
        return verdict(9) if attempt else ("?" if sample == 0 else verdict(1))

    rows = labelled(["Fine."], reply, samples=2, temperature=0.7)
    assert [(r["sample_index"], r["attempt"]) for r in rows] == [(0, 0), (0, 1), (1, 2), (0, 3)]
    assert rows[1]["supersedes"] == rows[0]["label_id"]
    assert rows[-1]["score_raw"] == 5.0


@pytest.mark.parametrize("samples", [1, 2])
def test_one_rollout_twice_gives_two_labels(samples: int):
    labeler, _ = build(lambda row, *_: verdict(row + 1), samples=samples, temperature=0.5)
    table = subjects(["same", "same"])
    table = table.set_column(0, "rollout_id", [["r0", "r0"]])
    final = [row for row in labeler.label(table).to_pylist() if row["is_final"]]
    assert [row["sample_index"] for row in final] == [0, samples]
    assert [row["score_raw"] for row in final] == [1.0, 2.0]
    assert final[0]["label_key"] != final[1]["label_key"]


# ----- all of it


def test_a_number_and_a_status_go_together_in_every_row():
    replies = [verdict(1), "?", verdict(99), {"status": "error"}, f"x {verdict(9)}", ""]
    rows = labelled(["t"] * 6, lambda row, *_: replies[row])
    for row in rows:
        assert (row["score"] is not None) == (row["status"] in SCORED_STATUSES)
    assert [row["status"] for row in rows if row["is_final"]] == [
        *("ok", "malformed", "out_of_range", "error", "ok_repaired", "empty")
    ]
    assert len({row["label_id"] for row in rows}) == len(rows) == 7
    finals = [row["label_key"] for row in rows if row["is_final"]]
    assert sorted(finals) == sorted({row["label_key"] for row in rows})
