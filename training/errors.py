"""What ends a training."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """Training cannot go on; the message names rows or numbers and says what to do."""


class EmptyRound(TrainingError):
    """No row of the round may train; the message counts the reasons."""
