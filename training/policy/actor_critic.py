"""A policy with a value head, decoder-only or encoder-decoder, and the log-probs of completions.

The vocabulary is projected at completion tokens only, log-softmax and value head are float32, and
dropout is never on: the policy that trains must be the one that sampled.
Not here: what an encoder-decoder reads (encoder_decoder.py), log-probs from states (logprobs.py),
LoRA (adapters.py), losses (ppo/formulas.py), the loop (ppo/trainer.py), the policy's revision
(revision.py).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from training.policy import encoder_decoder
from training.policy.adapters import AdapterConfig, save_merged
from training.policy.batches import TokenBatch, token_batches
from training.policy.loading import (
    UnsupportedPolicy,
    checkpoint_activations,
    load_policy,
    resolve_device,
    resolve_dtype,
)
from training.policy.logprobs import token_logprobs
from training.revision import TOKENIZER_FILES

if TYPE_CHECKING:
    from peft import PeftModel

__all__ = ["ActorCritic", "TokenScores", "UnsupportedPolicy"]

VALUE_HEAD = "critic/value_head.safetensors"  # a subfolder: vLLM loads what lies at the top only


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

    The head starts at zero, so a new critic claims nothing. Trained weights are float32, the
    forward pass is autocast to `dtype`. `logits_limit`: see logprobs.py.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        dtype: torch.dtype = torch.float32,
        *,
        adapted: PeftModel | None = None,
        logits_limit: int = 1 << 26,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.value_head = nn.Linear(policy.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.value_head.to(policy.device)
        self.has_trained_critic = False
        self._dtype, self._logits_limit = dtype, logits_limit
        self._adapted = [adapted]  # in a list: its weights are the policy's, not more modules
        self._is_encoder_decoder = bool(policy.config.is_encoder_decoder)
        self._logits_scale = encoder_decoder.logits_scale(policy)
        self.eval()

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        adapter: AdapterConfig | None = None,
        base: Path | str | None = None,
        logits_limit: int = 1 << 26,
    ) -> ActorCritic:
        """The policy in `folder`, with its value head where one was saved.

        With `adapter` only that is trained, beside the frozen weights in `base`. Raises
        UnsupportedPolicy for a model that changes its logits after the output layer, AdapterError.
        """
        folder, place = Path(folder), resolve_device(device)
        precision = resolve_dtype(dtype, place)
        policy, adapted = load_policy(folder, place, precision, adapter, base)
        model = cls(policy, precision, adapted=adapted, logits_limit=logits_limit)
        if (folder / VALUE_HEAD).is_file():
            model.value_head.load_state_dict(load_file(folder / VALUE_HEAD, device=str(place)))
            model.has_trained_critic = True
        model._refuse_changed_logits(folder)
        return model

    def spend_less_memory(self) -> None:
        """Computes activations again in the backward pass instead of keeping them.

        Raises UnsupportedPolicy for a model with dropout.
        """
        checkpoint_activations(self.policy, is_adapted=self._adapted[0] is not None)

    @contextlib.contextmanager
    def as_reference(self) -> Iterator[None]:
        """The adapter is off: what answers is the frozen base. Raises ValueError without one."""
        if self._adapted[0] is None:
            raise ValueError("a policy without an adapter has no reference within it")
        with self._adapted[0].disable_adapter():
            yield

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.value_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the forward pass."""
        return self._dtype

    def logprobs_and_values(self, batch: TokenBatch, *, with_entropy: bool = True) -> TokenScores:
        """Scores the completions of a batch; the value is that of the state before the token.

        Without `with_entropy` the entropies are 0: a pass over the vocabulary less.
        """
        states = self._states(batch)
        logprobs, entropy = self._logprobs(states, batch.targets, with_entropy=with_entropy)
        return TokenScores(
            logprobs=_to_rows(logprobs, batch.mask),
            values=_to_rows(self.values(states), batch.mask),
            entropy=_to_rows(entropy, batch.mask),
            states=states,
        )

    def forward(self, batch: TokenBatch) -> TokenScores:
        """See logprobs_and_values; a data-parallel wrapper calls this."""
        return self.logprobs_and_values(batch)

    def logprobs(self, batch: TokenBatch) -> Tensor:
        """Log-probs [b, t] alone, in nats: a reference needs neither values nor entropy."""
        found, _ = self._logprobs(self._states(batch), batch.targets, with_entropy=False)
        return _to_rows(found, batch.mask)

    def _states(self, batch: TokenBatch) -> Tensor:
        """Final states [n, h] that predict the completions' tokens."""
        with torch.autocast(self.device.type, self._dtype, enabled=self._is_mixed):
            return self._final_states(batch)

    def _logprobs(
        self, states: Tensor, targets: Tensor, *, with_entropy: bool = True
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, self._dtype, enabled=self._is_mixed):
            return token_logprobs(
                states,
                self._head,
                targets,
                limit=self._logits_limit,
                scale=self._logits_scale,
                with_entropy=with_entropy,
            )

    def values(self, states: Tensor) -> Tensor:
        """The critic's value [n] of final hidden states [n, h], float32."""
        with torch.autocast(self.device.type, enabled=False):
            return self.value_head(states.float())[:, 0]

    def save(self, folder: Path, tokenizer_from: Path | str) -> None:
        """Writes policy, tokenizer and value head; the tokenizer is copied byte for byte.

        An adapter is written and then merged into the policy, which is of no further use here.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self._adapted[0] is None:
            self.policy.save_pretrained(folder)
        else:
            save_merged(self._adapted[0], folder)
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


def _to_rows(tokens: Tensor, mask: Tensor) -> Tensor:
    """[n] tokens, row by row, to [b, t] with 0 at padding."""
    return torch.zeros_like(mask).masked_scatter(mask.bool(), tokens)
