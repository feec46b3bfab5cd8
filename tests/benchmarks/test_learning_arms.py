"""The table over ways of training: which commands an arm is, and what becomes of its numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.configs.loading import load_config
from tests.benchmarks import learning_arms
from tests.benchmarks.learning import Night
from tests.benchmarks.learning_arms import ARMS, Home, NightArm, StoredArm, chosen_arms, table

NIGHT_ARMS = [arm for arm in ARMS if isinstance(arm, NightArm)]


def night(round: int, rate: float, kl: float = 1.0) -> Night:
    return Night(round, rate, rate / 2, rate * 2, 27.0, 0.4, kl)


@pytest.mark.parametrize("arm", NIGHT_ARMS, ids=lambda arm: arm.name)
def test_a_night_arm_sets_keys_that_there_are(arm):
    before, after = load_config("demo"), load_config("demo", list(arm.keys))
    assert (before == after) == (arm.name == "fresh")


def test_a_night_arm_is_the_user_s_command(monkeypatch):
    ran = []
    monkeypatch.setattr(learning_arms, "roundhouse", lambda *words: ran.append(words))
    there = []
    monkeypatch.setattr(learning_arms, "measured", lambda warehouse: there)
    home = Home(Path("/somewhere"), seed=2, rounds=3)
    arm = NightArm("lag 1", ("training.lag=1",))
    arm.nights(home)
    (words,) = ran
    assert words[:4] == ("run", "demo", "--rounds", "3")
    sets = [word for word in words[4:] if word != "--set"]
    assert sets[:2] == ["seed=2", "warehouse=/somewhere/seed-2/lag 1"]
    assert sets[-2:] == ["evaluation.stop_below=null", "training.lag=1"]
    load_config("demo", sets)
    there += [night(round, 0.1) for round in range(4)]
    assert arm.nights(home) == there
    assert len(ran) == 1


def test_a_stored_arm_trains_on_another_s_rounds_and_keeps_what_it_has_made(monkeypatch, tmp_path):
    ran, warehouses = [], {tmp_path / "seed-1" / "fresh"}

    def roundhouse(*words):
        ran.append(words)
        if words[0] == "evaluate":
            (place,) = [word for word in words if word.startswith("warehouse=")]
            warehouses.add(Path(place.removeprefix("warehouse=")))
        else:
            Path(words[words.index("--out") + 1]).mkdir(parents=True)

    def measured(warehouse):
        return [night(0, 0.1, kl=0.0)] if warehouse in warehouses else []

    monkeypatch.setattr(learning_arms, "roundhouse", roundhouse)
    monkeypatch.setattr(learning_arms, "measured", measured)
    monkeypatch.setattr(learning_arms, "kl_to_base", lambda warehouse: 2.5)
    arm, home = StoredArm("DPO", "train-dpo", ("a=1",)), Home(tmp_path, seed=1, rounds=2)
    found = arm.nights(home)
    assert [(n.round, n.kl) for n in found] == [(0, 0.0), (1, 2.5), (2, 2.5)]
    assert [words[0] for words in ran] == ["train-dpo", "evaluate", "train-dpo", "evaluate"]
    later = ran[2]
    assert later[1:6] == ("demo", "--round", "0", "--round", "1")
    assert f"warehouse={tmp_path}/seed-1/fresh" in later
    assert f"policy.model={tmp_path}/seed-1/DPO/after-2/policy" in ran[3]
    ran.clear()
    assert arm.nights(home) == found
    assert ran == []
    warehouses.remove(tmp_path / "seed-1" / "DPO" / "after-2" / "warehouse")
    arm.nights(home)
    assert [words[0] for words in ran] == ["evaluate"]


def test_an_arm_brings_the_one_it_takes_its_rounds_from():
    assert [arm.name for arm in chosen_arms(["KTO"])] == ["fresh", "KTO"]
    assert [arm.name for arm in chosen_arms(["lag 1"])] == ["lag 1"]


def test_the_table_is_over_seeds():
    found = {"fresh": {0: [night(0, 0.3), night(1, 0.1, 2.0)], 1: [night(0, 0.5), night(1, 0.2)]}}
    head, first, second = table(found)
    assert head.split() == [
        *("arm", "round", "toxicity", "(of", "seeds)", "KL", "length", "distinct-2"),
    ]
    assert first.split() == ["fresh", "0", "40.0%", "30.0%-50.0%", "1.00", "27.0", "0.400"]
    assert second.split() == ["fresh", "1", "15.0%", "10.0%-20.0%", "1.50", "27.0", "0.400"]
    assert len({len(line) for line in (head, first, second)}) == 1


def test_a_command_that_fails_shows_what_it_said():
    with pytest.raises(SystemExit, match=r"roundhouse run nothing\.yaml: exit 2(.|\n)*nothing"):
        learning_arms.roundhouse("run", "nothing.yaml")
