"""Completions of an encoder-decoder policy (T5) from transformers' `generate`: vLLM serves no T5.

`generate` has one random generator for a whole batch, and its defaults cut the distribution off
(top_k 50). So it decodes greedily over scores to which every row's own generator has added Gumbel
noise: the argmax is then a draw from the softmax at temperature 1 (Gumbel 1954), and a completion
depends on its seed and not on its batch; the generators are the device's, so a GPU draws others
than a CPU. Not here: prompts, chat templates, rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.sampling.sampler import Job, Sampled, TransformersBatches, race

if TYPE_CHECKING:
    import torch

_NO_LIMIT = 2048  # T5's positions are relative; this only bounds what a careless setting costs


class Seq2SeqSampler(TransformersBatches):
    """An encoder-decoder policy on transformers. See pipeline.sampling.sampler.Sampler.

    The prompt goes to the encoder, so a completion does not hold its start token. `max_model_len`
    counts prompt and completion together, as for every policy.
    """

    def __init__(
        self, model: str, *, device: str, dtype: str = "auto", max_model_len: int | None = None
    ) -> None:
        import transformers

        if dtype == "auto":  # as the trainer: hub checkpoints of T5 are float32
            dtype = "float32" if device == "cpu" else "bfloat16"
        loaded: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(model, dtype=dtype)
        super().__init__(loaded, device)
        limit = getattr(self._model.config, "max_position_embeddings", None)
        if limit is None:
            limit = max_model_len or _NO_LIMIT
        self.max_model_len = min(limit, max_model_len or limit)
        start, self._ends, pad = _special_tokens(self._model, model)
        # A new one: whatever the model's own says of sampling, forced or forbidden tokens is gone.
        self._model.generation_config = transformers.GenerationConfig(
            do_sample=False,
            num_beams=1,
            decoder_start_token_id=start,
            eos_token_id=self._ends,
            pad_token_id=pad,
        )

    def _sample_batch(self, jobs: list[Job], max_tokens: int) -> list[Sampled]:
        import torch

        ids, mask = self._padded(jobs, left=False)
        draw = _Draw([seed for _, seed in jobs], self.device)
        with torch.inference_mode():
            found = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_tokens,
                logits_processor=[draw],
            )
        tokens = found[:, 1:].tolist()  # the first is the start token
        logprobs = torch.cat(draw.logprobs, 1).cpu().numpy()
        return [self._sampled(row, values) for row, values in zip(tokens, logprobs, strict=True)]

    def _sampled(self, tokens: list[int], logprobs: Any) -> Sampled:
        """One row up to its end token; what follows is padding."""
        ends = (place for place, token in enumerate(tokens) if token in self._ends)
        end = next(ends, None)
        length = len(tokens) if end is None else end + 1
        return Sampled(
            tokens[:length], logprobs[:length].copy(), "length" if end is None else "stop"
        )


class _Draw:
    """A logits processor under which greedy decoding samples, with one generator per row.

    `logprobs`: per step [b, 1], float32, the log-prob of the token that was drawn.
    """

    def __init__(self, seeds: list[int], device: str) -> None:
        import torch

        self._randoms = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        del input_ids
        logs = scores.float().log_softmax(-1)
        noisy = race(logs, self._randoms)
        self.logprobs.append(logs.gather(1, noisy.argmax(-1, keepdim=True)))
        return noisy


def _special_tokens(model: Any, folder: str) -> tuple[int, list[int], int]:
    """Start of a completion, its possible ends, padding. Raises ValueError naming the file."""

    def named(name: str) -> Any:
        own = getattr(model.generation_config, name, None)
        return own if own is not None else getattr(model.config, name, None)

    start, ends = named("decoder_start_token_id"), named("eos_token_id")
    if start is None or ends is None:
        raise ValueError(
            f"{folder}: config.json and generation_config.json name no "
            f"{'decoder_start_token_id' if start is None else 'eos_token_id'}; write it there"
        )
    ends = ends if isinstance(ends, list) else [ends]
    pad = named("pad_token_id")
    return start, ends, ends[0] if pad is None else pad
