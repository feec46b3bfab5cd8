"""Likelihoods that a remote endpoint shows, read as a score or not at all."""

from __future__ import annotations

import math

import pytest

from labeling.judges.score import folded_logprob
from tests.labeling.scripted_chat import labelled


def likely(
    shown: dict[str, float] | None, status: str = "truncated", **changes: object
) -> list[dict[str, object]]:
    logprobs = shown and {token: math.log(p) if p else -math.inf for token, p in shown.items()}
    reply = {"status": status, "text": "7", "first_token_logprobs": logprobs, "output_tokens": 1}
    return labelled(["Fine."], lambda *_: reply, method="logprobs", **changes)


def test_likelihoods_of_the_first_token_give_an_expectation():
    (row,) = likely({"7": 0.5, " 7": 0.1, "8": 0.3, "Sure": 0.05, "７": 0.05})
    assert (row["status"], row["score_method"]) == ("ok", "logprob_expectation")
    assert row["label_mass"] == pytest.approx(0.9)
    assert row["score_raw"] == pytest.approx((7 * 0.6 + 8 * 0.3) / 0.9)
    seen = {x["label"]: x for x in row["score_logprobs"]}
    assert seen["7"]["logprob"] == pytest.approx(math.log(0.6))
    assert (seen["7"]["token_id"], seen["1"]["logprob"]) == (None, None)
    assert (row["raw_output"], row["output_tokens"], row["structured_mode"]) == ("7", 1, None)


@pytest.mark.parametrize(
    ("shown", "answered", "status"),
    [
        ({"7": 0.5, "Sure": 0.5}, "ok", "low_mass"),
        ({"Sure": 0.9}, "ok", "low_mass"),
        ({}, "ok", "low_mass"),
        ({"7": math.inf}, "ok", "non_finite"),
        ({"7": math.nan, " 7": 0.5}, "ok", "non_finite"),
        (None, "ok", "error"),
        ({"7": 1.0}, "filtered", "filtered"),
    ],
)
def test_likelihoods_that_say_nothing(shown: dict[str, float] | None, answered: str, status: str):
    (row,) = likely(shown, answered)
    assert (row["status"], row["score"], row["score_raw"]) == (status, None, None)


def test_a_missing_label_is_at_most_as_likely_as_the_least_shown():
    (row,) = likely({"9": 0.6, "8": 0.35, "Sure": 0.01})  # up to .01 each on 1..7, .04 in all
    low = (9 * 0.6 + 8 * 0.35 + 0.01 * (1 + 2 + 3 + 4)) / 0.99
    high = (9 * 0.6 + 8 * 0.35) / 0.95  # every missing label is below the mean
    assert row["status"] == "ok"
    assert f"score in [{(low - 1) / 8:.4f}, {(high - 1) / 8:.4f}]" in row["status_detail"]
    assert row["score_raw"] == pytest.approx(high)


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        ({"9": 0.8, "Sure": 0.2}, "ok"),  # nothing is unseen
        ({"9": 0.8, "Sure": 0.01}, "ok"),  # .01 on the 1, .01 on the 2, ...
        ({"9": 0.8, "Sure": 0.15}, "ok"),  # .05 on the 1
        ({"9": 0.6, "Sure": 0.2}, "low_mass"),  # .2 on the 1: 7 instead of 9
    ],
)
def test_a_wide_bracket_is_no_score(shown: dict[str, float], status: str):
    (row,) = likely(shown, min_label_mass=0.5)
    assert (row["status"], row["score"] is None) == (status, status == "low_mass")
    assert ("score in [" in (row["status_detail"] or "")) == (sum(shown.values()) < 0.999)


def test_only_ascii_spaces_fold():
    shown = {"1": -1.0, "\u00a01": -0.1, "10": -0.1, "1\n": -1.0}
    assert folded_logprob("1", shown) == pytest.approx(-1.0 + math.log(2))
    assert folded_logprob("2", shown) == -math.inf
    assert folded_logprob("1", {"1": -math.inf, " 1": -math.inf}) == -math.inf
