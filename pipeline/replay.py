"""`roundhouse replay-dead`: what failed in a round is tried again, what succeeded stands.

Final labels that failed for a passing reason, and prompts that the sampling engine refused, are
done again with the configuration as it is now, into one commit per stage that amends the old one:
its rows stay as attempts that are no longer final, and `--as-of` still shows the state before.
A round whose rewards (hold-out: whose evaluation) are published is closed: they name their labels.
Not here: the stages (stages/dead_rows.py), another revision of a labeler (relabel.py).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from labeling.labelers.config import LabelerConfig
from pipeline.config import RunConfig, chosen_labelers
from pipeline.errors import ConfigError
from pipeline.night import DEAD_LETTERS, DONE, Run
from pipeline.stages import entry as stages
from pipeline.stages.dead_rows import dead_prompts, failed_labels
from pipeline.stages.labels import revision_of
from pipeline.stages.rounds import rollout_values
from warehouse.handle import Warehouse
from warehouse.keys import closing_key, labelling_name, labels_key, parse_key, rollouts_key
from warehouse.schemas import SCORED_STATUSES, STATUSES


@dataclass(frozen=True)
class Undone:
    """What one stage of a round left undone. `labeler` None: its rollouts.

    `failed` counts labels by status ('unlabelled' where there is none) or prompts by error type,
    `rows` is how many labels or prompts the stage has in all.
    """

    round_number: int
    purpose: str
    labeler: str | None
    failed: dict[str, int]
    rows: int

    @property
    def count(self) -> int:
        """Rows to try again."""
        return sum(self.failed.values())

    def __str__(self) -> str:
        what = "rollouts" if self.labeler is None else f"labels by {self.labeler}"
        counts = ", ".join(f"{status} {n}" for status, n in self.failed.items())
        return (
            f"round {self.round_number}, {self.purpose} {what}: {self.count} of {self.rows} "
            f"to try again ({counts})"
        )


def replay_dead(
    config: RunConfig,
    rounds: Sequence[int],
    names: Sequence[str],
    statuses: Sequence[str],
    say: Callable[[str], None],
    *,
    dry_run: bool = False,
) -> int:
    """Tries again what failed in these rounds (none: all) by these labelers (none: all).

    Returns the exit code: 3 while more of a stage is undone than dead_letters.fail_on allows.
    Raises ConfigError, StageFailed.
    """
    labelers = chosen_labelers(config, names)
    _check(statuses)
    run = Run(config, say, ("set-up", "sampling", "labelling"))
    if not dry_run:
        run.prepare()
    left: list[Undone] = []
    for number, purpose in _open_work(run, rounds):
        look: Callable[[], Undone | None]
        # Sampling comes first: what it mends wants labels.
        if not names:
            look = functools.partial(undone_prompts, run.warehouse, number, purpose)
            left += _replay(run, look, statuses, dry_run)
        for labeler in labelers:
            look = functools.partial(undone_labels, run, number, purpose, labeler, statuses)
            left += _replay(run, look, statuses, dry_run)
    if not left:
        say("nothing is left to try again")
    over = [x for x in left if x.count > config.dead_letters.fail_on * x.rows]
    if over and not dry_run:
        say(f"still undone, over dead_letters.fail_on {config.dead_letters.fail_on}:")
        for undone in over:
            say(f"  {undone}")
    return DEAD_LETTERS if over and not dry_run else DONE


def _check(statuses: Sequence[str]) -> None:
    failures = [status for status in STATUSES if status not in SCORED_STATUSES]
    wrong = sorted(set(statuses) - set(failures))
    if wrong:
        raise ConfigError(f"--status {wrong[0]}: expected what failed, of {', '.join(failures)}")


def _replay(
    run: Run, look: Callable[[], Undone | None], statuses: Sequence[str], dry_run: bool
) -> list[Undone]:
    """One stage: what it has left undone in the end."""
    undone = look()
    if undone is None or not undone.count:
        return []
    run.say(f"  {undone}")
    if dry_run:
        return [undone]
    number, purpose, labeler = undone.round_number, undone.purpose, undone.labeler
    if labeler is None:
        run.stage("sampling", rollouts_key(number, purpose), stages.resample, number, purpose)
    else:
        name = labelling_name(number, purpose, labeler)
        run.stage(
            "labelling", name, stages.relabel_failed, number, purpose, labeler, tuple(statuses)
        )
    left = look()
    return [left] if left is not None and left.count else []


def _open_work(run: Run, rounds: Sequence[int]) -> list[tuple[int, str]]:
    """Rounds and purposes that have rollouts and are not closed. Raises ConfigError."""
    keys = {commit.key for commit in run.warehouse.ledger.commits()}
    begun = {found.round for key in keys if (found := parse_key(key)) is not None}
    there = [
        (number, purpose)
        for number in sorted(begun)
        for purpose in ("holdout", "train")
        if rollouts_key(number, purpose) in keys
    ]
    missing = sorted(set(rounds) - {number for number, _ in there})
    if missing:
        raise ConfigError(f"--round {missing[0]}: {run.config.warehouse} has no rollouts of it")
    open_work = []
    for number, purpose in there:
        if rounds and number not in rounds:
            continue
        closed_by = closing_key(number, purpose)
        if closed_by not in keys:
            open_work.append((number, purpose))
        elif rounds:
            run.say(f"  round {number}, {purpose}: {closed_by} is published; its labels stand")
    return open_work


def undone_labels(
    run: Run, number: int, purpose: str, labeler: LabelerConfig, statuses: Sequence[str]
) -> Undone | None:
    """What a labeler's present revision has failed at or missed; None where it never labelled."""
    key = labels_key(number, purpose, labeler.name, revision_of(run.config, labeler))
    if not run.warehouse.is_published(key):
        return None
    columns = ["rollout_id", "label_key", "status", "is_final"]
    labels = run.warehouse.read_table("labels", rounds=[number], keys=[key], columns=columns)
    rollouts = rollout_values(run.warehouse, number, purpose, "rollout_id")
    unlabelled = len(rollouts - set(labels["rollout_id"].to_pylist()))
    failed = Counter(failed_labels(labels, statuses)["status"].to_pylist())
    counts = dict(failed.most_common()) | ({"unlabelled": unlabelled} if unlabelled else {})
    rows = labels.filter(pc.field("is_final")).num_rows + unlabelled
    return Undone(number, purpose, labeler.name, counts, rows)


def undone_prompts(warehouse: Warehouse, number: int, purpose: str) -> Undone:
    """The prompts of a round that the engine refused and that have no rollouts since."""
    dead = dead_prompts(warehouse, number, purpose)
    counts = Counter(str(row["error_type"]) for row in dead.values())
    rows = len(dead) + len(rollout_values(warehouse, number, purpose, "prompt_id"))
    return Undone(number, purpose, None, dict(counts.most_common()), rows)
