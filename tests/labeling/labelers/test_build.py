"""Revisions: what changes a labeler's name for ever, and what does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from labeling.engines.model_identity import identify_model
from labeling.errors import LabelingError
from labeling.judges.config import JudgeConfig
from labeling.labelers.build import build_labeler, labeler_revision
from labeling.labelers.config import ClassifierConfig, LabelerConfig


def classifier(folder: Path | str, **changes: object) -> ClassifierConfig:
    settings = {
        "kind": "classifier",
        "name": "hate",
        "role": "reward",
        "criterion": "toxicity",
        "model": str(folder),
        "labels": {"nothate": 0, "hate": 1},
    }
    return ClassifierConfig.model_validate(settings | changes)


def judge(folder: Path | str, **changes: object) -> JudgeConfig:
    settings = {
        "kind": "judge",
        "name": "helpful",
        "role": "reward",
        "criterion": "helpfulness",
        "rubric": "helpfulness",
        "engine": {"kind": "transformers", "model": str(folder)},
    }
    return JudgeConfig.model_validate(settings | changes)


def revision(config: LabelerConfig) -> str:
    return labeler_revision(config, lambda model: model)


def test_a_classifiers_revision_follows_what_reaches_the_score(word_folder: Path):
    one = revision(classifier(word_folder))
    same = [{"name": "x"}, {"role": "metric"}, {"required": False}, {"token_budget": 9}]
    other = [
        {"labels": {"nothate": 1, "hate": 0}},
        {"activation": "sigmoid"},
        {"stride": 1},
        {"max_tokens": 9},
        {"criterion": "helpfulness"},
    ]
    assert {revision(classifier(word_folder, **change)) for change in same} == {one}
    others = {revision(classifier(word_folder, **change)) for change in other}
    assert len(others | {one}) == 6
    assert len(one) == 16


def test_a_judges_revision_follows_model_rubric_and_engine(judge_folder: Path):
    one = revision(judge(judge_folder))
    assert revision(judge(judge_folder, name="x", role="shadow")) == one
    vllm = {"kind": "vllm", "model": str(judge_folder)}
    others = {
        revision(judge(judge_folder, engine=vllm)),
        revision(judge(judge_folder, rubric="starter-helpfulness")),
        revision(judge(judge_folder, min_label_mass=0.5)),
    }
    assert len(others | {one}) == 4


def test_a_revision_is_the_models_content_not_its_place(word_folder: Path, tmp_path: Path):
    copy = shutil.copytree(word_folder, tmp_path / "copy")
    assert revision(classifier(copy)) == revision(classifier(word_folder))
    weights = copy / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert revision(classifier(copy)) != revision(classifier(word_folder))


def test_the_built_labeler_has_the_announced_revision(word_folder: Path):
    config = classifier(word_folder, self_test=())
    labeler = build_labeler(config, device="cpu", resolve=lambda model: model)
    assert labeler.identity.revision == revision(config)
    assert labeler.template_rows().num_rows == 0
    labeler.close()


def test_a_starters_name_is_resolved_and_kept(word_folder: Path):
    config = classifier("starter-toxicity", self_test=())
    labeler = build_labeler(config, device="cpu", resolve=lambda _: str(word_folder))
    assert labeler.identity.model == "starter-toxicity"
    assert revision(classifier(word_folder)) == labeler.identity.revision


def test_a_hub_commit_is_its_own_revision():
    commit = "0123456789abcdef0123456789abcdef01234567"
    identity = identify_model("some/model", commit, lambda model: model)
    assert (identity.location, identity.commit, identity.revision) == ("some/model", commit, commit)


def test_a_hub_name_means_the_commit_in_the_cache(tmp_path: Path):
    """In a process of its own: the Hub client reads its cache folder when it is imported."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    model = tmp_path / "hub/models--some--model"
    (model / "snapshots" / commit).mkdir(parents=True)
    (model / "snapshots" / commit / "config.json").write_text("{}")
    (model / "refs").mkdir()
    (model / "refs/main").write_text(commit)
    script = (
        "from labeling.engines.model_identity import identify_model as identify\n"
        "print(identify('some/model', None, str).revision)\n"
        "identify('other/model', None, str)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [commit]
    assert "Misconfigured: model other/model: no folder, and not on the Hub" in done.stderr


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path):
    with pytest.raises(LabelingError, match=r"no config\.json"):
        revision(classifier(tmp_path))
    with pytest.raises(LabelingError, match="there is no folder"):
        revision(classifier(tmp_path / "absent"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LabelingError, match=r"labelers\.hate\.model: cannot load"):
        build_labeler(classifier(tmp_path), device="cpu", resolve=lambda model: model)


def test_revisions_need_neither_torch_nor_transformers(word_folder: Path):
    script = (
        "import sys\n"
        "from labeling.labelers.config import ClassifierConfig\n"
        "from labeling.labelers.build import labeler_revision\n"
        "c = ClassifierConfig.model_validate_json(sys.argv[1])\n"
        "labeler_revision(c, str)\n"
        "sys.exit(bool({'torch', 'transformers', 'vllm'} & set(sys.modules)))"
    )
    config = classifier(word_folder).model_dump_json()
    subprocess.run([sys.executable, "-c", script, config], check=True)
