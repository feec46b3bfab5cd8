"""Every error that the warehouse raises about its contents or its place."""

from __future__ import annotations


class WarehouseError(Exception):
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
