"""`roundhouse evaluate-labeler`: how right a labeler is on a suite, overall and where it is worst.

The labelers run over the suite's texts the way they run over any file (label_file.py), each in a
process of its own. Nothing of a warehouse is read or written. Not here: the numbers
(labeler_numbers.py), their shape on paper (commands/suite_output.py).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import RunConfig, chosen_labelers
from pipeline.errors import ConfigError, StageFailed
from pipeline.suites.label_file import READ_PROMPTS, label_file
from pipeline.suites.labeler_numbers import LabelerNumbers, labeler_numbers
from pipeline.suites.suite import Suite

_COLUMNS = ["labeler", "revision", "criterion", "model", "id", "status", "score"]


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
    _check_prompts(config, suite, names)
    with work_folder(near) as work:
        source, out = work / "suite.jsonl", work / "labels.parquet"
        with source.open("w", encoding="utf-8") as file:
            for place, row in enumerate(suite.rows):
                texts = {"text": row.text}
                if row.prompt is not None:
                    texts = {"prompt": row.prompt, "completion": row.text}
                file.write(json.dumps({"id": str(place)} | texts) + "\n")
        made = label_file(config, source, out, names, _unsaid)
        labels = pq.read_table(out, columns=_COLUMNS)
    say(f"suite      {suite.path}: {len(suite.rows)} rows, {len(made)} labelers")
    numbers = []
    for one in made:
        rows = labels.filter(pc.equal(labels["labeler"], one.labeler))
        first = rows.slice(0, 1).to_pylist()[0]
        numbers.append(
            labeler_numbers(
                suite,
                rows["score"].to_pylist(),
                rows["status"].to_pylist(),
                labeler=one.labeler,
                revision=first["revision"],
                criterion=first["criterion"],
                model=first["model"],
                threshold=threshold,
            )
        )
    return numbers


def _check_prompts(config: RunConfig, suite: Suite, names: Sequence[str]) -> None:
    chosen = chosen_labelers(config, names)
    if all(row.prompt is not None for row in suite.rows):
        return
    for labeler in chosen:
        if labeler.kind in READ_PROMPTS:
            raise ConfigError(
                f"suite {suite.path}: labeler {labeler.name} ({labeler.kind}) reads prompt and "
                "completion, the suite has no prompts; name their column (--prompt-column) or "
                "another labeler (--labeler)"
            )


def _unsaid(line: str) -> None:
    """What label_file says of its own output, which is not this command's."""
    del line


@contextlib.contextmanager
def work_folder(near: Path) -> Iterator[Path]:
    """A hidden folder beside `near`, swept afterwards; of a stage that fails the logs are kept."""
    if not near.parent.is_dir():
        raise ConfigError(f"--out {near}: there is no folder {near.parent}")
    if near.is_dir():
        raise ConfigError(f"--out {near}: is a folder; name a file")
    work = Path(tempfile.mkdtemp(prefix=f".{near.name}.", dir=near.parent))
    keep = False
    try:
        yield work
    except StageFailed:
        keep = True
        for path in (*work.glob("*.jsonl"), *work.glob("*.parquet")):
            path.unlink()
        raise
    finally:
        if not keep:
            shutil.rmtree(work, ignore_errors=True)
