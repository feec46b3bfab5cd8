"""Which stored rows may train a policy, and why the others may not.

One SQL query decides over every train rollout of the round; a row that is left out keeps its reason
in `train_use`. Hold-out rollouts are never considered. Not here: how the tables are read
(warehouse.catalog), rows -> tensors (batches.py), training itself (ppo_trainer.py).
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from training.config import TrainingConfig
from warehouse import catalog
from warehouse.ledger import Ledger
from warehouse.store import open_store

# The reasons run from "there is nothing to train on" to "the log-probs mean something else".
# Whoever samples with top_p, penalties and the like draws from a distribution whose log-probs
# nobody stored, and no importance weight can correct that.
_ELIGIBILITY = """
with considered as (
    select rollouts.*, rewards.reward, rewards.is_eligible, bent_sampling.reason as bent,
        rewards.rollout_id is not null as is_rewarded,
        rewards.excluded_reason as reward_reason
    from rollouts
    left join rewards
        on rollouts.rollout_id = rewards.rollout_id and rewards.recipe_sha256 = $recipe
    left join bent_sampling using (sampling_json)
    where rollouts.purpose = 'train'
)
select
    rollout_id, round as source_round, prompt_ids, completion_ids, behavior_logprobs,
    finish_reason, dtype,
    case when isfinite(reward) then reward end as reward,
    case
        when not is_rewarded then 'no reward under this recipe'
        when not is_eligible then 'reward: ' || coalesce(reward_reason, 'not eligible')
        when not coalesce(isfinite(reward), false) then 'reward is not a finite number'
        when completion_ids is null or coalesce(len(prompt_ids), 0) = 0 then 'no token ids'
        when len(completion_ids) = 0 then 'empty completion'
        when behavior_logprobs is null then 'no behavior log-probs'
        when len(behavior_logprobs) <> len(completion_ids)
            then 'behavior log-probs do not match the tokens'
        when len(list_filter(behavior_logprobs, lambda x: coalesce(isfinite(x), false)))
            < len(behavior_logprobs) then 'behavior log-probs are not finite'
        when policy_revision <> $revision then 'sampled by another policy'
        when tokenizer_sha256 <> $tokenizer then 'tokenized by another tokenizer'
        when coalesce(finish_reason, '') not in ('stop', 'length')
            then 'finish_reason ' || coalesce(finish_reason, 'unknown')
        when logprobs_mode is distinct from 'raw_logprobs'
            then 'logprobs_mode ' || coalesce(logprobs_mode, 'unknown')
        when temperature is distinct from 1 then 'temperature is not 1'
        when top_p is distinct from 1 then 'top_p is not 1'
        when top_k is null or top_k not in (-1, 0) then 'top_k is set'
        else bent
    end as excluded_reason
