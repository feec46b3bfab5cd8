"""Writes the warehouse of an earlier schema version that test_schema_versions.py opens.

Run by the code of a commit of that version, once before a version's successor is begun:

    git archive c859f84^ --prefix=old/ | tar -x -C /tmp
    PYTHONPATH=/tmp/old python tests/warehouse/make_old_warehouse.py \
        tests/warehouse/old_warehouse_v1

(c859f84^ is the last commit with schema version 1.) Not here: what must hold of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The checkout's own builder, found by PYTHONPATH.
from tests.warehouse.builder import label, prompt, publish_rows, reward, rollout, round_row


def main(root: Path) -> None:
    """Round 0 as in `small_warehouse`: toxicity .9 .2 | .6 .4 by `meter`, two rewarded rollouts."""
    held = [rollout(0, name, k) for name in ("p1", "p2") for k in (0, 1)]
    train = [rollout(0, "t1", k, purpose="train") for k in (0, 1)]
    scores = zip(held, (0.9, 0.2, 0.6, 0.4), strict=True)
    labels = [label(row, score) for row, score in scores]
    used = [
        label(row, score, "hate", role="reward")
        for row, score in zip(train, (0.8, 0.1), strict=True)
    ]
    rewards = [
        reward(row, value, [of]) for row, value, of in zip(train, (-1.0, 1.0), used, strict=True)
    ]
    names = ("p1", "p2")
    publish_rows(root, "prompts", prompts=[*map(prompt, names), prompt("t1", purpose="train")])
    publish_rows(root, "round=0/rollouts", 0, rollouts=[*held, *train])
    publish_rows(root, "round=0/labels", 0, labels=[*labels, *used])
    publish_rows(root, "round=0/rewards", 0, rewards=rewards)
    publish_rows(root, "round=0/training", 0, rounds=[round_row(0)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
