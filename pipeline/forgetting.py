"""Forgetting beyond the tables: judges' kept answers go too; what cannot be reached is named.

Not here: the tables (warehouse/maintenance/forgetting.py), the command (commands/maintenance.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from labeling.engines.remote.answer_cache import forget_answers
from pipeline.runtime.shards import answers_file
from warehouse.maintenance.forgetting import Forgetting, forget
from warehouse.maintenance.traces import Traces
from warehouse.store.local_cache import local_folder

# A short answer ("7", "yes") says nothing of a prompt, and many prompts have it.
_SHORTEST_ANSWER = 40


@dataclass(frozen=True)
class Forgotten:
    """What was done in the tables, how many kept answers went, and what stays, one line each."""

    tables: Forgetting
    answers: int
    unreachable: tuple[str, ...]


def forget_prompts(
    root: str, prompt_ids: Iterable[str], *, by: str, why: str, dry_run: bool = False
) -> Forgotten:
    """Forgets prompts in tables and answer file; errors are those of warehouse.maintenance."""
    found: set[str] = set()

    def forget_kept(traces: Traces) -> None:
        found.update(_forget_kept(answers_file(root), traces, dry_run=dry_run))

    # Answers first: killed in between, the tables still say which they are.
    done = forget(root, prompt_ids, by=by, why=why, dry_run=dry_run, before_commit=forget_kept)
    if dry_run:
        forget_kept(done.traces)
    return Forgotten(done, len(found), tuple(_unreachable(root, done)))


def read_ids(path: Path) -> list[str]:
    """Prompt ids out of a text file, one a line; blank lines and `#` comments do not count."""
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return [line for line in lines if line]


def _forget_kept(path: Path, traces: Traces, *, dry_run: bool) -> list[str]:
    """Deletes the answers that became labels of the prompts; returns their requests' hashes.

    The file knows a request by its hash only, so they are found by the request id, or by a long
    text that is a label's very output.
    """
    outputs = {text for text in traces.outputs if len(text) >= _SHORTEST_ANSWER}
    return forget_answers(
        path,
        lambda answer: answer.request_id in traces.request_ids or answer.text in outputs,
        dry_run=dry_run,
    )


def _unreachable(root: str, done: Forgetting) -> list[str]:
    """What may still hold the prompt, or have learnt from it, and what to do about it."""
    lines = [
        f"policy {revision} was trained on it in round {number} ({run}), and every later policy "
        "goes back to it: train anew from an earlier one, or keep them knowingly"
        for number, run, revision in done.policies
    ]
    if done.siblings:
        shown = ", ".join(done.siblings[:5]) + (", ..." if len(done.siblings) > 5 else "")
        lines.append(
            f"other prompts that begin with the same human turn, {len(done.siblings)}: {shown}; "
            "forget them too if they are meant"
        )
    if done.orphans:
        lines.append(
            f"{done.orphans} data files that no commit mentions may hold rows: `roundhouse vacuum` "
            "deletes them when they are a day old"
        )
    folder = local_folder(root)
    lines += [
        *(
            f"{place} holds inputs of an unfinished stage: finish it or delete it"
            for place in sorted(folder.glob("_staging/*"))
        ),
        *(
            f"{place} may quote texts in error messages: delete what is not needed"
            for place in sorted(folder.glob("_logs"))
        ),
        "reports, exports and samples written to files (also report.html): write them anew",
        "models trained by train-dpo, -kto, -sft or -reward-model, and copies of policies",
        "backups, and on S3 older versions of objects in a bucket that keeps versions",
        "evaluations and metrics stay: they are numbers over many prompts",
    ]
    return lines
