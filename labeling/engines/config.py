"""The `engine` section of a judge, typed: what completes a prompt, here or behind an endpoint.

Not here: engines themselves (engines/), judges and classifiers (labelers/config.py).
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from labeling.section import Section


class _EngineConfig(Section):
    model: str
    revision: str | None = Field(None, description="Hub commit; folders and starters need none")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on a CPU, the model's own on a GPU"
    )
    max_model_len: int | None = Field(None, ge=2, description="None: what the model allows")


class VllmEngineConfig(_EngineConfig):
    """A judge on vLLM."""

    kind: Literal["vllm"]
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)


class TransformersEngineConfig(_EngineConfig):
    """A judge on plain transformers: everywhere, and slower."""

    kind: Literal["transformers"]
    token_budget: int = Field(8192, ge=1, description="tokens of one batch, padding included")


class PriceConfig(Section):
    """USD per million tokens."""

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)
    batch: float | None = Field(
        None, gt=0, le=1, description="share of it that batch inference costs; None: the table's"
    )


class _RemoteEngineConfig(Section):
    model: str
    max_in_flight: int = Field(
        16, ge=1, le=1000, description="calls at a time, of all workers on this machine"
    )
    tokens_per_minute: int | None = Field(
        None, ge=1, description="of all workers on this machine; None: no limit"
    )
    budget_usd: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="for this model in one round"
    )
    timeout_seconds: float = Field(60.0, gt=0, allow_inf_nan=False, description="of one attempt")
    max_retries: int = Field(6, ge=0, le=100)
    price: PriceConfig | None = Field(None, description="None: that of the shipped table, if any")

    @field_validator("model")
    @classmethod
    def _model_keeps_its_meaning(cls, model: str) -> str:
        if re.search(r"(?<![a-z0-9])latest(?![a-z0-9])", model.lower()):
            raise ValueError(
                f"{model} is another model whenever its vendor likes; name the dated version, so "
                "that a label's revision says what gave it"
            )
        return model

    @property
    def has_price(self) -> bool:
        """Whether the configuration or the shipped table knows what a call costs."""
        from labeling.engines.prices import known_price

        return self.price is not None or known_price(self.model) is not None

    @model_validator(mode="after")
    def _budget_has_a_price(self) -> _RemoteEngineConfig:
        if self.budget_usd is not None and not self.has_price:
            raise ValueError(
                f"price: {self.model} is not in the price table, so budget_usd cannot be kept; "
                "give {input: ..., output: ...} in USD per million tokens"
            )
        return self


class OpenAIEngineConfig(_RemoteEngineConfig):
    """A judge behind an OpenAI-compatible endpoint."""

    kind: Literal["openai"]
    base_url: str = Field(pattern=r"^https?://", description="up to and without /chat/completions")
    api_key_env: str | None = Field(
        None, description="environment variable that holds the key; None: no key is sent"
    )

    @field_validator("base_url")
    @classmethod
    def _address_holds_no_password(cls, base_url: str) -> str:
        if "@" in base_url.split("://", 1)[-1].split("/", 1)[0]:
            raise ValueError(
                "an address with a password would be stored with the round; put the key into an "
                "environment variable and name it as api_key_env"
            )
        return base_url


class BatchConfig(Section):
    """Bedrock's batch inference: jobs over S3, cheaper, within a day. Limits: AWS's quotas.

    Quotas differ by model and region; Service Quotas shows those of an account.
    """

    s3_uri: str = Field(
        pattern=r"^s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](/[-!_*'().a-zA-Z0-9]+)*/?$",
        description="a bucket in the engine's region and a prefix; jobs are kept there, resumed",
    )
    role_arn: str = Field(
        pattern=r"^arn:aws(-[^:]+)?:iam::[0-9]{12}:role/.+$",
        description="the role that Bedrock takes on to read and write s3_uri",
    )
    input_type: Literal["Converse"] = "Converse"
    timeout_hours: int = Field(24, ge=24, le=168, description="then Bedrock ends the job")
    min_records: int = Field(100, ge=1, description="fewer calls go to Converse one by one")
    max_records: int = Field(50_000, ge=1, description="of one job; more calls make more jobs")
    max_bytes: int = Field(200_000_000, ge=1, le=5_000_000_000, description="of one job's input")
    poll_seconds: float = Field(60.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _limits_leave_room(self) -> BatchConfig:
        if self.min_records > self.max_records:
            raise ValueError(
                f"batch: min_records {self.min_records} is above max_records {self.max_records}"
            )
        return self


class BedrockEngineConfig(_RemoteEngineConfig):
    """A judge on Amazon Bedrock; credentials come from AWS's own chain."""

    kind: Literal["bedrock"]
    region: str
    profile: str | None = Field(None, description="of the AWS configuration; None: the default")
    endpoint_url: str | None = Field(None, description="None: Bedrock's own in the region")
    batch: BatchConfig | None = Field(None, description="None: every call by itself, at once")


JudgeEngineConfig = Annotated[
    VllmEngineConfig | TransformersEngineConfig | OpenAIEngineConfig | BedrockEngineConfig,
    Field(discriminator="kind"),
]
