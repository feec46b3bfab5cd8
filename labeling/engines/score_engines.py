"""Engines that show likelihoods, by configuration. Light until one is loaded."""

from __future__ import annotations

from labeling.config import JudgeConfig
from labeling.engine_config import TransformersEngineConfig, VllmEngineConfig
from labeling.engines.scoring import ScoreEngine
from labeling.label import LabelingError
from labeling.model_identity import ModelIdentity


def load_score_engine(config: JudgeConfig, model: ModelIdentity, device: str) -> ScoreEngine:
    """The engine of a judge that runs here, loaded. Raises LabelingError for a remote one."""
    engine = config.engine
    if isinstance(engine, VllmEngineConfig):
        from labeling.engines.vllm_scorer import VllmScorer

        return VllmScorer(
            model.location,
            device=device,
            revision=model.commit,
            dtype=engine.dtype,
            max_model_len=engine.max_model_len,
            gpu_memory_utilization=engine.gpu_memory_utilization,
        )
    if not isinstance(engine, TransformersEngineConfig):
        raise LabelingError(f"labelers.{config.name}.engine: {engine.kind} shows no likelihoods")
    from labeling.engines.transformers_scorer import TransformersScorer

    return TransformersScorer(
        model.location,
        device=device,
        revision=model.commit,
        dtype=engine.dtype,
        max_model_len=engine.max_model_len,
        token_budget=engine.token_budget,
    )
