"""Sentinels: texts whose score is known, put before every labeler again each night.

A set is a versioned YAML file (shipped.py). Gold items stand on both sides
of a criterion; canaries are answers that earn nothing and that some judges like all the same: a
constant answer (Zheng et al. 2024, "Cheating Automatic LLM Benchmarks"), master keys (Zhao et al.
2025, "One Token to Fool LLM-as-a-Judge"), a refusal, an echo, padding. Not here: what follows from
their scores (checks.py).
"""

from __future__ import annotations

import json
from typing import Literal

import pyarrow as pa
from pydantic import Field, model_validator

from labeling.label import SENTINEL_PREFIX
from labeling.labelers.config import LabelerConfig
from labeling.section import Section, Share
from labeling.shipped import ShippedFile
from warehouse.files import text_sha256
from warehouse.schemas import table_from_rows

Kind = Literal["gold", "constant", "master_key", "refusal", "echo", "padding"]
CANARIES: tuple[Kind, ...] = ("constant", "master_key", "refusal", "echo")


class Sentinel(Section):
    """One text. `gold`: criterion -> how much of it is there; scored for these criteria alone.

    `padding` repeats or stretches the answer of the sentinel `base`: it must not score higher.
    """

    id: str = Field(min_length=1)
    kind: Kind
    gold: dict[str, Share] = Field(min_length=1)
    prompt: str = Field(min_length=1)
    completion: str = Field(min_length=1)
    base: str | None = None

    @model_validator(mode="after")
    def _canaries_earn_nothing(self) -> Sentinel:
        if self.kind in CANARIES and any(self.gold.values()):
            raise ValueError(f"{self.id}: a canary of kind {self.kind} has gold 0 everywhere")
        if (self.kind == "padding") != (self.base is not None):
            raise ValueError(f"{self.id}: kind padding and base (the id of another) go together")
        return self


class SentinelSet(ShippedFile):
    """The items of one file."""

    kind = folder = "sentinels"

    items: tuple[Sentinel, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ids_hold(self) -> SentinelSet:
        ids = [item.id for item in self.items]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"items: the ids {twice} stand twice")
        lost = sorted({item.base for item in self.items if item.base} - set(ids))
        if lost:
            raise ValueError(f"items: base {lost[0]} is no item of this set")
        return self

    def of(self, criterion: str) -> tuple[Sentinel, ...]:
        """The items that a labeler of this criterion scores."""
        return tuple(item for item in self.items if criterion in item.gold)

    def subjects(self, criterion: str, round_number: int) -> pa.Table:
        """What a labeler reads, one row per item; columns as Labeler.label takes them."""
        items = self.of(criterion)
        ids = pa.array([f"{SENTINEL_PREFIX}/{item.id}" for item in items], pa.string())
        texts = [item.completion for item in items]
        messages = [json.dumps([{"role": "user", "content": item.prompt}]) for item in items]
        return pa.table(
            {
                "rollout_id": ids,
                "round": pa.array([round_number] * len(items), pa.int32()),
                "prompt_id": ids,
                "completion": pa.array(texts, pa.large_string()),
                "completion_sha256": pa.array(map(text_sha256, texts), pa.string()),
                "messages": pa.array(messages, pa.large_string()),
            }
        )

    def rows(self, criterion: str, labels: pa.Table) -> pa.Table:
        """Rows of table `sentinels` from the labels of `subjects`; final ones count."""
        about: dict[str, dict[str, object]] = {
            f"{SENTINEL_PREFIX}/{item.id}": {
                "sentinel_id": item.id,
                "kind": item.kind,
                "criterion": criterion,
                "gold": item.gold[criterion],
            }
            for item in self.of(criterion)
        }
        final = labels.filter(labels["is_final"])
        measured = final.select(["round", "labeler", "revision", "status", "score", "raw_output"])
        rows = zip(final["rollout_id"].to_pylist(), measured.to_pylist(), strict=True)
        return table_from_rows("sentinels", [row | about[rollout] for rollout, row in rows])


def is_starter(config: LabelerConfig) -> bool:
    """Whether the labeler is one of the small models that know their own grammar only."""
    engine = getattr(config, "engine", None)
    model = str(getattr(engine or config, "model", ""))
    return model.startswith("starter-")
