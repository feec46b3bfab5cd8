"""Label log-probs from vLLM, in this process on a CPU, through an engine subprocess on CUDA.

`logprob_token_ids` asks for exactly the label tokens; `logprobs=k` would cut at 20 and the values
under structured outputs are renormalised. Needs a vLLM that has it (0.32).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labeling.engines.config import VllmEngineConfig
from labeling.engines.local.vllm import load_judge
from labeling.engines.model_identity import ModelIdentity


class VllmScorer:
    """A judge on vLLM. See labeling.engines.scoring.ScoreEngine."""

    name = "vllm"

    def __init__(self, config: VllmEngineConfig, model: ModelIdentity, device: str) -> None:
        import vllm

        self._llm: Any = load_judge(config, model, device)
        self.version = vllm.__version__
        self.device = device
        model_config = self._llm.llm_engine.model_config
        self.dtype = str(model_config.dtype).removeprefix("torch.")
        self.max_prompt_tokens = int(model_config.max_model_len) - 1

    def label_logprobs(
        self, prompts: Sequence[list[int]], label_ids: Sequence[int]
    ) -> list[list[float]]:
        """See ScoreEngine.label_logprobs."""
        outputs = self._generate(
            prompts, max_tokens=1, logprob_token_ids=list(label_ids), detokenize=False
        )
        return [
            [float(output.outputs[0].logprobs[0][token].logprob) for token in label_ids]
            for output in outputs
        ]

    def write(self, prompts: Sequence[list[int]], max_tokens: int) -> list[str]:
        """See ScoreEngine.write."""
        outputs = self._generate(prompts, max_tokens=max_tokens)
        return [output.outputs[0].text for output in outputs]

    def _generate(self, prompts: Sequence[list[int]], **sampling: Any) -> list[Any]:
        from vllm import SamplingParams, TokensPrompt

        if not prompts:
            return []
        requests = [TokensPrompt(prompt_token_ids=list(ids)) for ids in prompts]
        parameters = SamplingParams(temperature=0.0, **sampling)
        return list(self._llm.generate(requests, parameters, use_tqdm=False))

    def close(self) -> None:
        """Drops the engine."""
        del self._llm
