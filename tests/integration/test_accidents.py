"""Kill -9 in every stage, two runs at once, bad input: nothing lost, doubled or half-written."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.integration import nights

STAGES = [
    "prepare",
    "round=0-eval-rollouts",
    "round=0-eval-labels-toxicity",
    "round=0-eval-labels-helpful-judge",
    "round=0-evaluation",
    "round=0-train-rollouts",
    "round=0-train-labels-metric",
    "round=0-rewards",
    "round=0-training",
    "round=1-eval-rollouts",
    "round=1-evaluation",
    "round=1-training",
    "round=2-evaluation",
]


def kill_in(root: Path, stage: str, *, driver: bool, wait: float) -> None:
    """Starts the night and kills it, driver or stage process, `wait` s into the named stage."""
    log = root / "_logs" / f"{stage}.log"
    log.unlink(missing_ok=True)
    process = subprocess.Popen(
        nights.command(root),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=nights.environment(),
    )
    deadline = time.monotonic() + 120
    while not log.exists():
        assert process.poll() is None, f"the run ended before {stage}"
        assert time.monotonic() < deadline, f"{stage} did not begin"
        time.sleep(0.02)
    time.sleep(wait)
    children = psutil.Process(process.pid).children(recursive=True)
    if driver:
        process.kill()
    else:
        kill_stage_process(process)
    process.wait(timeout=120)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, f"processes outlived the kill: {alive}"


def kill_stage_process(driver: subprocess.Popen[bytes]) -> None:
    """Kills the stage at work, or the next where a quick one is over: between two there is none."""
    while driver.poll() is None:
        for child in psutil.Process(driver.pid).children(recursive=True):
            # The stage is the leader of its own process group, the fork server is not.
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                is_over = child.status() == psutil.STATUS_ZOMBIE
                if os.getpgid(child.pid) == child.pid and not is_over:
                    child.kill()
                    return
        time.sleep(0.01)


def interrupt_in(root: Path, stage: str) -> None:
    """Starts the night and presses Ctrl-C in the named stage."""
    process = subprocess.Popen(
        nights.command(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=nights.environment(),
        # Whoever runs the tests in the background of a script has made us deaf to it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (root / "_logs" / f"{stage}.log").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "same command" in errors


def test_killed_and_interrupted_it_ends_in_the_same_tables(warehouse, tmp_path):
    root = tmp_path / "warehouse"
    kill_in(root, "round=0-eval-labels-helpful-judge", driver=True, wait=0.0)
    interrupt_in(root, "round=0-train-rollouts")
    kill_in(root, "round=1-eval-rollouts", driver=False, wait=0.45)
    nights.run(root)
    nights.assert_same(warehouse, root)


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_in_the_same_tables(warehouse, tmp_path):
    root = tmp_path / "warehouse"
    for number, stage in enumerate(STAGES):
        kill_in(root, stage, driver=number % 2 == 0, wait=0.15 * (number % 4))
    nights.run(root)
    nights.assert_same(warehouse, root)


def test_two_runs_at_once_share_the_work_and_double_nothing(warehouse, tmp_path):
    root = tmp_path / "warehouse"
    both = [
        subprocess.Popen(
            nights.command(root),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=nights.environment(),
        )
        for _ in range(2)
    ]
    for process in both:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
    nights.assert_same(warehouse, root)
    assert sorted(nights.keys(root)) == sorted(nights.keys(warehouse))


@pytest.mark.usefixtures("starters")
def test_a_model_folder_without_weights_is_named(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    done = nights.run(tmp_path / "w", f"policy.model={folder}", code=2)
    assert f"policy.model: {folder} is no model folder" in done.stderr
    missing = nights.run(tmp_path / "w", f"policy.model={tmp_path}/nowhere", code=2)
    assert "no such folder" in missing.stderr


@pytest.mark.usefixtures("starters")
def test_a_broken_line_and_a_poisoned_prompt_cost_only_themselves(tmp_path):
    from tests.warehouse.opened import read_table

    lines = [f'{{"prompt": "How do I care for plant number {i}?"}}' for i in range(60)]
    lines[10] = "{broken"
    lines[20] = f'{{"prompt": "{"very " * 400}long?"}}'
    source = tmp_path / "prompts.jsonl"
    source.write_text("\n".join(lines))
    root = tmp_path / "w"
    sets = [f"prompts={{source: jsonl, path: {source}, holdout: 0.4}}", "rollouts.prompts=100"]
    done = nights.run(root, *sets, "rounds=1", code=3)
    assert "prompts.jsonl:11: not valid JSON" in done.stdout
    dead = read_table(root, "dead_letters").to_pylist()
    assert {d["stage"] for d in dead} == {"prompts", "rollouts"}
    (poisoned,) = {d["row_id"] for d in dead if d["stage"] == "rollouts"}
    assert all("too long" in d["message"] for d in dead if d["row_id"] == poisoned)
    rollouts = read_table(root, "rollouts").filter(
        read_table(root, "rollouts")["round"].to_numpy() == 0
    )
    assert len(set(rollouts["prompt_id"].to_pylist())) == 58
    assert poisoned not in rollouts["prompt_id"].to_pylist()


@pytest.mark.usefixtures("starters")
def test_an_unmapped_classifier_stops_the_night_with_its_labels(tmp_path, starters):
    model = f"labelers.metric.model={starters / 'starter-metric'}"
    unmapped = nights.run(tmp_path / "w", model, code=2)
    assert "labelers.metric.labels: give each label of" in unmapped.stderr
    wrong = nights.run(tmp_path / "w", model, "labelers.metric.labels={safe: 0, bad: 1}", code=1)
    assert "acceptable" in wrong.stderr
    assert "labelers.metric.labels" in wrong.stderr
    flipped = "labelers.metric.labels={acceptable: 1, toxic: 0}"
    refused = nights.run(tmp_path / "w", model, flipped, code=1)
    assert "self-test" in refused.stderr


@pytest.mark.usefixtures("starters")
def test_refused_labels_are_stored_marked_and_not_trained_on(tmp_path):
    from tests.warehouse.opened import read_table

    root = tmp_path / "w"
    # No judge puts all its probability on nine tokens: every label is low_mass.
    sets = ["labelers.helpful-judge.min_label_mass=1.0", "rounds=1"]
    done = nights.run(root, *sets, code=4)
    assert "refused, not trained on: helpful-judge: ok rate 0, wanted >= 0.95" in done.stdout
    (night,) = read_table(root, "rounds").to_pylist()
    assert night["status"] == "refused"
    assert night["policy_revision_in"] == night["policy_revision_out"]
    assert "low_mass" in night["reason"]
    assert read_table(root, "train_use").num_rows == 0
    labels = read_table(root, "labels")
    assert labels.filter(labels["labeler"].to_numpy() == "helpful-judge")["score"].null_count == 176
    before = nights.keys(root)
    nights.run(root, *sets)
    assert nights.keys(root) == before, "a refused round is not tried again by itself"
