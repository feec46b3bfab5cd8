"""Remote judges' engines by configuration. Light until one is loaded."""

from __future__ import annotations

from labeling.engines.chat import ChatEngine, PaidWork
from labeling.engines.config import BedrockEngineConfig, JudgeEngineConfig, OpenAIEngineConfig
from labeling.engines.prices import GIVEN, Price, known_batch_share, known_price
from labeling.engines.remote.dispatch import Limits
from labeling.engines.remote.shared_limits import Account
from labeling.errors import LabelingError


def load_chat_engine(engine_config: JudgeEngineConfig, paid: PaidWork | None = None) -> ChatEngine:
    """The engine that writes to a remote endpoint; nothing is sent yet.

    Its limits hold for all workers that are given the same `paid.spending`. Raises LabelingError
    for an engine that runs here, where credentials are missing, for a budget without a price.
    """
    if not isinstance(engine_config, OpenAIEngineConfig | BedrockEngineConfig):
        raise LabelingError(f"engine {engine_config.kind} runs here and takes no messages")
    limits = Limits(
        max_in_flight=engine_config.max_in_flight,
        tokens_per_minute=engine_config.tokens_per_minute,
        budget_usd=engine_config.budget_usd,
        max_retries=engine_config.max_retries,
        account=_account(engine_config, paid),
    )
    price = price_of(engine_config)
    if price is None and paid is not None and paid.budget_usd is not None:
        raise LabelingError(
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
