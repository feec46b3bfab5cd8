"""A labeler that is a remote language model: it writes a verdict in JSON, which is read strictly.

Where the endpoint shows the likelihoods of the first token and the configuration asks for them,
the score is an expectation over them as in likelihood.py. A call that fails is a row with its
status; a verdict that cannot be read is asked for once more, from scratch. Not here: the words
(asking.py), the reading (score.py, verdict.py), retries and budgets (engines/).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from labeling.engines.chat import ChatAnswer, ChatEngine, ChatRequest
from labeling.engines.model_identity import ModelIdentity
from labeling.engines.untrusted import UnfitPrompt
from labeling.judges.asking import answer_schema, check_first_tokens, score_scale, written_messages
from labeling.judges.attempts import Attempt, attempt_rows, storable
from labeling.judges.config import JudgeConfig
from labeling.judges.prompt import nonce_of
from labeling.judges.rubric import Principle, Rubric
from labeling.judges.score import expectation, summary, unread, written
from labeling.label import LabelIdentity, Measurement, decoded_texts, occasion_of

_REPAIRED = ("malformed", "off_schema", "truncated")  # a second try may mend these
_REPAIR_ROOM = 2  # times as many tokens for the second try
_TOP = 20  # the most alternatives that OpenAI-compatible endpoints show
_KEY = "{}.{}.{}"  # row, sample, attempt
_Place = tuple[int, int]  # row, sample


@dataclass(frozen=True)
class _Question:
    """What is asked about one subject; `text_sha256` stands for all that is particular to it.

    No id of a rollout is in either, so that the same text is the same question every night.
    """

    text_sha256: str
    messages: tuple[Mapping[str, str], ...]
    occasion: str | None = None


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
        rounds = subjects["round"].to_pylist()
        occasions = [occasion_of(*row) for row in zip(rollouts, rounds, strict=True)]
        principles = [self._rubric.draw_principle(rollout, self._seed) for rollout in rollouts]
        texts = [decoded_texts(subjects[name]) for name in ("messages", "completion")]
        is_pair = "second" in subjects.column_names
        texts.append(decoded_texts(subjects["second"]) if is_pair else [""] * len(rollouts))
        attempts: list[list[Attempt]] = []
        questions: dict[int, _Question] = {}
        for row, about in enumerate(zip(principles, *texts, strict=True)):
            asked = self._question(*about)
            attempts.append([Attempt(asked)] if isinstance(asked, Measurement) else [])
            if isinstance(asked, _Question):
                questions[row] = replace(asked, occasion=occasions[row])
        if progress is not None and len(questions) < len(rollouts):
            progress(len(rollouts) - len(questions))
        samples = self._config.samples if self._is_written else 1
        wanted = [(row, sample) for row in questions for sample in range(samples)]
        first = self._ask(questions, wanted, 0, _row_counter(wanted, progress))
        again = [place for place in wanted if self._is_repairable(first[place])]
        second = self._ask(questions, again, 1, None) if again else {}
        for place in wanted:
            attempts[place[0]] += [tries[place] for tries in (first, second) if place in tries]
        if samples > 1:
            for row in questions:
                attempts[row].append(summary(attempts[row], self._rubric))
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
        principle: Principle | None,
        messages: str | None,
        completion: str | None,
        second: str | None,
    ) -> _Question | Measurement:
        """What to ask, or the failed measurement of a text that cannot be shown."""
        if completion is None or second is None:
            return Measurement("error", status_detail="the completion is NULL or not valid UTF-8")
        try:
            shown = written_messages(
                self._rubric,
                messages,
                completion,
                nonce_of(self.identity.revision, messages, completion + second),
                principle=principle,
                reasoning=self._config.chosen_reasoning if self._is_written else None,
                second=second,
            )
        except UnfitPrompt as error:
            return Measurement("error", status_detail=storable(str(error)))
        drawn = None if principle is None else principle.name
        text = json.dumps([self.identity.revision, messages, completion, second, drawn])
        return _Question(hashlib.sha256(text.encode()).hexdigest(), shown)

    def _ask(
        self,
        questions: Mapping[int, _Question],
        places: Sequence[_Place],
        attempt: int,
        done: Callable[[ChatAnswer], None] | None,
    ) -> dict[_Place, Attempt]:
        """One attempt per place; answers are joined by key, whatever their order."""
        requests = {place: self._request(questions[place[0]], place, attempt) for place in places}
        answers = {
            answer.key: answer for answer in self._engine.complete(list(requests.values()), done)
        }
        nothing = ChatAnswer("", "error", error_message="the engine gave no answer to this request")
        return {
            place: self._read(request, answers.get(request.key, nothing), place[1], attempt)
            for place, request in requests.items()
        }

    def _request(self, question: _Question, place: _Place, attempt: int) -> ChatRequest:
        """A call for one verdict; a second attempt differs in its seed and in its room only."""
        key = _KEY.format(*place, attempt)
        if not self._is_written:
            return ChatRequest(
                key, question.messages, 1, seed=self._seed, top_logprobs=_TOP,
                occasion=question.occasion,
            )  # fmt: skip
        draw = f"{self._seed} {question.text_sha256} {place[1]} {attempt}"
        return ChatRequest(
            key,
            question.messages,
            max_tokens=self._config.max_output_tokens * (_REPAIR_ROOM if attempt else 1),
            temperature=self._config.temperature,
            seed=int.from_bytes(hashlib.sha256(draw.encode()).digest()[:4], "big") >> 1,
            schema=self._schema,
            occasion=question.occasion,
        )

    def _read(self, request: ChatRequest, answer: ChatAnswer, sample: int, attempt: int) -> Attempt:
        found, rationale = unread(request, answer), None
        if not self._is_written:
            found = expectation(found, answer, self._rubric, self._config.min_label_mass)
        elif answer.status == "ok":
            found, rationale = written(found, answer.text or "", self._rubric, self._scale)
        method = self.identity.score_method
        return Attempt(found, request, answer, rationale, method, sample, is_repair=attempt > 0)

    def _is_repairable(self, attempt: Attempt) -> bool:
        return self._is_written and attempt.measurement.status in _REPAIRED


def _row_counter(
    wanted: Sequence[_Place], progress: Callable[[int], None] | None
) -> Callable[[ChatAnswer], None] | None:
    """Counts a row as done when the last of its samples has arrived."""
    if progress is None:
        return None
    open_samples = Counter(row for row, _ in wanted)

    def done(answer: ChatAnswer) -> None:
        row = int(answer.key.partition(".")[0])
        open_samples[row] -= 1
        if open_samples[row] == 0:
            progress(1)

    return done
