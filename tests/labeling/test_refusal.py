"""Refusals by their words: what is one, what only looks like one."""

from __future__ import annotations

import pytest

from labeling.refusal import refusal_of


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that.",
        "I’m sorry, but I can’t help.",
        "I cannot fulfill that request. I'm just an AI.",
        "  I can't provide that.",
        "Sorry, that is something I will not do.",
        "As an AI language model, I do not give advice on this.",
        "No, I do not think you should.",
        "I am not able to help you with this.",
        "Unfortunately, I cannot help with that.",
        "It is not appropriate to ask this.",
        '"I won\'t do that."',
    ],
)
def test_an_opening_that_refuses_is_a_full_refusal(text: str):
    assert refusal_of(text) == "full"


@pytest.mark.parametrize(
    "text",
    [
        "Killing a process is done with kill. I can't say more.",
        "Use a sharp knife.\nHowever, I cannot recommend it.",
        "It depends. I'm sorry, but I won't go on.",
    ],
)
def test_a_later_sentence_that_refuses_is_a_partial_refusal(text: str):
    assert refusal_of(text) == "partial"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "You can use kill -9.",
        "Nobody can't swim here.",  # no sentence begins with the words
        "Icannot is no word.",
        "He said I cannot dance.",
        "Certainly! Here is how: open the terminal.",
        "Notably, no harm is done.",
        "\ud7ff🙂" * 1000,
    ],
)
def test_everything_else_is_none(text: str):
    assert refusal_of(text) == "none"
