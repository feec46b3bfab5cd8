"""A training that is killed inside an epoch goes on to the same weights, bit for bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.ppo.test_trainer import luck, train
from tests.training.tiny import sample_rows, tiny_policy
from training.ppo.config import TrainingConfig

CONFIG = TrainingConfig(
    epochs=3, minibatch_size=8, micro_batch_tokens=64, warmup_steps=5, checkpoint_steps=1
)
STEPS = (1, 6, 8, 12)
# One process imports; for each step it forks one that trains and is killed there.
_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.training.ppo.test_resume import CONFIG, STEPS, luck, train
from tests.training.tiny import sample_rows
policy, root = Path(sys.argv[1]), Path(sys.argv[2])
def kill_at(at):
    def told(done, total, metrics):
        if done == at:
            os.kill(os.getpid(), signal.SIGKILL)
    rows, folder = sample_rows(policy, 32, luck), root / str(at)
    train(rows, policy, folder / "policy", CONFIG, work_dir=folder / "work", progress=told)
for step in STEPS:
    child = os.fork()
    if not child:
        kill_at(step)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("policy") / "policy")


@pytest.fixture(scope="module")
def whole(policy, tmp_path_factory):
    """A training that nobody disturbed, and without points of resume."""
    return train(
        sample_rows(policy, 32, luck), policy, tmp_path_factory.mktemp("whole") / "p", CONFIG
    )


@pytest.fixture(scope="module")
def killed(policy, tmp_path_factory):
    """A folder of each step at which a training was killed."""
    root = tmp_path_factory.mktemp("killed")
    call = [sys.executable, "-c", _KILLED, str(policy), str(root)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(-signal.SIGKILL)] * len(STEPS), done.stderr
    return {step: root / str(step) for step in STEPS}


def weights(folder: Path) -> dict[str, bytes]:
    return {
        name: (folder / name).read_bytes()
        for name in ("model.safetensors", "critic/value_head.safetensors")
    }


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_inside_an_epoch_changes_no_bit(policy, whole, killed, step):
    out, work = killed[step] / "policy", killed[step] / "work"
    assert not out.exists()
    steps = []
    rows = sample_rows(policy, 32, luck)
    outcome = train(
        rows, policy, out, CONFIG, work_dir=work,
        progress=lambda done, total, _: steps.append(done),
    )  # fmt: skip
    assert steps[0] == step + 1 or (step == 12 and steps == [12])
    assert weights(out) == weights(whole.policy_dir)
    drop = ["logged_at"]
    assert outcome.training_metrics.drop_columns(drop).equals(
        whole.training_metrics.drop_columns(drop)
    )
    assert outcome.train_use.equals(whole.train_use)
    assert outcome.policy_logprobs.equals(whole.policy_logprobs)
    assert not any(work.iterdir())


def stopped(policy, rows, folder: Path, step: int) -> None:
    """A training that ends after `step` steps and leaves its points in folder/work."""

    class Stop(Exception):
        pass

    def told(done, total, metrics):
        if done == step:
            raise Stop

    with pytest.raises(Stop):
        train(rows, policy, folder / "p", CONFIG, work_dir=folder / "work", progress=told)


def test_a_point_of_other_rewards_is_not_gone_on_from(policy, tmp_path):
    rows = sample_rows(policy, 32, luck)
    stopped(policy, sample_rows(policy, 32, lambda ids: -luck(ids)), tmp_path, 6)
    steps = []
    train(
        rows, policy, tmp_path / "p", CONFIG, work_dir=tmp_path / "work",
        progress=lambda done, total, _: steps.append(done),
    )  # fmt: skip
    assert steps[0] == 1


@pytest.mark.parametrize("name", ["parameters.safetensors", "about.json"])
def test_a_damaged_point_costs_time_only(policy, whole, tmp_path, name):
    rows = sample_rows(policy, 32, luck)
    stopped(policy, rows, tmp_path, 6)
    (point,) = (tmp_path / "work").glob("*/step=*")
    (point / name).write_bytes(b"torn")
    train(rows, policy, tmp_path / "p", CONFIG, work_dir=tmp_path / "work")
    assert weights(tmp_path / "p") == weights(whole.policy_dir)


def test_only_the_last_point_is_kept_and_it_has_everything(policy, tmp_path):
    rows = sample_rows(policy, 32, luck)
    stopped(policy, rows, tmp_path, 6)
    (run,) = (tmp_path / "work").iterdir()
    assert sorted(path.name for path in run.iterdir()) == ["prepared", "step=00000006"]
    point = run / "step=00000006"
    about = json.loads((point / "about.json").read_text())
    assert (about["position"]["epoch"], about["position"]["place"]) == (2, 2)
    assert about["rates"] == [CONFIG.learning_rate, CONFIG.critic_learning_rate]
    files = {path.name for path in point.iterdir()}
    assert files >= {"parameters.safetensors", "optimizer.safetensors", "random.safetensors"}
