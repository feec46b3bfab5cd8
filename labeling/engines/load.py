"""Engines that write, here or behind an endpoint, by configuration. Light until one is loaded.

Not here: engines whose likelihoods are read (scoring.py).
"""

from __future__ import annotations

from typing import Any

from labeling.engines.chat import ChatEngine, PaidWork
from labeling.engines.config import (
    BedrockEngineConfig,
    JudgeEngineConfig,
    OpenAIEngineConfig,
    VllmEngineConfig,
)
from labeling.engines.model_identity import ModelIdentity, loading
from labeling.engines.prices import GIVEN, Price, known_batch_share, known_price
from labeling.engines.remote.shared_limits import Account, Limits
from labeling.errors import Misconfigured


def load_writing_engine(
    config: JudgeEngineConfig,
    model: ModelIdentity,
    *,
    device: str,
    key: str,
    paid: PaidWork | None,
    reuse_answers: bool,
) -> tuple[ChatEngine, dict[str, Any]]:
    """The engine, its model loaded where it runs here, and what a label's identity records of it.

    `key` names the section of the configuration in an error. Raises LabelingError.
    """
    if isinstance(config, VllmEngineConfig):
        return _load_local_engine(config, model, device, key)
    engine = load_chat_engine(config, paid)
    if paid is not None and paid.answers is not None and reuse_answers:
        from labeling.engines.remote.answer_cache import CachedChatEngine

        engine = CachedChatEngine(engine, paid.answers, config)
    return engine, {}


def _load_local_engine(
    config: VllmEngineConfig, model: ModelIdentity, device: str, key: str
) -> tuple[ChatEngine, dict[str, Any]]:
    from transformers import AutoTokenizer

    from labeling.engines.local.vllm_chat import VllmChatEngine
    from labeling.engines.tokens import tokenizer_sha256

    with loading(f"{key}.engine.model", config.model):
        tokenizer: Any = AutoTokenizer.from_pretrained(model.location, revision=model.commit)
        engine = VllmChatEngine(config, model, device, tokenizer)
    return engine, {
        "device": engine.device,
        "dtype": engine.dtype,
        "family": engine.family,
        "tokenizer_sha256": tokenizer_sha256(tokenizer),
    }


def load_chat_engine(engine_config: JudgeEngineConfig, paid: PaidWork | None = None) -> ChatEngine:
    """The engine that writes to a remote endpoint; nothing is sent yet.

    Its limits hold for all workers that are given the same `paid.spending`. Raises Misconfigured
    for an engine that runs here, where credentials are missing, for a budget without a price.
    """
    if not isinstance(engine_config, OpenAIEngineConfig | BedrockEngineConfig):
        raise Misconfigured(f"engine {engine_config.kind} runs here and takes no messages")
    limits = Limits(
        max_in_flight=engine_config.max_in_flight,
        tokens_per_minute=engine_config.tokens_per_minute,
        budget_usd=engine_config.budget_usd,
        max_retries=engine_config.max_retries,
        account=_account(engine_config, paid),
    )
    price = price_of(engine_config)
    if price is None and paid is not None and paid.budget_usd is not None:
        raise Misconfigured(
            f"engine.price: {engine_config.model} is not in the price table, so budget_usd cannot "
            "be kept; give {input: ..., output: ...} in USD per million tokens"
        )
    if isinstance(engine_config, OpenAIEngineConfig):
        from labeling.engines.remote.openai_chat import OpenAIChatEngine

        return OpenAIChatEngine(engine_config, limits, price)
    from labeling.engines.bedrock.converse import BedrockChatEngine

    on_demand = BedrockChatEngine(engine_config, limits, price)
    if engine_config.batch is None:
        return on_demand
    from labeling.engines.bedrock.batch import BedrockBatchEngine

    given = engine_config.price
    share = known_batch_share() if given is None or given.batch is None else given.batch
    return BedrockBatchEngine(engine_config, on_demand, price and price.times(share))


def _account(
    config: OpenAIEngineConfig | BedrockEngineConfig, paid: PaidWork | None
) -> Account | None:
    """By what a provider tells apart, not by limits: a raised budget counts on."""
    if paid is None or paid.spending is None:
        if paid is not None and paid.budget_usd is not None:
            raise ValueError("PaidWork.budget_usd needs a file to keep it in: spending")
        return None
    if isinstance(config, OpenAIEngineConfig):
        place = f"{config.base_url} {config.api_key_env or ''}"
    else:
        place = f"{config.endpoint_url or config.region} {config.profile or ''}"
    return Account(paid.spending, f"{config.kind} {config.model} {place}", paid.budget_usd)


def price_of(config: OpenAIEngineConfig | BedrockEngineConfig) -> Price | None:
    """What the configuration gives, or else the shipped table, or None where nobody knows."""
    given = config.price
    if given is None:
        return known_price(config.model)
    return Price(given.input, given.output, GIVEN)
