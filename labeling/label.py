"""A label: one measurement of one completion with its provenance, as a row of table `labels`.

A failed label is a status with score NULL, never a number (a -1 for "failed", as in FastChat,
poisons every mean that forgets to filter). Not here: how a text is measured
(labelers/classifier.py, judges/likelihood.py), what a score is worth (rewards/reward.py).
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from importlib import metadata
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from warehouse.files import text_sha256
from warehouse.schemas import SCORED_STATUSES, STATUSES, TABLES, conform

# Part of every revision: raise it when reading the same model output gives another score.
PARSER_VERSION = 1
_MESSAGE_LENGTH = 500


@dataclass(frozen=True)
class LabelIdentity:
    """What all rows of one labeler share. `revision` is the immutable name of its behaviour."""

    labeler: str
    revision: str
    kind: str
    role: str
    criterion: str
    model: str
    model_revision: str
    backend: str
    backend_version: str
    score_method: str
    score_scale: str
    mode: str = "pointwise"
    family: str | None = None
    tokenizer_sha256: str | None = None
    label_map_sha256: str | None = None
    device: str | None = None
    dtype: str | None = None
    batch_invariant: bool | None = None
    template: str | None = None
    template_sha256: str | None = None
    sampling_json: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class LabelLogprob:
    """Log-probability (nats) of one label token; the id or the number is None where not given."""

    label: str
    token_id: int | None
    logprob: float | None


@dataclass(frozen=True)
class Measurement:
    """What one attempt saw. `score` (in [0, 1]) and `score_raw` are None unless status is ok."""

    status: str
    score: float | None = None
    score_raw: float | None = None
    raw_output: str | None = None
    score_logprobs: tuple[LabelLogprob, ...] | None = None
    label_mass: float | None = None
    entropy: float | None = None
    status_detail: str | None = None
    rendered_prompt: str | None = None
    window_count: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuses what must never reach the warehouse: a number without a status, NaN, infinity."""
        if self.status not in STATUSES:
            raise ValueError(f"unknown status {self.status!r}: one of {STATUSES}")
        is_scored = self.status in SCORED_STATUSES
        for name in ("score", "score_raw"):
            value = getattr(self, name)
            if (value is not None) != is_scored:
                raise ValueError(f"status {self.status} with {name} {value}")
        numbers = (self.score, self.score_raw, self.label_mass, self.entropy)
        if not all(math.isfinite(x) for x in numbers if x is not None):
            raise ValueError(f"not finite: score, score_raw, label_mass, entropy = {numbers}")
        if self.score is not None and not 0 <= self.score <= 1:
            raise ValueError(f"score {self.score} is not in [0, 1]")


UNREADABLE = Measurement("error", status_detail="the completion is NULL or not valid UTF-8")


def label_key(
    rollout_id: str,
    labeler: str,
    revision: str,
    criterion: str,
    *,
    partner_rollout_id: str | None = None,
    principle: str | None = None,
    pair_order: str | None = None,
    sample_index: int = 0,
) -> str:
    """32 hex digits: the same for every attempt at the same label; one final row has it."""
    parts = [
        rollout_id,
        partner_rollout_id,
        labeler,
        revision,
        criterion,
        principle,
        pair_order,
        sample_index,
    ]
    return text_sha256(json.dumps(parts))[:32]


def label_id(key: str, attempt: int) -> str:
    """32 hex digits of one attempt; a rerun of the same night gives the same."""
    return text_sha256(f"{key} {attempt}")[:32]


def label_rows(
    identity: LabelIdentity,
    subjects: pa.Table,
    measurements: Sequence[Measurement],
    own: Mapping[str, Sequence[Any]] = MappingProxyType({}),
) -> pa.Table:
    """One final row of table `labels` per subject, in the order of `subjects`.

    A rollout that stands twice among the subjects gets two rows that differ in `sample_index`.
    `own`: further columns, or other values for some; `principle` (names) is part of the key.
    """
    count = subjects.num_rows
    if len(measurements) != count:
        raise ValueError(f"{len(measurements)} measurements for {count} subjects")
    drawn = own.get("principle", [None] * count)
    rollouts = subjects["rollout_id"].to_pylist()
    keys, sample_indices = label_keys(identity, rollouts, drawn, [1] * count)
    columns: dict[str, object] = {
        "label_id": [label_id(key, 0) for key in keys],
        "label_key": keys,
        "sample_index": sample_indices,
    }
    columns |= {
        name: subjects[name] for name in ("rollout_id", "round", "prompt_id", "completion_sha256")
    }
    columns |= _measured(measurements)
    constant = vars(identity) | {
        "attempt": 0,
        "is_final": True,
        "code_version": metadata.version("roundhouse"),
        "worker": f"{platform.node()}:{os.getpid()}",
        "labeled_at": datetime.now(UTC),
    }
    for name in ("score_method", "score_scale"):  # of a score, so NULL where there is none
        columns[name] = [None if m.score is None else constant[name] for m in measurements]
    columns |= own
    schema = TABLES["labels"].schema
    columns |= {
        name: pa.repeat(pa.scalar(value, schema.field(name).type), count)
        for name, value in constant.items()
        if name not in columns
    }
    typed = pa.schema([field.with_nullable(True) for field in schema if field.name in columns])
    return conform("labels", pa.table(columns, schema=typed))


def label_keys(
    identity: LabelIdentity,
    rollouts: Sequence[str],
    principles: Sequence[str | None],
    samples: Sequence[int],
) -> tuple[list[str], list[int]]:
    """A key per rollout, and how many samples (a count per rollout) of it stood there before."""
    seen: Counter[str] = Counter()
    keys, sample_indices = [], []
    for rollout, principle, count in zip(rollouts, principles, samples, strict=True):
        index = seen[rollout]
        seen[rollout] += count
        sample_indices.append(index)
        keys.append(
            label_key(
                rollout,
                identity.labeler,
                identity.revision,
                identity.criterion,
                principle=principle,
                sample_index=index,
            )
        )
    return keys, sample_indices


def _measured(measurements: Sequence[Measurement]) -> dict[str, object]:
    """The columns that a measurement fills."""
    columns: dict[str, object] = {
        field.name: [getattr(m, field.name) for m in measurements] for field in fields(Measurement)
    }
    columns["status_detail"] = [
        m.status_detail and m.status_detail[:_MESSAGE_LENGTH] for m in measurements
    ]
    columns["score_logprobs"] = [
        m.score_logprobs and [vars(logprob) for logprob in m.score_logprobs] for m in measurements
    ]
    columns["rendered_prompt_sha256"] = [
        None if m.rendered_prompt is None else text_sha256(m.rendered_prompt) for m in measurements
    ]
    return columns


def decoded_texts(column: pa.ChunkedArray) -> list[str | None]:
    """The texts of a string column; None where it is NULL or not valid UTF-8 (a lone surrogate).

    Arrow does not check the bytes that a file brings, and one bad row must not cost its shard.
    """
    texts: list[str | None] = []
    for value in column.cast(pa.large_binary()).to_pylist():
        try:
            texts.append(None if value is None else value.decode("utf-8"))
        except UnicodeDecodeError:
            texts.append(None)
    return texts


SENTINEL_PREFIX = "sentinel"


def occasion_of(rollout_id: str, round_number: int | None) -> str | None:
    """The night of a sentinel, None for any other text: every night asks for sentinels anew.

    A remote judge changes in silence; an answer kept from another night would hide it.
    """
    return f"round {round_number}" if rollout_id.startswith(f"{SENTINEL_PREFIX}/") else None
