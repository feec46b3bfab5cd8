"""Every formula of training/ppo/formulas.py by its definition, token by token, in plain Python.

Rounds are random, with rubbish at padding; below them, examples worked out by hand that
test_formulas.py has not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, tensor

from training.ppo import formulas as ppo

SEEDS = range(3)


@pytest.fixture(params=SEEDS)
def round(request) -> dict[str, Tensor]:
    """[6, 5] tensors; lengths from one to five tokens; at padding numbers that would show."""
    random = torch.Generator().manual_seed(request.param)
    lengths = torch.randint(1, 6, (6, 1), generator=random)
    mask = (torch.arange(5) < lengths).float()
    names = ("proximal", "gap", "behavior_gap", "advantages", "values", "old_values", "returns")
    made = {name: torch.randn(6, 5, generator=random) for name in names}
    made["proximal"] = -made["proximal"].abs()
    made["behavior"] = made["proximal"] + 0.4 * made.pop("behavior_gap")
    made["logprobs"] = made["proximal"] + 0.5 * made.pop("gap")
    made["weights"] = torch.rand(6, 5, generator=random) * 2
    made["rewards"] = torch.randn(6, generator=random)
    rubbish = {name: x + 7 * (1 - mask) for name, x in made.items() if x.dim() == 2}
    return made | rubbish | {"mask": mask}


def tokens(round: dict[str, Tensor], *names: str) -> Iterator[tuple[float, ...]]:
    """These tensors' numbers at every token."""
    for i, t in round["mask"].nonzero().tolist():
        yield tuple(float(round[name][i, t]) for name in names)


def mean_and_sd(numbers: list[float]) -> tuple[float, float]:
    mean = sum(numbers) / len(numbers)
    return mean, math.sqrt(sum((x - mean) ** 2 for x in numbers) / len(numbers))


def test_kl_estimates(round):
    mask = round["mask"].bool()
    for estimator in ("k1", "k2", "k3"):
        found = ppo.kl_estimate(round["proximal"], round["logprobs"], estimator)[mask]
        for value, (p, q) in zip(
            found.tolist(), tokens(round, "proximal", "logprobs"), strict=True
        ):
            ratio = math.exp(q - p)
            by_definition = {"k1": p - q, "k2": (p - q) ** 2 / 2, "k3": ratio - 1 - math.log(ratio)}
            assert value == pytest.approx(by_definition[estimator], abs=1e-6)


def test_whitening(round):
    numbers = [x for (x,) in tokens(round, "advantages")]
    mean, sd = mean_and_sd(numbers)
    white, found_mean, found_sd = ppo.whiten(round["advantages"], round["mask"])
    assert (found_mean.item(), found_sd.item()) == pytest.approx((mean, sd), abs=1e-6)
    expected = [(x - mean) / sd for x in numbers]
    assert white[round["mask"].bool()].tolist() == pytest.approx(expected, abs=1e-5)
    assert white[~round["mask"].bool()].abs().sum() == 0


def test_token_rewards(round):
    found = ppo.token_rewards(
        round["rewards"], round["proximal"], round["returns"], round["mask"], 0.3
    )
    for i, row in enumerate(found.tolist()):
        length = int(round["mask"][i].sum())
        expected = [
            -0.3 * float(round["proximal"][i, t] - round["returns"][i, t]) for t in range(length)
        ]
        expected[-1] += float(round["rewards"][i])
        assert row == pytest.approx(expected + [0.0] * (5 - length), abs=1e-6)


def test_importance_weights_and_effective_sample_sizes(round):
    cap = 1.3
    gap = ppo.log_ratios(round["proximal"], round["behavior"], round["mask"])
    weights = ppo.importance_weights(gap, round["mask"], cap=cap)
    metrics = ppo.importance_metrics(gap, round["mask"], cap)
    ratios = [math.exp(p - b) for p, b in tokens(round, "proximal", "behavior")]
    found = weights[round["mask"].bool()].tolist()
    assert found == pytest.approx([min(r, cap) for r in ratios], rel=1e-5)
    assert weights[~round["mask"].bool()].abs().sum() == 0
    sequences = [1.0] * 6
    for i, t in round["mask"].nonzero().tolist():
        sequences[i] *= math.exp(float(round["proximal"][i, t] - round["behavior"][i, t]))
    count = len(ratios)
    assert metrics == pytest.approx(
        {
            "importance_kl_k1": sum(-math.log(r) for r in ratios) / count,
            "importance_kl_k3": sum(r - 1 - math.log(r) for r in ratios) / count,
            "importance_max": max(ratios),
            "importance_over_cap": sum(r > cap for r in ratios) / count,
            "ess_seq": sum(sequences) ** 2 / sum(w * w for w in sequences) / 6,
            "ess_tok": sum(ratios) ** 2 / sum(r * r for r in ratios) / count,
        },
        rel=1e-4,
    )


