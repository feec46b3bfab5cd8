"""Stored rollouts and remote judges of a small server, for the tests of what is asked again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from labeling.engines.config import OpenAIEngineConfig
from pipeline import night
from pipeline.config import RunConfig
from pipeline.configs.loading import load_config
from pipeline.runtime.publishing import StageReport
from pipeline.stages import entry as stages
from tests.labeling.chat_server import ChatServer, serving
from tests.labeling.scripted_chat import verdict
from tests.warehouse.builder import Row, prompt, publish_rows, rollout
from warehouse.catalog.catalog import connect
from warehouse.handle import Warehouse
from warehouse.keys import labelling_name, rollouts_key

_ANSWER = re.compile(r"Answer (\d+-[a-z]+(\d+)-\d+)\.")


@dataclass
class Judges:
    """A server that grades `Answer <rollout>.` by its prompt's number, unless told to fail."""

    failing: dict[str, str] = field(default_factory=dict)  # rollout -> kind of chat_server
    grade: Callable[[int], int] = lambda number: 1 + number % 9
    asked: list[str] = field(default_factory=list)  # rollouts, one entry per call
    server: ChatServer = field(init=False)

    def __post_init__(self) -> None:
        self.server = ChatServer(choose=self._choose, reply=self._reply)

    def _choose(self, text: str, _: int) -> str:
        rollout_id, _ = self._asked_about(text)
        self.asked.append(rollout_id)
        return self.failing.get(rollout_id, "ok")

    def _reply(self, text: str) -> str:
        return verdict(self.grade(self._asked_about(text)[1]))

    def _asked_about(self, text: str) -> tuple[str, int]:
        """The rollout and its prompt's number; of another text nothing is known."""
        match = _ANSWER.search(text)
        return (match[1], int(match[2])) if match else ("sampled", 4)


@contextmanager
def judges() -> Iterator[Judges]:
    made = Judges()
    with serving(made.server):
        yield made


def config(root: Path, judging: Judges, *sets: str, model: str = "m-1") -> RunConfig:
    """Two remote judges that give up at the first failure: `api` rewards, `metric` measures."""
    base = {"kind": "openai", "base_url": judging.server.base_url, "max_retries": 0}
    engine = OpenAIEngineConfig.model_validate(base | {"model": model})
    common: dict[str, Any] = {"kind": "judge", "engine": engine.model_dump(mode="json")}
    api = common | {
        "name": "api", "role": "reward", "criterion": "helpfulness", "rubric": "helpfulness",
    }  # fmt: skip
    metric = common | {
        "name": "metric", "role": "metric", "criterion": "toxicity", "rubric": "toxicity",
    }  # fmt: skip
    return load_config(
        "demo",
        [
            f"warehouse={root}",
            "gate.sentinels=none",
            "policy.starter_budget=tiny",
            f"labelers={[api, metric]}".replace("None", "null").replace("True", "true"),
            "reward={recipe: weighted, terms: {api: {weight: 1.0, value: score}}}",
            *sets,
        ],
    )


def store_rollouts(root: Path, number: int, purpose: str, prompts: int = 10) -> list[Row]:
    """One rollout for each of `prompts` prompts, under the round's key."""
    kind = purpose[0]
    rows = [rollout(number, f"{kind}{i}", purpose=purpose) for i in range(prompts)]
    asked = [prompt(f"{kind}{i}", purpose=purpose) for i in range(prompts)]
    key = rollouts_key(number, purpose)
    publish_rows(root, key, number, rollouts=rows, prompts=asked)
    return rows


def here(monkeypatch: pytest.MonkeyPatch, *, prepared: bool) -> None:
    """Stages run in this process, `prepared` without set-up: what they do is what is tested."""
    monkeypatch.setattr(
        night, "run_in_process", lambda target, arguments, **_: (target(*arguments), 0.0)
    )
    if prepared:
        monkeypatch.setattr(night.Run, "prepare", lambda run: None)


def opened(settings: RunConfig) -> Warehouse:
    """The warehouse of a configuration, as a stage's process opens it."""
    return Warehouse.open(settings.warehouse)


def label(settings: RunConfig, number: int, purpose: str, name: str) -> StageReport:
    """The labelling stage, in this process."""
    stage = labelling_name(number, purpose, name)
    return stages.label(settings, stage, number, purpose, name)


def sql(root: Path, query: str, as_of: int | None = None) -> list[dict[str, Any]]:
    con = connect(root, as_of)
    rows: pa.Table = con.sql(query).to_arrow_table()
    con.close()
    return rows.to_pylist()
