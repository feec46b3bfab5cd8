"""The keys of `training:` in a run configuration, typed, each with the paper it comes from.

Light: pydantic only, no torch. Not here: which rows may train (dataset.py) and what the numbers do
(formulas.py, trainer.py).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainingConfig(BaseModel):
    """PPO on stored rounds. KL is in nats per sequence unless a name says per token."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    algorithm: Literal["ppo"] = Field(
        "ppo", description="clipped PPO with a value head (Schulman et al. 2017, 1707.06347)"
    )
    epochs: int = Field(2, ge=1, description="passes over the stored round")
    minibatch_size: int = Field(32, ge=1, description="sequences per optimizer step")
    micro_batch_tokens: int = Field(
        4096, ge=1, description="tokens, padding included, in one forward pass; memory only"
    )
    replay_rounds: int = Field(0, ge=0, description="earlier rounds to train on beside this one")
    replay_statuses: tuple[Literal["completed", "accepted", "rejected", "refused"], ...] = Field(
        ("completed", "accepted"), description="earlier rounds of another status train nothing"
    )
    replay_min_ess: float = Field(
        0.3,
        ge=0,
        le=1,
        description="an earlier round whose effective sample size, as a share of its sequences, is "
        "below this is left out; where the whole window's is, only this round trains",
    )
    lag: int = Field(
        0,
        ge=0,
        description="trains on the rollouts of this many rounds ago, for nights whose labels come "
        "late; 0, the round's own, is best",
    )

    learning_rate: float = Field(1e-4, gt=0)
    critic_learning_rate: float = Field(1e-3, gt=0, description="of the value head")
    adam_betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW, no weight decay")
    warmup_steps: int = Field(5, ge=0, description="linear warm-up; Adam starts anew every round")
    max_grad_norm: float = Field(1.0, gt=0)

    kl_coefficient: float = Field(
        0.05, ge=0, description="price of a nat to the reference in round 0 (Stiennon 2009.01325)"
    )
    kl_target: float = Field(
        3.0, gt=0, description="what the controller aims at (Ziegler 1909.08593, section 2.2)"
    )
    kl_budget: float = Field(
        6.0, gt=0, description="a policy over it, on fresh samples, is not promoted"
    )
    max_kl_per_token: float = Field(
        0.2, gt=0, description="ends the epochs once the policy is this far from where it began"
    )

    clip_ratio: float = Field(0.2, gt=0, lt=1, description="PPO, equation 7")
    dual_clip: float = Field(
        3.0, gt=1, description="bounds the loss where the advantage is negative (Ye 1912.09729)"
    )
    importance_cap: float = Field(
        2.0, ge=1, description="cap of pi_proximal / pi_behavior (decoupled PPO, Hilton 2110.00641)"
    )

    importance: Literal["token", "sequence", "none"] = Field(
        "token",
        description="what the cap applies to; sequence: below some 64 tokens only; none: no "
        "correction, to measure what it is worth",
    )
    importance_max_k3: float | None = Field(
        None,
        gt=0,
        description="a sequence whose mean k3 to the behavior policy is over this weighs nothing",
    )
    max_ratio: float = Field(
        1e4, gt=1, description="a token's ratio to the proximal policy over this ends the training"
    )

    advantage: Literal["gae", "rloo"] = Field(
        "gae",
        description="gae: with the critic; rloo: against the mean of the prompt's other "
        "completions, no critic (Ahmadian 2402.14740)",
    )
    kl_loss_coefficient: float = Field(
        0.0, ge=0, description="price of a nat to the reference in the loss, beside the reward's"
    )
    kl_loss_estimator: Literal["k2", "k3"] = "k2"
    discount: float = Field(1.0, gt=0, le=1)
    gae_lambda: float = Field(0.95, ge=0, le=1, description="of the advantages (1506.02438)")
    value_lambda: float = Field(
        1.0, ge=0, le=1, description="of the critic's targets; 1 is Monte Carlo (VAPO 2504.05118)"
    )
    value_clip: float = Field(
        0.2, gt=0, description="in standard deviations of the returns: rewards have any scale"
    )
    value_coefficient: float = Field(0.1, ge=0, description="weight of the value loss")
    critic_warmup_epochs: int = Field(
        4, ge=0, description="epochs over the stored round that a new value head gets alone"
    )

    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the forward pass; auto: bfloat16 on CUDA, float32 on CPU"
    )
    parity_mean_abs: float | None = Field(
        None,
        gt=0,
        description="largest mean gap, nats a token, between stored and recomputed log-probs; "
        "None: 1e-4 where engine and trainer are float32, else 0.02",
    )

    checkpoint_steps: int = Field(
        50, ge=0, description="optimizer steps between two points of resume; 0: none"
    )
    gradient_checkpointing: bool = Field(
        False, description="computes activations again in the backward pass: less memory, slower"
    )
    logits_in_memory: int = Field(
        1 << 26,
        ge=1,
        description="numbers; where tokens x vocabulary is more, log-probs come in chunks and the "
        "logits never exist as a whole",
    )
    compile: bool = Field(
        False, description="torch.compile on the transformer; pays on a GPU from minutes of work on"
    )
    processes: int = Field(
        1, ge=1, description="that train together, one a GPU; equal to one but for rounding"
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="of several processes: ddp holds the policy in each, fsdp a shard of weights, "
        "gradients and optimizer; fsdp has no points of resume",
    )

    @model_validator(mode="after")
    def _target_is_within_the_budget(self) -> TrainingConfig:
        if self.kl_budget < self.kl_target:
            raise ValueError(
                f"kl_budget {self.kl_budget:g} is below kl_target {self.kl_target:g}: the "
                "controller would aim at policies that are never promoted; raise the budget or "
                "lower the target"
            )
        return self
