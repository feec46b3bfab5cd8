"""Keys of the ledger: as they are stored in every warehouse, and spelled in one place alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from warehouse import keys

ROOT = Path(__file__).parents[2]
ROOMS = ("pipeline", "labeling", "training", "warehouse")
SHA = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("key", "stored"),
    [
        (keys.rollouts_key(17, "train"), "round=17/train-rollouts"),
        (keys.rollouts_key(17, "holdout"), "round=17/eval-rollouts"),
        (keys.labels_key(0, "train", "hate", "r1"), "round=0/train-labels/hate@r1"),
        (keys.labels_key(3, "holdout", "hate", "r1"), "round=3/eval-labels/hate@r1"),
        (keys.labelling_name(3, "holdout", "hate"), "round=3/eval-labels-hate"),
        (keys.rewards_key(2), "round=2/rewards"),
        (keys.training_key(2), "round=2/training"),
        (keys.evaluation_key(2), "round=2/evaluation"),
        (keys.closing_key(2, "train"), "round=2/rewards"),
        (keys.closing_key(2, "holdout"), "round=2/evaluation"),
        (keys.acceptance_key(1, SHA), "round=1/acceptance/0123456789abcdef"),
        (keys.decision_key(1, "", "accept", 0), "round=1/acceptance/round/accept-0"),
        (keys.decision_key(1, SHA[:16], "reject", 2),
         "round=1/acceptance/0123456789abcdef/reject-2"),
        (keys.revision_key(1, "kind", "r1"), "round=1/revision/kind@r1"),
        (keys.revising_name(1, "kind"), "round=1/revision-kind"),
        (keys.amendment_key("round=0/train-rollouts", 2), "round=0/train-rollouts/replay-2"),
        (keys.prompts_key(SHA), "prompts/0123456789abcdef"),
        (keys.template_key(SHA), "templates/0123456789abcdef"),
        (keys.recipe_key(SHA), "recipes/0123456789abcdef"),
        (keys.gold_key(SHA), "gold/0123456789abcdef"),
        (keys.gold_pairs_key(SHA), "gold-pairs/0123456789abcdef"),
        (keys.import_key("hh", SHA), "import/hh/0123456789abcdef"),
        (keys.maintenance_key("vacuum", 3), "vacuum/3"),
    ],
)  # fmt: skip
def test_keys_are_what_warehouses_hold(key: str, stored: str):
    assert key == stored


def test_a_key_of_a_round_is_taken_apart():
    assert keys.parse_key("round=12/train-labels/hate@r1") == (12, "train-labels/hate@r1")
    assert keys.parse_key("prompts/0123") is None
    assert keys.parse_key("round=x/rewards") is None


def test_round_1_is_not_round_12():
    assert keys.is_of_round("round=12/rewards", 12)
    assert not keys.is_of_round("round=12/rewards", 1)
    assert keys.is_of_round(keys.rollouts_key(1, "train"), 1, "train")
    assert not keys.is_of_round(keys.rollouts_key(1, "holdout"), 1, "train")
    assert not keys.is_of_round("round=1/training", 1, "train"), "it is no rollouts, no labels"


def test_the_labels_behind_a_verdict_are_read_from_its_key():
    assert keys.accepted_labels(keys.acceptance_key(1, SHA)) == SHA[:16]
    assert keys.accepted_labels(keys.decision_key(1, SHA[:16], "accept", 0)) == SHA[:16]
    assert keys.accepted_labels(keys.rewards_key(1)) is None


def spelled_keys(text: str) -> list[int]:
    """Lines that spell a round's key: `round=`, a number, a slash, at the beginning of a text.

    A folder of data files ends after the number, a metric's name begins with another word.
    """
    found = []
    tree = ast.parse(text)
    inside = {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values}
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            words = [part.value if isinstance(part, ast.Constant) else "0" for part in node.values]
        elif isinstance(node, ast.Constant) and id(node) not in inside | prose:
            words = [node.value] if isinstance(node.value, str) else []
        else:
            continue
        if keys.parse_key("".join(map(str, words)) + "0") is not None:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_nobody_else_spells_a_key(room: str):
    found = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / room).rglob("*.py")
        if path.name != "keys.py" and (lines := spelled_keys(path.read_text()))
    }
    assert found == {}


def test_a_spelled_key_is_found():
    assert spelled_keys('"""round=1/rewards"""\nx = f"round={n}/training"') == [2]
    assert spelled_keys('x = "round=0/eval-rollouts"\ny = f"round={n}/"') == [1, 2]
    assert spelled_keys('x = f"round={n}"\ny = f"ess_seq/round={n}"\nz = "rounds"') == []
