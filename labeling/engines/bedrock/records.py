"""What one record of a batch says, or what its absence means: from a line of output to an answer.

Pure functions. Not here: files and jobs (jobs.py), what Converse answers (converse.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from labeling.engines.bedrock.converse import converse_answer
from labeling.engines.bedrock.jobs import Job, JobState
from labeling.engines.chat import ChatAnswer
from labeling.engines.prices import Price
from labeling.engines.remote.failures import CallFailed, http_failure

_TIER = "batch"
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


def is_answered(record: dict[str, Any]) -> bool:
    """Whether the model was run for the record, so that it is billed."""
    return "modelOutput" in record


def record_answer(
    key: str, model: str, job: Job, record: dict[str, Any], price: Price | None
) -> ChatAnswer:
    """The answer to the request `key`. `request_id` is the job's ARN, a slash and the recordId.

    `service_tier` is batch where the model was run. A record that says nothing sensible is an
    answer with status error.
    """
    output = record.get("modelOutput")
    request_id = f"{job.arn}/{record['recordId']}"
    tier = _TIER if is_answered(record) else None
    try:
        if tier is None:
            raise _failure(record.get("error"))
        answer = _read(key, model, output)
    except CallFailed as failed:
        return ChatAnswer(
            key,
            failed.status,
            error_type=failed.error_type,
            error_message=f"{failed.message} ({request_id})",
            request_id=request_id,
            service_tier=tier,
        )
    answer = replace(answer, request_id=request_id, service_tier=tier, seconds=_latency(output))
    if price is None or answer.input_tokens is None or answer.output_tokens is None:
        return answer
    cost = price.cost(answer.input_tokens, answer.output_tokens)
    return replace(answer, cost_usd=cost, price_table_version=price.version)


def no_record(key: str, job: Job, state: JobState) -> ChatAnswer:
    """The answer to a request that no output file has a record of."""
    status, error_type = _UNANSWERED.get(state.status, ("error", "MissingRecord"))
    said = f": {state.message}" if state.message else ""
    message = f"{job.arn} is {state.status} and has no answer to this record{said}"
    return ChatAnswer(key, status, error_type=error_type, error_message=message, request_id=job.arn)


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


def _latency(output: object) -> float:
    """Seconds that the model took, 0 where the record does not say."""
    metrics = output.get("metrics") if isinstance(output, dict) else None
    latency = metrics.get("latencyMs") if isinstance(metrics, dict) else None
    return latency / 1000 if isinstance(latency, int | float) else 0.0
