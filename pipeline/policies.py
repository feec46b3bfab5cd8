"""Where the policies of a run lie: the base policy of the configuration, and one folder a round.

`<warehouse>/policies/<revision>/` holds what training made, in Hugging Face layout; the revision is
the hash of weights and tokenizer. The base policy stays where it is (a starter, a folder, a Hub
snapshot) and is also the frozen reference. Not here: how a folder gets to S3 (model_store.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import ConfigError, RunConfig
from pipeline.model_store import POLICIES, find_model, models_address, models_folder
from training.revision import policy_revision
from training.starter import resolve_model
from training.starter_text import StarterTextError
from warehouse.catalog import read_table
from warehouse.ledger import Ledger
from warehouse.store import open_store


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


def policy_of_round(config: RunConfig, round_number: int) -> Policy:
    """The policy that samples in this round: what the last night before it left behind."""
    base = base_policy(config)
    rounds = read_table(
        config.warehouse, "rounds", columns=["round", "policy_revision_out", "reference_revision"]
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


def candidate_policy(config: RunConfig, round_number: int) -> Policy:
    """The policy that round r's hold-out rollouts measure: what night r - 1 trained.

    It is not promoted yet, so no `rounds` row names it; the training's commit does. Where the last
    night did not train (round 0, a refused night) it is the policy that samples.
    """
    ledger = Ledger(open_store(config.warehouse))
    training = ledger.find(f"round={round_number - 1}/training")
    if training is None:
        return policy_of_round(config, round_number)
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


def policies_folder(root: str) -> Path:
    """The folder of trained policies on this machine."""
    return models_folder(root, POLICIES)
