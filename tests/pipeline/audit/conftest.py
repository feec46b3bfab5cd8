"""A warehouse of two small rounds whose completions people judge."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.pipeline.audit.filled import FORMULA
from tests.warehouse.builder import label, prompt, publish_rows, rollout


@pytest.fixture(scope="session")
def judged_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Round 0: 20 hold-out completions of 10 prompts; round 1: 4. Score of number i: i / 20.

    Number 19 has failed, number 0 reads like a formula, number 1 spans lines.
    """
    root = tmp_path_factory.mktemp("audit") / "warehouse"
    texts = {0: FORMULA, 1: "one\r\ntwo\n\n'three', \"four\"; ü"}
    for number, count in ((0, 20), (1, 4)):
        rollouts = [
            rollout(number, f"p{i // 2}", i % 2, **({"completion": texts[i]} if i in texts else {}))
            for i in range(count)
        ]
        metric = [label(row, None if i == 19 else i / 20) for i, row in enumerate(rollouts)]
        other = [label(row, float(i >= 8), "hate", role="reward") for i, row in enumerate(rollouts)]
        publish_rows(root, f"round={number}/eval-rollouts", number, rollouts=rollouts)
        publish_rows(root, f"round={number}/eval-labels/meter@r1", number, labels=metric)
        publish_rows(root, f"round={number}/eval-labels/hate@r1", number, labels=other)
    publish_rows(root, "prompts", prompts=[prompt(f"p{i}") for i in range(10)])
    return root


@pytest.fixture
def warehouse(judged_once: Path, tmp_path: Path) -> Path:
    """A copy for the test to write into: seven commits take longer than most of what is tested."""
    return shutil.copytree(judged_once, tmp_path / "warehouse")
