"""Completions from plain transformers: where vLLM has no wheel (macOS) or no model.

A loop over a key-value cache with one random generator per completion, so that a completion depends
on its seed and not on its batch (`generate` has one generator for all). Slower than vLLM by design.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.sampling.sampler import Job, Sampled, TransformersBatches, race

if TYPE_CHECKING:
    import torch


class TransformersSampler(TransformersBatches):
    """A decoder-only policy on transformers. See pipeline.sampling.sampler.Sampler."""

    def __init__(
        self, model: str, *, device: str, dtype: str = "auto", max_model_len: int | None = None
    ) -> None:
        import transformers

        kind = "float32" if device == "cpu" and dtype == "auto" else dtype
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=kind)
        super().__init__(loaded, device)
        limit = int(getattr(self._model.config, "max_position_embeddings", 0) or 2048)
        self.max_model_len = min(limit, max_model_len or limit)
        eos = self._model.generation_config.eos_token_id
        if eos is None:
            eos = self._model.config.eos_token_id
        self._ends = set(eos if isinstance(eos, list) else [eos])

    def _sample_batch(self, jobs: list[Job], max_tokens: int) -> list[Sampled]:
        """Left-padded prompts with explicit positions, then one token at a time for all rows."""
        import torch

        ids, mask = self._padded(jobs, left=True)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        randoms = [torch.Generator().manual_seed(seed) for _, seed in jobs]
        tokens: list[list[int]] = [[] for _ in jobs]
        logprobs: list[list[float]] = [[] for _ in jobs]
        cache = None
        for _ in range(max_tokens):
            with torch.inference_mode():
                out = self._model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
            cache = out.past_key_values
            logs = out.logits[:, -1].float().log_softmax(-1).cpu()
            drawn = race(logs, randoms).argmax(-1)
            self._append(tokens, logprobs, drawn, logs)
            if all(self._ended(t) for t in tokens):
                break
            ids = drawn[:, None].to(self.device)
            mask = torch.cat([mask, mask.new_ones(len(jobs), 1)], dim=1)
            positions = positions[:, -1:] + 1
        return [
            Sampled(t, np.asarray(lp, np.float32), "stop" if self._ended(t) else "length")
            for t, lp in zip(tokens, logprobs, strict=True)
        ]

    def _append(
        self,
        tokens: list[list[int]],
        logprobs: list[list[float]],
        drawn: torch.Tensor,
        logs: torch.Tensor,
    ) -> None:
        for row, token in enumerate(drawn.tolist()):
            if not self._ended(tokens[row]):
                tokens[row].append(token)
                logprobs[row].append(float(logs[row, token]))

    def _ended(self, tokens: list[int]) -> bool:
        return bool(tokens) and tokens[-1] in self._ends
