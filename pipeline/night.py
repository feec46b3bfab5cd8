"""The whole night, from prompts to a better policy: who reads only this file knows the system.

    night 0 begins with the evaluation of policy 0; then, for round r:
    policy r samples train prompts -> every labeler labels them -> gate -> rewards
    -> PPO on what is stored -> policy r + 1
    -> policy r + 1 samples the hold-out prompts -> labels -> evaluation, promotion, stop rule

A policy that is not promoted is kept, and the next night samples from the one before it.

Every arrow is a stage in a process of its own that ends in one commit of the ledger. A stage whose
commit is there is skipped, so the same command resumes after a kill at any moment, and running a
finished night again starts no process and changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.runtime.machine import choose_device, choose_engine
from pipeline.runtime.preloads import NIGHT, preloads
from pipeline.runtime.process import run_in_process, warm_up
from pipeline.runtime.progress import StageDisplay
from pipeline.runtime.publishing import StageReport
from pipeline.runtime.shards import staging_folder
from pipeline.runtime.timings import StageTiming, line_of
from pipeline.stages import entry as stages
from pipeline.stages.rounds import awaits_training, is_stopped
from warehouse.handle import Warehouse
from warehouse.keys import (
    evaluation_key,
    labelling_name,
    revising_name,
    rewards_key,
    rollouts_key,
    training_key,
)
from warehouse.store.local_cache import local_folder

DONE, FAILED, DEAD_LETTERS, REFUSED = 0, 1, 3, 4


@dataclass
class Run:
    """One call of `roundhouse run`: the configuration, its warehouse, what its stages report.

    `kinds` of stages are what the command may run: imports are made for those.
    """

    config: RunConfig
    say: Callable[[str], None]
    kinds: Collection[str] = NIGHT
    warehouse: Warehouse = field(init=False)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    timings: list[StageTiming] = field(default_factory=list)
    exit_code: int = DONE
    is_prepared: bool = False

    def __post_init__(self) -> None:
        self.warehouse = Warehouse.open(self.config.warehouse)

    def log(self, name: str) -> Path:
        """What the stage's process prints."""
        return local_folder(self.config.warehouse) / "_logs" / f"{name.replace('/', '-')}.log"

    def stage(
        self, kind: str, name: str, target: Callable[..., StageReport], *arguments: object
    ) -> StageReport:
        """Runs one stage in its process, the set-up before the first of them."""
        self.prepare()
        return self._in_process(kind, name, target, *arguments)

    def prepare(self) -> None:
        """Starters built, prompts ingested, base policy and labelers there: once, if need be."""
        if self.is_prepared:
            return
        self.is_prepared = True
        wanted = self.config.rollouts.engine
        if (engine := choose_engine(wanted)) != wanted:
            no_wheel = "is not installed here (it has no wheel for every system)"
            self.say(f"{wanted} {no_wheel}: {engine} samples.")
        modules = preloads(self.config, self.kinds)
        warm_up(choose_device(self.config.device), self.log("imports"), modules)
        self._in_process("set-up", "prepare", stages.prepare)

    def _in_process(
        self, kind: str, name: str, target: Callable[..., StageReport], *arguments: object
    ) -> StageReport:
        """Runs a stage, shows its progress, keeps its timing."""
        pattern = staging_folder(self.config.warehouse, name, "*")
        began = time.monotonic()
        with StageDisplay(f"{name} ({kind})", pattern):
            report, startup = run_in_process(
                target,
                (self.config, name, *arguments),
                log=self.log(name),
                device=choose_device(self.config.device),
            )
        total = time.monotonic() - began
        timing = StageTiming(name, kind, total, startup, report.load_seconds, report.work_seconds)
        self.timings.append(timing)
        self.say(line_of(report, timing))
        limit = self.config.dead_letters.fail_on
        if report.dead and report.dead / (report.rows + report.dead) > limit:
            self.exit_code = DEAD_LETTERS
            self.say(f"  {report.dead} dead letters are over dead_letters.fail_on {limit}")
        return report

    def facts(self) -> tuple[datetime, str]:
        """What a `rounds` row records of the driver: when it began, seconds by stage."""
        return self.started_at, json.dumps({t.stage: round(t.total, 3) for t in self.timings})


