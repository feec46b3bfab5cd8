"""Remote judges' engines by configuration. Light until one is loaded."""

from __future__ import annotations

from labeling.engine_config import BedrockEngineConfig, JudgeEngineConfig, OpenAIEngineConfig
from labeling.engines.chat import ChatEngine, PaidWork
from labeling.engines.dispatch import Limits
from labeling.engines.prices import GIVEN, Price, known_batch_share, known_price
from labeling.label import LabelingError


def load_chat_engine(engine_config: JudgeEngineConfig, paid: PaidWork | None = None) -> ChatEngine:  # noqa: ARG001 (wired with the shared budget)
    """The engine that writes to a remote endpoint; nothing is sent yet.

    Raises LabelingError for an engine that runs here, and where credentials are missing.
    """
    if not isinstance(engine_config, OpenAIEngineConfig | BedrockEngineConfig):
        raise LabelingError(f"engine {engine_config.kind} runs here and takes no messages")
    limits = Limits(
        max_in_flight=engine_config.max_in_flight,
        tokens_per_minute=engine_config.tokens_per_minute,
        budget_usd=engine_config.budget_usd,
        max_retries=engine_config.max_retries,
    )
    price = _price(engine_config)
    if isinstance(engine_config, OpenAIEngineConfig):
        from labeling.engines.openai_chat import OpenAIChatEngine

        return OpenAIChatEngine(engine_config, limits, price)
    from labeling.engines.bedrock_chat import BedrockChatEngine

    on_demand = BedrockChatEngine(engine_config, limits, price)
    if engine_config.batch is None:
        return on_demand
    from labeling.engines.bedrock_batch import BedrockBatchEngine

    given = engine_config.price
    share = known_batch_share() if given is None or given.batch is None else given.batch
    return BedrockBatchEngine(engine_config, on_demand, price and price.times(share))


def _price(config: OpenAIEngineConfig | BedrockEngineConfig) -> Price | None:
    given = config.price
    if given is None:
        return known_price(config.model)
    return Price(given.input, given.output, GIVEN)
