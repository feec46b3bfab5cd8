"""A new revision's labels stand beside the old ones; what a round was trained on stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline import relabel
from pipeline.cli import app
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.stages import gate, labels, rewards
from tests.pipeline.judged import (
    Judges,
    config,
    here,
    judges,
    label,
    opened,
    sql,
    store_rollouts,
)
from warehouse.keys import rewards_key
from warehouse.ledger.ledger import Ledger
from warehouse.store import open_store


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch):
    here(monkeypatch, prepared=True)
    with judges() as made:
        yield made


def night(root: Path, judging: Judges, number: int = 0, model: str = "m-1") -> RunConfig:
    """A round's rollouts, labelled by both judges."""
    settings = config(root, judging, model=model)
    for purpose in ("train", "holdout"):
        store_rollouts(root, number, purpose)
        for name in ("api", "metric"):
            label(settings, number, purpose, name)
    judging.asked.clear()
    return settings


def again(settings: RunConfig, *rounds: int, names=(), purposes=("train", "holdout")):
    said: list[str] = []
    moved = relabel.relabel(settings, rounds, names, purposes, said.append)
    return moved, said


def test_another_revision_stands_beside_the_old_one(tmp_path: Path, judging: Judges):
    old = night(tmp_path, judging)
    everything = ("labels", "rollouts", "prompts")
    before = {name: sql(tmp_path, f"from {name} order by all") for name in everything}
    judging.grade = lambda number: 9 - number % 9  # the other way round
    new = config(tmp_path, judging, model="m-2")
    moved, _ = again(new, 0, names=["api"], purposes=["train"])
    assert sorted(judging.asked) == sorted(f"0-t{i}-0" for i in range(10))
    before_it, revision = (labels.revision_of(x, x.labeler("api")) for x in (old, new))
    rows = sql(tmp_path, "from labels order by all")
    assert [row for row in rows if row in before["labels"]] == before["labels"]
    added = [row for row in rows if row not in before["labels"]]
    assert {(row["labeler"], row["revision"], row["is_final"]) for row in added} == {
        ("api", revision, True)
    }
    assert len(added) == 10
    for name in ("rollouts", "prompts"):
        assert sql(tmp_path, f"from {name} order by all") == before[name]
    (one,) = moved
    assert (one.previous, one.pairs, one.statuses) == (before_it, 10, {"ok": 10})
    # grades 1..9 and 1 again, against 9..1 and 9: in the middle on both sides
    old_scores = [(i % 9) / 8 for i in range(10)]
    assert one.mean_difference == pytest.approx(sum(1 - 2 * s for s in old_scores) / 10)
    assert one.rank_correlation == pytest.approx(-1)


def test_the_same_revision_costs_nothing_and_is_said_so(tmp_path: Path, judging: Judges):
    night(tmp_path, judging)
    new = config(tmp_path, judging, model="m-2")
    first, _ = again(new, 0)
    assert len(judging.asked) == 40
    head = Ledger(open_store(tmp_path)).head()
    second, said = again(new, 0)
    assert second == first
    assert len(judging.asked) == 40
    assert Ledger(open_store(tmp_path)).head() == head
    assert sum("is there already; nothing is asked again" in line for line in said) == 4
    assert any(
        "scored by both, mean difference +0.0000, rank correlation 1.000" in line for line in said
    )


def test_going_back_to_a_revision_compares_with_the_one_between(tmp_path: Path, judging: Judges):
    old = night(tmp_path, judging)
    new = config(tmp_path, judging, model="m-2")
    again(new, 0, names=["api"], purposes=["train"])
    moved, _ = again(old, 0, names=["api"], purposes=["train"])
    assert moved[0].previous == labels.revision_of(new, new.labeler("api"))


