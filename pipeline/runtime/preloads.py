"""What the fork server imports for a command: the packages of the stages that it may run, no more.

A stage imports what it needs anyway; what stands here is imported once for all stages of a command
instead of once in each. Kinds are those of `night.Run.stage`. Not here: the server (process.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from labeling.labelers.config import LabelerConfig
from pipeline.config import RunConfig

NIGHT = ("set-up", "sampling", "labelling", "rewards", "training", "evaluation")

# Beam pulls grpc in, which may only be forked before it opened a channel: importing opens none.
_BEAM = ("apache_beam.runners.portability.fn_api_runner.fn_runner",)
# The first of them, also when sorted, keeps scikit-learn out of the second.
_TRANSFORMERS = ("labeling.engines.hugging_face", "transformers.models.auto.modeling_auto", "torch")
_VLLM = (
    *_TRANSFORMERS,
    "vllm.model_executor.models.llama",
    "vllm.v1.engine.llm_engine",
    "vllm.v1.worker.cpu_worker",
)
_POLICY = (*_TRANSFORMERS, "transformers.models.llama.modeling_llama")


def preloads(config: RunConfig, kinds: Collection[str]) -> list[str]:
    """Modules for stages of these kinds under this configuration, each once, sorted.

    The preload passes over what is not installed.
    """
    return sorted({module for kind in kinds for module in _of_kind(config, kind)})


def sampling_preloads(config: RunConfig) -> list[str]:
    """Modules for sampling without Beam, as for a suite of prompts."""
    engine = _VLLM if config.rollouts.engine == "vllm" else _POLICY
    return ["pipeline.stages.rollout_worker", *engine]


def label_preloads(labelers: Collection[LabelerConfig]) -> list[str]:
    """Modules for labelling by these labelers without Beam, as texts of a file are."""
    return sorted({module for labeler in labelers for module in _of_labeler(labeler)})


def _of_kind(config: RunConfig, kind: str) -> Iterator[str]:
    if kind == "sampling":
        yield from (*_BEAM, *sampling_preloads(config))
    elif kind == "labelling":
        yield from (*_BEAM, "pipeline.stages.labels", *label_preloads(config.labelers))
    elif kind == "revision" and config.revision is not None:
        yield from (*_BEAM, "pipeline.stages.revise")
        if config.revision.engine.kind == "vllm":
            yield from _VLLM
    elif kind == "rewards":
        yield from ("pipeline.stages.gate", "pipeline.stages.rewards")
    elif kind == "training":
        yield from (*_POLICY, "pipeline.stages.training")
    elif kind == "evaluation":
        yield from (*_POLICY, "pipeline.stages.evaluation")


def _of_labeler(labeler: LabelerConfig) -> Iterator[str]:
    if labeler.kind != "judge":
        yield from (*_TRANSFORMERS, "transformers.models.roberta.modeling_roberta")
    elif labeler.engine.kind == "vllm":
        yield from _VLLM
    elif labeler.engine.kind == "transformers":
        yield from _POLICY
