"""Preference pairs that are text: people's own (HH) and the warehouse's revisions.

`gold_pairs` feeds the reward model with what people preferred, `revision_pairs` any preference
trainer with what a reviser made of stored completions (Bai et al. 2212.08073, section 3.1).
No pair has token ids on both sides, so a trainer tokenizes them itself. Pairs of hold-out prompts
never come out: neither those whose completions are held out, nor any that shares its first human
turn with a hold-out prompt, however it was imported. Not here: pairs out of scored rollouts, with
their token ids (preferences.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from warehouse import catalog

_PAIRS = """
with holdout_turns as (
    select distinct first_turn_sha256 from prompts where purpose = 'holdout'
)
select
    prompts.messages, chosen.completion as chosen, rejected.completion as rejected,
    pairs.prompt_id, pairs.chosen_id, pairs.rejected_id, pairs.recipe
from preference_pairs as pairs
inner join prompts on pairs.prompt_id = prompts.prompt_id
inner join rollouts as chosen on pairs.chosen_id = chosen.rollout_id
inner join rollouts as rejected on pairs.rejected_id = rejected.rollout_id
left join rounds on pairs.round = rounds.round
anti join holdout_turns on prompts.first_turn_sha256 = holdout_turns.first_turn_sha256
where chosen.purpose = 'train' and rejected.purpose = 'train'
    and starts_with(pairs.recipe, $prefix)
    and ($recipe is null or pairs.recipe = $recipe)
    and ($rounds is null or list_contains($rounds, pairs.round))
    and (pairs.round is null or list_contains($statuses, rounds.status))
order by pairs.recipe, pairs.chosen_id, pairs.rejected_id
"""
_TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMA = pa.schema(
    [
        ("prompt", _TURNS),
        ("chosen", pa.large_string()),
        ("rejected", pa.large_string()),
        ("prompt_id", pa.string()),
        ("chosen_id", pa.string()),
        ("rejected_id", pa.string()),
        ("recipe", pa.string()),
    ]
)


def gold_pairs(
    root: str | Path, *, recipe: str | None = None, as_of: int | None = None
) -> pa.Table:
    """Human pairs of train prompts, one row each, in the columns of SCHEMA, ordered by id.

    `prompt` is the dialogue as messages, `chosen` and `rejected` the answers as text; the ids name
    the rows in the warehouse. `recipe` None takes all that were imported.
    """
    return _read(root, "gold/", recipe, None, (), as_of)


def revision_pairs(
    root: str | Path,
    *,
    recipe: str | None = None,
    rounds: Sequence[int] | None = None,
    statuses: Sequence[str] = ("completed",),
    as_of: int | None = None,
) -> pa.Table:
    """Pairs of a revised completion (chosen) and its original (rejected), as `gold_pairs` does.

    `rounds` None takes all whose status is in `statuses`: those refused or rejected stay out. For
    fine-tuning on revisions read `prompt` and `chosen`.
    """
    return _read(root, "revision/", recipe, rounds, statuses, as_of)


def _read(
    root: str | Path,
    prefix: str,
    recipe: str | None,
    rounds: Sequence[int] | None,
    statuses: Sequence[str],
    as_of: int | None,
) -> pa.Table:
    parameters = {
        "prefix": prefix,
        "recipe": recipe,
        "rounds": None if rounds is None else list(rounds),
        "statuses": list(statuses),
    }
    con = catalog.connect(root, as_of)
    found: pa.Table = con.sql(_PAIRS, params=parameters).to_arrow_table()
    con.close()
    prompts = [json.loads(text) for text in found["messages"].to_pylist()]
    rows = found.remove_column(0).add_column(0, "prompt", pa.array(prompts, _TURNS))
    return rows.cast(SCHEMA)
