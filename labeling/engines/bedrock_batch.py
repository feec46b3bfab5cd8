"""Judges on Amazon Bedrock in batches: calls as records of a job over S3, cheaper, within a day.

Many calls are one job or several, as the limits in `batch` say; fewer than `min_records`, such as a
second try at a few unreadable verdicts, go to Converse one by one, at the price on demand. Records
are joined by recordId only: AWS has promised their order and taken it back. What a job answered is
kept however it ended; the rest gets a status that names the job. The price of all jobs at their
worst must be in the budget before the first is submitted.
Accepted: a job is found again by all it was asked. Who is killed while its answers are handed over,
and then asks for a part of them only, pays for that part again. Not here: S3, jobs and their
resumption (bedrock_jobs.py), what one record says (bedrock_record.py).
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from labeling.engine_config import BatchConfig, BedrockEngineConfig
from labeling.engines.bedrock_chat import BedrockChatEngine, converse_arguments
from labeling.engines.bedrock_jobs import BatchJobs, Ending, Job
from labeling.engines.bedrock_record import is_answered, no_record, record_answer
from labeling.engines.chat import BudgetSpent, ChatAnswer, ChatRequest
from labeling.engines.prices import Price, worst_cost
from labeling.label import LabelingError

_RECORD_ID = "{:011d}"  # earlier editions of AWS's page ask for 11 alphanumeric characters
_FRAME_BYTES = 64  # of a line, beside the model's input
_Done = Callable[[ChatAnswer], None] | None
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Part:
    """The calls of one job; `name` is the hash of what is asked, of whom and where."""

    requests: list[ChatRequest]
    body: bytes
    name: str


@dataclass(frozen=True)
class _Sent:
    """The calls of a job, and the USD set aside for it: 0 where it was submitted before."""

    requests: list[ChatRequest]
    job: Job
    promised: float


class BedrockBatchEngine:
    """See labeling.engines.chat.ChatEngine; complete() blocks until the jobs have ended."""

    name = "bedrock"

    def __init__(
        self, config: BedrockEngineConfig, on_demand: BedrockChatEngine, price: Price | None
    ) -> None:
        """`price` is that of a batch; `on_demand` has its own, and the budget of both."""
        if config.batch is None:
            raise LabelingError("a batch engine needs engine.batch: {s3_uri: ..., role_arn: ...}")
        self.model, self.version = on_demand.model, on_demand.version
        self._config, self._batch = config, config.batch
        self._on_demand, self._price = on_demand, price
        self._jobs = BatchJobs(config, config.batch)

    def complete(self, requests: Sequence[ChatRequest], done: _Done = None) -> list[ChatAnswer]:
        """See ChatEngine.complete. Raises BudgetSpent before anything of this is submitted."""
        came_at = time.monotonic()
        parts, few = self._parts(requests)
        sent = self._submit(parts)
        del parts  # their bodies need not stay in memory for as long as a job takes
        answers: dict[str, ChatAnswer] = {}
        open_usd = sum(part.promised for part in sent)
        try:
            for part in sent:
                found = self._answers(part, self._jobs.wait(part.job), came_at)
                paid = sum(map(self._paid, part.requests, found))
                self._on_demand.budget.settle(part.promised, paid)
                open_usd -= part.promised
                for answer in found:
                    answers[answer.key] = answer
                    if done is not None:
                        done(answer)
        finally:  # jobs that nobody could ask about run on, so they count at their worst
            self._on_demand.budget.settle(open_usd, open_usd)
        if few:
            _log.info("%d calls are below batch.min_records: on demand", len(few))
            answers |= {a.key: a for a in self._on_demand.complete(few, done)}
        return [answers[request.key] for request in requests]

    def close(self) -> None:
        """Closes connections; jobs run on."""
        self._jobs.close()
        self._on_demand.close()

    def _parts(self, requests: Sequence[ChatRequest]) -> tuple[list[_Part], list[ChatRequest]]:
        """Full jobs in order, the last with the rest; and what is too few for a job."""
        parts: list[_Part] = []
        few: list[ChatRequest] = []
        for group in _groups(self._encoded(requests), self._batch):
            if len(group) < self._batch.min_records:
                few += [request for request, _ in group]
            else:
                parts.append(self._part(group))
        return parts, few

    def _encoded(self, requests: Sequence[ChatRequest]) -> Iterator[tuple[ChatRequest, str]]:
        for request in requests:
            arguments = converse_arguments(self.model, request)
            del arguments["modelId"]  # stands in the job
            yield request, json.dumps(arguments)

    def _part(self, group: Sequence[tuple[ChatRequest, str]]) -> _Part:
        lines = [
            f'{{"recordId": "{_RECORD_ID.format(place)}", "modelInput": {text}}}\n'
            for place, (_, text) in enumerate(group)
        ]
        body = "".join(lines).encode("ascii")
        asked = f"{self.model} {self._config.region} {self._batch.input_type}\n".encode()
        name = hashlib.sha256(asked + body).hexdigest()[:32]
        return _Part([request for request, _ in group], body, name)

    def _submit(self, parts: Sequence[_Part]) -> list[_Sent]:
        """All parts; those whose job is there already are neither submitted nor paid again."""
        found = [self._jobs.find(part.name) for part in parts]
        worst = [
            0.0 if isinstance(job, Job) else self._worst(part)
            for part, job in zip(parts, found, strict=True)
        ]
        total = sum(worst)
        if total and self._on_demand.budget.set_aside(total) is None:
            raise BudgetSpent(
                f"a batch that may cost {total:.6g} USD does not fit the budget beside the calls "
                "in flight; nothing of it was sent; raise budget_usd or run again later"
            )
        sent: list[_Sent] = []
        try:
            for part, job, promised in zip(parts, found, worst, strict=True):
                if not isinstance(job, Job):
                    job = self._jobs.submit(part.name, job, part.body)
                sent.append(_Sent(part.requests, job, promised))
        except BaseException:
            self._on_demand.budget.settle(total, sum(part.promised for part in sent))
            raise
        return sent

    def _worst(self, part: _Part) -> float:
        price = self._price
        return 0.0 if price is None else sum(worst_cost(price, r) for r in part.requests)

    def _answers(self, part: _Sent, ending: Ending, came_at: float) -> list[ChatAnswer]:
        """One per request of the part. Of two for one, an answer goes before an error."""
        places = {_RECORD_ID.format(place): place for place in range(len(part.requests))}
        found: dict[int, ChatAnswer] = {}
        surplus = 0
        for record in self._jobs.records(part.job):
            place = places.get(str(record.get("recordId")))
            if place is None:
                surplus += 1
                continue
            surplus += place in found
            if place not in found or (is_answered(record) and found[place].service_tier is None):
                key = part.requests[place].key
                found[place] = record_answer(key, self.model, part.job, record, self._price)
        if surplus:
            _log.warning("%s: %d records of unknown or repeated recordId", part.job.arn, surplus)
        waited = time.monotonic() - came_at
        answers = (
            found.get(place) or no_record(request.key, part.job, ending)
            for place, request in enumerate(part.requests)
        )
        return [replace(a, queued_seconds=max(0.0, waited - a.seconds)) for a in answers]

    def _paid(self, request: ChatRequest, answer: ChatAnswer) -> float:
        """USD; at its worst where Bedrock answered and did not count its tokens."""
        if answer.cost_usd is not None or self._price is None or answer.service_tier is None:
            return answer.cost_usd or 0.0
        return worst_cost(self._price, request)


def _groups(
    encoded: Iterable[tuple[ChatRequest, str]], batch: BatchConfig
) -> Iterator[list[tuple[ChatRequest, str]]]:
    """In order, each as large as the limits allow, so that a group that is done moves no other."""
    group: list[tuple[ChatRequest, str]] = []
    size = 0
    for request, text in encoded:
        length = len(text) + _FRAME_BYTES
        if group and (len(group) == batch.max_records or size + length > batch.max_bytes):
            yield group
            group, size = [], 0
        group.append((request, text))
        size += length
    if group:
        yield group
