"""The `engine` section of a judge, typed: what completes a prompt, here or behind an endpoint.

Not here: engines themselves (engines/), judges and classifiers (config.py).
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


class _RemoteEngineConfig(Section):
    model: str
    max_in_flight: int = Field(16, ge=1, le=1000, description="calls at a time, of all workers")
    tokens_per_minute: int | None = Field(None, ge=1, description="of all workers; None: no limit")
    budget_usd: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="in one round, of this model at this endpoint"
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
    def is_paid_unpriced(self) -> bool:
        """Whether nobody knows what a call costs."""
        from labeling.engines.prices import known_price

        return self.price is None and known_price(self.model) is None

    @model_validator(mode="after")
    def _budget_has_a_price(self) -> _RemoteEngineConfig:
        if self.budget_usd is not None and self.is_paid_unpriced:
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


class BedrockEngineConfig(_RemoteEngineConfig):
    """A judge on Amazon Bedrock; credentials come from AWS's own chain."""

    kind: Literal["bedrock"]
    region: str
    profile: str | None = Field(None, description="of the AWS configuration; None: the default")
    endpoint_url: str | None = Field(None, description="None: Bedrock's own in the region")


JudgeEngineConfig = Annotated[
    VllmEngineConfig | TransformersEngineConfig | OpenAIEngineConfig | BedrockEngineConfig,
    Field(discriminator="kind"),
]
