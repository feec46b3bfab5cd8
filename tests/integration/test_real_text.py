"""One small night on real text: HH's prompts, starters made of HH, Davidson and ToxiGen.

With the tiny budget, whose models know nothing: what is held is that the data goes all the way
through. The fall of toxicity is what `roundhouse run hh-davidson` shows, in minutes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import roundhouse
from tests.integration import nights
from warehouse.catalog.catalog import connect

DATA = Path(__file__).parents[3] / "shared/data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("real-text") / "warehouse"
    nights.run(
        root,
        f"prompts.path={DATA}/hh-rlhf/train.jsonl.gz",
        f"policy.starter_text={DATA}",
        "policy.starter_budget=tiny",
        "labelers.toxicity.self_test=[]",
        "labelers.metric.self_test=[]",
        "rounds=1",
        config="hh-davidson",
    )
    return root


def test_the_night_ends_with_the_next_policys_numbers(night: Path):
    keys = [key.partition("@")[0] for key in nights.keys(night)]
    for work in ("train-rollouts", "rewards", "training", "eval-labels/metric", "evaluation"):
        assert f"round=0/{work}" in keys
    assert "round=1/evaluation" in keys


def test_prompts_rollouts_labels_and_rewards_are_those_of_the_data(night: Path):
    con = connect(night)
    sources = con.sql("select distinct source from prompts").fetchall()
    purposes = con.sql("select purpose, count(*) from prompts group by all order by all").fetchall()
    rewarded = con.sql("select count(*) from rewards where is_eligible").fetchall()
    # Not all: such a policy may also say nothing, and nothing has no label.
    labelled = con.sql("select avg((status = 'ok')::int) from labels").fetchall()
    rates = con.sql(
        "select round, labeler, completions >= 72 from toxicity_by_round order by all"
    ).fetchall()
    con.close()
    assert sources == [("hh",)]
    (held, holdout), (trained, train) = purposes
    assert (held, trained) == ("holdout", "train")
    assert 0.15 < holdout / (holdout + train) < 0.25
    assert train > 1_000
    assert rewarded[0][0] > 0
    assert labelled[0][0] > 0.95
    assert rates == [(r, name, True) for r in (0, 1) for name in ("metric", "toxicity")]


def test_the_data_must_be_given(tmp_path: Path):
    sets = [f"warehouse={tmp_path / 'w'}", f"policy.starter_text={tmp_path}"]
    done = roundhouse("run", "hh-davidson", "--set", sets[0], "--set", sets[1], code=2)
    assert "policy.starter_text" in done.stderr
    assert "no such file" in done.stderr
