"""A command imports what its stages use: vLLM for sampling, no engine for a remote judge."""

from __future__ import annotations

import pytest

from pipeline.config import RunConfig
from pipeline.configs.loading import load_config
from pipeline.runtime.preloads import NIGHT, label_preloads, preloads, sampling_preloads

OF_LABELS = {"labeling", "torch", "transformers"}
REMOTE = (
    "{name: %s, kind: judge, role: %s, criterion: toxicity, rubric: toxicity, "
    "engine: {kind: openai, base_url: 'http://127.0.0.1:9/v1', model: m}}"
)


@pytest.fixture(scope="module")
def demo() -> RunConfig:
    return load_config("demo", ["rollouts.engine=vllm"])


def packages(modules: list[str]) -> set[str]:
    return {module.split(".")[0] for module in modules}


def test_a_night_imports_every_engine_once(demo):
    modules = preloads(demo, NIGHT)
    assert packages(modules) == OF_LABELS | {"apache_beam", "pipeline", "vllm"}
    assert len(modules) == len(set(modules))
    assert {"pipeline.stages.training", "pipeline.stages.rollout_worker"} <= set(modules)


def test_labelling_with_classifiers_needs_no_vllm(demo):
    classifiers = [one for one in demo.labelers if one.kind == "classifier"]
    assert classifiers
    assert packages(label_preloads(classifiers)) == OF_LABELS
    assert "pipeline.stages.training" not in preloads(demo, ("set-up", "labelling"))


def test_a_remote_judge_needs_no_engine_here():
    both = f"{REMOTE % ('api', 'reward')}, {REMOTE % ('other', 'metric')}"
    config = load_config("demo", [f"labelers=[{both}]", "reward.terms={api: {weight: -1.0}}"])
    assert label_preloads(config.labelers) == []
    assert packages(preloads(config, ("set-up", "labelling"))) == {"apache_beam", "pipeline"}


def test_training_and_the_gate_need_neither_vllm_nor_beam(demo):
    modules = preloads(demo, ("set-up", "rewards", "training", "evaluation"))
    assert packages(modules) == OF_LABELS | {"pipeline"}


def test_sampling_with_transformers_needs_no_vllm(demo):
    config = load_config("demo", ["rollouts.engine=transformers"])
    assert "vllm" not in packages(sampling_preloads(config))
    assert "vllm" in packages(sampling_preloads(demo))
