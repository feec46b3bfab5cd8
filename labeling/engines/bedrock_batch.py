"""Judges on Amazon Bedrock in batches: calls as records of a job over S3, cheaper, within a day.

Many calls are one job or several, as the limits in `batch` say; fewer than `min_records`, such as a
second try at a few unreadable verdicts, go to Converse one by one, at the price on demand. Records
are joined by recordId only: AWS has promised their order and taken it back. What a job answered is
kept however it ended; the rest gets a status that names the job. The price of all jobs at their
worst must be in the budget before the first is submitted.
Accepted: a job is found again by all it was asked. Who is killed while its answers are handed over,
and then asks for a part of them only, pays for that part again. Not here: S3, jobs and their
resumption (bedrock_jobs.py), what Converse is asked and answers (bedrock_chat.py).
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from labeling.engine_config import BatchConfig, BedrockEngineConfig
from labeling.engines.bedrock_chat import BedrockChatEngine, converse_answer, converse_arguments
from labeling.engines.bedrock_jobs import BatchJobs, Ending, Job
from labeling.engines.chat import BudgetSpent, ChatAnswer, ChatRequest
from labeling.engines.failures import CallFailed, http_failure
from labeling.engines.prices import Price, worst_cost
from labeling.label import LabelingError

_TIER = "batch"
_RECORD_ID = "{:011d}"  # earlier editions of AWS's page ask for 11 alphanumeric characters
_FRAME_BYTES = 64  # of a line, beside the model's input
_UNANSWERED = {  # a job's final status -> status and error type of records it did not answer
    "Expired": ("timeout", "JobExpired"),
    "Stopped": ("error", "JobStopped"),
    "Failed": ("error", "JobFailed"),
}
_HTTP = {  # where a record's errorCode is a name
    "ThrottlingException": 429,
    "ModelTimeoutException": 408,
    "ModelErrorException": 424,
    "ServiceUnavailableException": 503,
    "ValidationException": 400,
}
_Done = Callable[[ChatAnswer], None] | None
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Part:
    """The calls of one job; `name` is the hash of what is asked, of whom and where."""

    requests: list[ChatRequest]
    body: bytes
    name: str


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
        jobs = self._submitted(parts)
        answers: dict[str, ChatAnswer] = {}
        for part, job, promised in jobs:
            paid = promised
            try:
                found = self._answers(part, job, self._jobs.wait(job), came_at)
                paid = sum(map(self._paid, part.requests, found))
            finally:  # a job that nobody could ask about runs on, so it counts at its worst
                self._on_demand.budget.settle(promised, paid)
            for answer in found:
                answers[answer.key] = answer
                if done is not None:
                    done(answer)
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

    def _submitted(self, parts: Sequence[_Part]) -> list[tuple[_Part, Job, float]]:
        """A job and the USD set aside for it per part: 0 where it was submitted before."""
        found = [(part, self._jobs.find(part.name)) for part in parts]
        worst = [0.0 if job is not None else self._worst(part) for part, job in found]
        if sum(worst) and self._on_demand.budget.set_aside(sum(worst)) is None:
            raise BudgetSpent(
                f"a batch that may cost {sum(worst):.6g} USD does not fit the budget beside the "
                "calls in flight; nothing of it was sent; raise budget_usd or run again later"
            )
        jobs: list[tuple[_Part, Job, float]] = []
        try:
            for (part, job), promised in zip(found, worst, strict=True):
                jobs.append((part, job or self._jobs.submit(part.name, part.body), promised))
        except LabelingError:
            sent = sum(promised for _, _, promised in jobs)
            self._on_demand.budget.settle(sum(worst), sent)
            raise
        return jobs

    def _worst(self, part: _Part) -> float:
        price = self._price
        return 0.0 if price is None else sum(worst_cost(price, r) for r in part.requests)

    def _answers(self, part: _Part, job: Job, ending: Ending, came_at: float) -> list[ChatAnswer]:
        """One per request of the part. Of two for one, an answer goes before an error."""
        places = {_RECORD_ID.format(place): place for place in range(len(part.requests))}
        found: dict[int, ChatAnswer] = {}
        surplus = 0
        for record in self._jobs.records(job):
            place = places.get(str(record.get("recordId")))
            if place is None:
                surplus += 1
                continue
            surplus += place in found
            if place not in found or (_is_billed(record) and found[place].service_tier is None):
                found[place] = self._answer(part.requests[place].key, job, record)
        if surplus:
            _log.warning("%s: %d records of unknown or repeated recordId", job.arn, surplus)
        waited = time.monotonic() - came_at
        answers = (
            found.get(place) or _unanswered(request.key, job, ending)
            for place, request in enumerate(part.requests)
        )
        return [replace(a, queued_seconds=max(0.0, waited - a.seconds)) for a in answers]

    def _answer(self, key: str, job: Job, record: dict[str, Any]) -> ChatAnswer:
        output = record.get("modelOutput")
        request_id = f"{job.arn}/{record['recordId']}"
        try:
            if not _is_billed(record):
                raise _failure(record.get("error"))
            answer = _read(key, self.model, output)
        except CallFailed as failed:
            return ChatAnswer(
                key,
                failed.status,
                error_type=failed.error_type,
                error_message=f"{failed.message} ({request_id})",
                request_id=request_id,
                service_tier=_TIER if _is_billed(record) else None,
            )
        cost = version = None
        tokens = answer.input_tokens, answer.output_tokens
        if self._price is not None and tokens[0] is not None and tokens[1] is not None:
            cost, version = self._price.cost(tokens[0], tokens[1]), self._price.version
        return replace(
            answer,
            request_id=request_id,
            service_tier=_TIER,
            cost_usd=cost,
            price_table_version=version,
            seconds=_latency(output),
        )

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


def _is_billed(record: dict[str, Any]) -> bool:
    return "modelOutput" in record


def _read(key: str, model: str, output: object) -> ChatAnswer:
    """Raises CallFailed for what is no answer of Converse."""
    try:
        return converse_answer(key, model, output)  # type: ignore[arg-type]
    except (AttributeError, KeyError, TypeError) as error:
        raise CallFailed("error", "malformed_body", "modelOutput is no Converse answer") from error


def _failure(error: object) -> CallFailed:
    """Of a record that has an error instead of an answer."""
    if not isinstance(error, dict):
        return CallFailed("error", "malformed_record", "neither modelOutput nor error")
    code, message = error.get("errorCode"), str(error.get("errorMessage", ""))
    try:
        status = int(str(code))
    except ValueError:
        status = _HTTP.get(str(code), 500)
    return http_failure(status, f"record_{code}", message, retry_after=None, request_id=None)


def _unanswered(key: str, job: Job, ending: Ending) -> ChatAnswer:
    status, error_type = _UNANSWERED.get(ending.status, ("error", "MissingRecord"))
    said = f": {ending.message}" if ending.message else ""
    message = f"{job.arn} is {ending.status} and has no answer to this record{said}"
    return ChatAnswer(key, status, error_type=error_type, error_message=message, request_id=job.arn)


def _latency(output: object) -> float:
    """Seconds that the model took, 0 where the record does not say."""
    metrics = output.get("metrics") if isinstance(output, dict) else None
    latency = metrics.get("latencyMs") if isinstance(metrics, dict) else None
    return latency / 1000 if isinstance(latency, int | float) else 0.0