def test_without_an_earlier_revision_there_is_nothing_to_compare(tmp_path: Path, judging: Judges):
    settings = config(tmp_path, judging)
    store_rollouts(tmp_path, 3, "train", prompts=1)
    moved, said = again(settings, 3)  # no hold-out rollouts: those that are there
    assert [(one.purpose, one.previous, one.pairs) for one in moved] == [("train", None, 0)] * 2
    assert said[-1].endswith("1 rows (ok 1); the first revision here")


def test_labels_that_failed_have_no_part_in_the_comparison(tmp_path: Path, judging: Judges):
    night(tmp_path, judging)
    judging.failing = {f"0-t{i}-0": "429" for i in range(2, 10)}
    moved, said = again(
        config(tmp_path, judging, model="m-2"), 0, names=["api"], purposes=["train"]
    )
    assert (moved[0].statuses, moved[0].pairs) == ({"throttled": 8, "ok": 2}, 2)
    assert moved[0].mean_difference == 0
    assert moved[0].rank_correlation is None  # of two points
    assert "10 rows (throttled 8, ok 2)" in said[-1]


def test_a_refused_round_is_rewarded_by_the_new_labels(tmp_path: Path, judging: Judges):
    judging.failing = {f"0-t{i}-0": "429" for i in range(10)}
    old = night(tmp_path, judging)
    assert not gate.gate(old, opened(old), 0).is_accepted
    judging.failing = {}
    new = config(tmp_path, judging, model="m-2")
    again(new, 0)
    assert gate.gate(new, opened(new), 0).is_accepted
    assert not gate.gate(old, opened(old), 0).is_accepted
    rewards.reward(new, opened(new), rewards_key(0), 0)
    used = "select distinct revision from labels where label_id in " \
           "(select unnest(label_ids) from rewards)"  # fmt: skip
    revision = labels.revision_of(new, new.labeler("api"))
    assert sql(tmp_path, used) == [{"revision": revision}]


def test_a_rewarded_round_keeps_its_rewards(tmp_path: Path, judging: Judges):
    old = night(tmp_path, judging)
    rewards.reward(old, opened(old), rewards_key(0), 0)
    before = sql(tmp_path, "from rewards order by rollout_id")
    new = config(tmp_path, judging, model="m-2")
    judging.grade = lambda number: 9 - number % 9
    again(new, 0)
    rewards.reward(new, opened(new), rewards_key(0), 0)
    assert sql(tmp_path, "from rewards order by rollout_id") == before
    assert {len(row["label_ids"]) for row in before} == {1}
    current = "select distinct revision from current_labels where labeler = 'api'"
    revision = labels.revision_of(old, old.labeler("api"))
    assert {"revision": revision} in sql(tmp_path, f"{current} and purpose = 'train'")


def test_labels_are_paid_for_once_also_where_their_rows_are_gone(tmp_path: Path, judging: Judges):
    night(tmp_path, judging)
    other = tmp_path / "other"
    store_rollouts(other, 0, "train")
    (other / "_cache").mkdir()
    (tmp_path / "_cache" / "answers.sqlite").rename(other / "_cache" / "answers.sqlite")
    label(config(other, judging), 0, "train", "api")
    assert judging.asked == []
    rows = sql(other, "select distinct is_cached, cost_usd, status from labels")
    assert rows == [{"is_cached": True, "cost_usd": 0.0, "status": "ok"}]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--round", "7"], "--round 7: .* has no train or holdout rollouts of it"),
        (["--round", "0", "--labeler", "nobody"], "--labeler nobody: the configuration has"),
    ],
)
def test_wrong_use_is_said_before_anything_is_asked(
    tmp_path: Path, judging: Judges, words: list[str], why: str
):
    settings = night(tmp_path, judging)
    file = tmp_path / "night.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    result = CliRunner().invoke(app, ["relabel", str(file), *words])
    with pytest.raises(ConfigError, match=why):
        raise result.exception or AssertionError(result.output)
    assert judging.asked == []
    done = CliRunner().invoke(app, ["relabel", str(file), "--round", "0", "--purpose", "train"])
    assert (done.exit_code, done.output.count("the first revision here")) == (0, 2)
