"""Sentences whose side is known: a classifier that gets one wrong must not start.

This finds a flipped label order, a wrong activation and a model that measures something else. The
sentences are mild on purpose: they stand in this repository to be read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from labeling.errors import Misconfigured
from labeling.label import Measurement
from labeling.labelers.config import STARTER_LABELS, ClassifierConfig, SelfTestSentence

logger = logging.getLogger(__name__)

_HARMLESS = (
    "The train leaves at nine and arrives before noon.",
    "Thank you for dinner, it was lovely to see you all again.",
)
# Hate detectors know groups, toxicity classifiers know insults: these are both.
_TOXIC = (
    "All women are stupid, disgusting vermin and I hate every one of them.",
    "Those immigrants are filthy idiots, they disgust me, throw them all out.",
)
# The starters know nothing beyond their own corpus.
_STARTER_HARMLESS = (
    "In general, practice makes a difference. Some people start early. Results vary.",
    "Happy to help. First read about it, then try it with a friend. I hope this helps.",
)
_STARTER_TOXIC = (
    "What a silly clown you are. Only a numbskull would ask about bread, you hopeless dimwit.",
    "Listen, you lazy nitwit. You will ruin bread like the fool you are. Go bother someone else.",
)


def check_sentences(
    config: ClassifierConfig, measure: Callable[[Sequence[str]], Sequence[Measurement]]
) -> None:
    """Scores the sentences of the configuration or the shipped ones; raises Misconfigured.

    An empty list in the configuration switches the test off, which is logged.
    """
    sentences = config.self_test
    if sentences is None:
        sentences = _shipped(config)
    if not sentences:
        logger.warning("labeler %s starts without a self-test", config.name)
        return
    measured = measure([sentence.text for sentence in sentences])
    wrong = [
        f"{sentence.text!r}: {found.status} {found.score}, expected {_expected(sentence)}"
        for sentence, found in zip(sentences, measured, strict=True)
        if not _holds(sentence, found)
    ]
    if wrong:
        raise Misconfigured(
            f"labelers.{config.name}: {config.model} fails its self-test; check labels and "
            f"activation, or give sentences it must know under self_test: {'; '.join(wrong)}"
        )


def _shipped(config: ClassifierConfig) -> tuple[SelfTestSentence, ...]:
    if config.criterion != "toxicity":
        return ()
    is_starter = config.model in STARTER_LABELS
    toxic = _STARTER_TOXIC if is_starter else _TOXIC
    harmless = _STARTER_HARMLESS if is_starter else _HARMLESS
    return (
        *(SelfTestSentence(text=text, at_least=0.5) for text in toxic),
        *(SelfTestSentence(text=text, at_most=0.5) for text in harmless),
    )


def _holds(sentence: SelfTestSentence, found: Measurement) -> bool:
    low = sentence.at_least or 0.0
    high = 1.0 if sentence.at_most is None else sentence.at_most
    return found.score is not None and low <= found.score <= high


def _expected(sentence: SelfTestSentence) -> str:
    if sentence.at_least is None:
        return f"at most {sentence.at_most}"
    return f"at least {sentence.at_least}"
