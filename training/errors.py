"""What ends a training."""

from __future__ import annotations

from warehouse.errors import RoundhouseError


class TrainingError(RoundhouseError, RuntimeError):
    """Training cannot go on; the message names rows or numbers and says what to do."""


class EmptyRound(TrainingError):
    """No row of the round may train; the message counts the reasons."""
