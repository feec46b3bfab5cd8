"""A reviser: a writing engine that criticises and revises completions, one row of labels each call.

A reviser's rows are labels of kind `reviser` and criterion `revised`: score 1 where it changed the
completion, 0 where it let it stand, NULL where the call failed; `rationale` is the critique, the
revision stands in `raw_output`, `principle` says by what. So what revising cost and how it failed
lies where all calls lie, and no table is needed for it. The quality of a completion is not what
these rows measure: the marts of labels leave them out. Not here: the words (wording.py), the
revised completions as rollouts and pairs (pipeline/stages/revise.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from labeling.engines.chat import ChatAnswer, ChatEngine, ChatRequest, PaidWork
from labeling.engines.config import VllmEngineConfig
from labeling.engines.model_identity import ModelIdentity, engine_model
from labeling.engines.untrusted import UnfitPrompt
from labeling.errors import LabelingError
from labeling.judges.attempts import Attempt, attempt_rows, storable
from labeling.judges.prompt import PROMPT_VERSION, nonce_of
from labeling.judges.rubric import Rubric, load_rubric
from labeling.judges.score import unread
from labeling.label import LabelIdentity, Measurement, decoded_texts
from labeling.reviser.config import RevisionConfig
from labeling.reviser.wording import (
    REVISION_VERSION,
    SCHEMA,
    is_changed,
    read_revision,
    revision_messages,
    template_sha256,
    template_text,
)
from warehouse.schemas import table_from_rows

KIND, CRITERION = "reviser", "revised"
_REPAIRED = ("malformed", "off_schema", "truncated")  # a second try may mend these
_REPAIR_ROOM = 2  # times as many tokens for the second try


def load_constitution(config: RevisionConfig) -> Rubric:
    """The rubric whose principles are drawn from, with only the chosen ones. LabelingError."""
    rubric = load_rubric(config.constitution)
    names = [principle.name for principle in rubric.principles]
    if not names:
        raise LabelingError(f"revision.constitution: {config.constitution} has no principles")
    if config.principles is None:
        return rubric
    unknown = sorted(set(config.principles) - set(names))
    if unknown:
        raise LabelingError(f"revision.principles: {unknown} are none of {names}")
    chosen = tuple(p for p in rubric.principles if p.name in config.principles)
    return rubric.model_copy(update={"principles": chosen})


def reviser_revision(config: RevisionConfig, seed: int, resolve: Callable[[str], str]) -> str:
    """16 hex digits that change whenever the reviser could make another revision of a text."""
    engine = config.engine
    parts: dict[str, object] = {
        "model": engine_model(engine, resolve).revision,
        "template": template_sha256(load_constitution(config)),
        "versions": [PROMPT_VERSION, REVISION_VERSION],
        "engine": [engine.kind],
        "sampling": [config.temperature, config.max_output_tokens, seed],
    }
    if isinstance(engine, VllmEngineConfig):
        parts["engine"] = [engine.kind, engine.dtype, engine.max_model_len]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def build_reviser(
    config: RevisionConfig,
    *,
    recipe: str,
    device: str,
    seed: int,
    resolve: Callable[[str], str],
    paid: PaidWork | None = None,
) -> Reviser:
    """The reviser of a configuration, loaded. `recipe` names the work its rows belong to.

    Raises LabelingError for a constitution without principles, or a model that does not load.
    """
    model = engine_model(config.engine, resolve)
    revision = reviser_revision(config, seed, resolve)
    engine: ChatEngine
    facts: dict[str, Any] = {}
    if isinstance(config.engine, VllmEngineConfig):
        from labeling.judges.local_writer import load_local_engine

        engine, facts = load_local_engine(config.engine, model, device=device, key="revision")
    else:
        from labeling.engines.load import load_chat_engine
        from labeling.engines.remote.answer_cache import CachedChatEngine

        engine = load_chat_engine(config.engine, paid)
        if paid is not None and paid.answers is not None and config.reuse_answers:
            engine = CachedChatEngine(engine, paid.answers, config.engine)
    reviser = Reviser(config, model, engine, revision=revision, recipe=recipe, seed=seed)
    reviser.identity = replace(reviser.identity, **facts)
    return reviser


@dataclass(frozen=True)
class _Question:
    """What is asked about one completion. No id is in it: the same text, the same question."""

    completion: str
    nonce: str
    messages: tuple[Mapping[str, str], ...]


class Reviser:
    """Revises completions; of one or two rows per completion the last is final."""

    def __init__(
        self,
        config: RevisionConfig,
        model: ModelIdentity,
        engine: ChatEngine,
        *,
        revision: str,
        recipe: str,
        seed: int,
    ) -> None:
        self._config, self._engine, self._revision, self._seed = config, engine, revision, seed
        self._constitution = load_constitution(config)
        self._region: str | None = config.engine.model_dump(mode="json").get("region")
        self.identity = LabelIdentity(
            labeler=config.name,
            revision=recipe,
            kind=KIND,
            role="shadow",
            criterion=CRITERION,
            model=engine.model,
            model_revision=model.revision,
            backend=engine.name,
            backend_version=engine.version,
            score_method="changed",
            score_scale="0..1",
            template=self._constitution.name,
            template_sha256=template_sha256(self._constitution),
        )

    def revise(self, subjects: pa.Table, progress: Callable[[int], None] | None = None) -> pa.Table:
        """Rows of table `labels` for subjects as a labeler gets them (labeler.Labeler.label).

        `progress` is told how many subjects are done. Raises BudgetSpent where the engine does.
        """
        drawn = [
            self._constitution.draw_principle(rollout, self._seed)
            for rollout in subjects["rollout_id"].to_pylist()
        ]
        texts = [decoded_texts(subjects[name]) for name in ("messages", "completion")]
        attempts: list[list[Attempt]] = [[] for _ in drawn]
        questions: dict[int, _Question] = {}
        for row, (principle, messages, completion) in enumerate(zip(drawn, *texts, strict=True)):
            assert principle is not None, "load_constitution refuses one without principles"
            try:
                if completion is None:
                    raise UnfitPrompt("the completion is NULL or not valid UTF-8")
                nonce = nonce_of(self._revision, messages, completion)
                shown = revision_messages(
                    self._constitution, principle, messages, completion, nonce
                )
                questions[row] = _Question(completion, nonce, shown)
            except UnfitPrompt as error:
                attempts[row] = [Attempt(Measurement("error", status_detail=storable(str(error))))]
        if progress is not None and len(questions) < len(drawn):
            progress(len(drawn) - len(questions))
        done = None if progress is None else lambda _: progress(1)
        first = self._ask(questions, 0, done)
        again = {r: q for r, q in questions.items() if first[r].measurement.status in _REPAIRED}
        second = self._ask(again, 1, None) if again else {}
        for row in questions:
            attempts[row] = [tries[row] for tries in (first, second) if row in tries]
        names = [None if principle is None else principle.name for principle in drawn]
        return attempt_rows(self.identity, subjects, attempts, names, region=self._region)

    def template_rows(self) -> pa.Table:
        """What shaped the revisions: the wording and the principles."""
        row: dict[str, object] = {
            "template_sha256": self.identity.template_sha256,
            "kind": "revision",
            "name": self._constitution.name,
            "version": self._constitution.version,
            "text": template_text(self._constitution),
        }
        return table_from_rows("templates", [row])

    def close(self) -> None:
        """Closes the engine."""
        self._engine.close()

    def _ask(
        self,
        questions: Mapping[int, _Question],
        attempt: int,
        done: Callable[[ChatAnswer], None] | None,
    ) -> dict[int, Attempt]:
        """One attempt per row; answers are joined by key, whatever their order."""
        requests = {row: self._request(row, asked, attempt) for row, asked in questions.items()}
        sent: Sequence[ChatRequest] = list(requests.values())
        answers = {answer.key: answer for answer in self._engine.complete(sent, done)}
        nothing = ChatAnswer("", "error", error_message="the engine gave no answer to this request")
        return {
            row: _read(questions[row], request, answers.get(request.key, nothing), attempt)
            for row, request in requests.items()
        }

    def _request(self, row: int, question: _Question, attempt: int) -> ChatRequest:
        """A call for one revision; a second attempt differs in its seed and in its room only."""
        draw = json.dumps([self._seed, *question.messages, attempt])
        return ChatRequest(
            f"{row}.{attempt}",
            question.messages,
            max_tokens=self._config.max_output_tokens * (_REPAIR_ROOM if attempt else 1),
            temperature=self._config.temperature,
            seed=int.from_bytes(hashlib.sha256(draw.encode()).digest()[:4], "big") >> 1,
            schema=SCHEMA,
        )


def _read(question: _Question, request: ChatRequest, answer: ChatAnswer, attempt: int) -> Attempt:
    found, critique = unread(request, answer), None
    if answer.status == "ok":
        revision = read_revision(answer.text or "", question.nonce)
        critique = revision.critique
        score = None
        if revision.text is not None:
            score = float(is_changed(question.completion, revision.text))
        found = replace(
            found,
            status=revision.status,
            score=score,
            score_raw=score,
            status_detail=revision.detail and storable(revision.detail),
        )
    return Attempt(found, request, answer, critique, "changed", is_repair=attempt > 0)
