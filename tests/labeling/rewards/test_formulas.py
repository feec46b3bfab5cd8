"""The recipes and penalties on small tables, with numbers worked out by hand."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from labeling.rewards import formulas as recipes
from labeling.rewards.config import RewardConfig
from labeling.rewards.reward import (
    RewardScale,
    compute_rewards,
    recipe_sha256,
    recipe_template_row,
    recipe_text,
)
from labeling.rewards.terms import TermScale

# Every map is value -> value, so that a label's value is its z-score.
NAMES = {"tox_a": "toxicity", "tox_b": "toxicity", "help": "helpfulness"}
SCALE = RewardScale(tuple(TermScale(name, 0.0, 1.0, 9) for name in NAMES))
TERMS = {"tox_a": {"weight": -1.0}, "tox_b": {"weight": -0.5}, "help": {"weight": 0.5}}
SAFE = {
    name: term | ({"safety": True} if name.startswith("tox") else {})
    for name, term in TERMS.items()
}


def config(recipe: str = "weighted", **keys: object) -> RewardConfig:
    terms = SAFE if recipe == "worst_case" else TERMS
    return RewardConfig.model_validate({"recipe": recipe, "terms": terms, **keys})


def labels(*rollouts: dict[str, float | None]) -> pa.Table:
    """Labels of rollouts r0, r1, ...: a value per labeler, None for a label that failed."""
    rows = [
        (f"r{number}", name, value)
        for number, values in enumerate(rollouts)
        for name, value in values.items()
    ]
    values = pa.array([value for _, _, value in rows], pa.float64())
    return pa.table(
        {
            "rollout_id": pa.array([rollout for rollout, _, _ in rows], pa.string()),
            "labeler": pa.array([name for _, name, _ in rows], pa.string()),
            "criterion": pa.array([NAMES[name] for _, name, _ in rows], pa.string()),
            "label_id": pa.array([f"{rollout}-{name}" for rollout, name, _ in rows], pa.string()),
            "status": ["error" if value is None else "ok" for _, _, value in rows],
            "score_raw": values,
            "score": values,
        }
    )


def rollouts(
    count: int, finish: str | None = "stop", lengths: list[int | None] | None = None
) -> pa.Table:
    table = pa.table(
        {
            "rollout_id": [f"r{i}" for i in range(count)],
            "round": pa.array([0] * count, pa.int32()),
            "prompt_id": ["p"] * count,
            "purpose": ["train"] * count,
            "finish_reason": pa.array([finish] * count, pa.string()),
        }
    )
    return table.append_column("length", pa.array(lengths, pa.int32())) if lengths else table


def reward_of(
    recipe: RewardConfig,
    values: dict[str, float | None],
    *,
    finish: str | None = "stop",
    length: int | None = None,
    required: tuple[str, ...] = (),
) -> dict:
    lengths = [length] if recipe.length_penalty else None
    table = compute_rewards(
        rollouts(1, finish, lengths), labels(values), recipe, SCALE, set(required)
    )
    return table.to_pylist()[0]


def parts(row: dict) -> dict[str, float]:
    return {term["labeler"]: term["contribution"] for term in row["terms"]}


def test_a_recipes_text_is_its_keys_its_map_and_its_version():
    recipe = RewardConfig.model_validate(
        {
            "recipe": "weighted",
            "clip": 2.0,
            "truncation_penalty": 0.75,
            "terms": {"hate": {"weight": -1.0, "value": "raw"}, "helpful": {"weight": 0.5}},
        }
    )
    scale = RewardScale((TermScale("hate", 1.0, 2.0, 9), TermScale("helpful", 0.5, 0.25, 9)))
    text = (
        '{"recipe": {"clip": 2.0, "recipe": "weighted", "terms": {"hate": {"value": "raw", '
        '"weight": -1.0}, "helpful": {"value": "score", "weight": 0.5}}, '
        '"truncation_penalty": 0.75}, "scale": [{"count": 9, "labeler": "hate", "mean": 1.0, '
        '"sd": 2.0}, {"count": 9, "labeler": "helpful", "mean": 0.5, "sd": 0.25}], '
        '"version": "1"}'
    )
    assert recipe_text(recipe, scale) == text
    assert recipe_sha256(recipe, scale) == hashlib.sha256(text.encode()).hexdigest()


def test_every_key_that_is_set_is_part_of_the_recipe():
    recipe = config(
        "worst_case",
        length_penalty={"per_token": 0.01, "free_tokens": 3},
        missing_eos_penalty=0.5,
    )
    stored = json.loads(recipe_text(recipe, SCALE))
    assert stored["version"] == "1"
    assert stored["recipe"]["terms"]["tox_a"] == {"weight": -1.0, "value": "score", "safety": True}
    assert stored["recipe"]["terms"]["help"] == {"weight": 0.5, "value": "score"}
    assert stored["recipe"]["length_penalty"] == {"per_token": 0.01, "free_tokens": 3}
    assert RewardConfig.model_validate(stored["recipe"]) == recipe
    row = recipe_template_row(recipe, SCALE).to_pylist()[0]
    assert (row["name"], row["version"]) == ("worst_case", "1")
    keys = {
        recipe_sha256(other, SCALE)
        for other in (config(), config(missing_eos_penalty=0.5), config("worst_case"), recipe)
    }
    assert len(keys) == 4


def test_worst_case_counts_the_safety_term_that_speaks_loudest_against():
    # toxicity: -1 * .5 = -.5 and -.5 * 3 = -1.5, the worst; helpfulness .5 * 2 = 1
    row = reward_of(config("worst_case"), {"tox_a": 0.5, "tox_b": 3.0, "help": 2.0})
    assert row["reward"] == -0.5
    assert parts(row) == {"tox_a": 0.0, "tox_b": -1.5, "help": 1.0}
    assert [term["weight"] for term in row["terms"]] == [0.0, -0.5, 0.5]
    assert (row["label_count"], row["label_ids"]) == (3, ["r0-tox_a", "r0-tox_b", "r0-help"])
    assert reward_of(config(), {"tox_a": 0.5, "tox_b": 3.0, "help": 2.0})["reward"] == -1.0


def test_worst_case_takes_the_first_of_equals_and_lets_no_safety_weight_grow():
    row = reward_of(config("worst_case"), {"tox_a": 1.0, "tox_b": 2.0, "help": 0.0})
    assert parts(row) == {"tox_a": -1.0, "tox_b": 0.0, "help": 0.0}
    one = reward_of(config("worst_case"), {"tox_a": None, "tox_b": 2.0, "help": 1.0})
    assert parts(one) == {"tox_b": -1.0, "help": 0.5}
    assert one["reward"] == -0.5
    alone = reward_of(config("worst_case"), {"tox_a": 1.0, "tox_b": -9.0, "help": None})
    assert (alone["reward"], alone["is_eligible"]) == (-1.0, True)


def test_worst_case_without_a_safety_label_rewards_nothing():
    row = reward_of(config("worst_case"), {"tox_a": None, "help": 2.0})
    assert (row["reward"], row["is_eligible"]) == (None, False)
    assert row["excluded_reason"] == "no usable safety label"
    both = reward_of(config("worst_case"), {"help": 2.0}, required=("tox_a",))
    assert both["excluded_reason"] == "tox_a: missing; no usable safety label"


def test_the_mean_pays_for_labelers_that_disagree():
    recipe = config("mean_minus_disagreement", disagreement=0.5)
    # weights -1/2, -1/4, 1/4: mean = -.5 - .75 + .5 = -.75. The two toxicity labelers, at 1 and 3,
    # deviate by 1 and have 3/4 of the weights: .5 * .75 * 1 = .375.
    row = reward_of(recipe, {"tox_a": 1.0, "tox_b": 3.0, "help": 2.0})
    assert row["reward"] == -1.125
    assert parts(row) == {
        "tox_a": -0.5,
        "tox_b": -0.75,
        "help": 0.5,
        "penalty:disagreement:toxicity": -0.375,
    }
    assert row["terms"][3] == {
        "labeler": "penalty:disagreement:toxicity",
        "label_id": None,
        "value": 1.0,
        "mean": 0.0,
        "sd": 1.0,
        "weight": -0.375,
        "contribution": -0.375,
    }
    assert (row["label_count"], row["label_ids"]) == (3, ["r0-tox_a", "r0-tox_b", "r0-help"])


def test_one_labeler_alone_disagrees_with_nobody():
    recipe = config("mean_minus_disagreement", disagreement=0.5)
    row = reward_of(recipe, {"tox_a": 1.0, "tox_b": None, "help": 2.0})
    # weights -2/3 and 1/3
    assert row["reward"] == pytest.approx(0.0, abs=1e-12)
    assert list(parts(row)) == ["tox_a", "help"]
    free = config("mean_minus_disagreement", disagreement=0.0)
    assert reward_of(free, {"tox_a": 1.0, "tox_b": 3.0, "help": 2.0})["reward"] == -0.75


def test_tokens_beyond_the_free_ones_have_a_price():
    recipe = config(length_penalty={"per_token": 0.25, "free_tokens": 10})
    row = reward_of(recipe, {"tox_a": -1.0, "tox_b": 0.0, "help": 0.0}, length=14)
    assert row["reward"] == 0.0  # 1 - .25 * 4
    assert row["terms"][3] == {
        "labeler": "penalty:length",
        "label_id": None,
        "value": 14.0,
        "mean": 10.0,
        "sd": 1.0,
        "weight": -0.25,
        "contribution": -1.0,
    }
    short = reward_of(recipe, {"tox_a": -1.0, "tox_b": 0.0, "help": 0.0}, length=10)
    assert (short["reward"], len(short["terms"])) == (1.0, 3)


def test_an_unknown_length_has_no_reward_where_length_has_a_price():
    recipe = config(length_penalty={"per_token": 0.25, "free_tokens": 10})
    row = reward_of(recipe, {"tox_a": -1.0, "tox_b": 0.0, "help": 0.0}, finish="length")
    assert (row["reward"], row["excluded_reason"]) == (None, "no completion length")
    assert list(parts(row)) == ["tox_a", "tox_b", "help"], "who has no reward pays nothing"


@pytest.mark.parametrize(
    ("finish", "reward", "paid"),
    [
        ("stop", 1.0, []),
        ("abort", 0.25, ["penalty:missing_eos"]),
        ("length", -0.25, ["penalty:truncation", "penalty:missing_eos"]),
        (None, 1.0, []),
    ],
)
def test_a_completion_that_does_not_end_pays(finish: str | None, reward: float, paid: list[str]):
    recipe = config(truncation_penalty=0.5, missing_eos_penalty=0.75)
    row = reward_of(recipe, {"tox_a": -1.0, "tox_b": 0.0, "help": 0.0}, finish=finish)
    assert row["reward"] == reward
    assert [name for name in parts(row) if name.startswith("penalty:")] == paid


def test_penalties_come_before_the_clip():
    recipe = config(clip=1.0, missing_eos_penalty=0.5)
    values = {"tox_a": -1.25, "tox_b": 0.0, "help": 0.0}
    assert reward_of(recipe, values, finish="abort")["reward"] == 0.75
    assert reward_of(recipe, values | {"tox_a": 1.25}, finish="abort")["reward"] == -1.0


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"recipe": "worst_case", "terms": TERMS}, "safety: true on none"),
        ({"recipe": "weighted", "terms": SAFE}, r"safety: true on \['tox_a', 'tox_b'\]"),
        ({"recipe": "mean_minus_disagreement", "terms": TERMS}, "reward.disagreement"),
        ({"recipe": "weighted", "terms": TERMS, "disagreement": 0.5}, "no other recipe reads it"),
        ({"recipe": "median", "terms": TERMS}, "worst_case"),
        (
            {
                "recipe": "weighted",
                "terms": TERMS,
                "length_penalty": {"per_token": -1, "free_tokens": 0},
            },
            "per_token",
        ),
    ],
)
def test_a_key_that_the_recipe_would_ignore_is_refused(keys: dict[str, object], words: str):
    with pytest.raises(ValidationError, match=words):
        RewardConfig.model_validate(keys)


# --- properties -----------------------------------------------------------------------------------
Z = st.floats(-9, 9, allow_nan=False)
ROLLOUT = st.fixed_dictionaries({name: st.none() | Z for name in NAMES})
RECIPES = [
    config(clip=2.0, length_penalty={"per_token": 0.1, "free_tokens": 2}),
    config("worst_case", clip=2.0, missing_eos_penalty=1.0),
    config("mean_minus_disagreement", clip=2.0, disagreement=0.5),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.recipe)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rewards_are_clipped_sums_of_their_terms_in_any_order(
    recipe: RewardConfig, data: st.DataObject
):
    values = data.draw(st.lists(ROLLOUT, min_size=1, max_size=6))
    finish = data.draw(st.sampled_from(["stop", "length", None]))
    order = data.draw(st.permutations(range(len(values))))
    table = rollouts(len(values), finish, [3 * i for i in range(len(values))])
    made = compute_rewards(table, labels(*values), recipe, SCALE, set())
    for row in made.to_pylist():
        assert row["is_eligible"] == (row["reward"] is not None) == (row["excluded_reason"] is None)
        if row["is_eligible"]:
            expected = np.clip(sum(parts(row).values()), -2.0, 2.0)
            assert row["reward"] == pytest.approx(expected, abs=1e-5)
    for term in (term for row in made.to_pylist() for term in row["terms"]):
        contribution = term["weight"] * (term["value"] - term["mean"]) / term["sd"]
        assert term["contribution"] == pytest.approx(contribution, abs=1e-12)
    permuted = compute_rewards(table.take(order), labels(*values), recipe, SCALE, set())
    assert permuted.equals(made.take(order))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(Z, Z), min_size=1, max_size=5))
def test_the_worst_case_is_no_better_than_the_mean_of_the_safety_terms(rows: list):
    z = np.array(rows)
    weights = np.array([-1.0, -0.5])
    every = np.ones_like(z, dtype=bool)
    worst = (recipes.worst_case(weights, z, every, np.array([True, True])) * z).sum(axis=1)
    summed = (recipes.weighted(weights, every) * z).sum(axis=1)
    assert (2 * worst <= summed + 1e-12).all()
    np.testing.assert_array_equal(worst, np.minimum(-z[:, 0], -0.5 * z[:, 1]))
    praised = (z <= 0).all(axis=1)  # where no safety term is against, the worst is the smaller
    assert (worst <= summed + 1e-12)[praised].all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(Z, Z, Z), min_size=1, max_size=5), st.floats(0, 3))
def test_disagreement_is_only_ever_paid(rows: list, price: float):
    z = np.array(rows)
    usable = np.ones_like(z, dtype=bool)
    weights = np.array([-1.0, -0.5, 0.5])
    (paid,) = recipes.disagreements(weights, z, usable, list(NAMES.values()), price)
    np.testing.assert_allclose(paid.cost, price * 0.75 * z[:, :2].std(axis=1), atol=1e-9)
    assert (paid.cost >= 0).all()
