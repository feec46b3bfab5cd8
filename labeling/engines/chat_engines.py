"""Remote judges' engines by configuration. Light until one is loaded."""

from __future__ import annotations

from labeling.engine_config import BedrockEngineConfig, JudgeEngineConfig, OpenAIEngineConfig
from labeling.engines.chat import ChatEngine, PaidWork
from labeling.engines.dispatch import Limits
from labeling.engines.prices import GIVEN, Price, known_price
from labeling.engines.shared_limits import SharedLimits
from labeling.label import LabelingError


def load_chat_engine(engine_config: JudgeEngineConfig, paid: PaidWork | None = None) -> ChatEngine:
    """The engine that writes to a remote endpoint; nothing is sent yet.

    Raises LabelingError for an engine that runs here, and where credentials are missing, and for a
    budget that cannot be kept.
    """
    if not isinstance(engine_config, OpenAIEngineConfig | BedrockEngineConfig):
        raise LabelingError(f"engine {engine_config.kind} runs here and takes no messages")
    price = price_of(engine_config)
    if paid is not None and paid.budget_usd is not None and price is None:
        raise LabelingError(
            f"budget_usd cannot be kept: {engine_config.model} is not in the price table; give "
            "engine.price as {input: ..., output: ...} in USD per million tokens"
        )
    limits = Limits(
        max_in_flight=engine_config.max_in_flight,
        tokens_per_minute=engine_config.tokens_per_minute,
        budget_usd=engine_config.budget_usd,
        max_retries=engine_config.max_retries,
        shared=_shared_limits(engine_config, paid),
    )
    if isinstance(engine_config, OpenAIEngineConfig):
        from labeling.engines.openai_chat import OpenAIChatEngine

        return OpenAIChatEngine(engine_config, limits, price)
    from labeling.engines.bedrock_chat import BedrockChatEngine

    return BedrockChatEngine(engine_config, limits, price)


def _shared_limits(
    config: OpenAIEngineConfig | BedrockEngineConfig, paid: PaidWork | None
) -> SharedLimits | None:
    """Of one model in one place: what an endpoint limits, and what is paid by one price."""
    if paid is None or paid.spending is None:
        if paid is not None and paid.budget_usd is not None:
            raise ValueError("a budget of several labelers needs the file that they share")
        return None
    place = config.base_url if isinstance(config, OpenAIEngineConfig) else config.region
    return SharedLimits(
        paid.spending,
        f"{config.kind} {place} {config.model}",
        run_usd=paid.budget_usd,
        # Longer than a call can last, so that only the dead lose theirs.
        lease_seconds=2 * config.timeout_seconds + 60,
    )


def price_of(config: OpenAIEngineConfig | BedrockEngineConfig) -> Price | None:
    """What the configuration gives, or else the shipped table, or None where nobody knows."""
    given = config.price
    if given is None:
        return known_price(config.model)
    return Price(given.input, given.output, GIVEN)
