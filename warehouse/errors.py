"""The one base of every error of the house, and those the warehouse raises about its contents.

A message says what is wrong, where, and what to do; the command line prints it in one line and
ends with the class's `exit_code` (`--debug` shows the traceback). Errors of other rooms stand in
their `errors.py` or beside the one function that raises them, and derive from RoundhouseError.
"""

from __future__ import annotations


class RoundhouseError(Exception):
    """Base of every error that Roundhouse raises on purpose.

    `exit_code` is what a command ends with: 1 failed, 2 wrong use. `next_step` is what to do where
    the message itself does not say it.
    """

    exit_code = 1
    next_step = ""


class WarehouseError(RoundhouseError):
    """Base of every error the warehouse raises about its contents or its place."""


class StoreError(WarehouseError):
    """The store cannot do what was asked; the message names the place or the key."""


class AlreadyExists(StoreError):
    """The key is taken; a store never overwrites."""


class MissingObject(StoreError):
    """No object under this key."""


class AlreadyPublished(WarehouseError):
    """The ledger has a commit under this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} is published already; a key is committed once")
        self.key = key


class Conflict(WarehouseError):
    """A commit does not fit what is live: a file it removes or adds, a table that has changed."""


class CorruptFile(WarehouseError):
    """A file of the warehouse is missing or damaged; the message names it."""


class MissingFile(CorruptFile):
    """A data file is not there: lost, or deleted since the ledger was read (Ledger.is_dead)."""

    def __init__(self, place: str, path: str, error: object) -> None:
        super().__init__(f"{place}: damaged or missing: {error}")
        self.path = path


class ForgottenMeanwhile(Conflict):
    """A prompt was forgotten since the rows were held against the list; hold them once more."""


class Vacuumed(WarehouseError):
    """An old version whose files a vacuum has deleted."""


class SchemaMismatch(RoundhouseError, ValueError):
    """A table does not fit its schema; the message names the table and the columns."""
