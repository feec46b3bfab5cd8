"""Which stored rows may train a policy, and why the others may not.

One SQL query decides over every train rollout of the window, that is this round and those replayed
beside it; a row that is left out keeps its reason in `train_use`. Hold-out rollouts are never
considered. Not here: how the tables are read (warehouse.catalog), what log-probs say of a row's
staleness (guards.py), rows -> tensors (policy/batches.py), training itself (trainer.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from training.errors import EmptyRound, TrainingError
from training.ppo.config import TrainingConfig
from training.ppo.sampling_rules import bent_sampling
from warehouse.catalog import catalog
from warehouse.handle import Warehouse

_COLUMNS = (
    *("rollout_id", "round", "prompt_id", "purpose", "policy_revision", "tokenizer_sha256"),
    *("prompt_ids", "completion_ids", "behavior_logprobs", "logprobs_mode", "finish_reason"),
    *("temperature", "top_p", "top_k", "sampling_json", "dtype", "engine"),
)
_EXCLUDED = pa.schema(
    [
        ("rollout_id", pa.string()),
        ("source_round", pa.int32()),
        ("reward", pa.float32()),
        ("excluded_reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class TrainingSet:
    """The rows that train, in the order of their ids, and those that do not, with the reason.

    Lists run in parallel: token ids int32, log-probs float32 of the completion tokens, `rewards`
    [n] float32. `is_fresh` [n]: sampled by the policy that is to be trained. `reference_logprobs`:
    those of an earlier night's training, where there are any. `excluded` has
    rollout_id, source_round, reward, excluded_reason. `is_float32`: every row was sampled in full
    precision.
    """

    rollout_ids: list[str]
    source_rounds: list[int]
    prompt_names: list[str]
    prompt_ids: list[npt.NDArray[np.int32]]
    completion_ids: list[npt.NDArray[np.int32]]
    behavior_logprobs: list[npt.NDArray[np.float32]]
    reference_logprobs: list[npt.NDArray[np.float32] | None]
    rewards: npt.NDArray[np.float32]
    finish_reasons: list[str]
    is_fresh: npt.NDArray[np.bool_]
    excluded: pa.Table
    is_float32: bool

    def without(self, reasons: dict[int, str]) -> TrainingSet:
        """The set less the source rounds in `reasons`, whose rows join `excluded`."""
        rounds = np.array(self.source_rounds)
        keep = np.flatnonzero(~np.isin(rounds, list(reasons)))
        left = np.flatnonzero(np.isin(rounds, list(reasons)))
        lists: dict[str, Any] = {
            name: [value[i] for i in keep]
            for name, value in vars(self).items()
            if isinstance(value, list)
        }
        dropped = pa.table(
            {
                "rollout_id": [self.rollout_ids[i] for i in left],
                "source_round": pa.array(rounds[left], pa.int32()),
                "reward": pa.array(self.rewards[left], pa.float32()),
                "excluded_reason": [reasons[int(rounds[i])] for i in left],
            }
        )
        return replace(
            self,
            **lists,
            rewards=self.rewards[keep],
            is_fresh=self.is_fresh[keep],
            excluded=pa.concat_tables([self.excluded, dropped.cast(self.excluded.schema)]),
        )


def trainable_rows(
    root: str | Path,
    round: int,
    *,
    recipe_sha256: str | None,
    config: TrainingConfig,
    policy_revision: str,
    reference_revision: str | None = None,
    tokenizer_sha256: str | None = None,
    as_of: int | None = None,
) -> TrainingSet:
    """The rows that may train policy `policy_revision` in night `round`, rewarded by one recipe.

    They come from the round and `replay_rounds` before it, all `lag` rounds earlier. The round's
    own rows must be the policy's own samples. What is stored of `reference_revision` need not be
    computed again. `recipe_sha256` None takes the round's only recipe;
    `tokenizer_sha256` None the newest round's. Raises EmptyRound, TrainingError, and CorruptFile
    naming a file that is not the one that was published.
    """
    newest = max(0, round - config.lag)
    window = list(range(max(0, newest - config.replay_rounds), newest + 1))
    warehouse = Warehouse.open(root, read_only=True, as_of=as_of)
    if as_of is None:  # all tables at one version, whatever is published meanwhile
        warehouse = warehouse.at(warehouse.ledger.head())

    def read(table: str, columns: Sequence[str] | None = None) -> pa.Table:
        # What trains a policy is held to the ledger's sha256 before it is decoded.
        return warehouse.read_table(table, rounds=window, columns=columns, verified=True)

    rewards, rollouts = read("rewards"), read("rollouts", _COLUMNS)
    if not rollouts.num_rows:
        raise EmptyRound(f"{root}: round {newest} has no rollouts{_imports(warehouse)}")
    of_newest = pc.field("round") == newest
    recipe = recipe_sha256 or _only_recipe(rewards.filter(of_newest), newest)
    parameters = {
        "round": round,
        "newest": newest,
        "recipe": recipe,
        "revision": policy_revision,
        "tokenizer": tokenizer_sha256 or _tokenizer(rollouts.filter(of_newest)),
        "statuses": list(config.replay_statuses),
        "is_grouped": config.advantage == "rloo",
    }
    con = catalog.open_connection()
    con.register("rollouts", rollouts)
    con.register("rewards", rewards)
    con.register("rounds", read("rounds", ("round", "status")))
    con.register("bent_sampling", bent_sampling(rollouts["sampling_json"]))
    query = (
        resources.files("training.ppo").joinpath("trainable_rows.sql").read_text(encoding="utf-8")
    )
    rows: pa.Table = con.sql(query, params=parameters).to_arrow_table()
    con.close()
    used = rows.filter(pc.field("excluded_reason").is_null())
    excluded = rows.filter(pc.field("excluded_reason").is_valid())
    if not used.num_rows:
        raise EmptyRound(_explain(root, newest, recipe, excluded["excluded_reason"].to_pylist()))
    known: dict[str, npt.NDArray[np.float32]] = {}
    if len(window) > 1 or config.lag:
        nights = list(range(window[0], round))  # that may have scored rows of the window
        stored = warehouse.read_table("policy_logprobs", rounds=nights, verified=True)
        stored = stored.filter(pc.field("policy_revision") == reference_revision)
        known = dict(
            zip(stored["rollout_id"].to_pylist(), _ragged(stored["logprobs"]), strict=True)
        )
    return _training_set(used, known, excluded.select(_EXCLUDED.names).cast(_EXCLUDED))


def _training_set(
    used: pa.Table, known: dict[str, npt.NDArray[np.float32]], excluded: pa.Table
) -> TrainingSet:
    ids = used["rollout_id"].to_pylist()
    return TrainingSet(
        rollout_ids=ids,
        source_rounds=used["source_round"].to_pylist(),
        prompt_names=used["prompt_id"].to_pylist(),
        prompt_ids=_ragged(used["prompt_ids"]),
        completion_ids=_ragged(used["completion_ids"]),
        behavior_logprobs=_ragged(used["behavior_logprobs"]),
        reference_logprobs=[known.get(rollout_id) for rollout_id in ids],
        rewards=used["reward"].to_numpy().astype(np.float32),
        finish_reasons=used["finish_reason"].to_pylist(),
        is_fresh=used["is_fresh"].to_numpy(),
        excluded=excluded,
        is_float32=set(used["dtype"].to_pylist()) <= {"float32"},
    )


def _ragged(column: pa.ChunkedArray) -> list[npt.NDArray[Any]]:
    whole = column.combine_chunks()
    flat = whole.flatten().to_numpy()
    ends = np.cumsum(whole.value_lengths().to_numpy())
    return np.split(flat, ends[:-1]) if len(ends) else []


def _only_recipe(rewards: pa.Table, round: int) -> str:
    recipes = sorted(set(rewards["recipe_sha256"].to_pylist()))
    if len(recipes) != 1:
        raise TrainingError(
            f"round {round} has rewards under {len(recipes)} recipes {recipes}: say which trains"
        )
    return str(recipes[0])


def _tokenizer(rollouts: pa.Table) -> str | None:
    """The round's tokenizer, where it is one: earlier rounds must have been sampled with it."""
    found = rollouts["tokenizer_sha256"].unique().to_pylist()
    return found[0] if len(found) == 1 else None


def _imports(warehouse: Warehouse) -> str:
    """Why what was imported cannot train here: nobody asks for it by a round."""
    files = warehouse.ledger.files(warehouse.as_of, "rollouts", [None])
    count = sum(file.rows for file in files)
    if not count:
        return ""
    return (
        f"; the {count} imported completions of this warehouse are text only, and PPO needs the "
        "token ids and log-probs of its own policy: train-dpo and train-sft with --imported SOURCE "
        "(or --pairs gold/SOURCE) take them"
    )


def _explain(root: str | Path, round: int, recipe: str, reasons: list[str]) -> str:
    counts = ", ".join(f"{count} x {reason}" for reason, count in Counter(reasons).most_common())
    return f"{root}: round {round} has no row that may train under recipe {recipe}: " + (
        counts or "there is no train rollout"
    )
