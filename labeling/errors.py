"""Labelers that cannot start: by the user's configuration, or because their backend is dead."""

from __future__ import annotations

from warehouse.errors import RoundhouseError


def one_line(error: BaseException) -> str:
    """What somebody else's error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


class LabelingError(RoundhouseError, RuntimeError):
    """A labeler that cannot start or whose backend is dead; the message says what to do."""


class Misconfigured(LabelingError):
    """What a configuration asks for cannot be had; the message names the key or the file."""

    exit_code = 2
