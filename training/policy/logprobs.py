"""Log-probs of chosen tokens from hidden states, without logits of every token and word at once.

Up to a limit the logits are simply there, which is fastest; beyond it they come and go in chunks
and are computed again in the backward pass. On CUDA the chunks are TRL's fused kernel, which is
private to TRL: only this module knows it. Everything after the output layer is float32.
Not here: whose states these are (actor_critic.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_VOCABULARY_CHUNK = 8192  # of the fused kernel


def token_logprobs(
    states: Tensor,
    head: nn.Module,
    targets: Tensor,
    *,
    limit: int,
    scale: float = 1.0,
    with_entropy: bool = True,
) -> tuple[Tensor, Tensor]:
    """Log-probs [n] of `targets` [n] in nats and entropies [n], from states [n, h], float32.

    `head` is the output layer [h -> vocabulary], its result multiplied by `scale`; `limit` is the
    largest number of logits that may exist at once. Entropies carry no gradient, and are 0 where
    they are not asked for.
    """
    words: int = head.weight.shape[0]  # type: ignore[assignment,index]
    if len(states) * words <= limit:
        return _whole(states, head, targets, scale, with_entropy)
    if states.is_cuda and type(head) is nn.Linear:
        return fused_logprobs(states, head, targets, scale)
    rows = max(1, limit // words)
    pieces = zip(states.split(rows), targets.split(rows), strict=True)
    found = [
        checkpoint(_whole, piece, head, chosen, scale, with_entropy, use_reentrant=False)
        for piece, chosen in pieces
    ]
    logprobs, entropy = zip(*found, strict=True)
    return torch.cat(logprobs), torch.cat(entropy)


def fused_logprobs(
    states: Tensor, head: nn.Linear, targets: Tensor, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """As token_logprobs, by TRL's kernel (Triton on CUDA, its plain form elsewhere)."""
    from trl.kernels import ChunkedLogProbFunction

    logprobs, entropy, *_ = ChunkedLogProbFunction.apply(
        states, head.weight, head.bias, targets, 1.0, _VOCABULARY_CHUNK, None, scale, ("entropy",)
    )
    return logprobs.float(), entropy.detach().float()


def _whole(
    states: Tensor, head: nn.Module, targets: Tensor, scale: float, with_entropy: bool
) -> tuple[Tensor, Tensor]:
    logits = head(states).float()
    if scale != 1.0:
        logits = logits * scale
    # Not logit - logsumexp, which rounds at the size of the logits: three times the error.
    logs = logits.log_softmax(-1)
    chosen = logs.gather(1, targets[:, None])[:, 0]
    entropy = torch.zeros_like(chosen, requires_grad=False)
    if with_entropy:
        with torch.no_grad():
            entropy = -(logs.exp() * logs).sum(-1)
    return chosen, entropy
