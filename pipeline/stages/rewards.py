"""Stage: labels -> rewards, after the gate has looked at the labels (gate.py).

Rewards are a join: the recipe's affine map is fitted once, on round 0's hold-out, and is immutable
from then on.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from labeling.rewards.reward import (
    RewardScale,
    compute_rewards,
    fit_scale,
    recipe_sha256,
    recipe_template_row,
)
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.runtime.publishing import StageReport, publish_once
from pipeline.stages.labels import revision_of
from warehouse.errors import WarehouseError
from warehouse.files import sha256_of
from warehouse.handle import Warehouse
from warehouse.keys import labels_key, recipe_key, rollouts_key


def round_labels(
    config: RunConfig, warehouse: Warehouse, round_number: int, purpose: str
) -> pa.Table:
    """The final labels of a round and purpose, of the revisions that the configuration names."""
    keys = [
        labels_key(round_number, purpose, labeler.name, revision_of(config, labeler))
        for labeler in config.labelers
    ]
    labels = warehouse.read_table("labels", rounds=[round_number], keys=keys)
    return labels.filter(pc.field("is_final"))


def reward(config: RunConfig, warehouse: Warehouse, key: str, round_number: int) -> StageReport:
    """Computes and publishes the round's rewards."""
    scale = frozen_scale(config, warehouse)
    rollouts = _rollouts(config, warehouse, round_number)
    required = {x.name for x in config.labelers if x.required and x.name in config.reward.terms}
    labels = round_labels(config, warehouse, round_number, "train")
    rewards = compute_rewards(rollouts, labels, config.reward, scale, required)
    publish_once(config, key, {"rewards": rewards}, round_number=round_number)
    return StageReport(key, made=rewards.num_rows, unit="rewards")


def _rollouts(config: RunConfig, warehouse: Warehouse, round_number: int) -> pa.Table:
    """What the recipe reads of the round's train rollouts; `length` only if it has a price."""
    columns = ["rollout_id", "round", "prompt_id", "purpose", "finish_reason"]
    needs_length = config.reward.length_penalty is not None
    rollouts = warehouse.read_table(
        "rollouts",
        rounds=[round_number],
        columns=[*columns, "completion_ids"] if needs_length else columns,
        keys=[rollouts_key(round_number, "train")],
    )
    if not needs_length:
        return rollouts
    length = pc.list_value_length(rollouts["completion_ids"])
    return rollouts.drop_columns(["completion_ids"]).append_column("length", length)


def frozen_scale(config: RunConfig, warehouse: Warehouse) -> RewardScale:
    """The recipe's affine map: fitted on round 0's hold-out labels once, then read back."""
    key = recipe_key(sha256_of(config.reward.model_dump(mode="json")))
    if not warehouse.is_published(key):
        try:
            holdout = round_labels(config, warehouse, 0, "holdout")
        except WarehouseError as error:
            raise ConfigError(
                f"reward: a new recipe is scaled on round 0's hold-out labels, which are missing "
                f"({error}); run `roundhouse label CONFIG --round 0 --purpose holdout` first"
            ) from error
        scale = fit_scale(holdout, config.reward)
        publish_once(config, key, {"templates": recipe_template_row(config.reward, scale)})
    rows = warehouse.read_table("templates", keys=[key]).to_pylist()
    return RewardScale.from_json(rows[0]["text"])


def recipe_of(config: RunConfig, warehouse: Warehouse) -> str:
    """sha256 of the recipe with its frozen map, as the rewards carry it."""
    return recipe_sha256(config.reward, frozen_scale(config, warehouse))
