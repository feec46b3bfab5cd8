"""`roundhouse relabel`: stored rollouts labelled by the configuration's labelers as they are now.

A new revision's rows stand beside the old ones under a key of their own; nothing about a rollout
is rewritten, and a revision that is there costs nothing. A round that was refused looks at the new
labels when it is rewarded (`roundhouse train`); rewards that are published name the labels they
used and stay. Not here: new attempts at the same revision (replay.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from labeling.labelers.config import LabelerConfig
from pipeline.config import RunConfig, chosen_labelers
from pipeline.errors import ConfigError
from pipeline.night import Run
from pipeline.stages import entry as stages
from pipeline.stages.labels import revision_of
from warehouse.handle import Warehouse
from warehouse.keys import labelling_name, labels_key, labels_prefix, rollouts_key

_FEWEST_PAIRS = 3  # two points always have a perfect order


@dataclass(frozen=True)
class Moved:
    """One labeler's labels of a round and purpose, beside those of the revision before.

    `statuses` counts final labels; `pairs` have a score under both revisions; `mean_difference` is
    new minus old, on the scale of scores; `rank_correlation` is Spearman's rho. None: nothing to
    compare, or no order in one of them.
    """

    round_number: int
    purpose: str
    labeler: str
    revision: str
    statuses: dict[str, int]
    previous: str | None = None
    pairs: int = 0
    mean_difference: float | None = None
    rank_correlation: float | None = None

    def __str__(self) -> str:
        counts = ", ".join(f"{status} {n}" for status, n in self.statuses.items())
        text = (
            f"round {self.round_number} {self.purpose} {self.labeler}@{self.revision}: "
            f"{sum(self.statuses.values())} rows ({counts})"
        )
        if self.previous is None:
            return f"{text}; the first revision here"
        text += f"; against @{self.previous}: {self.pairs} scored by both"
        if self.mean_difference is not None:
            text += f", mean difference {self.mean_difference:+.4f}"
        if self.rank_correlation is not None:
            text += f", rank correlation {self.rank_correlation:.3f}"
        return text


def relabel(
    config: RunConfig,
    rounds: Sequence[int],
    names: Sequence[str],
    purposes: Sequence[str],
    say: Callable[[str], None],
) -> list[Moved]:
    """Labels the rounds' rollouts by the labelers of these names (none: all), then compares.

    Raises ConfigError for a round without rollouts of any of the purposes, StageFailed.
    """
    labelers = chosen_labelers(config, names)
    run = Run(config, say, ("set-up", "labelling"))
    work = _work(run.warehouse, rounds, purposes)
    run.prepare()
    for number, purpose in work:
        for labeler in labelers:
            _label(run, number, purpose, labeler)
    moved = [
        compare(config, run.warehouse, number, purpose, labeler)
        for number, purpose in work
        for labeler in labelers
    ]
    for one in moved:
        say(str(one))
    return moved


def _work(
    warehouse: Warehouse, rounds: Sequence[int], purposes: Sequence[str]
) -> list[tuple[int, str]]:
    """The rounds and purposes that have rollouts; every round asked for has some."""
    work = []
    for number in sorted(set(rounds)):
        there = [p for p in purposes if warehouse.is_published(rollouts_key(number, p))]
        if not there:
            raise ConfigError(
                f"--round {number}: {warehouse.root} has no {' or '.join(purposes)} rollouts of "
                "it; relabel is for stored rounds"
            )
        work += [(number, purpose) for purpose in there]
    return work


def _label(run: Run, number: int, purpose: str, labeler: LabelerConfig) -> None:
    revision = revision_of(run.config, labeler)
    if run.warehouse.is_published(labels_key(number, purpose, labeler.name, revision)):
        run.say(
            f"  round {number} {purpose}: {labeler.name}@{revision} is there already; nothing "
            "is asked again"
        )
        return
    name = labelling_name(number, purpose, labeler.name)
    run.stage("labelling", name, stages.label, number, purpose, labeler.name)


def compare(
    config: RunConfig, warehouse: Warehouse, number: int, purpose: str, labeler: LabelerConfig
) -> Moved:
    """The present revision's labels against those of the revision that was published before."""
    from scipy.stats import spearmanr

    revision = revision_of(config, labeler)
    key = labels_key(number, purpose, labeler.name, revision)
    now = _final(warehouse, number, key)
    counts = Counter(now["status"].to_pylist())
    statuses = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    moved = Moved(number, purpose, labeler.name, revision, statuses)
    previous = _previous(warehouse, labels_prefix(number, purpose, labeler.name), revision)
    if previous is None:
        return moved
    old_key = labels_key(number, purpose, labeler.name, previous)
    before = _final(warehouse, number, old_key).select([*_SUBJECT, "score"])
    both = now.join(before, keys=_SUBJECT, join_type="inner", right_suffix="_before")
    both = both.filter(pc.field("score").is_valid() & pc.field("score_before").is_valid())
    new, old = (both[name].to_numpy() for name in ("score", "score_before"))
    has_order = len(new) >= _FEWEST_PAIRS and len(set(new)) > 1 and len(set(old)) > 1
    return replace(
        moved,
        previous=previous,
        pairs=len(new),
        mean_difference=float((new - old).mean()) if len(new) else None,
        rank_correlation=float(spearmanr(new, old).statistic) if has_order else None,
    )


_SUBJECT = ["rollout_id", "partner_rollout_id", "pair_order", "sample_index"]


def _final(warehouse: Warehouse, number: int, key: str) -> pa.Table:
    columns = [*_SUBJECT, "status", "score", "is_final"]
    labels = warehouse.read_table("labels", rounds=[number], keys=[key], columns=columns)
    labels = labels.filter(pc.field("is_final")).drop_columns(["is_final"])
    for name in ("partner_rollout_id", "pair_order"):  # a NULL meets no NULL in a join
        place = labels.column_names.index(name)
        labels = labels.set_column(place, name, pc.fill_null(labels[name], ""))
    return labels


def _previous(warehouse: Warehouse, prefix: str, revision: str) -> str | None:
    """The revision whose labels were published last, of all but this one."""
    for commit in reversed(warehouse.ledger.commits()):
        name = commit.key.removeprefix(prefix)
        if commit.key.startswith(prefix) and "/" not in name and name != revision:
            return name
    return None
