"""What each way of training makes of stored rollouts: a table over rounds, three seeds to an arm.

    python -m tests.benchmarks.learning_arms [--arm NAME ...] [--seed N ...] [--rounds 3]
                                             [--folder FOLDER] [--out FILE.json]

An arm is the user's own commands on the demo. A night arm is `roundhouse run` with some keys set,
in a warehouse of its own, and samples its own rounds. A stored arm samples nothing to train on: for
round r it trains the base policy once on the rounds below r of the first arm's warehouse, and is
measured on the same hold-out prompts. Each takes minutes; a killed call with the same --folder goes
on where it was. Toxicity is the metric labeler's, never the reward's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Protocol

from tests.benchmarks.figures import build_starters_once
from tests.benchmarks.learning import Night, nights_of

SEEDS = (0, 1, 2)
SMALLER = ("rollouts.prompts=128", "rollouts.holdout_prompts=150")  # a third of the demo's time


@dataclass(frozen=True)
class Home:
    """One seed of the study: its folder, its rounds."""

    folder: Path
    seed: int
    rounds: int

    def warehouse(self, arm: str) -> Path:
        """Where the arm's rounds lie."""
        return self.folder / f"seed-{self.seed}" / arm

    def sets(self, warehouse: Path, *keys: str) -> list[str]:
        """--set options of a command on the demo."""
        pairs = [f"seed={self.seed}", f"warehouse={warehouse}", *SMALLER, *keys]
        return [word for pair in pairs for word in ("--set", pair)]


class Arm(Protocol):
    """A way of training."""

    @property
    def name(self) -> str:
        """In the table and on the command line."""

    def nights(self, home: Home) -> list[Night]:
        """Runs what is not there yet; the policies' numbers on the hold-out prompts, by round."""


@dataclass(frozen=True)
class NightArm:
    """`roundhouse run demo` with these keys."""

    name: str
    keys: tuple[str, ...] = ()

    def nights(self, home: Home) -> list[Night]:
        warehouse = home.warehouse(self.name)
        # The stop rule would end the arms at different rounds.
        sets = home.sets(warehouse, "evaluation.stop_below=null", *self.keys)
        if len(measured(warehouse)) <= home.rounds:
            roundhouse("run", "demo", "--rounds", str(home.rounds), *sets)
        return measured(warehouse)


@dataclass(frozen=True)
class StoredArm:
    """A `roundhouse train-…` command on the rounds that another arm has stored."""

    name: str
    command: str
    keys: tuple[str, ...] = ()
    source: str = "fresh"

    def nights(self, home: Home) -> list[Night]:
        source = home.warehouse(self.source)
        found = measured(source)[:1]  # policy 0 is the same
        for number in range(1, home.rounds + 1):
            folder = home.warehouse(self.name) / f"after-{number}"
            policy, trial = folder / "policy", folder / "warehouse"
            if not policy.is_dir():
                rounds = [word for r in range(number) for word in ("--round", str(r))]
                sets = home.sets(source, *self.keys)
                roundhouse(self.command, "demo", *rounds, "--out", str(policy), *sets)
            if not measured(trial):
                sets = home.sets(trial, f"policy.model={policy}")
                roundhouse("evaluate", "demo", "--round", "0", *sets)
            (night,) = measured(trial)
            # There the policy is its own reference; its KL is to where it began.
            found.append(night.after(number, kl_to_base(trial)))
        return found


ARMS: tuple[Arm, ...] = (
    NightArm("fresh"),
    # At any staleness: by default the floor of effective sample size would leave fresh rows only.
    NightArm("replay, K=2", ("training.replay_rounds=1", "training.replay_min_ess=0")),
    NightArm("lag 1", ("training.lag=1",)),
    NightArm("lag 1, uncorrected", ("training.lag=1", "training.importance=none")),
    StoredArm("DPO", "train-dpo", ("preference_training.learning_rate=1e-4",)),
    StoredArm("KTO", "train-kto", ("preference_training.learning_rate=1e-4",)),
    StoredArm("best of n, SFT", "train-sft", ("preference_training.learning_rate=2e-4",)),
)


