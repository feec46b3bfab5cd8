"""Models that run here and write: the engine in this process, and the written judge over it.

Not here: what is asked and how it is read (written.py), the engine (engines/vllm_chat.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from labeling.engines.config import VllmEngineConfig
from labeling.engines.model_identity import ModelIdentity
from labeling.engines.tokens import tokenizer_sha256
from labeling.errors import LabelingError
from labeling.judges.config import JudgeConfig
from labeling.judges.rubric import Rubric
from labeling.judges.written import WrittenJudgeLabeler

if TYPE_CHECKING:
    from labeling.engines.local.vllm_chat import VllmChatEngine


def load_local_writer(
    config: JudgeConfig,
    rubric: Rubric,
    model: ModelIdentity,
    revision: str,
    *,
    device: str,
    seed: int,
) -> WrittenJudgeLabeler:
    """The labeler, its model loaded. Raises LabelingError when the model cannot judge."""
    key = f"labelers.{config.name}"
    if not isinstance(config.engine, VllmEngineConfig):
        raise LabelingError(f"{key}.method: {config.engine.kind} does not write")
    engine, facts = load_local_engine(config.engine, model, device=device, key=key)
    labeler = WrittenJudgeLabeler(config, rubric, model, revision, engine, seed=seed)
    labeler.identity = replace(labeler.identity, **facts)
    return labeler


def load_local_engine(
    config: VllmEngineConfig, model: ModelIdentity, *, device: str, key: str
) -> tuple[VllmChatEngine, dict[str, Any]]:
    """The engine, its model loaded, and what a label's identity records of it.

    `key` names the section of `config` in an error. Raises LabelingError.
    """
    from transformers import AutoTokenizer

    from labeling.engines.local.vllm_chat import VllmChatEngine

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model.location, revision=model.commit)
        engine = VllmChatEngine(
            model.location,
            tokenizer,
            label=config.model,
            device=device,
            revision=model.commit,
            dtype=config.dtype,
            max_model_len=config.max_model_len,
            gpu_memory_utilization=config.gpu_memory_utilization,
        )
    except (OSError, ValueError) as error:
        raise LabelingError(f"{key}.engine.model: cannot load {config.model}: {error}") from error
    facts = {
        "device": engine.device,
        "dtype": engine.dtype,
        "family": engine.family,
        "tokenizer_sha256": tokenizer_sha256(tokenizer),
    }
    return engine, facts
