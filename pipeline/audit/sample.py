"""Human audit, first step: a blind sample of completions for people to judge.

The sample is stratified over the scores of one labeler, so that rare scores are judged too: each
stratum (round x score bucket, or failed, or unlabeled) gives at least one completion; the rest go
by size, or equally, which shows more of what is rare. Whichever it was, the comparison weighs a
stratum by how many completions it has (post-stratification), never by how many were judged.
Not here: the CSV itself (sheet.py), the way back (verdicts.py), the comparison
(agreement.py).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa

from pipeline.audit.sheet import COLUMNS
from pipeline.errors import ConfigError
from warehouse.catalog.catalog import connect
from warehouse.errors import WarehouseError
from warehouse.files import text_sha256

Stratum = tuple[int, str]
Allocation = Literal["proportional", "equal"]
# Quarters, so that the threshold of a binary criterion, .5, is an edge.
_STRATA = """
with labeled as (
    select distinct rollout_id from current_labels
    where criterion = $criterion and labeler = $labeler
)
select rollouts.rollout_id, coalesce(rollouts.round, -1) as round,
    case when score is not null then 'score ' || least(floor(score * 4), 3)::int
        when labeled.rollout_id is not null then 'failed' else 'unlabeled' end as bucket,
from rollouts
left join completion_scores as scores on rollouts.rollout_id = scores.rollout_id
    and scores.criterion = $criterion and scores.labeler = $labeler
left join labeled on rollouts.rollout_id = labeled.rollout_id
where ($rounds is null or list_contains($rounds, rollouts.round))
    -- Imported texts that no labeler has seen (gold pairs, revisions) are nobody's work to judge.
    and (rollouts.round is not null or labeled.rollout_id is not null)
"""
_TEXTS = """
select rollouts.rollout_id, prompts.messages, rollouts.completion
from rollouts left join prompts on rollouts.prompt_id = prompts.prompt_id
where rollouts.rollout_id in (select unnest($ids))
"""


def draw_sample(
    root: str | Path,
    count: int,
    *,
    seed: int,
    criterion: str,
    rounds: Sequence[int] | None = None,
    allocation: Allocation = "proportional",
    as_of: int | None = None,
) -> pa.Table:
    """`count` completions of version `as_of` to judge, columns `audit_sheet.COLUMNS`, all text.

    Choice and order are hashes of seed and rollout id, so they do not depend on files; nothing in
    the rows tells what a labeler said. Strata follow the metric labeler of the criterion (or, if
    it has none, its first labeler). Raises ConfigError if `count` cannot cover the strata,
    WarehouseError where there is nothing to draw.
    """
    con = connect(root, as_of)
    strata = read_strata(con, root, criterion, rounds)
    sizes = {stratum: len(ids) for stratum, ids in strata.items()}
    seats = allocate(sizes, count, allocation)
    chosen = [
        rollout_id
        for stratum, ids in strata.items()
        for rollout_id in _shuffled("choice", seed, ids)[: seats[stratum]]
    ]
    # Another hash than the one of the choice: by that one, small strata would gather at the end
    # and the place of a row would tell its score.
    chosen = _shuffled("order", seed, chosen)
    texts = {row[0]: row[1:] for row in con.execute(_TEXTS, {"ids": chosen}).fetchall()}
    blank = {"criterion": criterion, "score": "", "comment": "", "annotator": ""}
    rows = [
        blank | {"rollout_id": i, "prompt": _dialogue(texts[i][0]), "completion": texts[i][1]}
        for i in chosen
    ]
    name = f"sample-{text_sha256(json.dumps(rows, sort_keys=True))[:12]}"
    schema = pa.schema([(column, pa.string()) for column in COLUMNS])
    return pa.Table.from_pylist([row | {"sample": name} for row in rows], schema=schema)


def allocate(
    sizes: Mapping[Stratum, int], count: int, allocation: Allocation = "proportional"
) -> dict[Stratum, int]:
    """How many of `count` each stratum gives: at least one, never more than it has.

    Seats by Webster's method: the next one goes to the largest size / (2 seats + 1), where for
    `equal` all sizes count as one. Raises ConfigError if there are fewer seats than strata.
    """
    if count < len(sizes):
        raise ConfigError(
            f"--count {count} cannot cover {len(sizes)} strata (round x score bucket); ask for at "
            f"least {len(sizes)}, or for fewer rounds with --round"
        )
    seats = dict.fromkeys(sorted(sizes), 1)
    for _ in range(min(count, sum(sizes.values())) - len(sizes)):
        open_strata = (s for s in seats if seats[s] < sizes[s])
        claims = {
            s: (sizes[s] if allocation == "proportional" else 1) / (2 * seats[s] + 1)
            for s in open_strata
        }
        seats[max(claims, key=claims.__getitem__)] += 1
    return seats


def read_strata(
    con: duckdb.DuckDBPyConnection, root: str | Path, criterion: str, rounds: Sequence[int] | None
) -> dict[Stratum, list[str]]:
    """The rollout ids of each stratum. Raises WarehouseError for a round without completions."""
    found = con.execute(
        _STRATA,
        {
            "criterion": criterion,
            "labeler": _reference_labeler(con, root, criterion),
            "rounds": list(rounds) if rounds else None,
        },
    ).fetchall()
    missing = sorted(set(rounds or ()) - {number for _, number, _ in found})
    if missing or not found:
        raise WarehouseError(
            f"{root}: no completions in round {', '.join(map(str, missing)) or 'any'}"
        )
    strata: dict[Stratum, list[str]] = defaultdict(list)
    for rollout_id, number, bucket in found:
        strata[number, bucket].append(rollout_id)
    return strata


def _reference_labeler(con: duckdb.DuckDBPyConnection, root: str | Path, criterion: str) -> str:
    """Whose scores make the strata: the criterion's metric labeler, else its first labeler."""
    rows = con.execute(
        "select labeler from labels where criterion = $1 group by labeler "
        "order by bool_or(role = 'metric') desc, labeler limit 1",
        [criterion],
    ).fetchall()
    if not rows:
        criteria = con.execute("select distinct criterion from labels order by all").fetchall()
        there = ", ".join(name for (name,) in criteria) or "none yet"
        raise WarehouseError(f"{root}: no labels for criterion {criterion!r}; there are: {there}")
    return str(rows[0][0])


def _dialogue(messages: str | None) -> str:
    """The prompt as a person reads it: one turn as it is, several with who speaks."""
    turns = json.loads(messages) if messages else []
    if len(turns) == 1:
        return str(turns[0]["content"])
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns)


def _shuffled(purpose: str, seed: int, ids: Sequence[str]) -> list[str]:
    return sorted(ids, key=lambda i: text_sha256(f"{purpose}/{seed}/{i}"))