def test_sequences_weigh_as_a_whole_and_not_at_all_where_they_are_too_far(round):
    cap, most = 1.5, 0.08
    mask = round["mask"]
    gap = ppo.log_ratios(round["proximal"], round["behavior"], mask)
    found = ppo.importance_weights(gap, mask, cap=cap, level="sequence", max_k3=most)
    left_out = 0
    for i, row in enumerate(found.tolist()):
        length = int(mask[i].sum())
        gaps = [float(round["proximal"][i, t] - round["behavior"][i, t]) for t in range(length)]
        k3 = sum(math.exp(g) - 1 - g for g in gaps) / length
        left_out += k3 > most
        weight = 0.0 if k3 > most else min(math.exp(sum(gaps)), cap)
        assert row == pytest.approx([weight] * length + [0.0] * (5 - length), abs=1e-5)
    assert 0 < left_out < 6


def test_leave_one_out_advantages(round):
    groups, price = [4, 9, 4, 9, 4, 9], 0.2
    found = ppo.leave_one_out_advantages(
        round["rewards"], round["returns"], tensor(groups), round["mask"], price
    )
    lengths = [int(n) for n in round["mask"].sum(1)]
    paid = [
        float(round["rewards"][i]) - price * sum(round["returns"][i, :length].tolist())
        for i, length in enumerate(lengths)
    ]
    for i, length in enumerate(lengths):
        others = [paid[j] for j in range(6) if groups[j] == groups[i] and j != i]
        expected = paid[i] - sum(others) / len(others)
        row = [expected] * length + [0.0] * (5 - length)
        assert found[i].tolist() == pytest.approx(row, abs=1e-5)


def test_policy_loss_and_its_gradient(round):
    clip, dual, count = 0.2, 1.5, 11.0
    logprobs = round["logprobs"].clone().requires_grad_()
    found = ppo.policy_loss(
        logprobs, round["proximal"], round["advantages"], round["weights"], round["mask"],
        clip_ratio=clip, dual_clip=dual, token_count=count,
    )  # fmt: skip
    found.loss.backward()
    loss, k3, off, outside, gradient = 0.0, 0.0, 0.0, 0, []
    names = ("logprobs", "proximal", "advantages", "weights")
    for new, old, advantage, weight in tokens(round, *names):
        ratio = math.exp(new - old)
        kept = min(max(ratio, 1 - clip), 1 + clip)
        gain = min(ratio * advantage, kept * advantage)
        moves = gain == ratio * advantage  # else the clipped one, which stands still
        if advantage < 0 and gain < dual * advantage:
            gain, moves = dual * advantage, False
        loss -= weight * gain
        k3 += ratio - 1 - math.log(ratio)
        off += abs(ratio - 1)
        outside += abs(ratio - 1) > clip
        gradient.append(-weight * advantage * ratio / count if moves else 0.0)
    assert found.loss.item() == pytest.approx(loss / count, abs=1e-5)
    assert found.k3.item() == pytest.approx(k3 / count, abs=1e-5)
    assert found.ratio_error.item() == pytest.approx(off / count, abs=1e-5)
    assert found.clip_fraction.item() == pytest.approx(outside / count, abs=1e-6)
    assert logprobs.grad[round["mask"].bool()].tolist() == pytest.approx(gradient, abs=1e-5)
    assert logprobs.grad[~round["mask"].bool()].abs().sum() == 0


