"""Completions from vLLM, in this process on a CPU, through an engine subprocess on CUDA.

The whole shard goes to one `generate` call: vLLM batches continuously. One refused prompt makes the
call raise for all of them while the engine stays clean (vllm#16732), so a refusal halves the batch
until it is alone. Chunked prefill stays off on CPU: with per-request seeds it kills the engine.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from labeling.engines.local.vllm import load_vllm
from pipeline.sampling.sampler import PromptFailed, Sampled

logger = logging.getLogger(__name__)


class VllmSampler:
    """A policy on vLLM. See pipeline.sampling.sampler.Sampler."""

    name = "vllm"

    def __init__(
        self, model: str, *, device: str, dtype: str = "auto", max_model_len: int | None = None
    ) -> None:
        import vllm

        self._llm = load_vllm(model, device=device, dtype=dtype, max_model_len=max_model_len)
        self.version = vllm.__version__
        self.device = device
        self.dtype = str(self._llm.llm_engine.model_config.dtype).removeprefix("torch.")
        self.max_model_len = int(self._llm.llm_engine.model_config.max_model_len)

    def sample(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[int],
        samples: int,
        max_tokens: int,
        progress: Callable[[int], None],
    ) -> list[list[Sampled] | PromptFailed]:
        """See Sampler.sample. vLLM draws the n samples of a request with seed, seed+1, ..."""
        from vllm import SamplingParams, TokensPrompt

        if not prompts:
            return []
        requests = [TokensPrompt(prompt_token_ids=ids) for ids in prompts]
        parameters = [
            SamplingParams(
                n=samples,
                seed=seed,
                temperature=1.0,
                max_tokens=max_tokens,
                logprobs=0,  # the sampled token's own, nothing else
                flat_logprobs=True,
                detokenize=False,
            )
            for seed in seeds
        ]
        bar = _counting_bar(progress)  # vLLM takes a bar's factory and counts completions in it
        return self._generate(requests, parameters, bar)

    def _generate(
        self, requests: list[Any], parameters: list[Any], bar: Callable[..., Any]
    ) -> list[list[Sampled] | PromptFailed]:
        try:
            outputs = self._llm.generate(requests, parameters, use_tqdm=bar)
        except Exception as error:
            if not _is_refusal(error):
                raise
            if len(requests) == 1:
                logger.warning("vLLM refused a prompt: %s", error)
                return [PromptFailed(str(error)[:500])]
            half = len(requests) // 2
            first = self._generate(requests[:half], parameters[:half], bar)
            return first + self._generate(requests[half:], parameters[half:], bar)
        return [[_sampled(c) for c in sorted(o.outputs, key=lambda c: c.index)] for o in outputs]

    def close(self) -> None:
        """Drops the engine."""
        del self._llm


def _sampled(completion: Any) -> Sampled:
    logprobs = np.asarray(completion.logprobs.logprobs, dtype=np.float32)
    token_ids = list(completion.token_ids)
    if len(logprobs) != len(token_ids):
        raise RuntimeError(
            f"vLLM returned {len(logprobs)} log-probs for {len(token_ids)} tokens; "
            "this version's flat log-probs are not aligned with its tokens"
        )
    return Sampled(token_ids, logprobs, str(completion.finish_reason))


def _is_refusal(error: Exception) -> bool:
    """Whether the request is at fault: ValueError up to 0.25, VLLMClientError in later releases."""
    later = any(kind.__name__ == "VLLMClientError" for kind in type(error).__mro__)
    return later or isinstance(error, ValueError | TypeError)


def _counting_bar(finished: Callable[[int], None]) -> Callable[..., Any]:
    """A tqdm class that draws nothing and reports its counts."""

    class Counting(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs |= {"file": io.StringIO(), "mininterval": 1e9}
            super().__init__(*args, **kwargs)

        def update(self, n: float | None = 1) -> bool | None:
            finished(int(n or 0))
            return super().update(n)

    return Counting
