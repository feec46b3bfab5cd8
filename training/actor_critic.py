"""A policy with a value head, decoder-only or encoder-decoder, and the log-probs of completions.

The vocabulary is projected at completion tokens only, log-softmax and value head are float32, and
dropout is never on: the policy that trains must be the one that sampled.
Not here: losses (ppo.py), the loop (ppo_trainer.py), the policy's revision (revision.py), what an
encoder-decoder reads (encoder_decoder.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)

from training import encoder_decoder
from training.batches import Ids, TokenBatch, token_batches
from training.revision import TOKENIZER_FILES, policy_revision

__all__ = [
    "ActorCritic",
    "TokenScores",
    "UnsupportedPolicy",
    "policy_revision",
    "resolve_device",
    "resolve_dtype",
    "sequence_logprobs",
]

VALUE_HEAD = "critic/value_head.safetensors"  # a subfolder: vLLM loads what lies at the top only


class UnsupportedPolicy(ValueError):
    """A model that PPO cannot train here; the message says why."""


@dataclass(frozen=True)
class TokenScores:
    """Per completion token, [b, t], 0 at padding: log-prob and entropy in nats, value, float32.

    `states` [n, h] are the final hidden states that predict the n tokens, row by row.
    """

    logprobs: Tensor
    values: Tensor
    entropy: Tensor
    states: Tensor


class ActorCritic(nn.Module):
    """A language model and a linear value head on its final hidden state (the decoder's).

    The head starts at zero, so a new critic claims nothing. Weights are float32, the forward pass
    is autocast to `dtype`.
    """

    def __init__(self, policy: PreTrainedModel, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.policy = policy
        self.value_head = nn.Linear(policy.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.value_head.to(policy.device)
        self.has_trained_critic = False
        self._dtype = dtype
        self._is_encoder_decoder = bool(policy.config.is_encoder_decoder)
        self._logits_scale = encoder_decoder.logits_scale(policy)
        self.eval()

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "auto", dtype: str = "auto") -> ActorCritic:
        """The policy in `folder`, with its value head where one was saved.

        Raises UnsupportedPolicy for a model that changes its logits after the output layer.
        """
        folder = Path(folder)
        is_encoder_decoder = AutoConfig.from_pretrained(folder).is_encoder_decoder
        loader = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
        place = resolve_device(device)
        policy = loader.from_pretrained(folder, dtype=torch.float32)
        encoder_decoder.say_untied(policy)
        policy.to(place)  # type: ignore[arg-type]  # its decorator hides the signature
        model = cls(policy, resolve_dtype(dtype, place))
        if (folder / VALUE_HEAD).is_file():
            model.value_head.load_state_dict(load_file(folder / VALUE_HEAD, device=str(place)))
            model.has_trained_critic = True
        model._refuse_changed_logits(folder)
        return model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.value_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the forward pass."""
        return self._dtype

    def logprobs_and_values(self, batch: TokenBatch) -> TokenScores:
        """Scores the completions of a batch; the value is that of the state before the token."""
        states, logits = self._states_and_logits(batch)
        logs = logits.log_softmax(-1)
        with torch.no_grad():
            entropy = -(logs.exp() * logs).sum(-1)
        return TokenScores(
            logprobs=_to_rows(logs.gather(1, batch.targets[:, None])[:, 0], batch.mask),
            values=_to_rows(self.values(states), batch.mask),
            entropy=_to_rows(entropy, batch.mask),
            states=states,
        )

    def logprobs(self, batch: TokenBatch) -> Tensor:
        """Log-probs [b, t] alone, in nats: a reference needs neither values nor entropy."""
        _, logits = self._states_and_logits(batch)
        chosen = logits.gather(1, batch.targets[:, None])[:, 0]
        return _to_rows(chosen - logits.logsumexp(-1), batch.mask)

    def _states_and_logits(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Final states [n, h] and float32 logits [n, vocabulary] at the completions' tokens."""
        with torch.autocast(self.device.type, self._dtype, enabled=self._is_mixed):
            states = self._final_states(batch)
            logits = self._head(states * self._logits_scale)
        return states, logits.float()

    def values(self, states: Tensor) -> Tensor:
        """The critic's value [n] of final hidden states [n, h], float32."""
        with torch.autocast(self.device.type, enabled=False):
            return self.value_head(states.float())[:, 0]

    def save(self, folder: Path, tokenizer_from: Path | str) -> None:
        """Writes policy, tokenizer and value head; the tokenizer is copied byte for byte."""
        folder.mkdir(parents=True, exist_ok=True)
        self.policy.save_pretrained(folder)
        for name in TOKENIZER_FILES:
            source = Path(tokenizer_from) / name
            if source.is_file():
                shutil.copyfile(source, folder / name)
        (folder / VALUE_HEAD).parent.mkdir(exist_ok=True)
        save_file(self.value_head.state_dict(), folder / VALUE_HEAD)

    @property
    def _is_mixed(self) -> bool:
        return self._dtype != torch.float32

    @property
    def _head(self) -> nn.Module:
        return self.policy.get_output_embeddings()

    def _final_states(self, batch: TokenBatch) -> Tensor:
        """The states [n, h] that predict the batch's n tokens."""
        if self._is_encoder_decoder:
            return encoder_decoder.final_states(self.policy, batch)
        states = self.policy.base_model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        return states.flatten(0, 1)[batch.source]

    @torch.no_grad()
    def _refuse_changed_logits(self, folder: Path) -> None:
        """Some models cap or scale their logits; then states x output layer is another policy."""
        prompt, completion = [1, 2, 3], [1, 2]
        (batch,) = token_batches(
            [prompt], [completion], [0], micro_batch_tokens=5, device=self.device
        )
        ours = self._head(self._final_states(batch) * self._logits_scale)
        if self._is_encoder_decoder:
            theirs = encoder_decoder.own_logits(self.policy, batch)
        else:
            theirs = self.policy(input_ids=batch.input_ids, use_cache=False).logits[0, 2:4]
        if not torch.allclose(ours.float(), theirs.float(), atol=1e-3, rtol=1e-3):
            raise UnsupportedPolicy(
                f"{folder}: {type(self.policy).__name__} changes its logits after the output "
                "layer (capped or scaled); its log-probs would be wrong here"
            )


def sequence_logprobs(
    model: ActorCritic | Path | str,
    prompt_ids: Sequence[Ids],
    completion_ids: Sequence[Ids],
    *,
    device: str = "auto",
    dtype: str = "auto",
    micro_batch_tokens: int = 8192,
) -> list[npt.NDArray[np.float32]]:
    """Log-prob in nats of every completion token under a policy (a model or its folder).

    One array per row, as long as its completion. `device` and `dtype` are for a folder.
    """
    if not isinstance(model, ActorCritic):
        model = ActorCritic.load(model, device=device, dtype=dtype)
    found: list[npt.NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(completion_ids)
    batches = token_batches(
        prompt_ids,
        completion_ids,
        [row for row, ids in enumerate(completion_ids) if len(ids)],
        micro_batch_tokens=micro_batch_tokens,
        device=model.device,
    )
    for batch in batches:
        with torch.no_grad():
            logprobs = model.logprobs(batch).cpu().numpy()
        for row, values in zip(batch.rows.tolist(), logprobs, strict=True):
            found[row] = values[: len(completion_ids[row])]
    return found


def resolve_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA, else float32: the precision that the engine samples in."""
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[dtype]


def _to_rows(tokens: Tensor, mask: Tensor) -> Tensor:
    """[n] tokens, row by row, to [b, t] with 0 at padding."""
    return torch.zeros_like(mask).masked_scatter(mask.bool(), tokens)
