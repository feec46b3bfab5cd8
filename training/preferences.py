"""Preference pairs out of scored rollouts: the best and the worst completion of a prompt.

Best against worst per prompt and round, as iterated DPO pairs them (Dong et al. 2405.07863, section
3), with a margin of the rewards; from train prompts alone. `export_dpo` writes what TRL's
DPOTrainer reads as it is. Not here: training on them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse import catalog
from warehouse.schemas import conform

_PAIRS = """
with candidates as (
    select scored.*, rewards.recipe || '@' || rewards.recipe_sha256[:12] as reward_recipe,
        rewards.reward
    from rollouts as scored
    inner join prompts on scored.prompt_id = prompts.prompt_id
    inner join current_rewards as rewards on scored.rollout_id = rewards.rollout_id
    inner join rounds on scored.round = rounds.round
    where scored.purpose = 'train' and prompts.purpose = 'train'
        and rewards.is_eligible and isfinite(rewards.reward)
        and trim(scored.completion) <> ''
        and list_contains($statuses, rounds.status)
        and ($rounds is null or list_contains($rounds, scored.round))
        and ($allow_truncated or scored.finish_reason = 'stop')
),
best as (
    from candidates
    qualify row_number() over (
        partition by round, prompt_id order by reward desc, rollout_id
    ) = 1
),
worst as (
    from candidates
    qualify row_number() over (partition by round, prompt_id order by reward, rollout_id) = 1
)
select
    best.prompt_id, best.round,
    'best-worst/' || best.reward_recipe as recipe,
    best.rollout_id as chosen_id, worst.rollout_id as rejected_id,
    best.reward as chosen_reward, worst.reward as rejected_reward,
    best.reward - worst.reward as margin
from best
inner join worst on best.round = worst.round and best.prompt_id = worst.prompt_id
where best.reward > worst.reward and best.reward - worst.reward >= $margin
    and best.completion <> worst.completion
order by best.round, best.prompt_id
"""

_EXPORT = """
select
    prompts.messages, chosen.completion as chosen, rejected.completion as rejected,
    chosen.prompt_ids, chosen.completion_ids as chosen_ids,
    rejected.completion_ids as rejected_ids,
    pairs.margin, pairs.chosen_id, pairs.rejected_id, pairs.prompt_id, pairs.round
from pairs
inner join prompts on pairs.prompt_id = prompts.prompt_id and prompts.purpose = 'train'
inner join rollouts as chosen on pairs.chosen_id = chosen.rollout_id
inner join rollouts as rejected on pairs.rejected_id = rejected.rollout_id
order by pairs.round, pairs.prompt_id
"""

_TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_EXPORT_SCHEMA = pa.schema(
    [
        ("prompt", _TURNS),
        ("chosen", _TURNS),
        ("rejected", _TURNS),
        ("prompt_ids", pa.list_(pa.int32())),
        ("chosen_ids", pa.list_(pa.int32())),
        ("rejected_ids", pa.list_(pa.int32())),
        ("margin", pa.float32()),
        ("chosen_id", pa.string()),
        ("rejected_id", pa.string()),
        ("prompt_id", pa.string()),
        ("round", pa.int32()),
    ]
)


def preference_pairs(
    root: str | Path,
    *,
    rounds: Sequence[int] | None = None,
    margin: float = 0.0,
    statuses: Sequence[str] = ("completed",),
    allow_truncated: bool = False,
    as_of: int | None = None,
) -> pa.Table:
    """`preference_pairs` rows: at most one pair per prompt and round, never a tie or equal texts.

    `margin` is the least difference of the two rewards; `rounds` None takes all whose status is in
    `statuses`; a completion cut off at its token limit takes part only with `allow_truncated`.
    """
    con = catalog.connect(root, as_of)
    rows: pa.Table = con.sql(
        _PAIRS,
        params={
            "rounds": None if rounds is None else list(rounds),
            "margin": margin,
            "statuses": list(statuses),
            "allow_truncated": allow_truncated,
        },
    ).to_arrow_table()
    con.close()
    return conform("preference_pairs", rows)


def export_dpo(
    root: str | Path,
    out: Path,
    *,
    rounds: Sequence[int] | None = None,
    margin: float = 0.5,
    statuses: Sequence[str] = ("completed",),
    allow_truncated: bool = False,
    as_of: int | None = None,
) -> int:
    """Writes the pairs to `out` (.jsonl or .parquet) in one rename; their number.

    `prompt`, `chosen`, `rejected` are message lists, which TRL's DPOTrainer renders with the
    policy's chat template; it ignores the rest. The token ids are those that were sampled, for a
    trainer that reads ids. Raises ValueError for another suffix.
    """
    write = _writer(out)
    pairs = preference_pairs(
        root,
        rounds=rounds,
        margin=margin,
        statuses=statuses,
        allow_truncated=allow_truncated,
        as_of=as_of,
    )
    con = catalog.connect(root, as_of)
    con.register("pairs", pairs)
    joined: pa.Table = con.sql(_EXPORT).to_arrow_table()
    con.close()
    rows = joined.to_pylist()
    for row in rows:
        row["prompt"] = json.loads(row.pop("messages"))
        for side in ("chosen", "rejected"):
            row[side] = [{"role": "assistant", "content": row[side]}]
    table = pa.Table.from_pylist(rows, schema=_EXPORT_SCHEMA)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.{os.getpid()}")
    write(table, fresh)
    fresh.replace(out)
    return table.num_rows


def _writer(out: Path) -> Callable[[pa.Table, Path], None]:
    writers = {".jsonl": _write_jsonl, ".parquet": pq.write_table}
    if out.suffix not in writers:
        raise ValueError(f"{out}: name the export *.jsonl or *.parquet")
    return writers[out.suffix]


def _write_jsonl(table: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in table.to_pylist():
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
