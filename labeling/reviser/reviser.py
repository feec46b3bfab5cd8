"""A reviser: a writing engine that criticises and revises completions, one row of labels each call.

A reviser's rows are labels of kind `reviser` and criterion `revised`: score 1 where it changed the
completion, 0 where it let it stand, NULL where the call failed; `rationale` is the critique, the
revision stands in `raw_output`, `principle` says by what. So what revising cost and how it failed
lies where all calls lie, and no table is needed for it. The quality of a completion is not what
these rows measure: the marts of labels leave them out. Not here: the words (wording.py), the
revised completions as rollouts and pairs (pipeline/stages/revise.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from labeling.engines.chat import ChatAnswer, ChatRequest, PaidWork
from labeling.engines.config import VllmEngineConfig
from labeling.engines.load import load_writing_engine
from labeling.engines.model_identity import engine_model
from labeling.engines.untrusted import UnfitPrompt
from labeling.errors import Misconfigured
from labeling.judges.attempts import attempt_rows, storable
from labeling.judges.calls import ask_and_repair, written_request
from labeling.judges.prompt import PROMPT_VERSION, Shown, nonce_of
from labeling.judges.rubric import Principle, Rubric
from labeling.label import UNREADABLE, LabelIdentity, Measurement, decoded_texts
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
from labeling.shipped import template_row
from warehouse.files import text_sha256

KIND, CRITERION = "reviser", "revised"


def load_constitution(config: RevisionConfig) -> Rubric:
    """The rubric whose principles are drawn from, with only the chosen ones. Misconfigured."""
    rubric = Rubric.load(config.constitution)
    names = [principle.name for principle in rubric.principles]
    if not names:
        raise Misconfigured(f"revision.constitution: {config.constitution} has no principles")
    if config.principles is None:
        return rubric
    unknown = sorted(set(config.principles) - set(names))
    if unknown:
        raise Misconfigured(f"revision.principles: {unknown} are none of {names}")
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
    return text_sha256(json.dumps(parts, sort_keys=True))[:16]


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
        *,
        recipe: str,
        device: str,
        seed: int,
        resolve: Callable[[str], str],
        paid: PaidWork | None = None,
    ) -> None:
        """Loaded. `recipe` names the work its rows belong to.

        Raises LabelingError for a constitution without principles, or a model that does not load.
        """
        model = engine_model(config.engine, resolve)
        self._config, self._seed = config, seed
        self._revision = reviser_revision(config, seed, resolve)
        self._constitution = load_constitution(config)
        engine, facts = load_writing_engine(
            config.engine,
            model,
            device=device,
            key="revision",
            paid=paid,
            reuse_answers=config.reuse_answers,
        )
        self._engine = engine
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
            **facts,
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
        attempts = ask_and_repair(
            self._engine,
            [self._question(*row) for row in zip(drawn, *texts, strict=True)],
            self._request,
            _read,
            score_method=self.identity.score_method,
            progress=progress,
        )
        names = [None if principle is None else principle.name for principle in drawn]
        return attempt_rows(self.identity, subjects, attempts, names, region=self._region)

    def template_rows(self) -> pa.Table:
        """What shaped the revisions: the wording and the principles."""
        shown = self._constitution
        return template_row("revision", shown.name, shown.version, template_text(shown))

    def close(self) -> None:
        """Closes the engine."""
        self._engine.close()

    def _question(
        self, principle: Principle | None, messages: str | None, completion: str | None
    ) -> _Question | Measurement:
        """What to ask, or the failed measurement of a text that cannot be shown."""
        assert principle is not None, "load_constitution refuses one without principles"
        if completion is None:
            return UNREADABLE
        nonce = nonce_of(self._revision, messages, completion)
        try:
            shown = Shown(messages, completion, nonce, principle)
            asked = revision_messages(self._constitution, shown)
        except UnfitPrompt as error:
            return Measurement("error", status_detail=storable(str(error)))
        return _Question(completion, nonce, asked)

    def _request(self, question: _Question, _: int, attempt: int) -> ChatRequest:
        return written_request(
            question.messages,
            json.dumps([self._seed, *question.messages, attempt]),
            attempt,
            max_tokens=self._config.max_output_tokens,
            temperature=self._config.temperature,
            schema=SCHEMA,
        )


def _read(
    question: _Question, found: Measurement, answer: ChatAnswer
) -> tuple[Measurement, str | None]:
    if answer.status != "ok":
        return found, None
    revision = read_revision(answer.text or "", question.nonce)
    score = None
    if revision.text is not None:
        score = float(is_changed(question.completion, revision.text))
    measured = replace(
        found,
        status=revision.status,
        score=score,
        score_raw=score,
        status_detail=revision.detail and storable(revision.detail),
    )
    return measured, revision.critique
