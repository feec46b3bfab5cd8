"""Two processes over gloo train the policy that one trains."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.ppo.test_trainer import CONFIG, luck, metric, train
from tests.training.tiny import sample_rows, tiny_policy
from training.errors import TrainingError
from training.policy.adapters import AdapterConfig
from training.ppo.config import TrainingConfig
from training.ppo.guards import DivergedError
from training.ppo.parallel import Parallel
from training.ppo.processes import train_in_processes

FIRST = ("loss_policy", "loss_value", "grad_norm", "entropy", "ratio_max", "clip_fraction")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("policy") / "policy")


@pytest.fixture(scope="module")
def rows(policy):
    return sample_rows(policy, 34, luck)


def together(rows, policy, out, config, **changes):
    arguments = {
        "policy_dir": policy,
        "reference_dir": policy,
        "kl_coefficient": 0.05,
        "round": 0,
        "seed": 0,
        "device": "cpu",
    } | changes
    return train_in_processes(rows, 2, out_dir=out, config=config, **arguments)


def same_training(alone, two):
    for name in FIRST:
        ours, theirs = metric(two, name), metric(alone, name)
        assert len(ours) == len(theirs) == 5
        assert ours[0] == pytest.approx(theirs[0], rel=1e-5, abs=1e-6), name
    assert metric(two, "loss_policy") == pytest.approx(metric(alone, "loss_policy"), abs=2e-3)
    assert two.train_use["rollout_id"].equals(alone.train_use["rollout_id"])
    for name in ("importance_weight", "advantage_mean"):
        np.testing.assert_allclose(two.train_use[name], alone.train_use[name], atol=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_have_the_loss_and_the_gradient_of_one(rows, policy, tmp_path, strategy):
    config = CONFIG.model_copy(update={"strategy": strategy})
    alone = train(rows, policy, tmp_path / "one", config)
    two = together(rows, policy, tmp_path / "two", config, work_dir=tmp_path / "work")
    same_training(alone, two)
    ours, theirs, before = (
        load_file(folder / "model.safetensors")
        for folder in (two.policy_dir, alone.policy_dir, policy)
    )
    assert ours.keys() == theirs.keys()
    # Adam's first steps have the gradient's sign alone, so where it is all but 0 they may differ.
    far = sum(float((ours[k] - theirs[k]).abs().sum()) for k in ours)
    moved = sum(float((ours[k] - before[k]).abs().sum()) for k in ours)
    assert far < 0.02 * moved


def test_an_adapter_and_slim_memory_train_in_two_processes_too(rows, policy, tmp_path):
    slim = CONFIG.model_copy(update={"gradient_checkpointing": True, "logits_in_memory": 400})
    adapter = AdapterConfig(r=4, alpha=8)
    alone = train(rows, policy, tmp_path / "one", CONFIG, adapter=adapter)
    two = together(rows, policy, tmp_path / "two", slim, adapter=adapter)
    same_training(alone, two)
    assert (two.policy_dir / "adapter/adapter_model.safetensors").is_file()


def test_an_error_in_the_processes_is_the_callers_and_writes_nothing(rows, policy, tmp_path):
    wild = CONFIG.model_copy(update={"max_ratio": 1.0 + 1e-9, "learning_rate": 1e-2})
    with pytest.raises(DivergedError, match=r"over training.max_ratio 1, in rollout r00"):
        together(rows, policy, tmp_path / "out", wild)
    assert not list(tmp_path.iterdir())


def die(done, total, metrics):
    """A progress that the first process does not survive."""
    os._exit(7)


def test_a_process_that_dies_ends_the_others(rows, policy, tmp_path):
    with pytest.raises(TrainingError, match=r"a training process died \(exit codes \[7, -?\d+\]\)"):
        together(rows, policy, tmp_path / "out", CONFIG, progress=die)
    assert not list(tmp_path.iterdir())


def test_shares_are_equally_many_and_a_repeated_one_weighs_nothing():
    config, device = TrainingConfig(), torch.device("cpu")
    alone = Parallel(config, device)
    assert alone.share("abc") == [("a", 1.0), ("b", 1.0), ("c", 1.0)]
    first, second = Parallel(config, device), Parallel(config, device)
    first.world = second.world = 2
    second.rank = 1
    assert first.share("abc") == [("a", 1.0), ("c", 1.0)]
    assert second.share("abc") == [("b", 1.0), ("a", 0.0)]


@pytest.mark.slow  # the compiler works for a minute
def test_a_compiled_policy_trains_the_same(rows, policy, tmp_path):
    plain = train(rows, policy, tmp_path / "a")
    compiled = train(rows, policy, tmp_path / "b", CONFIG.model_copy(update={"compile": True}))
    assert metric(compiled, "loss_policy") == pytest.approx(metric(plain, "loss_policy"), abs=1e-4)
    names = [set(load_file(o.policy_dir / "model.safetensors")) for o in (plain, compiled)]
    assert names[0] == names[1]