def test_value_loss_and_its_gradient(round):
    clip, count = 0.6, 9.0
    values = round["values"].clone().requires_grad_()
    found = ppo.value_loss(
        values, round["old_values"], round["returns"], round["mask"], clip=clip, token_count=count
    )
    found.backward()
    loss, gradient = 0.0, []
    for value, old, paid in tokens(round, "values", "old_values", "returns"):
        kept = min(max(value, old - clip), old + clip)
        loss += max((value - paid) ** 2, (kept - paid) ** 2) / 2
        moves = kept == value or abs(value - paid) > abs(kept - paid)
        gradient.append((value - paid) / count if moves else 0.0)
    assert found.item() == pytest.approx(loss / count, abs=1e-5)
    assert values.grad[round["mask"].bool()].tolist() == pytest.approx(gradient, abs=1e-5)
    assert values.grad[~round["mask"].bool()].abs().sum() == 0


def test_explained_variance(round):
    pairs = list(tokens(round, "returns", "values"))
    _, spread = mean_and_sd([paid for paid, _ in pairs])
    _, left = mean_and_sd([paid - value for paid, value in pairs])
    found = ppo.explained_variance(round["returns"], round["values"], round["mask"])
    assert found == pytest.approx(1 - left**2 / spread**2, abs=1e-4)


@pytest.mark.parametrize(
    ("gae_lambda", "expected"),
    [
        (0.0, [0.1, 0.1, 0.3]),  # one step ahead: .6 - .5, .7 - .6, 1 - .7
        (0.95, [0.46575, 0.385, 0.3]),  # .1 + .95 x (.1 + .95 x .3)
        (1.0, [0.5, 0.4, 0.3]),  # what was paid at last, less the value: 1 - .5, 1 - .6, 1 - .7
    ],
)
def test_advantages_by_hand_at_three_lambdas(gae_lambda, expected):
    rewards, values = tensor([[0.0, 0.0, 1.0, 8.0]]), tensor([[0.5, 0.6, 0.7, 8.0]])
    mask = tensor([[1.0, 1.0, 1.0, 0.0]])
    found = ppo.generalized_advantages(rewards, values, mask, 1.0, gae_lambda)
    assert found[0].tolist() == pytest.approx([*expected, 0.0], abs=1e-6)


def test_kl_estimates_by_hand_where_k1_is_negative():
    # p = .2, q = .4: ratio q / p = 2
    p, q = tensor([0.2]).log(), tensor([0.4]).log()
    ln2 = math.log(2)
    assert ppo.kl_estimate(p, q, "k1").item() == pytest.approx(-ln2, abs=1e-6)
    assert ppo.kl_estimate(p, q, "k2").item() == pytest.approx(ln2**2 / 2, abs=1e-6)
    assert ppo.kl_estimate(p, q, "k3").item() == pytest.approx(2 - 1 - ln2, abs=1e-6)


def test_a_completion_of_one_token_is_paid_there_and_its_advantage_is_what_surprised():
    one = torch.ones(1, 1)
    paid = ppo.token_rewards(tensor([2.0]), tensor([[-1.0]]), tensor([[-3.0]]), one, 0.5)
    assert paid.item() == pytest.approx(2 - 0.5 * 2)
    found = ppo.generalized_advantages(paid, tensor([[0.25]]), one, 1.0, 0.95)
    assert found.item() == pytest.approx(0.75)


def test_value_loss_by_hand_on_both_sides_of_the_clip():
    # Old value 0, clip .5, return 1. Value 2 is kept at .5: worse is 1 (from 2) against .25.
    # Value -1 is kept at -.5: worse is 4. Value .8 is kept at .5: worse is .25, not .04.
    found = ppo.value_loss(
        tensor([[2.0, -1.0, 0.8]]), torch.zeros(1, 3), torch.ones(1, 3), torch.ones(1, 3),
        clip=0.5, token_count=3,
    )  # fmt: skip
    assert found.item() == pytest.approx((1 + 4 + 0.25) / 2 / 3)


def test_explained_variance_by_hand():
    # Returns 0 and 2 vary by 1; what is left of them, 0 and 1, by a quarter.
    found = ppo.explained_variance(tensor([[0.0, 2.0]]), tensor([[0.0, 1.0]]), torch.ones(1, 2))
    assert found == pytest.approx(0.75, abs=1e-6)
