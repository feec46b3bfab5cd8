"""Judges on Amazon Bedrock in batches: calls as records of a job over S3, cheaper, within a day.

Many calls are one job or several, as the limits in `batch` say; fewer than `min_records`, such as a
second try at a few unreadable verdicts, go to Converse one by one, at the price on demand. Records
are joined by recordId only: AWS has promised their order and taken it back. What a job answered is
kept however it ended; the rest gets a status that names the job. The price of all jobs at their
worst must be in the budget before the first is submitted.
Records are named by what they ask, so a killed run that asks again, for all or for what it has not
kept, gets the answers of the job it paid for. Not here: S3, jobs and how they are found
(jobs.py), what one record says (records.py).
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from labeling.engines.bedrock.converse import BedrockChatEngine, converse_arguments
from labeling.engines.bedrock.jobs import BatchJobs, Job, JobState
from labeling.engines.bedrock.records import is_answered, no_record, record_answer
from labeling.engines.chat import ChatAnswer, ChatRequest
from labeling.engines.config import BatchConfig, BedrockEngineConfig
from labeling.engines.prices import Price, worst_cost
from labeling.errors import LabelingError

_ID_LENGTH = 11  # 55 bits; earlier editions of AWS's page ask for 11 alphanumeric characters
_NAME_LENGTH = 32
_FRAME_BYTES = 64  # of a line, beside the model's input
_Done = Callable[[ChatAnswer], None] | None
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Record:
    """A call as a line of a job's input; `text` is the model's input in JSON."""

    id: str
    request: ChatRequest
    text: str


@dataclass(frozen=True)
class _Part:
    """The records of one job; `name` is the hash of what is asked, of whom and where."""

    requests: dict[str, ChatRequest]
    body: bytes
    name: str


@dataclass(frozen=True)
class _Sent:
    """What is wanted of a job, by recordId; the USD set aside for it, 0 where it was there."""

    requests: dict[str, ChatRequest]
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
        sent, few = self._send(requests)
        answers: dict[str, ChatAnswer] = {}
        open_usd = sum(part.promised for part in sent)
        try:
            for part in sent:
                found = self._answers(part, self._jobs.wait(part.job), came_at)
                paid = sum(map(self._paid, part.requests.values(), found))
                self._on_demand.budget.settle(part.promised, paid)
                open_usd -= part.promised
                for answer in found:
                    answers[answer.key] = answer
                    if done is not None:
                        done(answer)
                self._jobs.finish(part.job)
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

    def _send(self, requests: Sequence[ChatRequest]) -> tuple[list[_Sent], list[ChatRequest]]:
        """Jobs for all requests but those that are too few for one, which come second."""
        records = {record.id: record for record in self._records(requests)}
        sent: list[_Sent] = []
        for job in self._jobs.unfinished():
            mine = {i: record.request for i, record in records.items() if i in job.record_ids}
            if mine and self._jobs.is_of_use(job):
                sent.append(_Sent(mine, job, 0.0))
                records = {i: record for i, record in records.items() if i not in mine}
        parts: list[_Part] = []
        few: list[ChatRequest] = []
        for group in _groups(records.values(), self._batch):
            if len(group) < self._batch.min_records:
                few += [record.request for record in group]
            else:
                parts.append(self._part(group))
        return sent + self._submit(parts), few

    def _records(self, requests: Sequence[ChatRequest]) -> Iterator[_Record]:
        """One per request. Its id is of what is asked; the seed tells samples of a text apart."""
        used: set[str] = set()
        for request in requests:
            arguments = converse_arguments(self.model, request)
            del arguments["modelId"]  # stands in the job
            text, number = json.dumps(arguments), 0
            asked = f"{self.model} {self._config.region} {request.seed} {text}"
            while (record_id := _digest(f"{number} {asked}")[:_ID_LENGTH]) in used:
                number += 1
            used.add(record_id)
            yield _Record(record_id, request, text)

    def _part(self, group: Sequence[_Record]) -> _Part:
        body = "".join(
            f'{{"recordId": "{record.id}", "modelInput": {record.text}}}\n' for record in group
        )
        requests = {record.id: record.request for record in group}
        return _Part(
            requests, body.encode("ascii"), _digest(f"{self.model}\n{body}")[:_NAME_LENGTH]
        )

    def _submit(self, parts: Sequence[_Part]) -> list[_Sent]:
        """All parts; those whose job is there already are neither submitted nor paid again."""
        found = [self._jobs.find(part.name) for part in parts]
        worst = [
            0.0 if isinstance(job, Job) else self._worst(part)
            for part, job in zip(parts, found, strict=True)
        ]
        total = sum(worst)
        while total and self._on_demand.budget.set_aside(total) is None:
            time.sleep(self._batch.poll_seconds)  # what others have in flight may leave room
        sent: list[_Sent] = []
        try:
            for part, job, promised in zip(parts, found, worst, strict=True):
                if not isinstance(job, Job):
                    job = self._jobs.submit(part.name, job, part.body, part.requests)
                sent.append(_Sent(part.requests, job, promised))
        except BaseException:
            self._on_demand.budget.settle(total, sum(part.promised for part in sent))
            raise
        return sent

    def _worst(self, part: _Part) -> float:
        price = self._price
        return 0.0 if price is None else sum(worst_cost(price, r) for r in part.requests.values())

    def _answers(self, part: _Sent, state: JobState, came_at: float) -> list[ChatAnswer]:
        """One per request of the part. Of two for one, an answer goes before an error."""
        found: dict[str, ChatAnswer] = {}
        surplus = 0
        for record in self._jobs.records(part.job):
            record_id = str(record.get("recordId"))
            surplus += record_id in found or record_id not in part.job.record_ids
            earlier, request = found.get(record_id), part.requests.get(record_id)
            is_better = earlier is None or (is_answered(record) and earlier.service_tier is None)
            if request is not None and is_better:
                answer = record_answer(request.key, self.model, part.job, record, self._price)
                found[record_id] = answer
        if surplus:
            _log.warning("%s: %d records of unknown or repeated recordId", part.job.arn, surplus)
        waited = time.monotonic() - came_at
        answers = (
            found.get(record_id) or no_record(request.key, part.job, state)
            for record_id, request in part.requests.items()
        )
        return [replace(a, queued_seconds=max(0.0, waited - a.seconds)) for a in answers]

    def _paid(self, request: ChatRequest, answer: ChatAnswer) -> float:
        """USD; at its worst where Bedrock answered and did not count its tokens."""
        if answer.cost_usd is not None or self._price is None or answer.service_tier is None:
            return answer.cost_usd or 0.0
        return worst_cost(self._price, request)


def _digest(text: str) -> str:
    """Lower-case letters and digits, 5 bits each."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return base64.b32encode(digest).decode().rstrip("=").lower()


def _groups(records: Iterable[_Record], batch: BatchConfig) -> Iterator[list[_Record]]:
    """In order, each as large as the limits allow."""
    group: list[_Record] = []
    size = 0
    for record in records:
        length = len(record.text) + _FRAME_BYTES
        if group and (len(group) == batch.max_records or size + length > batch.max_bytes):
            yield group
            group, size = [], 0
        group.append(record)
        size += length
    if group:
        yield group
