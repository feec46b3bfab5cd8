"""What every labeler offers: texts in, rows of table `labels` out. Not here: how one is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import pyarrow as pa

from labeling.label import LabelIdentity


class Labeler(Protocol):
    """A loaded labeler."""

    identity: LabelIdentity

    def label(self, subjects: pa.Table, progress: Callable[[int], None] | None = None) -> pa.Table:
        """One final row of table `labels` per subject, in their order.

        A judge that asked several times has the earlier attempts before it, as rows not final.
        Columns read: rollout_id, round, prompt_id, completion, completion_sha256 and, by judges,
        messages (JSON list of role and content). A text that cannot be labelled gets a status;
        only a dead backend raises (LabelingError). `progress` gets the rows done since its last
        call.
        """
        ...

    def template_rows(self) -> pa.Table:
        """Rows of table `templates` that its labels refer to."""
        ...

    def close(self) -> None:
        """Frees the model."""
        ...
