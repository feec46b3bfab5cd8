"""training/ppo/formulas.py against the numbers of TRL 1.12's own PPO code (trl_numbers.py).

Where we differ on purpose, a test says how, and that nothing else differs:
- a completion's reward is paid at its last token, theirs one position later where one is free;
- advantages are whitened with the standard deviation of the tokens, theirs is Bessel's;
- a step's loss is a mean over all its tokens, theirs a mean of its micro-batches' means;
- KL in the reward is k1 alone; fractions and estimates count tokens alone, theirs also padding.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn, tensor

from training.policy.actor_critic import ActorCritic
from training.policy.batches import token_batches
from training.ppo import formulas as ppo

NUMBERS = json.loads(Path(__file__).with_name("trl_numbers.json").read_text())
INPUTS, FUNCTIONS = NUMBERS["inputs"], NUMBERS["functions"]
CASES = {"-".join(map(str, case["settings"].values())): case for case in NUMBERS["cases"]}
WHOLE = [name for name, case in CASES.items() if case["settings"]["rows"] == 4]
PAD, PROMPT, CLIP, KL_COEFFICIENT, VALUE_COEFFICIENT = 0, 2, 0.2, 0.05, 0.1
NO_DUAL_CLIP = 1e9


def close(found: Tensor, expected: Any) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected), atol=1e-6, rtol=1e-6)


def stored(case: dict[str, Any]) -> SimpleNamespace:
    """The round's tensors; `mask` has our tokens, `longer` one more position, theirs, where free"""
    round = {name: tensor(value) for name, value in case["round"].items()}
    mask, longer = (~round.pop(name) for name in ("padding_mask", "padding_mask_p1"))
    return SimpleNamespace(mask=mask.float(), longer=longer.float(), **round)


def test_the_numbers_are_those_of_the_last_release_with_ppo():
    assert NUMBERS["versions"]["trl"] == "1.12.0"
    assert len(WHOLE) == 7
    longest = stored(CASES["k1-0.95-1.0-4"])
    assert sorted(longest.mask.sum(1).tolist()) == [3, 4, 5, 5]
    assert sorted(longest.longer.sum(1).tolist()) == [4, 5, 5, 5]


def test_means_and_whitening():
    x, mask = tensor(INPUTS["old_values"])[:, PROMPT:], tensor(INPUTS["completions"]) != PAD
    close(ppo.masked_mean(x, mask.float()), FUNCTIONS["masked_mean"])
    white, _, sd = ppo.whiten(x, mask.float())
    count = float(mask.sum())
    close(sd.square() * count / (count - 1), FUNCTIONS["masked_var"])
    bessel = math.sqrt((count - 1) / count)
    close(white[mask] * bessel, tensor(FUNCTIONS["masked_whiten"])[mask])


@pytest.mark.parametrize("name", WHOLE)
def test_kl_of_the_round(name):
    case, round = CASES[name], stored(CASES[name])
    estimator = case["settings"]["kl_estimator"]
    kl = ppo.kl_estimate(round.logprobs, round.ref_logprobs, estimator) * round.mask
    close(kl, round.kl)
    close(kl.sum(1).mean(), case["metrics"]["objective/kl"])


@pytest.mark.parametrize("name", [name for name in WHOLE if name.startswith("k1")])
def test_rewards_are_theirs_but_for_the_place(name):
    round = stored(CASES[name])
    arguments = (round.scores, round.logprobs, round.ref_logprobs)
    close(ppo.token_rewards(*arguments, round.longer, KL_COEFFICIENT), round.rewards)
    ours = ppo.token_rewards(*arguments, round.mask, KL_COEFFICIENT)
    close(ours.sum(1), round.rewards.sum(1))
    last = round.mask.long().sum(1) - 1
    is_free = last < round.mask.shape[1] - 1
    moved = (ours - round.rewards).gather(1, last[:, None])[:, 0]
    close(moved, round.scores * is_free)


@pytest.mark.parametrize("name", WHOLE)
def test_advantages_returns_and_their_whitening(name):
    case, round = CASES[name], stored(CASES[name])
    gamma, lam = case["settings"]["gamma"], case["settings"]["lam"]
    found = ppo.generalized_advantages(round.rewards, round.values, round.longer, gamma, lam)
    close(found, round.advantages_before_whitening)
    close(found + round.values, round.returns)
    white, _, _ = ppo.whiten(found, round.mask)
    count = float(round.mask.sum())
    close(white * math.sqrt((count - 1) / count), round.advantages)


def test_the_place_of_the_reward_does_not_move_a_return():
    round = stored(CASES["k1-1.0-1.0-4"])
    paid = ppo.token_rewards(
        round.scores, round.logprobs, round.ref_logprobs, round.mask, KL_COEFFICIENT
    )
    ours = ppo.generalized_advantages(paid, round.values, round.mask, 1.0, 1.0) + round.values
    close(ours * round.mask, round.returns * round.mask)


