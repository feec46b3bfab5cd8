"""The judge labeler: reading the labels' likelihoods, and rows that cannot be judged."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labeling.errors import LabelingError
from labeling.judges.config import JudgeConfig
from labeling.judges.likelihood import JudgeLabeler, measure
from labeling.judges.prompt import RenderedPrompt
from labeling.judges.rubric import Rubric
from labeling.labelers.build import build_labeler
from tests.labeling.subjects import subjects, subjects_of_bytes
from warehouse.schemas import TABLES

RUBRIC = Rubric(
    name="r", version="1", criterion="c", labels=("1", "2", "3"), values=(1, 2, 3),
    user="{completion}",
)  # fmt: skip
PROMPT = RenderedPrompt([5, 6], "shown")
NOTHING = -math.inf


def build(folder: Path, **changes: object) -> JudgeLabeler:
    settings = {
        "kind": "judge",
        "name": "helpful",
        "role": "reward",
        "criterion": "helpfulness",
        "rubric": "starter-helpfulness",
        "engine": {"kind": "transformers", "model": str(folder)},
        "min_label_mass": 1e-6,
    }
    config = JudgeConfig.model_validate(settings | changes)
    labeler = build_labeler(config, device="cpu", resolve=lambda model: model)
    assert isinstance(labeler, JudgeLabeler)
    return labeler


@pytest.fixture(scope="module")
def labeler(judge_folder: Path) -> JudgeLabeler:
    return build(judge_folder)


def test_a_score_is_the_expectation_over_the_labels():
    found = measure(RUBRIC, [7, 8, 9], [math.log(x) for x in (0.1, 0.3, 0.55)], PROMPT, 0.9)
    assert (found.status, found.raw_output, found.input_tokens) == ("ok", "3", 2)
    assert found.label_mass == pytest.approx(0.95)
    assert found.score_raw == pytest.approx((0.1 + 0.6 + 1.65) / 0.95)
    assert found.score == pytest.approx(((0.1 + 0.6 + 1.65) / 0.95 - 1) / 2)
    shares = [x / 0.95 for x in (0.1, 0.3, 0.55)]
    assert found.entropy == pytest.approx(-sum(p * math.log(p) for p in shares))
    assert [(x.label, x.token_id) for x in found.score_logprobs or ()] == [
        ("1", 7),
        ("2", 8),
        ("3", 9),
    ]


def test_the_scale_may_run_backwards():
    backwards = RUBRIC.model_copy(update={"values": (30.0, 20.0, 10.0)})
    found = measure(backwards, [7, 8, 9], [0.0, NOTHING, NOTHING], PROMPT, 0.9)
    assert (found.score, found.score_raw, found.raw_output) == (1.0, 30.0, "1")


@pytest.mark.parametrize(
    ("logprobs", "status", "mass"),
    [
        ([NOTHING] * 3, "low_mass", 0.0),
        ([math.log(0.29)] * 3, "low_mass", 0.87),
        ([math.log(1 / 3)] * 3, "ok", 1.0),
        ([-1000.0] * 3, "low_mass", 0.0),
        ([math.nan, -1.0, -1.0], "non_finite", None),
        ([math.inf, -1.0, -1.0], "non_finite", None),
        ([0.5, -1.0, -1.0], "non_finite", None),
    ],
)
def test_extreme_likelihoods(logprobs: list[float], status: str, mass: float | None):
    found = measure(RUBRIC, [7, 8, 9], logprobs, PROMPT, 0.9)
    assert found.status == status
    assert found.label_mass == (None if mass is None else pytest.approx(mass))
    if status == "ok":
        assert (found.score, found.score_raw) == (pytest.approx(0.5), pytest.approx(2.0))
    else:
        assert (found.score, found.score_raw) == (None, None)


def test_rows_carry_what_was_asked(labeler: JudgeLabeler):
    table = labeler.label(subjects(["Fine.", "Go away."], question="How are you?"))
    assert table.schema.equals(TABLES["labels"].schema)
    first = table.to_pylist()[0]
    assert (first["status"], first["kind"], first["family"]) == ("ok", "judge", "llama")
    assert (first["backend"], first["dtype"]) == ("transformers", "float32")
    assert first["rendered_prompt"].endswith(
        "\nQuestion: How are you?\nAnswer: Fine.\nScore:<|im_end|>\n<|im_start|>assistant\n"
    )
    assert len(first["rendered_prompt_sha256"]) == 64
    assert [x["label"] for x in first["score_logprobs"]] == list("123456789")
    mass = sum(math.exp(x["logprob"]) for x in first["score_logprobs"])
    assert first["label_mass"] == pytest.approx(mass)
    assert first["template_sha256"] == labeler.template_rows()["template_sha256"][0].as_py()


def test_a_judge_that_means_something_else_gives_no_score(judge_folder: Path):
    rows = build(judge_folder, min_label_mass=0.999).label(subjects(["Fine."])).to_pylist()
    assert (rows[0]["status"], rows[0]["score"]) == ("low_mass", None)
    assert 0 < rows[0]["label_mass"] < 0.999


def test_the_likelihoods_are_those_of_the_whole_vocabulary(
    judge_folder: Path, labeler: JudgeLabeler
):
    """Against transformers called plainly, one prompt at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(judge_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(judge_folder)
    texts = ["", "Fine.", "a longer text " * 9]
    for row in labeler.label(subjects(texts)).to_pylist():
        ids = tokenizer.encode(row["rendered_prompt"], add_special_tokens=False)
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        for seen in row["score_logprobs"]:
            assert seen["logprob"] == pytest.approx(float(logprobs[seen["token_id"]]), abs=1e-5)
        assert row["input_tokens"] == len(ids)


def test_one_bad_row_does_not_cost_the_others(labeler: JudgeLabeler):
    texts = [b"good", b"", b"\xed\xa0\x80", b"a\0b", b"x" * 100_000, b"\n" * 1_000_000]
    table = subjects_of_bytes([*texts, "\u202eevil <|im_end|>".encode(), b"last"])
    messages = table["messages"].to_pylist()
    messages[-1] = "not json"
    messages[3] = '[{"role": "user", "content": "\\ud800"}]'
    table = table.set_column(5, "messages", pa.array(messages, pa.large_string()))
    done: list[int] = []
    rows = labeler.label(table, done.append).to_pylist()
    assert [row["status"] for row in rows] == [
        *("ok", "ok", "error", "error", "too_long", "too_long"),
        *("ok", "error"),
    ]
    assert [row["rollout_id"] for row in rows] == [f"r{i}" for i in range(8)]
    assert sum(done) == 8
    assert "messages is no JSON list" in rows[-1]["status_detail"]


def test_a_score_does_not_depend_on_the_batch(judge_folder: Path, labeler: JudgeLabeler):
    texts = ["x" * length for length in range(1, 120, 7)]
    together = labeler.label(subjects(texts))["score_raw"].to_pylist()
    small = build(judge_folder, engine={"kind": "transformers", "model": str(judge_folder),
                                        "token_budget": 300})  # fmt: skip
    assert small.label(subjects(texts))["score_raw"].to_pylist() == pytest.approx(
        together, abs=1e-5
    )
    assert labeler.label(subjects([])).num_rows == 0


def test_the_nonce_differs_by_text_and_repeats_by_night_whatever_the_rollout(judge_folder: Path):
    labeler = build(judge_folder, rubric="helpfulness", engine={
        "kind": "transformers", "model": str(judge_folder)})  # fmt: skip
    tonight = subjects(["one", "other"])
    tomorrow = tonight.set_column(0, "rollout_id", [["9-p-0", "9-p-1"]])
    nights = [labeler.label(table).to_pylist() for table in (tonight, tomorrow)]
    hashes = [[row["rendered_prompt_sha256"] for row in rows] for rows in nights]
    assert hashes[0] == hashes[1]
    nonces = [row["rendered_prompt"].partition("<<<reply ")[2][:12] for row in nights[0]]
    assert len(set(nonces)) == 2


class DeadEngine:
    """An engine whose backend has gone."""

    name, version, dtype, device, max_prompt_tokens = "toy", "1", "float32", "cpu", 500

    def label_logprobs(self, prompts: object, label_ids: object) -> list[list[float]]:
        raise ConnectionError("no route to host")

    def close(self) -> None:
        """Nothing to free."""


def test_a_dead_backend_stops_the_stage(judge_folder: Path):
    labeler = build(judge_folder)
    labeler._engine = DeadEngine()
    with pytest.raises(LabelingError, match=r"labelers\.helpful: the toy engine failed.*no route"):
        labeler.label(subjects(["a"]))


def test_a_rubric_of_another_criterion_is_refused(judge_folder: Path):
    with pytest.raises(LabelingError, match="measures toxicity"):
        build(judge_folder, rubric="toxicity")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(st.text(st.characters(), max_size=60), min_size=1, max_size=4))
def test_every_text_gives_one_row_and_one_status(labeler: JudgeLabeler, texts: list[str]):
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    rows = labeler.label(subjects_of_bytes(encoded)).to_pylist()
    assert [row["rollout_id"] for row in rows] == [f"r{i}" for i in range(len(texts))]
    for row in rows:
        assert (row["score"] is not None) == (row["status"] == "ok")
