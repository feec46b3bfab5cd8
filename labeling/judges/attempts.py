"""Rows of table `labels` for judges that need several calls for one label: every call is a row.

A label's rows share one `label_key` and count their `attempt` upwards; the last one is final. Not
here: what is asked and when it is asked again (written.py), labels of one call (label.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from labeling.engines.chat import ChatAnswer, ChatRequest
from labeling.label import LabelIdentity, Measurement, label_id, label_keys, label_rows

_MESSAGE_LENGTH = 500


@dataclass(frozen=True)
class Attempt:
    """One row: a measurement and the call behind it, which a summary of other rows does not have.

    `sample` counts the verdicts of a label from 0; `is_repair` marks the second try at one.
    """

    measurement: Measurement
    request: ChatRequest | None = None
    answer: ChatAnswer | None = None
    rationale: str | None = None
    score_method: str | None = None
    sample: int = 0
    is_repair: bool = False


def storable(text: str) -> str:
    """The text without lone surrogates, which JSON can spell and no table can hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def attempt_rows(
    identity: LabelIdentity,
    subjects: pa.Table,
    attempts: Sequence[Sequence[Attempt]],
    principles: Sequence[str | None],
    *,
    region: str | None = None,
) -> pa.Table:
    """All attempts of all subjects (one or more each, in order) as rows of table `labels`.

    A rollout that stands twice among the subjects gets two labels that differ in `sample_index`.
    """
    flat = [attempt for row in attempts for attempt in row]
    places = [index for index, row in enumerate(attempts) for _ in row]
    columns = _keys(identity, subjects["rollout_id"].to_pylist(), attempts, principles)
    columns |= {
        "principle": [principles[place] for place in places],
        "rationale": [a.rationale and storable(a.rationale) for a in flat],
        "score_method": [a.score_method if a.measurement.score is not None else None for a in flat],
        "provider_region": [region if a.answer else None for a in flat],
    }
    calls = [_call(attempt) for attempt in flat]
    for name in dict.fromkeys(name for call in calls for name in call):
        columns[name] = [call.get(name) for call in calls]
    columns["model"] = [(a.answer and a.answer.model) or identity.model for a in flat]
    return label_rows(
        identity,
        subjects.take(pa.array(places, pa.int64())),
        [attempt.measurement for attempt in flat],
        columns,
    )


def _keys(
    identity: LabelIdentity,
    rollouts: Sequence[str],
    attempts: Sequence[Sequence[Attempt]],
    principles: Sequence[str | None],
) -> dict[str, list[object]]:
    """Identifying columns: one key per label, one id per attempt, and what replaced what."""
    names = ("label_key", "label_id", "sample_index", "attempt", "is_final", "supersedes")
    columns: dict[str, list[object]] = {name: [] for name in names}
    samples = [1 + max(attempt.sample for attempt in row) for row in attempts]
    keys, firsts = label_keys(identity, rollouts, principles, samples)
    for key, first, row in zip(keys, firsts, attempts, strict=True):
        for number, attempt in enumerate(row):
            columns["label_key"].append(key)
            columns["label_id"].append(label_id(key, number))
            columns["sample_index"].append(first + attempt.sample)
            columns["attempt"].append(number)
            columns["is_final"].append(number == len(row) - 1)
            columns["supersedes"].append(label_id(key, number - 1) if attempt.is_repair else None)
    return columns


def _call(attempt: Attempt) -> dict[str, object]:
    """The columns that a call fills; none for a summary, whose calls have rows of their own."""
    request, answer = attempt.request, attempt.answer
    if request is None or answer is None:
        return {}
    sampling = {"temperature": request.temperature, "max_tokens": request.max_tokens}
    is_counted = answer.input_tokens is not None and answer.output_tokens is not None
    message = answer.error_message and storable(answer.error_message)[:_MESSAGE_LENGTH]
    return {
        "sampling_json": json.dumps(sampling),
        "seed": request.seed,
        "structured_mode": "json_schema" if request.schema else None,
        "stop_reason": answer.stop_reason,
        "error_type": answer.error_type,
        "error_message": message,
        "cached_input_tokens": answer.cached_input_tokens,
        "is_usage_estimated": not is_counted if is_counted or answer.text is not None else None,
        "cost_usd": answer.cost_usd,
        "price_table_version": answer.price_table_version,
        "is_cached": answer.is_cached,
        "latency_ms": None if answer.is_cached else 1000 * answer.seconds,
        "queue_ms": None if answer.is_cached else 1000 * answer.queued_seconds,
        "retries": answer.retries,
        "request_id": answer.request_id,
        "service_tier": answer.service_tier,
    }
