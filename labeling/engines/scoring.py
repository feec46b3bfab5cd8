"""Reading label probabilities off a language model: what every scoring engine offers.

Token ids in, log-probs out, over the whole vocabulary and without a grammar mask, because a mask
hides that the model meant to say something else. Not here:
prompts, rubrics, scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from labeling.engines.config import JudgeEngineConfig, TransformersEngineConfig, VllmEngineConfig
from labeling.engines.model_identity import ModelIdentity
from labeling.errors import Misconfigured


class ScoreEngine(Protocol):
    """A loaded judge model. `name`, `version`, `dtype`, `device` go into every row.

    `max_prompt_tokens` is the longest prompt that still leaves room for the label.
    """

    name: str
    version: str
    dtype: str
    device: str
    max_prompt_tokens: int

    def label_logprobs(
        self, prompts: Sequence[list[int]], label_ids: Sequence[int]
    ) -> list[list[float]]:
        """Log-probs in nats, [prompts, labels], of each label as the token after each prompt.

        Raises whatever the backend raises when it is dead; prompts are never at fault, because
        they are not empty and not longer than `max_prompt_tokens`.
        """
        ...

    def write(self, prompts: Sequence[list[int]], max_tokens: int) -> list[str]:
        """What the model goes on to say after each prompt, greedily, at most `max_tokens`."""
        ...

    def close(self) -> None:
        """Frees the model."""
        ...


def load_score_engine(
    engine: JudgeEngineConfig, model: ModelIdentity, device: str, *, labeler: str
) -> ScoreEngine:
    """The engine of a judge that runs here, loaded. Raises Misconfigured for a remote one."""
    if isinstance(engine, VllmEngineConfig):
        from labeling.engines.local.vllm_scorer import VllmScorer

        return VllmScorer(engine, model, device)
    if not isinstance(engine, TransformersEngineConfig):
        raise Misconfigured(f"labelers.{labeler}.engine: {engine.kind} shows no likelihoods")
    from labeling.engines.local.transformers_scorer import TransformersScorer

    return TransformersScorer(engine, model, device)
