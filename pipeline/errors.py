"""What ends a command: wrong use, a stage that cannot go on, a stage process that died."""

from __future__ import annotations

from warehouse.errors import RoundhouseError


class ConfigError(RoundhouseError, ValueError):
    """A configuration that cannot run; the message names file and key and says what to do."""

    exit_code = 2


class StageError(RoundhouseError, RuntimeError):
    """A stage that cannot go on; the message names shard and cause."""


class StageFailed(RoundhouseError, RuntimeError):
    """A stage process ended without a result; the message says why and where its log is."""