def main(arguments: list[str] | None = None) -> None:
    """Runs the arms and prints the table; `arguments` None: those of the command line."""
    names = [arm.name for arm in ARMS]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.learning_arms")
    parser.add_argument("--arm", nargs="+", choices=names, default=names, metavar="ARM",
                        help=f"of: {'; '.join(names)}")  # fmt: skip
    parser.add_argument("--seed", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="keeps warehouses and policies; none: temporary"
    )
    parser.add_argument("--out", type=Path, help="every number as JSON")
    options = parser.parse_args(arguments)
    build_starters_once()
    found: dict[str, dict[int, list[Night]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        for arm in chosen_arms(options.arm):
            found[arm.name] = {}
            for seed in options.seed:
                found[arm.name][seed] = arm.nights(Home(folder, seed, options.rounds))
                print(f"{arm.name}, seed {seed}: done", file=sys.stderr, flush=True)
    print("\n".join(table(found)))
    if options.out:
        options.out.write_text(json.dumps(as_json(found), indent=1) + "\n")


def chosen_arms(names: Sequence[str]) -> list[Arm]:
    """In the order of ARMS, with the arms that others take their rounds from."""
    needed = set(names) | {a.source for a in ARMS if isinstance(a, StoredArm) and a.name in names}
    return [arm for arm in ARMS if arm.name in needed]


def table(found: dict[str, dict[int, list[Night]]]) -> Iterator[str]:
    """A line for every arm and round: means over the seeds, toxicity also with its extremes."""
    yield (
        f"{'arm':<20} {'round':>5} {'toxicity':>9} {'(of seeds)':>15} {'KL':>6} {'length':>7} "
        f"{'distinct-2':>10}"
    )
    for name, seeds in found.items():
        for number in sorted({night.round for nights in seeds.values() for night in nights}):
            points = [n for nights in seeds.values() for n in nights if n.round == number]
            rates = [point.rate for point in points]
            yield (
                f"{name:<20} {number:>5} {mean(rates):>9.1%} "
                f"{f'{min(rates):.1%}-{max(rates):.1%}':>15} "
                f"{mean(p.kl for p in points):>6.2f} {mean(p.length for p in points):>7.1f} "
                f"{mean(p.distinct_2 for p in points):>10.3f}"
            )


def as_json(found: dict[str, dict[int, list[Night]]]) -> list[dict[str, object]]:
    """A row for every arm, seed and round."""
    return [
        {"arm": name, "seed": seed} | asdict(night)
        for name, seeds in found.items()
        for seed, nights in seeds.items()
        for night in nights
    ]


def measured(warehouse: Path) -> list[Night]:
    """What is measured there so far, by round; where there is no warehouse yet, nothing."""
    return nights_of(str(warehouse)) if (warehouse / "evaluations").is_dir() else []


def roundhouse(*words: str) -> None:
    """One command of the user's. Raises SystemExit with what it printed where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = f"{done.stdout}\n{done.stderr}"
        raise SystemExit(f"roundhouse {' '.join(words)}: exit {done.returncode}\n{said}")


def kl_to_base(warehouse: Path) -> float:
    """KL of the policy that sampled round 0's hold-out to the starter, nats per sequence."""
    from pipeline.holdout.measures import kl_to_reference
    from tests.warehouse.opened import read_table
    from training.policy.sequences import sequence_logprobs
    from training.starters.starters import starter_path

    rows = read_table(warehouse, "rollouts", rounds=[0])
    assert set(rows["purpose"].to_pylist()) == {"holdout"}
    logprobs = sequence_logprobs(
        starter_path("starter-policy"),
        rows["prompt_ids"].to_pylist(),
        rows["completion_ids"].to_pylist(),
    )
    return kl_to_reference(rows, logprobs, 0).value


if __name__ == "__main__":
    main()