from considered
order by rollout_id
"""

# Sampling parameters beside the columns, and the values at which they change nothing.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "repetition_penalty": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "min_p": (0,),
    "min_tokens": (0,),
    "logit_bias": (None, {}),
    "stop": (None, []),
    "stop_token_ids": (None, []),
    "bad_words": (None, []),
    "allowed_token_ids": (None,),
    "structured_outputs": (None,),
    "ignore_eos": (False,),
}
_INERT = frozenset({"n", "seed", "logprobs", "flat_logprobs", "max_tokens", "detokenize"})
_COLUMNS = (
    *("rollout_id", "round", "purpose", "policy_revision", "tokenizer_sha256", "prompt_ids"),
    *("completion_ids", "behavior_logprobs", "logprobs_mode", "finish_reason", "temperature"),
    *("top_p", "top_k", "sampling_json", "dtype"),
)
_EXCLUDED = pa.schema(
    [
        ("rollout_id", pa.string()),
        ("source_round", pa.int32()),
        ("reward", pa.float32()),
        ("excluded_reason", pa.string()),
    ]
)


class TrainingError(RuntimeError):
    """Training cannot go on; the message names rows or numbers and says what to do."""


class EmptyRound(TrainingError):
    """No row of the round may train; the message counts the reasons."""


@dataclass(frozen=True)
class TrainingSet:
    """The rows that train, in the order of their ids, and those that do not, with the reason.

    Lists run in parallel: token ids int32, log-probs float32 of the completion tokens, `rewards`
    [n] float32. `excluded` has rollout_id, source_round, reward, excluded_reason. `is_float32`:
    every row was sampled in full precision.
    """

    rollout_ids: list[str]
    source_rounds: list[int]
    prompt_ids: list[npt.NDArray[np.int32]]
    completion_ids: list[npt.NDArray[np.int32]]
    behavior_logprobs: list[npt.NDArray[np.float32]]
    rewards: npt.NDArray[np.float32]
    finish_reasons: list[str]
    excluded: pa.Table
    is_float32: bool


def trainable_rows(
    root: str | Path,
    round: int,
    *,
    recipe_sha256: str | None,
    config: TrainingConfig,
    policy_revision: str,
    tokenizer_sha256: str | None = None,
    as_of: int | None = None,
) -> TrainingSet:
    """The rows of `round` that may train the policy that sampled them, rewarded by one recipe.

    `recipe_sha256` None takes the round's only recipe; `tokenizer_sha256` None trusts the policy
    revision, which covers the tokenizer. Raises EmptyRound, TrainingError.
    """
    assert config.replay_rounds == 0, "replay is refused by TrainingConfig"
    if as_of is None:  # both tables at one version, whatever is published meanwhile
        as_of = Ledger(open_store(root, read_only=True)).head()
    rewards = catalog.read_table(root, "rewards", rounds=[round], as_of=as_of)
    recipe = recipe_sha256 or _only_recipe(rewards, round)
    con = catalog.open_connection()
    rollouts = catalog.read_table(root, "rollouts", rounds=[round], columns=_COLUMNS, as_of=as_of)
    con.register("rollouts", rollouts)
    con.register("rewards", rewards)
    con.register("bent_sampling", _bent_sampling(rollouts["sampling_json"]))
    parameters = {"recipe": recipe, "revision": policy_revision, "tokenizer": tokenizer_sha256}
    rows: pa.Table = con.sql(_ELIGIBILITY, params=parameters).to_arrow_table()
    con.close()
    used = rows.filter(pc.field("excluded_reason").is_null())
    excluded = rows.filter(pc.field("excluded_reason").is_valid())
    if not used.num_rows:
        raise EmptyRound(_explain(root, round, recipe, excluded["excluded_reason"].to_pylist()))
    return _training_set(used, excluded.select(_EXCLUDED.names).cast(_EXCLUDED))


def _training_set(used: pa.Table, excluded: pa.Table) -> TrainingSet:
    return TrainingSet(
        rollout_ids=used["rollout_id"].to_pylist(),
        source_rounds=used["source_round"].to_pylist(),
        prompt_ids=_ragged(used["prompt_ids"]),
        completion_ids=_ragged(used["completion_ids"]),
        behavior_logprobs=_ragged(used["behavior_logprobs"]),
        rewards=used["reward"].to_numpy().astype(np.float32),
        finish_reasons=used["finish_reason"].to_pylist(),
        excluded=excluded,
        is_float32=set(used["dtype"].to_pylist()) <= {"float32"},
    )


def _ragged(column: pa.ChunkedArray) -> list[npt.NDArray[Any]]:
    whole = column.combine_chunks()
    flat = whole.flatten().to_numpy()
    ends = np.cumsum(whole.value_lengths().to_numpy())
    return np.split(flat, ends[:-1])


def _only_recipe(rewards: pa.Table, round: int) -> str:
    recipes = sorted(set(rewards["recipe_sha256"].to_pylist()))
    if len(recipes) != 1:
        raise TrainingError(
            f"round {round} has rewards under {len(recipes)} recipes {recipes}: say which trains"
        )
    return str(recipes[0])


def _bent_sampling(column: pa.ChunkedArray) -> pa.Table:
    """Each sampling_json that bends the distribution, with the reason."""
    reasons = {text: _bent_reason(text) for text in column.unique().to_pylist() if text}
    bent = {text: reason for text, reason in reasons.items() if reason}
    return pa.table(
        {
            "sampling_json": pa.array(bent.keys(), pa.string()),
            "reason": pa.array(bent.values(), pa.string()),
        }
    )


def _bent_reason(sampling_json: str) -> str | None:
    try:
        parameters = json.loads(sampling_json)
    except ValueError:
        return "sampling_json is not readable"
    if not isinstance(parameters, dict):
        return "sampling_json is not readable"
    for name, value in sorted(parameters.items()):
        if name not in _INERT and value not in _NEUTRAL.get(name, ()):
            return f"sampling parameter {name} is set"
    return None


def _explain(root: str | Path, round: int, recipe: str, reasons: list[str]) -> str:
    counts = ", ".join(f"{count} x {reason}" for reason, count in Counter(reasons).most_common())
    return f"{root}: round {round} has no row that may train under recipe {recipe}: " + (
        counts or "there is no train rollout"
    )
