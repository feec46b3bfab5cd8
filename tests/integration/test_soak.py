"""A night that is killed again and again at random moments still ends in the same tables."""

from __future__ import annotations

import random
import subprocess

import psutil
import pytest

from tests.integration import nights

KILLS = 25
LONGEST_LIFE = 20.0  # seconds; longer than any one stage of the small night


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_it_ends_in_the_same_tables(warehouse, tmp_path, seed):
    root = tmp_path / "warehouse"
    rng = random.Random(seed)
    deaths = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            nights.command(root),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=nights.environment(),
        )
        try:
            code = process.wait(timeout=rng.uniform(0.5, LONGEST_LIFE))
        except subprocess.TimeoutExpired:
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait(timeout=60)
            _, alive = psutil.wait_procs(children, timeout=30)
            assert not alive, f"processes outlived the kill: {alive}"
            deaths += 1
        else:
            assert code == 0
            break
    assert deaths >= 3, "the night was over before it was disturbed"
    nights.run(root)
    nights.assert_same(warehouse, root)
