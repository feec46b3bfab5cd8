"""A remote endpoint by script, and judges that ask it, for the tests of judges that write."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from pydantic import BaseModel

from labeling.engines.chat import ChatAnswer, ChatRequest
from labeling.engines.model_identity import ModelIdentity
from labeling.judges.config import JudgeConfig
from labeling.judges.rubric import Rubric
from labeling.judges.written import WrittenJudgeLabeler
from tests.labeling.subjects import subjects
from warehouse.schemas import TABLES

Reply = str | dict[str, object]


class RemoteEngine(BaseModel):
    """Where a remote judge is asked; the shape that the labeler reads."""

    kind: str = "openai"
    model: str = "big-judge"
    region: str | None = None
    base_url: str | None = "http://127.0.0.1:8000/v1"


class ScriptedChat:
    """Stands for a remote endpoint: answers by (row, sample, attempt), in reverse order."""

    name, version, model = "scripted", "1", "big-judge"

    def __init__(self, reply: Callable[[int, int, int], Reply]) -> None:
        self._reply = reply
        self.calls: list[ChatRequest] = []

    def complete(
        self, requests: Sequence[ChatRequest], done: Callable[[ChatAnswer], None] | None = None
    ) -> list[ChatAnswer]:
        assert len({request.key for request in requests}) == len(requests)
        self.calls += requests
        answers = []
        for request in reversed(requests):
            reply = self._reply(*map(int, request.key.split(".")))
            fields = {"status": "ok", "text": reply} if isinstance(reply, str) else reply
            answers.append(ChatAnswer(key=request.key, **fields))  # type: ignore[arg-type]
            if done is not None:
                done(answers[-1])
        return answers

    def close(self) -> None:
        self.calls.clear()


def configured(engine: RemoteEngine | None = None, **changes: object) -> JudgeConfig:
    """A judge's configuration with a remote engine, validated like one from a file."""
    settings = {
        "kind": "judge",
        "name": "api",
        "role": "shadow",
        "criterion": "helpfulness",
        "rubric": "helpfulness",
        "engine": {"kind": "transformers", "model": "m"},
    }
    config = JudgeConfig.model_validate(settings)
    return config.model_copy(
        update={"engine": engine or RemoteEngine(), **changes}
    )._method_fits_the_engine()


def build(
    reply: Callable[[int, int, int], Reply], *, seed: int = 0, **changes: object
) -> tuple[WrittenJudgeLabeler, ScriptedChat]:
    engine = ScriptedChat(reply)
    config = configured(**changes)  # type: ignore[arg-type]
    rubric = Rubric.load(config.rubric)
    model = ModelIdentity("big-judge", None, "big-judge@there")
    return WrittenJudgeLabeler(config, rubric, model, "rev", engine, seed=seed), engine


def labelled(
    texts: list[str], reply: Callable[[int, int, int], Reply], **changes: object
) -> list[dict[str, object]]:
    labeler, _ = build(reply, **changes)  # type: ignore[arg-type]
    table = labeler.label(subjects(texts))
    assert table.schema.equals(TABLES["labels"].schema)
    return table.to_pylist()


def verdict(score: object, why: str = "because") -> str:
    return json.dumps({"rationale": why, "score": score})
