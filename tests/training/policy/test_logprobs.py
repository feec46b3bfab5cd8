"""Log-probs in chunks are those of the whole, and so are their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.policy import logprobs
from training.policy.logprobs import fused_logprobs, token_logprobs


def setting():
    torch.manual_seed(0)
    states = torch.randn(37, 16, requires_grad=True)
    head = nn.Linear(16, 53, bias=False)
    return states, head, torch.randint(0, 53, (37,))


def expected(states, head, targets, scale=1.0):
    logs = (head(states) * scale).log_softmax(-1)
    entropy = -(logs.exp() * logs).sum(-1)
    return logs.gather(1, targets[:, None])[:, 0], entropy


def gradients(found, states, head):
    states.grad = head.weight.grad = None
    (found * torch.linspace(-1, 1, len(found))).sum().backward()
    return states.grad, head.weight.grad


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("limit", [1, 53, 400, 10**9])
def test_chunks_of_any_size_are_the_whole(limit, scale):
    states, head, targets = setting()
    found, entropy = token_logprobs(states, head, targets, limit=limit, scale=scale)
    wanted, wanted_entropy = expected(states, head, targets, scale)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, wanted_entropy, atol=1e-5, rtol=0)
    assert not entropy.requires_grad
    for ours, theirs in zip(
        gradients(found, states, head), gradients(wanted, states, head), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_the_fused_kernel_is_the_same_function():
    states, head, targets = setting()
    found, entropy = fused_logprobs(states, head, targets, 0.5)
    wanted, wanted_entropy = expected(states, head, targets, 0.5)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, wanted_entropy, atol=1e-5, rtol=0)
    for ours, theirs in zip(
        gradients(found, states, head), gradients(wanted, states, head), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_no_more_logits_than_the_limit_ever_exist(monkeypatch):
    seen = []
    whole = logprobs._whole

    def watched(states, *others):
        seen.append(len(states) * 53)
        return whole(states, *others)

    monkeypatch.setattr(logprobs, "_whole", watched)
    states, head, targets = setting()
    found, _ = token_logprobs(states, head, targets, limit=300)
    found.sum().backward()
    assert max(seen) <= 300
    assert sum(seen) == 2 * 37 * 53  # forward, and again for the backward pass


def test_entropies_that_nobody_asks_for_are_zero():
    states, head, targets = setting()
    _, entropy = token_logprobs(states, head, targets, limit=10**9, with_entropy=False)
    assert not entropy.any()
