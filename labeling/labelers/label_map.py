"""From a classifier's logits to a score: which of its labels means how much of the criterion.

Pure functions on arrays. Everything is computed as log-odds, so a sure model does not saturate at
1.0 in between: score = 1 / (1 + exp(-log_odds)).
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from labeling.engines.tokens import Floats
from labeling.errors import Misconfigured
from warehouse.files import text_sha256


@dataclass(frozen=True)
class LabelMap:
    """The score of each logit, in the order of the model's logits."""

    names: tuple[str, ...]
    scores: tuple[float, ...]
    activation: Literal["softmax", "sigmoid"]

    @property
    def sha256(self) -> str:
        """Identity of the map: order, names, scores, activation."""
        return text_sha256(json.dumps([self.names, self.scores, self.activation]))

    @property
    def method(self) -> str:
        """Name of the way from logits to score, for the row."""
        return "softmax_expectation" if self.activation == "softmax" else "sigmoid_max"

    def log_odds(self, logits: Floats) -> Floats:
        """Log-odds [rows] of the score for logits [rows, labels].

        softmax: score = sum_i s_i p_i, so for two labels scored 0 and 1 the log-odds are the
        margin of the logits. sigmoid: score = max_i s_i p_i, each label on its own; a single
        label scored s gives s p + (1 - s)(1 - p). NaN in, NaN out.
        """
        scores = np.asarray(self.scores)
        with np.errstate(divide="ignore", invalid="ignore"):
            for_it, against_it = np.log(scores), np.log1p(-scores)
            if self.activation == "softmax":
                odds = _logsumexp(logits + for_it) - _logsumexp(logits + against_it)
            elif len(scores) == 1:
                logit = logits[:, 0]
                odds = np.logaddexp(logit + for_it, against_it) - np.logaddexp(
                    logit + against_it, for_it
                )
            else:
                per_label = logits + for_it - np.logaddexp(logits + against_it, 0.0)
                odds = per_label.max(axis=1)
        return np.asarray(odds)


def match_labels(
    model_labels: Mapping[int, str],
    label_scores: Mapping[str, float],
    activation: Literal["softmax", "sigmoid"],
    *,
    labeler: str,
    model: str,
) -> LabelMap:
    """The map of a model whose labels are exactly those of the configuration.

    Raises Misconfigured otherwise: order and spelling of a model's labels are never guessed.
    """
    names = tuple(model_labels[index] for index in sorted(model_labels))
    if set(names) != set(label_scores) or len(set(names)) != len(names):
        raise Misconfigured(
            f"labelers.{labeler}.labels: {model} has the labels {list(names)}, the configuration "
            f"scores {sorted(label_scores)}; give each of the model's labels a score"
        )
    if len(names) == 1 and activation == "softmax":
        raise Misconfigured(
            f"labelers.{labeler}.activation: {model} has the one label {names[0]!r}, whose softmax "
            "is always 1; set activation: sigmoid"
        )
    return LabelMap(names, tuple(label_scores[name] for name in names), activation)


def scores_of(log_odds: Floats) -> Floats:
    """Scores in [0, 1] of log-odds, without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -log_odds)))


def _logsumexp(values: Floats) -> Floats:
    return np.asarray(np.logaddexp.reduce(values, axis=1))


def logits_json(names: Sequence[str], logits: Sequence[float]) -> str:
    """The raw output of a classifier: label name -> logit; null where it is not finite."""
    # Python's repr of a finite float is JSON, and a fraction of the cost of an encoder per row.
    pairs = (
        f"{_quoted(name)}: {x!r}" if math.isfinite(x) else f"{_quoted(name)}: null"
        for name, x in zip(names, logits, strict=True)
    )
    return "{" + ", ".join(pairs) + "}"


@functools.cache
def _quoted(name: str) -> str:
    return json.dumps(name)
