"""The benchmark of an update, on a round of milliseconds: it must run where no one measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import ppo_update
from tests.benchmarks.figures import Seconds
from tests.benchmarks.ppo_round import EOS, SHAPES, build_round, stored_rows
from tests.benchmarks.ppo_ways import Measured, bare_update, stage_update

TINY = SHAPES["tiny"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("round")
    assert build_round(folder, TINY) > TINY.head
    return folder


def test_a_round_has_its_shape_and_its_policy_s_logprobs(folder):
    rows = stored_rows(folder)
    assert {len(ids) for ids in rows.prompt_ids} == {4}
    assert {len(ids) for ids in rows.completion_ids} == {8}
    assert len(rows.rollout_ids) == 64
    # Random weights: about one in 64 for every token.
    assert np.concatenate(rows.behavior_logprobs).mean() == pytest.approx(-np.log(64), abs=0.1)


def test_a_shorter_completion_ends_with_the_end_token(tmp_path):
    demo = SHAPES["demo"]
    shape = ppo_update.Shape(32, 64, 1, 2, 2, 64, 32, demo.prompts, demo.completions, demo.longest)
    build_round(tmp_path, shape)
    rows = stored_rows(tmp_path)
    assert len({len(ids) for ids in rows.completion_ids}) > 5
    assert {int(ids[-1]) for ids in rows.completion_ids} == {EOS}
    assert not any(EOS in ids[:-1] for ids in rows.completion_ids)


def test_an_update_trains_and_shows_its_steps(folder):
    seconds, step_seconds = stage_update(folder, TINY)
    assert (folder / "trained" / "model.safetensors").is_file()
    assert 0 < step_seconds * 3 < seconds.wall  # four steps: three between the ticks


def test_the_bare_loop_takes_as_many_steps(folder):
    seconds, step_seconds = bare_update(folder, TINY)
    assert step_seconds * 4 == pytest.approx(seconds.wall)


def test_a_way_runs_in_a_process_of_its_own(folder):
    found = ppo_update.run_way("bare", folder, "tiny")
    assert found.seconds.wall > 0
    assert found.step_seconds > 0
    assert 0 <= found.peak_bytes < 2**30


def test_a_way_that_fails_says_why(tmp_path):
    with pytest.raises(SystemExit, match=r"ppo update, stage: exit 1(.|\n)*round\.npz"):
        ppo_update.run_way("stage", tmp_path, "tiny")


def test_without_trl_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.delenv("ROUNDHOUSE_TRL_PPO", raising=False)
    monkeypatch.setattr(ppo_update, "prepare_environment", lambda device: None)
    monkeypatch.setattr(ppo_update, "run_way", lambda *_: measured(1.0, 1.0, 1))
    ppo_update.main(["--shape", "tiny", "--repeats", "1"])
    shown = capsys.readouterr().out
    assert "left out; pip install --no-deps --target FOLDER trl==1.12.0" in shown
    assert "model FLOPs" in shown
    assert "TRL 1.12 " not in shown


def test_rates_and_ratios_by_hand(monkeypatch, capsys):
    # An update is 2 + 2 + 2 x 6 = 16 FLOPs a weight and token, the bare loop 12.
    ours, bare, trl = measured(4.0, 0.5, 10), measured(3.0, None, 9), measured(12.0, None, 40)
    ppo_update._print_against_bare("update", [ours], [bare], 1e9, "about")
    ppo_update._print_against_trl("update", [ours], [trl], 400, "about")
    ppo_update._print_utilization("update", [ours], TINY, 1e12, 400, 24e12)
    bare_line, trl_line, memory_line, device_line = capsys.readouterr().out.splitlines()
    assert "stage 4 GFLOP/s, bare loop 4, ratio 1.00  (wanted >= 0.8: met" in bare_line
    assert "stage 100 tokens/s, TRL 1.12 33 tokens/s, ratio 3.00  (wanted >= 3: met" in trl_line
    assert "ratio 0.25  (wanted < 1: met" in memory_line
    # Two steps of half a second to an epoch: 400 tokens, 6 TFLOP.
    assert "100 tokens/s in all, 400 in an epoch, 6.0 TFLOP/s, MFU 25%" in device_line


def measured(seconds: float, step_seconds: float | None, mib: int) -> Measured:
    return Measured(Seconds(seconds, seconds), step_seconds, mib * 2**20)
