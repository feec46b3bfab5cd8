"""The run configuration: one YAML file plus `--set key=value`, typed, every error naming its key.

Rooms own the models of what only they read (labeling.labelers.config, training.ppo.config); this
file joins them and holds the rules that cross rooms, for instance that no labeler is both reward
and metric. Secrets never stand here: credentials come from the environment or the AWS chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from labeling.engines.config import BedrockEngineConfig, OpenAIEngineConfig
from labeling.gate.config import GateConfig
from labeling.labelers.config import LabelerConfig
from labeling.reviser.config import RevisionConfig
from labeling.rewards.config import RewardConfig
from labeling.section import Section
from pipeline.errors import ConfigError
from pipeline.holdout.config import PromotionConfig
from training.policy.adapters import AdapterConfig
from training.ppo.config import TrainingConfig
from training.preference.config import PreferenceConfig
from warehouse.errors import StoreError
from warehouse.store.local_cache import local_folder


class PolicyConfig(Section):
    """The model that is trained; `starter` is the small one that is built on first use."""

    model: str
    revision: str | None = Field(None, description="Hub commit; folders and starters need none")
    starter_seed: int = Field(0, description="seed of the starter models")
    starter_budget: Literal["full", "small", "tiny"] = Field(
        "full", description="small: enough for a night; tiny: to try the plumbing"
    )
    starter_text: Path | None = Field(
        None,
        description="folder with hh-rlhf/, davidson/ and toxigen/: the starters are built from "
        "that text; None: from the corpus that comes with the project",
    )
    adapter: AdapterConfig | None = Field(
        None, description="LoRA: trains small matrices beside frozen weights; None: all weights"
    )


class PromptsConfig(Section):
    """Where prompts come from and how many of them are held out."""

    source: Literal["hh", "jsonl", "parquet", "dataset", "starter"]
    path: str | None = Field(None, description="file, folder of files or Hub data set id")
    split: str = Field("train", description="split of a Hub data set")
    column: str = Field("prompt", description="column of jsonl, parquet and dataset sources")
    holdout: float = Field(0.2, gt=0, lt=1)
    limit: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _path_is_given(self) -> PromptsConfig:
        if self.source != "starter" and not self.path:
            raise ValueError(f"source {self.source} needs prompts.path")
        return self


class RolloutsConfig(Section):
    """How completions are sampled."""

    engine: Literal["vllm", "transformers"] = "vllm"
    prompts: int = Field(256, ge=1, description="train prompts a round")
    samples: int = Field(4, ge=1, description="completions per train prompt")
    holdout_prompts: int | None = Field(None, ge=1, description="None: all hold-out prompts")
    holdout_samples: int = Field(4, ge=1)
    max_tokens: int = Field(48, ge=1)
    max_model_len: int | None = Field(None, ge=2, description="None: what the model allows")
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    repetition_penalty: float = 1.0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    @model_validator(mode="after")
    def _ppo_can_correct_it(self) -> RolloutsConfig:
        """Only samples of the policy itself have the log-probs PPO needs."""
        plain = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0}
        bent = {k: getattr(self, k) for k, v in plain.items() if getattr(self, k) != v}
        if bent:
            raise ValueError(
                f"{bent} samples from another distribution than the policy, and the stored "
                f"log-probs could not be corrected in PPO; leave them out or set {plain}"
            )
        return self


class EvaluationConfig(Section):
    """What is read off the hold-out prompts."""

    stop_below: float | None = Field(
        None, gt=0, lt=1, description="stop when the metric's upper bound is below this"
    )


class BeamConfig(Section):
    """Which Beam runner works and how it is fed."""

    runner: str = "FnApiRunner"
    workers: int = Field(1, ge=1)
    shard_rows: int = Field(2048, ge=1, description="input rows of one shard, the unit of resume")
    options: tuple[str, ...] = ()

    @field_validator("runner")
    @classmethod
    def _not_prism(cls, runner: str) -> str:
        if runner in ("DirectRunner", "PrismRunner"):
            raise ValueError(
                f"{runner} tries to download a binary and changes semantics; use FnApiRunner"
            )
        return runner


class DeadLettersConfig(Section):
    """When rows that could not be processed make the night end with exit code 3."""

    fail_on: float = Field(0.01, ge=0, le=1, description="share of a stage's rows")


class RunConfig(Section):
    """One run: a warehouse and everything that fills it."""

    warehouse: str = Field(
        description="a local folder, or s3://bucket/prefix?endpoint_url=...&region=...&profile=..."
    )
    seed: int = 0
    rounds: int = Field(3, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    budget_usd: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="for remote judges and reviser of a round"
    )
    policy: PolicyConfig
    prompts: PromptsConfig
    rollouts: RolloutsConfig = RolloutsConfig()
    labelers: tuple[LabelerConfig, ...] = Field(min_length=1)
    reward: RewardConfig
    training: TrainingConfig = TrainingConfig()
    promotion: PromotionConfig = PromotionConfig()
    preference_training: PreferenceConfig = PreferenceConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    beam: BeamConfig = BeamConfig()
    dead_letters: DeadLettersConfig = DeadLettersConfig()
    gate: GateConfig = GateConfig()
    revision: RevisionConfig | None = Field(None, description="for `roundhouse revise`")

    @field_validator("warehouse")
    @classmethod
    def _has_an_address(cls, root: str) -> str:
        try:
            local_folder(root)
        except StoreError as error:
            raise ValueError(str(error)) from error
        return root

    @model_validator(mode="after")
    def _roles_hold(self) -> RunConfig:
        names = [labeler.name for labeler in self.labelers]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"labelers: the names {twice} stand twice; give each its own name")
        role = {labeler.name: labeler.role for labeler in self.labelers}
        for term in self.reward.terms:
            if term not in role:
                raise ValueError(
                    f"reward.terms.{term}: no labeler has this name; labelers: {names}"
                )
            if role[term] != "reward":
                raise ValueError(
                    f"reward.terms.{term}: labeler {term} has role {role[term]}; what trains the "
                    "policy must not measure it: give it role 'reward' or leave it out of the terms"
                )
        metrics = [x for x in self.labelers if x.role == "metric" and x.criterion == "toxicity"]
        if not metrics:
            raise ValueError(
                "labelers: none has role 'metric' and criterion 'toxicity', so toxicity could "
                "only be measured by what was trained against; add one that is not in the reward"
            )
        models = {getattr(x, "model", None): x.name for x in self.labelers if x.role == "reward"}
        for metric in metrics:
            same = models.get(getattr(metric, "model", None) or "")
            if same:
                raise ValueError(
                    f"labelers.{metric.name}: the metric is the same model as reward labeler {same}"
                )
        return self

    @model_validator(mode="after")
    def _judge_is_not_made_of_text(self) -> RunConfig:
        """Found here, not after the minutes that building the others takes."""
        for labeler in self.labelers:
            engine = getattr(labeler, "engine", None)
            if self.policy.starter_text and getattr(engine, "model", None) == "starter-judge":
                raise ValueError(
                    f"labelers.{labeler.name}: helpfulness cannot be learnt from "
                    "policy.starter_text, so there is no starter-judge with it; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _pairs_have_two(self) -> RunConfig:
        counts = self.rollouts
        for labeler in self.labelers:
            if getattr(labeler, "mode", None) == "pairwise" and 1 in (
                counts.samples,
                counts.holdout_samples,
            ):
                raise ValueError(
                    f"labelers.{labeler.name}.mode: a pair is two completions of one prompt; "
                    "rollouts.samples and rollouts.holdout_samples must be at least 2"
                )
        return self

    @model_validator(mode="after")
    def _revision_is_chosen_by_no_metric(self) -> RunConfig:
        if self.revision is None:
            return self
        labelers = {labeler.name: labeler for labeler in self.labelers}
        if self.revision.name in labelers:
            raise ValueError(
                f"revision.name: {self.revision.name} is a labeler's name; choose another"
            )
        chosen = labelers.get(self.revision.select.labeler)
        if chosen is None or chosen.role == "metric":
            fitting = sorted(name for name, x in labelers.items() if x.role != "metric")
            raise ValueError(
                f"revision.select.labeler: {self.revision.select.labeler} is no labeler, or a "
                f"metric, and what trains the policy must not measure it; there are: {fitting}"
            )
        return self

    @model_validator(mode="after")
    def _baseline_has_siblings(self) -> RunConfig:
        if self.training.advantage == "rloo" and self.rollouts.samples < 2:
            raise ValueError(
                "training.advantage rloo compares completions of one prompt: rollouts.samples must "
                "be at least 2"
            )
        return self

    @model_validator(mode="after")
    def _budget_has_prices(self) -> RunConfig:
        paid: dict[str, object] = {
            f"labelers.{labeler.name}": getattr(labeler, "engine", None)
            for labeler in self.labelers
        }
        if self.revision is not None:
            paid["revision"] = self.revision.engine
        for section, engine in paid.items() if self.budget_usd is not None else ():
            if not isinstance(engine, OpenAIEngineConfig | BedrockEngineConfig):
                continue
            if not engine.has_price:
                raise ValueError(
                    f"{section}.engine.price: {engine.model} is not in the price "
                    "table, so budget_usd cannot be kept; give {input: ..., output: ...} in USD "
                    "per million tokens"
                )
        return self

    @property
    def metric(self) -> str:
        """Name of the labeler that decides the stop rule: the first toxicity metric."""
        return next(
            x.name for x in self.labelers if x.role == "metric" and x.criterion == "toxicity"
        )

    def labeler(self, name: str) -> LabelerConfig:
        """The labeler of this name."""
        return next(x for x in self.labelers if x.name == name)


def chosen_labelers(config: RunConfig, names: Sequence[str]) -> list[LabelerConfig]:
    """The labelers of these names (none: all), in the configuration's order. Raises ConfigError."""
    known = [labeler.name for labeler in config.labelers]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ConfigError(f"--labeler {', '.join(unknown)}: the configuration has {known}")
    return [labeler for labeler in config.labelers if not names or labeler.name in names]