def run_rounds(config: RunConfig, rounds: int | None, say: Callable[[str], None]) -> Run:
    """Brings the warehouse to `rounds` rounds in all (None: one more than it has)."""
    run = Run(config, say)
    evaluate_policy(run, 0)
    wanted = rounds if rounds is not None else next_round(config, run.warehouse) + 1
    while (number := next_round(config, run.warehouse)) < wanted:
        if is_stopped(run.warehouse):
            say("The stop rule holds (evaluation.stop_below): no further round is needed.")
            break
        night(run, number)
        if run.exit_code == REFUSED:  # a person looks first; the next night would build on nothing
            break
    else:
        if not run.timings:
            say("Every round that is asked for is published: nothing is left to do.")
    return run


def night(run: Run, number: int) -> None:
    """One round, see the module's docstring. Refused labels end it before training."""
    run.prepare()
    run.started_at = datetime.now(UTC)
    evaluate_policy(run, number)
    if not run.warehouse.is_published(training_key(number)):
        sample(run, number, "train")
        label(run, number, "train")
        reward_and_train(run, number)
    if run.exit_code != REFUSED:
        evaluate_policy(run, number + 1)


def evaluate_policy(run: Run, number: int) -> None:
    """Measures policy `number` on the hold-out prompts, unless that is published."""
    key = evaluation_key(number)
    if not run.warehouse.is_published(key):
        sample(run, number, "holdout")
        label(run, number, "holdout")
        report = run.stage("evaluation", key, stages.evaluate, number, run.facts())
        if "rejected" in report.notes:  # no failure: the next night goes on from the old policy
            run.say(f"Round {number - 1} is rejected, its policy is kept but not used:")
            run.say(f"  {report.notes['rejected']}")


def sample(run: Run, number: int, purpose: str) -> None:
    """The round's rollouts of one purpose."""
    key = rollouts_key(number, purpose)
    if not run.warehouse.is_published(key):
        run.stage("sampling", key, stages.generate, number, purpose)


def label(run: Run, number: int, purpose: str) -> None:
    """Labels of the round's rollouts, one stage and one commit per labeler and revision."""
    for labeler in run.config.labelers:
        name = labelling_name(number, purpose, labeler.name)
        run.stage("labelling", name, stages.label, number, purpose, labeler.name)


def revise(config: RunConfig, number: int, say: Callable[[str], None]) -> Run:
    """Critique and revision of the round's worst completions; no night needs it."""
    if config.revision is None:
        raise ConfigError("revision: no such section; it needs at least engine and select")
    run = Run(config, say, ("set-up", "revision"))
    run.stage("revision", revising_name(number, config.revision.name), stages.revise, number)
    return run


def reward_and_train(run: Run, number: int) -> None:
    """The gate, the rewards and PPO; refused labels are stored, marked and not trained on."""
    key = rewards_key(number)
    if not run.warehouse.is_published(key):
        report = run.stage("rewards", key, stages.accept_and_reward, number, run.facts())
        if "refused" in report.notes:
            run.say(f"Round {number} is refused, not trained on: {report.notes['refused']}")
            run.exit_code = REFUSED
            return
    key = training_key(number)
    if not run.warehouse.is_published(key):
        run.stage("training", key, stages.train, number)


def next_round(config: RunConfig, warehouse: Warehouse) -> int:
    """The number of the next night: rounds advance, whatever came of the last.

    But for a last one that is open again: a person accepted it, or its refused labels are not the
    ones that the configuration asks for now (to know that, the labelers' models are hashed).
    """
    rows = warehouse.read_table("rounds", columns=["round", "status"]).to_pylist()
    if not rows:
        return 0
    last = max(rows, key=lambda row: row["round"])
    number = int(last["round"])
    is_open = last["status"] == "accepted" and awaits_training(warehouse, number)
    if last["status"] == "refused":
        from pipeline.stages.gate import is_reopened

        is_open = is_reopened(config, warehouse, number)
    return number if is_open else number + 1
