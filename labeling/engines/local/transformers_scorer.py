"""Label log-probs from plain transformers: one forward pass per batch, nothing is generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labeling.engines.config import TransformersEngineConfig
from labeling.engines.model_identity import ModelIdentity
from labeling.engines.tokens import pad_right, token_batches


class TransformersScorer:
    """A decoder-only judge on transformers. See labeling.engines.scoring.ScoreEngine."""

    name = "transformers"

    def __init__(self, config: TransformersEngineConfig, model: ModelIdentity, device: str) -> None:
        import torch

        from labeling.engines.hugging_face import transformers

        self._torch = torch
        dtype = "float32" if device == "cpu" and config.dtype == "auto" else config.dtype
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            model.location, revision=model.commit, dtype=dtype
        )
        self._model = loaded.to(device).eval()
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            model.location, revision=model.commit
        )
        self._token_budget = config.token_budget
        self.version = transformers.__version__
        self.device = device
        self.dtype = str(self._model.dtype).removeprefix("torch.")
        context = int(self._model.config.max_position_embeddings)
        # One place stays free for the label, as vLLM needs it, so that both refuse the same rows.
        self.max_prompt_tokens = min(context, config.max_model_len or context) - 1

    def label_logprobs(
        self, prompts: Sequence[list[int]], label_ids: Sequence[int]
    ) -> list[list[float]]:
        """See ScoreEngine.label_logprobs."""
        found: list[list[float]] = [[] for _ in prompts]
        for batch in token_batches([len(ids) for ids in prompts], self._token_budget):
            rows = self._score_batch([prompts[index] for index in batch], label_ids)
            for index, row in zip(batch, rows, strict=True):
                found[index] = row
        return found

    def _score_batch(
        self, prompts: Sequence[list[int]], label_ids: Sequence[int]
    ) -> list[list[float]]:
        """Padding stands right, where a causal model does not see it."""
        torch = self._torch
        ids, mask = pad_right(prompts, 0)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self.device)
        # Only the last positions are projected onto the vocabulary, which is the costly part.
        kept, place = last.unique(return_inverse=True)
        with torch.inference_mode():
            logits = self._model(
                input_ids=torch.as_tensor(ids, device=self.device),
                attention_mask=torch.as_tensor(mask, device=self.device),
                use_cache=False,
                logits_to_keep=kept,
            ).logits
        rows = logits[torch.arange(len(prompts), device=self.device), place]
        chosen: list[list[float]] = rows.float().log_softmax(-1)[:, list(label_ids)].tolist()
        return chosen

    def write(self, prompts: Sequence[list[int]], max_tokens: int) -> list[str]:
        """See ScoreEngine.write. One by one: for trying things out, vLLM is for many."""
        torch = self._torch
        texts = []
        for ids in prompts:
            start = torch.tensor([ids], device=self.device)
            with torch.inference_mode():
                out = self._model.generate(
                    start,
                    attention_mask=torch.ones_like(start),
                    max_new_tokens=max_tokens,
                    do_sample=False,
                    pad_token_id=0,
                )
            texts.append(self._tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True))
        return texts

    def close(self) -> None:
        """Drops the model."""
        del self._model
