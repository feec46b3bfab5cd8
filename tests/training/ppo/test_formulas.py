"""The formulas, against numbers worked out by hand and against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor

from training.ppo.formulas import (
    adapt_kl_coefficient,
    explained_variance,
    generalized_advantages,
    importance_metrics,
    importance_weights,
    kl_estimate,
    leave_one_out_advantages,
    log_ratios,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)

LN2 = math.log(2)
MASK = tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])


def random_round(seed: int, rows: int = 5, width: int = 7) -> tuple[torch.Tensor, ...]:
    """Mask with random lengths, rewards and values with rubbish at padding."""
    torch.manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows, 1))
    mask = (torch.arange(width) < lengths).float()
    return mask, torch.randn(rows, width) * mask, torch.randn(rows, width)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [("k1", LN2), ("k2", LN2**2 / 2), ("k3", 0.5 - 1 + LN2)],
)
def test_kl_estimators_by_hand(estimator, expected):
    p, q = tensor([math.log(0.5)]), tensor([math.log(0.25)])
    assert kl_estimate(p, q, estimator).item() == pytest.approx(expected, abs=1e-6)


def test_every_estimator_has_the_true_kl_as_its_mean_and_none_for_a_policy_and_itself():
    p, q = tensor([0.7, 0.2, 0.1]), tensor([0.5, 0.3, 0.2])
    true = (p * (p / q).log()).sum()
    for estimator in ("k1", "k3"):
        assert (p * kl_estimate(p.log(), q.log(), estimator)).sum() == pytest.approx(true.item())
    for estimator in ("k1", "k2", "k3"):
        assert kl_estimate(p.log(), p.log(), estimator).abs().max() == 0


def test_rewards_are_paid_at_the_last_token_and_kl_at_every_one():
    proximal = tensor([[-1.0, -1.0, -1.0], [-1.0, -1.0, 9.0]])
    reference = proximal - tensor([[0.1, 0.2, 0.3], [0.5, -0.5, 7.0]])
    paid = token_rewards(tensor([1.0, -2.0]), proximal, reference, MASK, 0.1)
    expected = tensor([[-0.01, -0.02, 0.97], [-0.05, -1.95, 0.0]])
    torch.testing.assert_close(paid, expected, atol=1e-6, rtol=0)


def test_advantages_by_hand():
    rewards, values = tensor([[0.0, 0.0, 1.0]]), tensor([[0.5, 0.6, 0.7]])
    found = generalized_advantages(rewards, values, torch.ones(1, 3), 1.0, 0.5)
    torch.testing.assert_close(found, tensor([[0.225, 0.25, 0.3]]))


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
def test_advantages_against_their_definition(discount, gae_lambda):
    mask, rewards, values = random_round(3)
    found = generalized_advantages(rewards, values, mask, discount, gae_lambda)
    for i, length in enumerate(mask.sum(1).long().tolist()):
        delta = [
            rewards[i, t] + (discount * values[i, t + 1] if t + 1 < length else 0) - values[i, t]
            for t in range(length)
        ]
        for t in range(length):
            expected = sum((discount * gae_lambda) ** (k - t) * delta[k] for k in range(t, length))
            assert found[i, t] == pytest.approx(float(expected), abs=1e-5)
        assert found[i, length:].abs().sum() == 0


def test_with_lambda_one_the_return_is_what_was_really_paid():
    mask, rewards, values = random_round(4)
    returns = (generalized_advantages(rewards, values, mask, 1.0, 1.0) + values) * mask
    paid_from_here = rewards.flip(1).cumsum(1).flip(1) * mask
    torch.testing.assert_close(returns, paid_from_here, atol=1e-5, rtol=0)


def test_importance_weights_are_cut_but_their_metrics_are_not():
    behavior = tensor([[math.log(0.2), math.log(0.5)], [math.log(0.4), 5.0]])
    proximal = tensor([[math.log(0.6), math.log(0.5)], [math.log(0.4), -5.0]])
    mask = tensor([[1.0, 1.0], [1.0, 0.0]])
    gap = log_ratios(proximal, behavior, mask)
    metrics = importance_metrics(gap, mask, 2.0)
    weights = importance_weights(gap, mask, cap=2.0)
    torch.testing.assert_close(weights, tensor([[2.0, 1.0], [1.0, 0.0]]))
    ln3 = math.log(3)
    assert metrics["importance_max"] == pytest.approx(3, rel=1e-5)
    assert metrics["importance_over_cap"] == pytest.approx(1 / 3)
    assert metrics["importance_kl_k1"] == pytest.approx(-ln3 / 3, rel=1e-5)
    assert metrics["importance_kl_k3"] == pytest.approx((2 - ln3) / 3, rel=1e-5)
    assert metrics["ess_seq"] == pytest.approx(16 / (2 * 10), rel=1e-5)  # weights 3 and 1
    assert metrics["ess_tok"] == pytest.approx(25 / (3 * 11), rel=1e-5)  # weights 3, 1, 1


def test_a_sequence_weighs_as_a_whole_or_not_at_all_or_as_if_it_were_fresh():
    gap = tensor([[math.log(1.5), math.log(1.2)], [math.log(3.0), 0.0]])
    mask = tensor([[1.0, 1.0], [1.0, 0.0]])
    whole = importance_weights(gap, mask, cap=2.0, level="sequence")
    torch.testing.assert_close(whole, tensor([[1.8, 1.8], [2.0, 0.0]]))
    none = importance_weights(gap, mask, cap=2.0, level="none")
    torch.testing.assert_close(none, mask)
    # Mean k3: (.5 - ln 1.5 + .2 - ln 1.2) / 2 = .056 and 2 - ln 3 = .90.
    strict = importance_weights(gap, mask, cap=2.0, max_k3=0.1)
    torch.testing.assert_close(strict, tensor([[1.5, 1.2], [0.0, 0.0]]))


def test_leave_one_out_advantages_by_hand():
    rewards, groups = tensor([1.0, 4.0, 7.0, 2.0, 5.0]), torch.tensor([8, 8, 8, 3, 3])
    kl = tensor([[1.0, 1.0], [2.0, 9.0], [0.0, 0.0], [0.0, 0.0], [3.0, 1.0]])
    mask = tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    found = leave_one_out_advantages(rewards, kl, groups, mask, 0.5)
    # Paid: 0, 3, 7 | 2, 3. Of the others: 5, 3.5, 1.5 | 3, 2.
    expected = tensor([[-5.0, -5.0], [-0.5, 0.0], [5.5, 5.5], [-1.0, -1.0], [1.0, 1.0]])
    torch.testing.assert_close(found, expected)


def test_kl_on_stale_rows_has_the_wrong_sign_until_it_is_weighted():
    behavior, proximal, reference = (
        tensor(p).log() for p in ([[0.5, 0.5]], [[0.9, 0.1]], [[0.5, 0.5]])
    )
    true = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    gap = kl_estimate(proximal, reference)
    weights = importance_weights(proximal - behavior, torch.ones(1, 2), cap=2.0)
    assert (behavior.exp() * gap).sum() < -0.5
    assert (behavior.exp() * weights * gap).sum() == pytest.approx(true, abs=1e-5)


def test_policy_loss_by_hand():
    ratios = tensor([[1.5, 0.5, 1.5, 5.0, 0.5, 1.0]])
    advantages = tensor([[1.0, 1.0, -1.0, -1.0, -1.0, 9.0]])
    weights = tensor([[1.0, 1.0, 1.0, 0.5, 2.0, 9.0]])
    mask = tensor([[1.0, 1.0, 1.0, 1.0, 1.0, 0.0]])
    logprobs = ratios.log().requires_grad_()
    found = policy_loss(
        logprobs,
        torch.zeros(1, 6),
        advantages,
        weights,
        mask,
        clip_ratio=0.2,
        dual_clip=3.0,
        token_count=5,
    )
    # -1.2 clipped, -.5, +1.5, +3 (dual clip) x .5, +.8 (clipped) x 2
    assert found.loss.item() == pytest.approx((-1.2 - 0.5 + 1.5 + 1.5 + 1.6) / 5, abs=1e-6)
    assert found.clip_fraction.item() == pytest.approx(1)
    assert found.ratio_max.item() == pytest.approx(5)
    found.loss.backward()
    expected = tensor([[0.0, -0.5, 1.5, 0.0, 0.0, 0.0]]) / 5  # d/d log p = -A w ratio, or 0
    torch.testing.assert_close(logprobs.grad, expected)


def test_at_the_first_step_the_ratio_is_one_and_the_gradient_is_the_plain_policy_gradient():
    logprobs = tensor([[-1.0, -2.0, -3.0], [-1.0, -0.5, 0.0]], requires_grad=True)
    advantages = tensor([[1.0, -2.0, 0.5], [3.0, 1.0, 7.0]])
    found = policy_loss(
        logprobs,
        logprobs.detach(),
        advantages,
        torch.ones(2, 3),
        MASK,
        clip_ratio=0.2,
        dual_clip=3.0,
        token_count=5,
    )
    assert found.ratio_max == 1
    assert found.k3 == found.clip_fraction == found.ratio_error == 0
    found.loss.backward()
    torch.testing.assert_close(logprobs.grad, -advantages * MASK / 5)


def test_value_loss_takes_the_worse_of_the_value_and_the_kept_one():
    found = value_loss(
        tensor([[2.0, 1.2, 9.0]]),
        tensor([[1.0, 1.0, 0.0]]),
        tensor([[3.0, 1.0, 0.0]]),
        tensor([[1.0, 1.0, 0.0]]),
        clip=0.5,
        token_count=2,
    )
    assert found.item() == pytest.approx((1.5**2 + 0.2**2) / 2 / 2)


def test_whitening_sees_tokens_only():
    x = tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 1e6]])
    white, mean, sd = whiten(x, MASK)
    assert mean == 3
    assert sd == pytest.approx(math.sqrt(2))
    expected = tensor([[-2.0, -1.0, 0.0], [1.0, 2.0, 0.0]]) / math.sqrt(2)
    torch.testing.assert_close(white, expected)


def test_explained_variance_of_a_perfect_a_constant_and_a_pointless_critic():
    returns = tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 99.0]])
    assert explained_variance(returns, returns, MASK) == pytest.approx(1)
    assert explained_variance(returns, torch.full((2, 3), 7.0), MASK) == pytest.approx(0, abs=1e-6)
    assert explained_variance(torch.ones(2, 3), returns, MASK) == 0


@pytest.mark.parametrize(
    ("measured", "expected"), [(3.0, 0.05), (3.3, 0.055), (9.0, 0.06), (-0.1, 0.04)]
)
def test_the_kl_controller_follows_by_twenty_percent_at_most(measured, expected):
    assert adapt_kl_coefficient(0.05, measured, 3.0) == pytest.approx(expected)
