"""Where the policies of a run lie: the base policy of the configuration, and one folder a round.

`<warehouse>/policies/<revision>/` holds what training made, in Hugging Face layout; the revision is
the hash of weights and tokenizer. The base policy stays where it is (a starter, a folder, a Hub
snapshot) and is also the frozen reference. Not here: how a folder gets to S3 (models.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.policies.models import POLICIES, find_model, models_address
from pipeline.runtime.progress import Heartbeat
from pipeline.runtime.shards import staging_folder
from training.revision import policy_revision
from training.starters.real_text import StarterTextError
from training.starters.starters import STARTERS, resolve_model
from warehouse.handle import Warehouse
from warehouse.keys import training_key


@dataclass(frozen=True)
class Policy:
    """A policy that can be loaded: its folder and its revision."""

    folder: Path
    revision: str


def resolve(
    config: RunConfig, model: str, progress: Callable[[str, int, int], None] | None = None
) -> str:
    """A starter's name -> its folder, built if need be; anything else stays. Raises ConfigError."""
    policy = config.policy
    try:
        return resolve_model(
            model,
            seed=policy.starter_seed,
            budget=policy.starter_budget,
            progress=progress,
            text=policy.starter_text,
        )
    except StarterTextError as error:
        raise ConfigError(f"policy.starter_text: {error}") from error


def base_policy(config: RunConfig) -> Policy:
    """The policy of the configuration, which is also the reference. Raises ConfigError."""
    model = resolve(config, config.policy.model)
    folder = Path(model)
    if not folder.is_dir():
        if model.startswith((".", "/", "~")):
            raise ConfigError(f"policy.model: no such folder: {model}")
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(model, revision=config.policy.revision))
    if not (folder / "config.json").exists() or not list(folder.glob("*.safetensors")):
        raise ConfigError(
            f"policy.model: {folder} is no model folder: it needs config.json and weights "
            "(*.safetensors); save a model there with save_pretrained, or name another"
        )
    return Policy(folder, policy_revision(folder))


def policy_of_round(config: RunConfig, warehouse: Warehouse, round_number: int) -> Policy:
    """The policy that samples in this round: what the last night before it left behind."""
    base = base_policy(config)
    rounds = warehouse.read_table(
        "rounds", columns=["round", "policy_revision_out", "reference_revision"]
    ).to_pylist()
    earlier = [row for row in rounds if row["round"] < round_number]
    if not earlier:
        return base
    last = max(earlier, key=lambda row: row["round"])
    if last["reference_revision"] != base.revision:
        raise ConfigError(
            f"policy.model: this warehouse was trained from policy {last['reference_revision']}, "
            f"the configuration's is {base.revision}; use the same base or a new warehouse"
        )
    return stored_policy(config, str(last["policy_revision_out"]), base)


def candidate_policy(config: RunConfig, warehouse: Warehouse, round_number: int) -> Policy:
    """The policy that round r's hold-out rollouts measure: what night r - 1 trained.

    It is not promoted yet, so no `rounds` row names it; the training's commit does. Where the last
    night did not train (round 0, a refused night) it is the policy that samples.
    """
    training = warehouse.ledger.find(training_key(round_number - 1))
    if training is None:
        return policy_of_round(config, warehouse, round_number)
    return stored_policy(config, training.meta["policy_revision"], base_policy(config))


def stored_policy(config: RunConfig, revision: str, base: Policy) -> Policy:
    """The policy of this revision: the base, or a folder under `policies/`."""
    if revision == base.revision:
        return base
    folder = find_model(config.warehouse, POLICIES, revision)
    if folder is None:
        place = models_address(config.warehouse, POLICIES)
        raise ConfigError(f"policy {revision} is not in {place}; restore it to go on")
    return Policy(folder, revision)


def build_starters(config: RunConfig) -> None:
    """Makes sure that every starter the configuration names is in the cache."""
    models = [config.policy.model, *(_model_of(labeler) for labeler in config.labelers)]
    wanted = [m for m in models if m == "starter" or m in STARTERS]
    if not wanted:
        return
    folder = staging_folder(config.warehouse, "prepare", "starters")
    folder.mkdir(parents=True, exist_ok=True)
    show = building_progress(folder)
    for model in wanted:  # the first that is missing builds them all
        resolve(config, model, show)
    shutil.rmtree(folder, ignore_errors=True)


def building_progress(folder: Path) -> Callable[[str, int, int], None]:
    """Writes into `folder` how far a build of starters is: one count over all of them."""
    heartbeat = Heartbeat(folder, "starters", 0, "steps")
    return lambda what, done, total: heartbeat.update(done, total)  # noqa: ARG005


def _model_of(labeler: object) -> str:
    engine = getattr(labeler, "engine", labeler)
    return str(getattr(engine, "model", ""))


@dataclass(frozen=True)
class PolicyChoice:
    """Which policy: what sampled round N's hold-out, a revision or a folder, or the base policy."""

    named: str | None = None
    round: int | None = None


def chosen_policy(config: RunConfig, choice: PolicyChoice) -> Policy:
    """The chosen policy, found. Raises ConfigError."""
    if choice.round is not None:
        warehouse = Warehouse.open(config.warehouse, read_only=True)
        return candidate_policy(config, warehouse, choice.round)
    if choice.named is None:
        return base_policy(config)
    folder = Path(choice.named)
    if (folder / "config.json").is_file():
        return Policy(folder, policy_revision(folder))
    return stored_policy(config, choice.named, base_policy(config))
