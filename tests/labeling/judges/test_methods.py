"""How a judge is asked: what a configuration may combine, and what its revision follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from labeling.engines.model_identity import ModelIdentity
from labeling.errors import LabelingError
from labeling.judges.asking import answer_schema, check_first_tokens, score_scale
from labeling.judges.config import JudgeConfig
from labeling.judges.rubric import Rubric
from labeling.label import label_key
from labeling.labelers.build import _revision, build_labeler, labeler_revision
from tests.labeling.scripted_chat import RemoteEngine, configured
from tests.labeling.subjects import subjects


def test_labels_that_do_not_suit_the_method_are_refused():
    ten = Rubric(name="r", version="1", criterion="c", labels=("1", "10"), values=(1, 10),
                 user="{completion}")  # fmt: skip
    letters = ten.model_copy(update={"labels": ("A", "B")})
    assert score_scale(ten, "j") == {1: 1.0, 10: 10.0}
    assert answer_schema(ten, "none")["properties"]["score"]["enum"] == [1, 10]
    with pytest.raises(LabelingError, match="label '1' of rubric r begins another"):
        check_first_tokens(ten, "j")
    with pytest.raises(LabelingError, match="every label must be one"):
        score_scale(letters, "j")
    check_first_tokens(letters, "j")
    with pytest.raises(LabelingError, match="every label must be one"):
        score_scale(ten.model_copy(update={"labels": ("１", "2")}), "j")


@pytest.mark.parametrize(
    ("engine", "changes", "words"),
    [
        (RemoteEngine(kind="transformers"), {"method": "written"}, "method: engine transformers"),
        (RemoteEngine(kind="bedrock"), {"method": "logprobs"}, "bedrock shows no likelihoods"),
        (RemoteEngine(), {"samples": 3}, "samples at temperature 0 are one sample"),
        (RemoteEngine(kind="vllm"), {"samples": 3, "temperature": 1}, "read once"),
    ],
)
def test_a_method_that_the_engine_lacks_is_refused(
    engine: RemoteEngine, changes: dict[str, object], words: str
):
    with pytest.raises(ValueError, match=words):
        configured(engine, **changes)


def test_the_method_follows_from_the_engine():
    methods = {
        kind: configured(RemoteEngine(kind=kind)).chosen_method
        for kind in ("vllm", "transformers", "openai", "bedrock")
    }
    assert methods == {
        "vllm": "logprobs", "transformers": "logprobs", "openai": "written", "bedrock": "written",
    }  # fmt: skip
    assert configured(method="logprobs").chosen_method == "logprobs"


@pytest.mark.parametrize(
    ("rubric", "engine", "revision"),
    [
        ("starter-helpfulness", {"kind": "transformers", "model": "s"}, "2e2213d8d5992630"),
        ("helpfulness", {"kind": "vllm", "model": "Qwen/Qwen2.5-7B-Instruct"}, "5adda56e154338d3"),
    ],
)
def test_judges_that_run_here_keep_their_revisions(
    rubric: str, engine: dict[str, str], revision: str
):
    """Labels of earlier nights carry them: they change with what a judge is shown, and only so."""
    settings = {"kind": "judge", "name": "j", "role": "reward", "criterion": "helpfulness"}
    config = JudgeConfig.model_validate(settings | {"rubric": rubric, "engine": engine})
    assert _revision(config, ModelIdentity("x", None, "0" * 32)) == revision


def test_a_remote_judges_revision_follows_what_reaches_the_score():
    def revision(engine: RemoteEngine | None = None, **changes: object) -> str:
        return labeler_revision(configured(engine, **changes), lambda model: model)

    one = revision()
    assert revision(name="other", role="metric") == one
    assert revision(RemoteEngine(base_url="http://u:secret@127.0.0.1:8000/v1")) == one
    others = [
        revision(RemoteEngine(model="other")),
        revision(RemoteEngine(base_url="http://elsewhere/v1")),
        revision(RemoteEngine(kind="bedrock", region="us-east-1")),
        revision(RemoteEngine(kind="bedrock", region="eu-west-1")),
        revision(rubric="starter-helpfulness"),
        revision(reasoning="none"),
        revision(temperature=0.5),
        revision(temperature=0.5, samples=2),
        revision(max_output_tokens=99),
        revision(method="logprobs"),
    ]
    assert len({one, *others}) == 11
    assert revision(method="logprobs", max_output_tokens=99) == revision(method="logprobs")


def test_a_local_judge_that_writes_has_a_revision_of_its_own():
    def revision(**changes: object) -> str:
        config = configured(RemoteEngine(kind="vllm"), **changes)
        return _revision(config, ModelIdentity("x", None, "0" * 32))

    reads, writes = revision(), revision(method="written")
    others = [
        revision(method="written", reasoning="none"),
        revision(method="written", max_output_tokens=9),
        revision(method="written", temperature=0.5),
    ]
    assert len({reads, writes, *others}) == 5
    assert revision(max_output_tokens=9, temperature=0.5) == reads


def test_a_judge_that_reads_likelihoods_draws_a_principle_per_row(judge_folder: Path):
    engine = {"kind": "transformers", "model": str(judge_folder)}
    settings = {"kind": "judge", "name": "j", "role": "shadow", "criterion": "constitution"}
    config = JudgeConfig.model_validate(
        settings
        | {"rubric": _two_principles(judge_folder.parent), "engine": engine, "min_label_mass": 1e-9}
    )
    labeler = build_labeler(config, device="cpu", resolve=lambda model: model)
    rows = labeler.label(subjects([f"answer {n}" for n in range(12)])).to_pylist()
    assert {row["principle"] for row in rows} == {"kind", "brief"}
    for row in rows:
        assert f"Principle: {row['principle']}!" in row["rendered_prompt"]
        assert row["label_key"] == label_key(
            row["rollout_id"], "j", row["revision"], "constitution", principle=row["principle"]
        )
    again = labeler.label(subjects([f"answer {n}" for n in range(12)])).to_pylist()
    assert [row["principle"] for row in again] == [row["principle"] for row in rows]
    labeler.close()


def _two_principles(folder: Path) -> str:
    path = folder / "two-principles.yaml"
    path.write_text(
        "name: two\nversion: '1'\ncriterion: constitution\nlabels: ['1', '2', '3']\n"
        "user: 'Principle: {principle} Grade {completion}'\nanswer_prefix: ':'\n"
        "principles: [{name: kind, text: 'kind!'}, {name: brief, text: 'brief!'}]\n"
    )
    return str(path)


def test_reasons_come_before_the_likelihoods_where_they_are_asked_for(judge_folder: Path):
    engine = {"kind": "transformers", "model": str(judge_folder), "dtype": "float32"}
    base = {
        "kind": "judge", "name": "j", "role": "shadow", "criterion": "helpfulness",
        "rubric": "starter-helpfulness", "engine": engine, "min_label_mass": 1e-9,
        "max_output_tokens": 12,
    }  # fmt: skip
    plain = JudgeConfig.model_validate(base)
    reasoned = JudgeConfig.model_validate(base | {"reasoning": "before"})
    revisions = [labeler_revision(config, lambda model: model) for config in (plain, reasoned)]
    assert len(set(revisions)) == 2
    spelled = JudgeConfig.model_validate(base | {"reasoning": "none"})
    assert labeler_revision(spelled, lambda model: model) == revisions[0]
    labeler = build_labeler(reasoned, device="cpu", resolve=lambda model: model)
    good, long = labeler.label(subjects(["fine", "x" * 470])).to_pylist()
    assert good["status"] == "ok"
    assert good["rationale"], "what it wrote is kept, whatever it is worth"
    asked, _, answered = good["rendered_prompt"].partition("Reasons: ")
    assert "say in two or three sentences why" in asked
    assert answered.startswith(good["rationale"].strip())
    assert len(good["score_logprobs"]) == 9
    assert (long["status"], long["rationale"]) == ("too_long", None), "room for the reasons is kept"
    labeler.close()


def test_an_endpoint_cannot_reason_before_its_first_token():
    engine = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    settings = {"kind": "judge", "name": "j", "role": "shadow", "criterion": "c", "rubric": "r"}
    with pytest.raises(ValueError, match=r"labelers\.j\.reasoning: an endpoint shows"):
        JudgeConfig.model_validate(
            settings | {"engine": engine, "method": "logprobs", "reasoning": "before"}
        )
