"""What a call may cost and did cost: the price table, the budget, and the rate of tokens.

Plain arithmetic without a clock or a thread of its own. Not here: who waits
(engines/remote/dispatch.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from labeling.engines.chat import BudgetSpent, ChatRequest

GIVEN = "given"  # the version of a price that the configuration brings

# A chat template adds a few tokens to each message; a forced tool brings a prompt of its own, 300
# to 600 tokens on Claude.
_MESSAGE_TOKENS = 32
_SCHEMA_TOKENS = 800
_BYTES_PER_TOKEN = 3  # typical of English and Chinese alike; no price depends on it


@dataclass(frozen=True)
class Price:
    """USD per million input and output tokens, and the version of the table they stand in."""

    input: float
    output: float
    version: str

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """USD."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6

    def times(self, share: float) -> Price:
        """At a discount, which the version tells."""
        return Price(self.input * share, self.output * share, f"{self.version} x {share:g}")


def known_price(model: str) -> Price | None:
    """The shipped price of exactly this model id, or None: a similar name is no price."""
    table = _table()
    prices = table["models"].get(model)
    return None if prices is None else Price(prices["input"], prices["output"], table["version"])


def known_batch_share() -> float:
    """The shipped share of an on-demand price that batch inference costs."""
    return float(_table()["batch"])


@cache
def _table() -> dict[str, Any]:
    text = resources.files("labeling").joinpath("prices.yaml").read_text(encoding="utf-8")
    table: dict[str, Any] = yaml.safe_load(text)
    return table


def most_input_tokens(request: ChatRequest) -> int:
    """An upper bound: a byte-level vocabulary never makes more tokens than there are bytes."""
    tokens = _bytes(request) + _MESSAGE_TOKENS * len(request.messages)
    return tokens + (_SCHEMA_TOKENS if request.schema is not None else 0)


def worst_cost(price: Price, request: ChatRequest) -> float:
    """An upper bound in USD, known before the call is sent."""
    return price.cost(most_input_tokens(request), request.max_tokens)


def likely_tokens(request: ChatRequest) -> int:
    """Input and output of one call as endpoints count it against a rate before it has run."""
    return -(-_bytes(request) // _BYTES_PER_TOKEN) + request.max_tokens


def _bytes(request: ChatRequest) -> int:
    texts = [message["content"] for message in request.messages]
    if request.schema is not None:
        texts.append(json.dumps(request.schema))
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def estimated_tokens(*texts: str) -> int:
    """Of texts that nobody has counted; whoever stores it says that it is an estimate."""
    return -(-sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) // _BYTES_PER_TOKEN)


class Budget:
    """USD that may be spent, and what of it is spent or promised to calls in flight."""

    def __init__(self, usd: float | None, price: Price | None) -> None:
        """Raises ValueError for a budget without a price."""
        if usd is not None and price is None:
            raise ValueError("a budget needs the price of the model")
        self._usd, self._price = usd, price
        self._spent = self._promised = 0.0

    @property
    def spent(self) -> float:
        """USD, with calls that nobody knows the price of (a timeout) at their worst."""
        return self._spent

    def promise(self, request: ChatRequest) -> float | None:
        """The worst cost in USD, now set aside; None where it must wait for calls in flight.

        Raises BudgetSpent where the call would not fit even if those in flight were free.
        """
        return self.set_aside(0.0 if self._price is None else worst_cost(self._price, request))

    def set_aside(self, worst: float) -> float | None:
        """Like `promise`, for a cost in USD: that of many calls which are sent as one."""
        if self._usd is not None:
            if self._spent + worst > self._usd:
                raise BudgetSpent(
                    f"the budget of {self._usd:g} USD is spent: {self._spent:.6g} USD are paid and "
                    f"the next call may cost {worst:.6g}; raise budget_usd to go on from here"
                )
            if self._spent + self._promised + worst > self._usd:
                return None
        self._promised += worst
        return worst

    def settle(self, promised: float, actual: float) -> None:
        """Replaces what was set aside (USD) by what was paid."""
        self._promised -= promised
        self._spent += actual

    def cost(self, input_tokens: int | None, output_tokens: int | None) -> float | None:
        """USD of a call with these tokens; None without a price or without the tokens."""
        if self._price is None or input_tokens is None or output_tokens is None:
            return None
        return self._price.cost(input_tokens, output_tokens)

    @property
    def version(self) -> str | None:
        """Of the price table."""
        return None if self._price is None else self._price.version


class TokenRate:
    """Spaces calls evenly, so that no minute has more than `per_minute` tokens, one call aside."""

    def __init__(self, per_minute: int | None) -> None:
        self._seconds = 0.0 if per_minute is None else 60 / per_minute  # per token
        self._free_at = 0.0

    def wait(self, tokens: int, now: float) -> float:
        """Seconds until a call of this size may start; it counts from now on."""
        starts_at = max(now, self._free_at)
        self._free_at = starts_at + tokens * self._seconds
        return starts_at - now

    def correct(self, tokens: int, actual: int) -> None:
        """Gives back what a call took less than was counted for it, or takes the rest."""
        self._free_at += (actual - tokens) * self._seconds
