"""The names of work in the ledger: `round=17/train-rollouts` and the like."""

from __future__ import annotations


def rollouts_key(round_number: int, purpose: str) -> str:
    """Ledger key of a round's rollouts of one purpose."""
    return f"round={round_number}/{'train' if purpose == 'train' else 'eval'}-rollouts"


def labels_key(round_number: int, purpose: str, labeler: str, revision: str) -> str:
    """Ledger key of one labeler's labels for a round's rollouts of one purpose."""
    kind = "train" if purpose == "train" else "eval"
    return f"round={round_number}/{kind}-labels/{labeler}@{revision}"


def acceptance_key(round_number: int, label_set: str) -> str:
    """Ledger key of the gate's verdict on a set of labels."""
    return f"round={round_number}/acceptance/{label_set[:16]}"
