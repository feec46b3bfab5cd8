"""The names of work in the ledger: `round=17/train-rollouts` and the like.

Whoever publishes, looks for or reads a piece of work takes its key from here; nobody else spells
one. Not here: folders of data files (ledger/data_files.py), which look alike and say nothing.
"""

from __future__ import annotations

import re
from typing import NamedTuple

GOLD_PAIRS = "gold-pairs/"  # how the keys of all files of pairs begin
_SHORT = 16  # hex digits of a digest in a key
_ROUND = re.compile(r"round=(\d+)/(.+)")
_KINDS = {"train": "train", "holdout": "eval"}  # purpose -> how keys call it


class RoundWork(NamedTuple):
    """A key of a round, taken apart: `train-rollouts` of round 17."""

    round: int
    work: str


def parse_key(key: str) -> RoundWork | None:
    """What a key of a round says; None for any other key."""
    match = _ROUND.fullmatch(key)
    return RoundWork(int(match[1]), match[2]) if match else None


def is_of_round(key: str, round_number: int, purpose: str | None = None) -> bool:
    """Whether the key is work of this round; with `purpose`, of its rollouts and labels alone."""
    found = parse_key(key)
    if found is None or found.round != round_number:
        return False
    return purpose is None or found.work.startswith(f"{_KINDS[purpose]}-")


def rollouts_key(round_number: int, purpose: str) -> str:
    """A round's rollouts of one purpose (`train` or `holdout`)."""
    return f"round={round_number}/{_KINDS[purpose]}-rollouts"


def labels_key(round_number: int, purpose: str, labeler: str, revision: str) -> str:
    """One labeler's labels for a round's rollouts of one purpose."""
    return f"{labels_prefix(round_number, purpose, labeler)}{revision}"


def labels_prefix(round_number: int, purpose: str, labeler: str) -> str:
    """How the keys of one labeler's labels begin, whatever the revision."""
    return f"round={round_number}/{_KINDS[purpose]}-labels/{labeler}@"


def labelling_name(round_number: int, purpose: str, labeler: str) -> str:
    """The work of one labeler before its revision is known: names its stage, never a commit."""
    return f"round={round_number}/{_KINDS[purpose]}-labels-{labeler}"


def revision_key(round_number: int, name: str, recipe: str) -> str:
    """A round's revised completions by one recipe."""
    return f"round={round_number}/revision/{name}@{recipe}"


def revising_name(round_number: int, name: str) -> str:
    """The work of a reviser before its recipe is known: names its stage, never a commit."""
    return f"round={round_number}/revision-{name}"


def rewards_key(round_number: int) -> str:
    """A round's rewards."""
    return f"round={round_number}/rewards"


def training_key(round_number: int) -> str:
    """The training on a round."""
    return f"round={round_number}/training"


def evaluation_key(round_number: int) -> str:
    """The hold-out numbers of policy `round_number`."""
    return f"round={round_number}/evaluation"


def closing_key(round_number: int, purpose: str) -> str:
    """The work that uses a round's labels of this purpose: they stand once it is published."""
    return (rewards_key if purpose == "train" else evaluation_key)(round_number)


def acceptance_key(round_number: int, label_set: str) -> str:
    """The gate's verdict on a set of labels."""
    return f"round={round_number}/acceptance/{label_set[:_SHORT]}"


def accepted_labels(key: str) -> str | None:
    """The set of labels (16 hex digits) that an acceptance key is about; None for other keys."""
    found = parse_key(key)
    if found is None or not found.work.startswith("acceptance/"):
        return None
    return found.work.split("/")[1]


def decision_key(round_number: int, label_set: str, verdict: str, number: int) -> str:
    """A person's verdict, the round's `number`th; `label_set` is empty for the round as it is."""
    return f"{acceptance_key(round_number, label_set or 'round')}/{verdict}-{number}"


def amendment_key(key: str, number: int) -> str:
    """The `number`th commit that does a part of the work `key` again."""
    return f"{key}/replay-{number}"


def prompts_key(source_sha256: str) -> str:
    """The prompts of one source."""
    return f"prompts/{source_sha256[:_SHORT]}"


def template_key(sha256: str) -> str:
    """A text that many rows name by its hash: a judge's prompt, a set of sentinels."""
    return f"templates/{sha256[:_SHORT]}"


def recipe_key(sha256: str) -> str:
    """A reward's recipe with its frozen scale."""
    return f"recipes/{sha256[:_SHORT]}"


def gold_key(sha256: str) -> str:
    """People's verdicts, by the hash of their rows."""
    return f"gold/{sha256[:_SHORT]}"


def gold_pairs_key(sha256: str) -> str:
    """A file of pairs that people ranked, by its hash."""
    return f"{GOLD_PAIRS}{sha256[:_SHORT]}"


def import_key(source: str, sha256: str) -> str:
    """A file of scored completions of a named source, by its hash."""
    return f"{import_prefix(source)}{sha256[:_SHORT]}"


def import_prefix(source: str) -> str:
    """How the keys of everything imported from a source begin."""
    return f"import/{source}/"


def maintenance_key(operation: str, number: int) -> str:
    """A forget, vacuum or compact, the warehouse's `number`th."""
    return f"{operation}/{number}"
