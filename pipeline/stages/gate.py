"""The nightly gate: may a round's labels be trained on? Checks per labeler, or a person's verdict.

Labels and sentinels of the round are held against the thresholds of section `gate`; only required
labelers can refuse a round. A person's verdict on exactly these labels goes before all checks.
Not here: the checks (labeling/gate/checks.py), what a refusal writes (outcome.py), how a person
decides (decisions.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from labeling.gate.checks import Finding, Row, label_findings, padding_findings, sentinel_findings
from labeling.labelers.config import LabelerConfig
from pipeline.config import RunConfig
from pipeline.stages.decisions import ACCEPT, last_decision
from pipeline.stages.labels import revision_of, sentinel_set
from pipeline.stages.rewards import round_labels
from pipeline.stages.rounds import rollout_values
from warehouse.files import sha256_of
from warehouse.handle import Warehouse
from warehouse.keys import acceptance_key, labels_key, rewards_key

_LABEL_COLUMNS = [
    "partner_rollout_id", "pair_order", "is_consistent", "status", "revision", "model",
    "model_revision", "template_sha256",
]  # fmt: skip


@dataclass(frozen=True)
class GateVerdict:
    """Whether a round's labels may be trained on, and if not, why; `findings` are all checks."""

    is_accepted: bool
    reason: str
    label_set_sha256: str
    findings: tuple[Finding, ...]


def gate(config: RunConfig, warehouse: Warehouse, round_number: int) -> GateVerdict:
    """The verdict on the round's train labels."""
    labels = round_labels(config, warehouse, round_number, "train")
    rollouts = len(rollout_values(warehouse, round_number, "train", "rollout_id"))
    identity = label_set_sha256(labels)
    findings = tuple(
        finding
        for labeler in config.labelers
        for finding in _findings(config, warehouse, round_number, labeler, labels, rollouts)
    )
    required = {labeler.name for labeler in config.labelers if labeler.required}
    failed = [f for f in findings if not f.is_passed and f.labeler in required]
    decision = last_decision(warehouse, round_number, identity)
    if decision is None:
        return GateVerdict(not failed, "; ".join(map(str, failed)), identity, findings)
    said = f"{decision.by}: {decision.why}"
    return GateVerdict(decision.verdict == ACCEPT, said, identity, findings)


def label_set_sha256(labels: pa.Table) -> str:
    """Which labels a verdict is about: a relabelled round is another set, and looked at again."""
    return sha256_of(sorted(labels["label_id"].to_pylist()))


def is_reopened(config: RunConfig, warehouse: Warehouse, round_number: int) -> bool:
    """Whether the labels that were refused are not those that the configuration asks for now."""
    wanted = [
        labels_key(round_number, "train", labeler.name, revision_of(config, labeler))
        for labeler in config.labelers
    ]
    if not all(map(warehouse.is_published, wanted)):
        return True  # a labeler has changed: it labels the round, then the gate looks again
    identity = label_set_sha256(round_labels(config, warehouse, round_number, "train"))
    return not warehouse.is_published(acceptance_key(round_number, identity))


def _findings(
    config: RunConfig,
    warehouse: Warehouse,
    round_number: int,
    labeler: LabelerConfig,
    labels: pa.Table,
    rollouts: int,
) -> Sequence[Finding]:
    """All checks of one labeler."""
    name, limits = labeler.name, config.gate
    mine = labels.filter(pc.field("labeler") == name).select(_LABEL_COLUMNS).to_pylist()
    found = label_findings(name, mine, rollouts, limits)
    sentinels = sentinel_set(config, labeler)
    tonight = _sentinel_rows(config, warehouse, round_number, name)
    if sentinels is None or not tonight:
        return found
    last = _last_accepted(warehouse, round_number)
    before = [] if last is None else _sentinel_rows(config, warehouse, last, name)
    found += sentinel_findings(name, tonight, before, limits)
    bases = {item.id: item.base for item in sentinels.items if item.base is not None}
    return found + padding_findings(name, tonight, bases, limits)


def _sentinel_rows(
    config: RunConfig, warehouse: Warehouse, round_number: int, labeler: str
) -> list[Row]:
    """The labeler's sentinels of a round, of the revision that the configuration names if any."""
    rows = warehouse.read_table("sentinels", rounds=[round_number])
    mine = rows.filter(pc.field("labeler") == labeler).to_pylist()
    revision = revision_of(config, config.labeler(labeler))
    return [row for row in mine if row["revision"] == revision] or mine


def _last_accepted(warehouse: Warehouse, round_number: int) -> int | None:
    """The last round before this one whose labels became rewards."""
    earlier = range(round_number - 1, -1, -1)
    return next((r for r in earlier if warehouse.is_published(rewards_key(r))), None)
