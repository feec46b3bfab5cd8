"""The processes of the soak: they publish nights, forget, vacuum, and are killed while at it.

An actor works until it is killed. What it was told is done it writes down, key by key, so that the
test can hold the ledger to it; an error that no race explains it writes down too. Some actors kill
themselves at a given step: a call to the disk, a request before it is sent, an answer before it is
read.
"""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3  # noqa: F401 (this and the next two: imported once, before the actors are forked)
import pandas as pd  # noqa: F401
import pyarrow.dataset as ds  # noqa: F401

from tests.warehouse.builder import NOON, Row, label, prompt, reward, rollout, round_row
from warehouse.errors import AlreadyPublished, Conflict
from warehouse.ledger.ledger import Ledger
from warehouse.maintenance.forgetting import forget
from warehouse.maintenance.vacuum import vacuum
from warehouse.publish import publish
from warehouse.schemas import table_from_rows
from warehouse.store import open_store
from warehouse.store.s3_address import is_remote

LABELERS = ("hate", "meter")
KEPT_VERSIONS = 12
Tables = dict[str, list[Row]]


@dataclass(frozen=True)
class Orders:
    """What an actor is to do: `role` on the night `number`, until it is killed.

    `step` is the disk call or network event at which it kills itself; None: it waits for the test.
    """

    root: str
    role: str
    number: int
    seed: int
    diary: Path
    environment: dict[str, str]
    step: int | None = None


def night(number: int) -> dict[str, Tables]:
    """Ledger key -> tables of one night, in an order in which they can be published."""
    names = [f"p{number}-{place}" for place in range(4)] + [victim(number)]
    prompts = [prompt(name, purpose="train") for name in names]
    rollouts = [rollout(number, name, k, purpose="train") for name in names for k in (0, 1)]
    labels = {
        name: [label(row, place / 16, name) for place, row in enumerate(rollouts)]
        for name in LABELERS
    }
    rewards = [
        reward(row, float(place), [labels["hate"][place]]) for place, row in enumerate(rollouts)
    ]
    metrics = [
        {"training_run_id": f"run-{number}", "round": number, "metric": "loss", "step": step,
         "value": 1 / (step + 1), "logged_at": NOON}
        for step in range(8)
    ]  # fmt: skip
    return {
        f"round={number}/prompts": {"prompts": prompts},
        f"round={number}/train-rollouts": {"rollouts": rollouts},
        **{labels_key(number, name): {"labels": labels[name]} for name in LABELERS},
        f"round={number}/rewards": {"rewards": rewards},
        f"round={number}/training": {
            "rounds": [round_row(number)], "training_metrics": metrics,
        },
    }  # fmt: skip


def victim(number: int) -> str:
    """The prompt of a night that is forgotten in the next."""
    return f"gone{number}"


def labels_key(number: int, labeler: str) -> str:
    """Ledger key of one labeler's labels."""
    return f"round={number}/train-labels/{labeler}@r1"


def publish_night(root: str, number: int, done: Callable[[str], None]) -> None:
    """Publishes what is missing of a night, in the order of its stages."""
    for key, tables in night(number).items():
        publish_stage(root, number, key, tables)
        done(key)


def publish_stage(root: str, number: int, key: str, tables: Tables) -> None:
    """Publishes one stage unless another process has done so."""
    rows = {name: table_from_rows(name, found) for name, found in tables.items()}
    with suppress(AlreadyPublished):
        publish(root, key, rows, round=number)


def sweep(root: str) -> None:
    """A vacuum of the day after tomorrow: every orphan is old. Only where nobody publishes."""
    vacuum(root, keep_versions=KEPT_VERSIONS, now=datetime.now(UTC) + timedelta(days=2))


def act(orders: Orders) -> None:
    """The life of one actor; it ends by SIGKILL."""
    os.environ.update(orders.environment)
    rng = random.Random(orders.seed)
    diary = Diary(orders.diary)
    if orders.step is not None:
        _die_at(orders.step, orders.root)
    while True:
        try:
            _ROLES[orders.role](orders, rng, diary)
        except Conflict:  # another actor was faster; the next turn sees what it did
            continue
        except BaseException:  # noqa: BLE001 (whatever it is, the test is to read it)
            diary.write("error", traceback.format_exc())
            os.kill(os.getpid(), signal.SIGKILL)


class Diary:
    """What an actor was told is done, and what went wrong; each line one write."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, kind: str, text: str) -> None:
        """Appends one line."""
        with self._path.open("a") as file:
            file.write(f"{kind} {text!r}\n")

    def done(self, key: str) -> None:
        """Writes down that `key` is published."""
        self.write("done", key)


def _writer(orders: Orders, rng: random.Random, diary: Diary) -> None:
    """The night, its middle in any order; then its labels anew, again and again."""
    stages = list(night(orders.number).items())
    labelings = stages[2:4]
    rng.shuffle(labelings)
    for key, tables in [*stages[:2], *labelings, *stages[4:]]:
        publish_stage(orders.root, orders.number, key, tables)
        diary.done(key)
    _relabel(orders, rng, diary)


def _relabel(orders: Orders, rng: random.Random, diary: Diary) -> None:
    """The same labels once more in the place of their file."""
    amended = labels_key(orders.number, rng.choice(LABELERS))
    files = Ledger(open_store(orders.root)).files_of([amended], table="labels")
    key = f"round={orders.number}/relabel/{rng.getrandbits(40)}"
    rows = table_from_rows("labels", night(orders.number)[amended]["labels"])
    publish(
        orders.root,
        key,
        {"labels": rows},
        round=orders.number,
        remove=[file.path for file in files],
        meta={"amends": amended},
    )
    diary.done(key)


def _vacuumer(orders: Orders, rng: random.Random, _: Diary) -> None:
    vacuum(orders.root, keep_versions=KEPT_VERSIONS)
    time.sleep(rng.random() / 20)


def _sweeper(orders: Orders, _: random.Random, __: Diary) -> None:
    sweep(orders.root)


def _forgetter(orders: Orders, rng: random.Random, _: Diary) -> None:
    forget(orders.root, [victim(orders.number - 1)], by="soak", why="asked")
    time.sleep(rng.random() / 20)


_ROLES: dict[str, Callable[[Orders, random.Random, Diary], None]] = {
    "writer": _writer,
    "vacuumer": _vacuumer,
    "sweeper": _sweeper,
    "forgetter": _forgetter,
}


def _die_at(step: int, root: str) -> None:
    """SIGKILL at the step number `step`, counted from here."""
    left = iter(range(step))

    def tick(**_: Any) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    def ticking(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            tick()
            return call(*args, **kwargs)

        return counted

    if is_remote(root):
        events = open_store(root)._connection.client.meta.events  # type: ignore[attr-defined]
        events.register("before-send.s3", tick)
        events.register("response-received.s3", tick)
    else:
        for name in ("link", "fsync", "unlink"):
            setattr(os, name, ticking(getattr(os, name)))