@pytest.mark.parametrize("name", WHOLE)
def test_policy_loss_and_gradient(name):
    case, round = CASES[name], stored(CASES[name])
    (step,) = case["steps"]
    rows = step["micro_batch_inds"]
    found, logprobs = policy_loss(round, step, float(round.mask.sum()))
    close(found.loss.detach(), step["pg_loss"])
    close(found.ratio_max, tensor(step["ratio"]).max())
    found.loss.backward()
    close(logprobs.grad, step["logprobs_grad"])
    gap = ppo.kl_estimate(round.logprobs[rows], logprobs.detach(), "k2") * round.mask[rows]
    close(gap.mean(), case["metrics"]["policy/approxkl_avg"])  # the mean counts padding, too


@pytest.mark.parametrize("name", WHOLE)
def test_clip_fraction_counts_every_ratio_outside_theirs_only_where_it_binds(name):
    case, round = CASES[name], stored(CASES[name])
    (step,) = case["steps"]
    rows = step["micro_batch_inds"]
    mask, advantages = round.mask[rows], round.advantages[rows]
    outside = binding = 0
    for i, t in mask.nonzero().tolist():
        ratio, advantage = step["ratio"][i][t], float(advantages[i, t])
        outside += abs(ratio - 1) > CLIP
        binding += (ratio > 1 + CLIP and advantage > 0) or (ratio < 1 - CLIP and advantage < 0)
    found, _ = policy_loss(round, step, float(mask.sum()))
    assert found.clip_fraction.item() == pytest.approx(outside / float(mask.sum()), abs=1e-6)
    theirs = case["metrics"]["policy/clipfrac_avg"]
    assert theirs == pytest.approx(binding / float(mask.sum()), abs=1e-6)
    assert outside > binding > 0


@pytest.mark.parametrize("name", WHOLE)
def test_value_loss_and_gradient(name):
    round, (step,) = stored(CASES[name]), CASES[name]["steps"]
    rows = step["micro_batch_inds"]
    values = tensor(step["vpred"], requires_grad=True)
    found = ppo.value_loss(
        values,
        round.values[rows],
        round.returns[rows],
        round.longer[rows],
        clip=CLIP,
        token_count=float(round.longer.sum()),
    )
    close(found.detach(), step["vf_loss"])
    found.backward()
    close(values.grad * VALUE_COEFFICIENT, step["values_grad"])


def test_how_a_step_is_cut_changes_their_loss_and_not_ours():
    cut, whole = CASES["k1-0.95-1.0-2"], CASES["k1-0.95-1.0-4"]
    round = stored(cut)
    count = float(round.mask.sum())
    ours = sum(policy_loss(round, step, count)[0].loss.item() for step in cut["steps"])
    assert ours == pytest.approx(whole["steps"][0]["pg_loss"], abs=1e-6)
    tokens = [float(round.mask[step["micro_batch_inds"]].sum()) for step in cut["steps"]]
    losses = [step["pg_loss"] for step in cut["steps"]]
    assert ours == pytest.approx(np.average(losses, weights=tokens), abs=1e-6)
    assert cut["metrics"]["loss/policy_avg"] == pytest.approx(np.mean(losses), abs=1e-6)
    assert abs(ours - np.mean(losses)) > 1e-3


def test_logprobs_and_entropy_of_given_logits():
    logits = tensor(INPUTS["policy_logits"])
    model = ActorCritic(FixedLogits(logits))
    # As they do it: what follows an end token counts as tokens here.
    completions = INPUTS["completions"]
    (batch,) = token_batches(
        [[0] * PROMPT] * len(completions), completions, range(len(completions)),
        micro_batch_tokens=1000, device=torch.device("cpu"),
    )  # fmt: skip
    scores = model.logprobs_and_values(batch)
    close(scores.logprobs, FUNCTIONS["selective_log_softmax"])
    close(model.logprobs(batch), FUNCTIONS["selective_log_softmax"])
    close(scores.entropy.mean(), CASES["k1-0.95-1.0-4"]["metrics"]["policy/entropy_avg"])


class FixedLogits(nn.Module):
    """Stands for a causal model: its states are the given logits, its output layer passes them."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        size = logits.shape[-1]
        self.config = SimpleNamespace(
            get_text_config=lambda: SimpleNamespace(hidden_size=size),
            vocab_size=size,
            is_encoder_decoder=False,
        )
        self.device = torch.device("cpu")
        self.base_model = lambda **_: SimpleNamespace(last_hidden_state=logits)
        self.head = nn.Linear(size, size, bias=False)
        nn.init.eye_(self.head.weight)

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def policy_loss(
    round: SimpleNamespace, step: dict[str, Any], token_count: float
) -> tuple[ppo.PolicyLoss, Tensor]:
    """Ours on the rows of one of their steps; its log-probs, which take the gradient."""
    rows = step["micro_batch_inds"]
    logprobs = tensor(step["new_logprobs"], requires_grad=True)
    found = ppo.policy_loss(
        logprobs,
        round.logprobs[rows],
        round.advantages[rows],
        torch.ones_like(logprobs),
        round.mask[rows],
        clip_ratio=CLIP,
        dual_clip=NO_DUAL_CLIP,
        token_count=token_count,
    )
    return found, logprobs
