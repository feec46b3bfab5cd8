"""Money and rates: what a call may cost at worst, what it did cost, when the next may start."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from labeling.engines.chat import BudgetSpent, ChatRequest
from labeling.engines.config import BedrockEngineConfig, OpenAIEngineConfig
from labeling.engines.prices import (
    Budget,
    Price,
    TokenRate,
    known_price,
    likely_tokens,
    most_input_tokens,
)
from tests.labeling.models import save_judge

PRICE = Price(1.0, 2.0, "t")
OPENAI = {"kind": "openai", "base_url": "http://here/v1", "model": "m"}


def request(text: str = "Hi", max_tokens: int = 8, **fields: object) -> ChatRequest:
    messages = ({"role": "user", "content": text},)
    return ChatRequest("k", messages, max_tokens, **fields)  # type: ignore[arg-type]


# ----- the table


def test_a_shipped_price_is_of_exactly_that_model_and_says_from_when():
    price = known_price("gpt-4o-mini-2024-07-18")
    assert price == Price(0.15, 0.60, "2026-03")
    assert price.cost(1_000_000, 500_000) == pytest.approx(0.45)
    for other in ("gpt-4o-mini", "GPT-4o-mini-2024-07-18", "us.amazon.nova-lite-v1:0", ""):
        assert known_price(other) is None


def test_a_price_of_the_configuration_goes_before_the_table():
    from labeling.engines.load import price_of

    config = OPENAI | {"model": "gpt-4o-mini-2024-07-18"}
    assert price_of(OpenAIEngineConfig.model_validate(config)) == Price(0.15, 0.6, "2026-03")
    config["price"] = {"input": 9, "output": 8}
    assert price_of(OpenAIEngineConfig.model_validate(config)) == Price(9, 8, "given")
    assert price_of(OpenAIEngineConfig.model_validate(OPENAI)) is None


def test_a_budget_without_a_price_is_refused_with_what_to_write():
    with pytest.raises(ValidationError, match=r"not in the price table.*USD per million tokens"):
        OpenAIEngineConfig.model_validate(OPENAI | {"budget_usd": 1})
    with pytest.raises(ValueError, match="price"):
        Budget(1.0, None)
    priced = OPENAI | {"budget_usd": 1, "price": {"input": 0, "output": 0}}
    assert OpenAIEngineConfig.model_validate(priced).budget_usd == 1


@pytest.mark.parametrize("wrong", [{"input": -1, "output": 1}, {"input": 1}, {"input": "nan"}])
def test_a_price_that_is_none_is_refused(wrong: dict[str, object]):
    with pytest.raises(ValidationError, match="price"):
        OpenAIEngineConfig.model_validate(OPENAI | {"price": wrong})


@pytest.mark.parametrize("model", ["gpt-4o-latest", "LATEST", "x:latest"])
def test_a_model_that_changes_under_its_name_is_refused(model: str):
    with pytest.raises(ValidationError, match="name the dated version"):
        BedrockEngineConfig.model_validate(
            {"kind": "bedrock", "region": "us-east-1", "model": model}
        )


# ----- worst cases


@given(st.text(max_size=200))
def test_no_text_has_more_tokens_than_were_set_aside_for_it(text: str):
    assert most_input_tokens(request(text)) >= len(text.encode("utf-8", "surrogatepass"))


def test_a_real_tokenizer_with_its_template_stays_below_the_bound(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(save_judge(tmp_path))
    for text in ("Hello", "这个回答很有帮助。", "🙂" * 30, "a" * 1000, "\x00\u202e"):
        messages = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
        ids = ids["input_ids"] if hasattr(ids, "keys") else ids
        assert len(ids) <= most_input_tokens(request(text))


def test_a_schema_is_paid_for_too():
    plain, forced = request(), request(schema={"type": "object"})
    assert most_input_tokens(forced) >= most_input_tokens(plain) + 600
    assert likely_tokens(forced) > likely_tokens(plain)


# ----- the budget


def test_a_promise_is_kept_until_it_is_settled():
    worst = (most_input_tokens(request()) * 1 + 8 * 2) / 1e6
    budget = Budget(2.5 * worst, PRICE)
    assert budget.promise(request()) == pytest.approx(worst)
    assert budget.promise(request()) == pytest.approx(worst)
    assert budget.promise(request()) is None  # wait: one in flight may turn out cheaper
    budget.settle(worst, worst / 10)
    assert budget.spent == pytest.approx(worst / 10)
    assert budget.promise(request()) == pytest.approx(worst)
    budget.settle(worst, worst)
    budget.settle(worst, worst)
    with pytest.raises(BudgetSpent, match=r"are paid and the next call may cost .*; raise"):
        budget.promise(request())
    assert budget.spent == pytest.approx(2.1 * worst)


def test_without_a_limit_money_is_only_counted():
    budget = Budget(None, PRICE)
    for _ in range(100):
        budget.settle(budget.promise(request()) or 0.0, 1.0)
    assert budget.spent == 100
    assert Budget(None, None).promise(request()) == 0.0


@given(st.lists(st.floats(0, 1), max_size=40), st.floats(1e-5, 1e-3))
def test_whatever_the_calls_turn_out_to_cost_the_budget_holds(shares: list[float], usd: float):
    budget, open_promises = Budget(usd, PRICE), []
    for share in shares:
        try:
            promised = budget.promise(request())
        except BudgetSpent:
            break
        if promised is not None:
            open_promises.append((promised, share))
        elif open_promises:
            first, used = open_promises.pop(0)
            budget.settle(first, first * used)
    for promised, used in open_promises:
        budget.settle(promised, promised * used)
    assert budget.spent <= usd * (1 + 1e-12)


# ----- the rate


def test_calls_start_when_the_tokens_before_them_are_through():
    rate = TokenRate(600)  # ten a second
    assert rate.wait(20, now=100.0) == 0.0
    assert rate.wait(5, now=100.0) == pytest.approx(2.0)
    assert rate.wait(5, now=100.0) == pytest.approx(2.5)
    rate.correct(5, 1)
    assert rate.wait(1, now=101.0) == pytest.approx(1.6)
    assert rate.wait(1, now=200.0) == 0.0  # time that nobody used is gone
    assert TokenRate(None).wait(10**9, now=0.0) == 0.0


def test_no_minute_has_more_tokens_than_the_rate_but_for_one_call():
    rate, starts, now = TokenRate(1000), [], 0.0
    for _ in range(400):
        now += rate.wait(30, now)
        starts.append(now)
    for start in starts:
        inside = [at for at in starts if start <= at < start + 60]
        assert len(inside) * 30 <= 1000 + 30
