"""A labeler that is a language model asked in messages: its written verdict is read strictly.

Where the endpoint shows the likelihoods of the first token and the configuration asks for them,
the score is an expectation over them as in likelihood.py. A call that fails is a row with its
status; a verdict that cannot be read is asked for once more, from scratch (calls.py). Not here: the
words (asking.py), the reading (score.py, verdict.py), retries and budgets (engines/).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from labeling.engines.chat import ChatAnswer, ChatEngine, ChatRequest
from labeling.engines.model_identity import ModelIdentity
from labeling.engines.untrusted import UnfitPrompt
from labeling.judges.asking import answer_schema, check_first_tokens, score_scale, written_messages
from labeling.judges.attempts import attempt_rows, storable
from labeling.judges.calls import ask_and_repair, written_request
from labeling.judges.config import JudgeConfig
from labeling.judges.prompt import Shown, judged_texts, nonce_of
from labeling.judges.rubric import Principle, Rubric
from labeling.judges.score import expectation, summary, written
from labeling.label import UNREADABLE, LabelIdentity, Measurement, occasion_of
from warehouse.files import text_sha256

_TOP = 20  # the most alternatives that OpenAI-compatible endpoints show


@dataclass(frozen=True)
class _Question:
    """What is asked about one subject; `text_sha256` stands for all that is particular to it.

    No id of a rollout is in either, so that the same text is the same question every night.
    """

    text_sha256: str
    messages: tuple[Mapping[str, str], ...]
    occasion: str | None


class WrittenJudgeLabeler:
    """See labeling.labeler.Labeler; several rows per subject, of which one is final."""

    def __init__(
        self,
        config: JudgeConfig,
        rubric: Rubric,
        model: ModelIdentity,
        revision: str,
        engine: ChatEngine,
        *,
        seed: int,
    ) -> None:
        """Raises LabelingError when the rubric's labels do not suit the method."""
        self._config, self._rubric, self._engine, self._seed = config, rubric, engine, seed
        self._is_written = config.chosen_method == "written"
        if self._is_written:
            self._scale = score_scale(rubric, config.engine.model)
            self._schema = answer_schema(rubric, config.chosen_reasoning)
        else:
            check_first_tokens(rubric, config.engine.model)
        self._region: str | None = config.engine.model_dump(mode="json").get("region")
        self.identity = self._identity(model, revision)

    def label(self, subjects: pa.Table, progress: Callable[[int], None] | None = None) -> pa.Table:
        """See Labeler.label. Raises BudgetSpent where the engine does."""
        rollouts = subjects["rollout_id"].to_pylist()
        occasions = map(occasion_of, rollouts, subjects["round"].to_pylist())
        principles = [self._rubric.draw_principle(rollout, self._seed) for rollout in rollouts]
        texts = judged_texts(subjects)
        attempts = ask_and_repair(
            self._engine,
            [self._question(*row) for row in zip(occasions, principles, *texts, strict=True)],
            self._request,
            self._read,
            score_method=self.identity.score_method,
            samples=self._config.samples if self._is_written else 1,
            may_repair=self._is_written,
            progress=progress,
        )
        if self._is_written and self._config.samples > 1:
            for row in attempts:
                if row[0].request is not None:
                    row.append(summary(row, self._rubric))
        names = [None if principle is None else principle.name for principle in principles]
        return attempt_rows(self.identity, subjects, attempts, names, region=self._region)

    def template_rows(self) -> pa.Table:
        """The rubric."""
        return self._rubric.template_rows()

    def close(self) -> None:
        """Closes the engine."""
        self._engine.close()

    def _identity(self, model: ModelIdentity, revision: str) -> LabelIdentity:
        config, rubric, engine = self._config, self._rubric, self._engine
        return LabelIdentity(
            labeler=config.name,
            revision=revision,
            kind=config.kind,
            role=config.role,
            criterion=config.criterion,
            model=engine.model,
            model_revision=model.revision,
            backend=engine.name,
            backend_version=engine.version,
            score_method="parsed" if self._is_written else "logprob_expectation",
            score_scale=rubric.scale,
            template=rubric.name,
            template_sha256=rubric.sha256,
        )

    def _question(
        self,
        occasion: str | None,
        principle: Principle | None,
        messages: str | None,
        completion: str | None,
        second: str | None,
    ) -> _Question | Measurement:
        """What to ask, or the failed measurement of a text that cannot be shown."""
        if completion is None or second is None:
            return UNREADABLE
        nonce = nonce_of(self.identity.revision, messages, completion + second)
        shown = Shown(messages, completion, nonce, principle, second)
        reasoning = self._config.chosen_reasoning if self._is_written else None
        try:
            asked = written_messages(self._rubric, shown, reasoning)
        except UnfitPrompt as error:
            return Measurement("error", status_detail=storable(str(error)))
        drawn = None if principle is None else principle.name
        text = json.dumps([self.identity.revision, messages, completion, second, drawn])
        return _Question(text_sha256(text), asked, occasion)

    def _request(self, question: _Question, sample: int, attempt: int) -> ChatRequest:
        if not self._is_written:
            return ChatRequest(
                "", question.messages, 1, seed=self._seed, top_logprobs=_TOP,
                occasion=question.occasion,
            )  # fmt: skip
        return written_request(
            question.messages,
            f"{self._seed} {question.text_sha256} {sample} {attempt}",
            attempt,
            max_tokens=self._config.max_output_tokens,
            temperature=self._config.temperature,
            schema=self._schema,
            occasion=question.occasion,
        )

    def _read(
        self, _: _Question, found: Measurement, answer: ChatAnswer
    ) -> tuple[Measurement, str | None]:
        if not self._is_written:
            least = self._config.min_label_mass
            return expectation(found, answer, self._rubric, least), None
        if answer.status == "ok":
            return written(found, answer.text or "", self._rubric, self._scale)
        return found, None
