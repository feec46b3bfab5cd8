"""A judge that runs here and writes its verdict: the written judge over an engine in this process.

Not here: what is asked and how it is read (written_judge.py), the engine (engines/vllm_chat.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from labeling.config import JudgeConfig
from labeling.engine_config import VllmEngineConfig
from labeling.label import LabelingError
from labeling.model_identity import ModelIdentity
from labeling.rubric import Rubric
from labeling.tokenization import tokenizer_sha256
from labeling.written_judge import WrittenJudgeLabeler


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
    from transformers import AutoTokenizer

    from labeling.engines.vllm_chat import VllmChatEngine

    engine_config = config.engine
    if not isinstance(engine_config, VllmEngineConfig):
        raise LabelingError(f"labelers.{config.name}.method: {engine_config.kind} does not write")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model.location, revision=model.commit)
        engine = VllmChatEngine(
            model.location,
            tokenizer,
            label=engine_config.model,
            device=device,
            revision=model.commit,
            dtype=engine_config.dtype,
            max_model_len=engine_config.max_model_len,
            gpu_memory_utilization=engine_config.gpu_memory_utilization,
        )
    except (OSError, ValueError) as error:
        message = f"labelers.{config.name}.engine.model: cannot load {engine_config.model}"
        raise LabelingError(f"{message}: {error}") from error
    labeler = WrittenJudgeLabeler(config, rubric, model, revision, engine, seed=seed)
    labeler.identity = replace(
        labeler.identity,
        device=engine.device,
        dtype=engine.dtype,
        family=engine.family,
        tokenizer_sha256=tokenizer_sha256(tokenizer),
    )
    return labeler
