"""A labeler that cannot start or whose backend is dead."""

from __future__ import annotations

from warehouse.errors import RoundhouseError


class LabelingError(RoundhouseError, RuntimeError):
    """A labeler that cannot start or whose backend is dead; the message says what to do."""
