"""`roundhouse evaluate-labeler`: how right a labeler is on a suite, overall and where it is worst.

The labelers run over the suite's texts the way they run over any file (label_file.py), each in a
process of its own. Nothing of a warehouse is read or written. Not here: the numbers
(labeler_numbers.py), their shape on paper (commands/suite_output.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from labeling.labelers.config import LabelerConfig
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.suites.label_file import READ_PROMPTS, label_by, text_labelers
from pipeline.suites.labeler_numbers import LabelerNumbers, labeler_numbers
from pipeline.suites.suite import Suite
from pipeline.suites.work import stage_folder, write_texts

_COLUMNS = ["revision", "criterion", "model", "status", "score"]


def evaluate_labelers(
    config: RunConfig,
    suite: Suite,
    names: Sequence[str],
    *,
    near: Path,
    threshold: float = 0.5,
    say: Callable[[str], None],
) -> list[LabelerNumbers]:
    """The numbers of the labelers of these names (none: all), in the configuration's order.

    `near`: the file whose folder may hold what is needed meanwhile. A score from `threshold` up
    counts as 1. Raises ConfigError, StageFailed.
    """
    labelers = text_labelers(config, names)
    _check_prompts(suite, labelers)
    with stage_folder(near) as work:
        source = work / "suite.jsonl"
        write_texts(
            source,
            [
                {"text": row.text}
                if row.prompt is None
                else {"prompt": row.prompt, "completion": row.text}
                for row in suite.rows
            ],
        )
        made = label_by(config, labelers, source, work)
        tables = [pq.read_table(one.rows, columns=_COLUMNS) for one in made]
    say(f"suite      {suite.path}: {len(suite.rows)} rows, {len(made)} labelers")
    numbers = []
    for one, rows in zip(made, tables, strict=True):
        (about,) = rows.slice(0, 1).select(["revision", "criterion", "model"]).to_pylist()
        numbers.append(
            labeler_numbers(
                suite,
                rows["score"].to_pylist(),
                rows["status"].to_pylist(),
                labeler=one.labeler,
                **about,
                threshold=threshold,
            )
        )
    return numbers


def _check_prompts(suite: Suite, labelers: Sequence[LabelerConfig]) -> None:
    if all(row.prompt is not None for row in suite.rows):
        return
    for labeler in labelers:
        if labeler.kind in READ_PROMPTS:
            raise ConfigError(
                f"suite {suite.path}: labeler {labeler.name} ({labeler.kind}) reads prompt and "
                "completion, the suite has no prompts; name their column (--prompt-column) or "
                "another labeler (--labeler)"
            )
