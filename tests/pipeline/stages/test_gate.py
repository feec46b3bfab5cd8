"""The gate over a stored round, a person's verdict over the gate, and what follows from both."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.configs.loading import load_config
from pipeline.errors import ConfigError
from pipeline.night import next_round
from pipeline.stages import gate as gate_module
from pipeline.stages import rewards
from pipeline.stages.decisions import ACCEPT, REJECT, decide, last_decision
from pipeline.stages.gate import gate, is_reopened
from pipeline.stages.rounds import awaits_training, round_row
from tests.commands import roundhouse
from tests.pipeline.judged import opened
from tests.warehouse.builder import Row, label, publish_rows, rollout
from tests.warehouse.builder import round_row as a_round
from tests.warehouse.opened import read_table
from warehouse.catalog.catalog import connect
from warehouse.handle import Warehouse
from warehouse.keys import acceptance_key
from warehouse.ledger.ledger import Ledger
from warehouse.publish import publish
from warehouse.store import open_store

LABELERS = {"toxicity": "toxicity", "helpful-judge": "helpfulness", "metric": "toxicity"}
WHY = "looked at all of them"


@pytest.fixture(autouse=True)
def _one_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is loaded here: every labeler has revision r1."""
    for module in (gate_module, rewards):
        monkeypatch.setattr(module, "revision_of", lambda config, labeler: "r1")


def config(root: Path, *sets: str) -> RunConfig:
    return load_config("demo", [f"warehouse={root}", *sets])


def sentinel(number: int, name: str, index: int, score: float, gold: float, kind: str) -> Row:
    return {
        "round": number, "labeler": name, "revision": "r1", "sentinel_id": f"s{index}",
        "kind": kind, "criterion": LABELERS[name], "gold": gold, "status": "ok", "score": score,
        "raw_output": "",
    }  # fmt: skip


def labeled_night(root: Path, number: int = 0, count: int = 40, **broken: object) -> None:
    """A round of `count` train rollouts with good labels and sentinels; `broken` is the judge's."""
    rows = [rollout(number, f"p{i}", purpose="train") for i in range(count)]
    publish_rows(root, f"round={number}/train-rollouts", number, rollouts=rows)
    for name, criterion in LABELERS.items():
        mine = broken if name == "helpful-judge" else {}
        labels = [
            label(row, 0.5, name, criterion=criterion, **mine.get("label", {})) for row in rows
        ]
        if "failing" in mine:
            labels[: mine["failing"]] = [
                label(row, None, name, criterion=criterion, status="malformed")
                for row in rows[: mine["failing"]]
            ]
        score = mine.get("score", lambda gold: gold)
        known = [sentinel(number, name, i, score(i % 2), i % 2, "gold") for i in range(10)]
        known.append(sentinel(number, name, 10, mine.get("canary", 0.0), 0.0, "constant"))
        publish_rows(
            root, f"round={number}/train-labels/{name}@r1", number,
            labels=labels[: mine.get("labels", count)], sentinels=known,
        )  # fmt: skip


def refused_night(root: Path, settings: RunConfig) -> str:
    """A night that the gate refused; returns the key of its verdict."""
    labeled_night(root, canary=0.9)
    judged = gate(settings, opened(settings), 0)
    key = acceptance_key(0, judged.label_set_sha256)
    row = a_round(
        0, status="refused", reason=judged.reason, policy_revision_in="policy-0",
        policy_revision_out="policy-0", recipe_sha256=None,
    )  # fmt: skip
    publish_rows(root, key, 0, rounds=[row])
    return key


def test_a_healthy_night_is_accepted(tmp_path: Path) -> None:
    labeled_night(tmp_path)
    judged = gate(config(tmp_path), Warehouse.open(tmp_path), 0)
    assert (judged.is_accepted, judged.reason) == (True, "")
    assert {f.labeler for f in judged.findings} == set(LABELERS)
    assert any(f.check == "best canary" for f in judged.findings)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"labels": 30}, "helpful-judge: coverage 0.75, wanted >= 0.95"),
        ({"failing": 4}, "helpful-judge: ok rate 0.9, wanted >= 0.95 (ok 36, malformed 4)"),
        ({"canary": 0.9}, "helpful-judge: best canary 0.9, wanted <= 0.5 (s10)"),
        ({"score": lambda gold: 1.0}, "helpful-judge: sentinel kappa 0, wanted >= 0.2"),
        ({"score": lambda gold: 1.0 - gold}, "helpful-judge: sentinel kappa -1, wanted >= 0.2"),
    ],
)
def test_a_night_is_refused_for_what_its_judge_did(
    tmp_path: Path, broken: dict, message: str
) -> None:
    labeled_night(tmp_path, **broken)
    judged = gate(config(tmp_path), Warehouse.open(tmp_path), 0)
    assert not judged.is_accepted
    assert message in judged.reason
    relaxed = config(tmp_path, "labelers.helpful-judge.required=false")
    assert gate(relaxed, opened(relaxed), 0).is_accepted, "only a required labeler refuses a night"
    assert any(not f.is_passed for f in gate(relaxed, opened(relaxed), 0).findings)


def test_a_judge_is_held_against_its_last_accepted_night(tmp_path: Path) -> None:
    labeled_night(tmp_path, 0)
    publish_rows(tmp_path, "round=0/rewards", 0)
    labeled_night(tmp_path, 1, score=lambda gold: 0.7 * gold + 0.2 * (1 - gold))
    judged = gate(config(tmp_path), Warehouse.open(tmp_path), 1)
    # Yes and no are as they were, the scores are not: -.3 and +.2 have a mean of -.05.
    assert judged.is_accepted
    strict = config(tmp_path, "gate.max_sentinel_shift=0.1")
    assert (
        "helpful-judge: sentinel shift in standard errors" in gate(strict, opened(strict), 1).reason
    )
    worse = config(tmp_path, "gate.min_sentinel_kappa=-1")
    labeled_night(tmp_path, 2, score=lambda gold: 0.4)
    assert "drop of the sentinel kappa 1, wanted <= 0.1" in gate(worse, opened(worse), 2).reason


def test_without_sentinels_only_the_labels_are_looked_at(tmp_path: Path) -> None:
    labeled_night(tmp_path, canary=0.9)
    judged = gate(config(tmp_path, "gate.sentinels=none"), Warehouse.open(tmp_path), 0)
    assert judged.is_accepted
    assert "best canary" not in {f.check for f in judged.findings}


def test_a_set_that_is_not_there_is_an_error_of_the_key(tmp_path: Path) -> None:
    labeled_night(tmp_path)
    with pytest.raises(ConfigError, match=r"gate\.sentinels: sentinels mine: neither a file"):
        gate(config(tmp_path, "gate.sentinels=mine"), Warehouse.open(tmp_path), 0)


def test_a_refused_night_stays_refused_until_somebody_decides(tmp_path: Path) -> None:
    settings = config(tmp_path)
    key = refused_night(tmp_path, settings)
    assert next_round(settings, opened(settings)) == 1
    said = decide(Warehouse.open(tmp_path), 0, ACCEPT, " anna ", WHY)
    assert said.startswith("round 0 is accepted, by anna: the next `roundhouse run`")
    row = round_row(Warehouse.open(tmp_path), 0)
    assert row is not None
    assert (row["status"], row["decided_by"], row["decided_why"]) == ("accepted", "anna", WHY)
    assert row["decided_at"] is not None
    assert "best canary" in row["reason"], "what the gate said is still there"
    assert read_table(tmp_path, "rounds").num_rows == 1
    assert next_round(settings, opened(settings)) == 0, (
        "the next run trains it before a new night begins"
    )
    judged = gate(settings, opened(settings), 0)
    assert (judged.is_accepted, judged.reason) == (True, f"anna: {WHY}")
    commit = Ledger(open_store(tmp_path)).commits()[-1]
    assert commit.key == f"{key}/accept-0"
    assert (commit.meta["by"], commit.meta["why"]) == ("anna", WHY)
    before = connect(tmp_path, commit.version - 1).sql("select status from rounds").fetchall()
    assert before == [("refused",)], "the history has both"


def test_a_verdict_is_about_these_labels_only(tmp_path: Path) -> None:
    settings = config(tmp_path)
    refused_night(tmp_path, settings)
    decide(Warehouse.open(tmp_path), 0, ACCEPT, "anna", WHY)
    assert last_decision(Warehouse.open(tmp_path), 0, "another set of labels") is None


def test_the_last_verdict_counts(tmp_path: Path) -> None:
    settings = config(tmp_path)
    refused_night(tmp_path, settings)
    decide(Warehouse.open(tmp_path), 0, ACCEPT, "anna", WHY)
    said = decide(Warehouse.open(tmp_path), 0, REJECT, "ben", "two of them were wrong")
    assert said == "round 0 is rejected, by ben: neither training nor export uses it"
    assert not gate(settings, opened(settings), 0).is_accepted
    assert next_round(settings, opened(settings)) == 1
    with pytest.raises(ConfigError, match="round 0 is rejected already, by ben"):
        decide(Warehouse.open(tmp_path), 0, REJECT, "ben", "again")
    decide(Warehouse.open(tmp_path), 0, ACCEPT, "anna", "they were right after all")
    assert gate(settings, opened(settings), 0).is_accepted


def test_an_accepted_night_waits_only_while_it_is_the_newest(tmp_path: Path) -> None:
    settings = config(tmp_path)
    refused_night(tmp_path, settings)
    publish_rows(tmp_path, "round=1/evaluation")
    said = decide(Warehouse.open(tmp_path), 0, ACCEPT, "anna", WHY)
    assert "a later night has begun" in said
    assert not awaits_training(Warehouse.open(tmp_path), 0)
    assert next_round(settings, opened(settings)) == 1


def test_other_labels_open_a_refused_night_again(tmp_path: Path, monkeypatch) -> None:
    settings = config(tmp_path)
    refused_night(tmp_path, settings)
    assert not is_reopened(settings, opened(settings), 0)
    monkeypatch.setattr(gate_module, "revision_of", lambda config, labeler: "r2")
    monkeypatch.setattr(rewards, "revision_of", lambda config, labeler: "r2")
    assert is_reopened(settings, opened(settings), 0), (
        "a labeler of another revision has not labelled it yet"
    )
    assert next_round(settings, opened(settings)) == 0


def test_rejecting_the_newest_trained_night_takes_its_policy_back(tmp_path: Path) -> None:
    row = a_round(0, training_run_id="t")
    publish_rows(tmp_path, "round=1/evaluation", rounds=[row])
    said = decide(Warehouse.open(tmp_path), 0, REJECT, "anna", "it flatters")
    assert "the next night starts from policy policy-0" in said
    changed = round_row(Warehouse.open(tmp_path), 0)
    assert changed is not None
    assert (changed["status"], changed["policy_revision_out"]) == ("rejected", "policy-0")
    with pytest.raises(ConfigError, match="round 0: its training is not in the ledger"):
        decide(Warehouse.open(tmp_path), 0, ACCEPT, "anna", WHY)


def test_a_trained_and_rejected_night_gets_its_policy_until_another_has_sampled(
    tmp_path: Path,
) -> None:
    meta = {"policy_revision": "policy-1", "training_run_id": "t"}
    publish(tmp_path, "round=0/training", {}, round=0, meta=meta)
    row = a_round(
        0, training_run_id="t", status="rejected", reason="promotion.min_length_ratio: short",
        policy_revision_in="policy-0", policy_revision_out="policy-0",
    )  # fmt: skip
    publish_rows(tmp_path, "round=1/evaluation", rounds=[row])
    said = decide(Warehouse.open(tmp_path), 0, ACCEPT, "anna", "short is what we want")
    assert said == "round 0 is completed, by anna: the next night starts from policy policy-1"
    changed = round_row(Warehouse.open(tmp_path), 0)
    assert changed is not None
    assert (changed["status"], changed["policy_revision_out"]) == ("completed", "policy-1")
    assert changed["reason"] == "promotion.min_length_ratio: short", "what the guards said stays"
    with pytest.raises(ConfigError, match="round 0 is completed"):
        decide(Warehouse.open(tmp_path), 0, ACCEPT, "ben", WHY)
    assert "starts from policy policy-0" in decide(
        Warehouse.open(tmp_path), 0, REJECT, "ben", "it is not"
    )
    publish_rows(tmp_path, "round=1/train-rollouts")
    with pytest.raises(
        ConfigError, match=r"rejected \(promotion.min_length.*and night 1 went on from policy pol"
    ):
        decide(Warehouse.open(tmp_path), 0, ACCEPT, "anna", WHY)


def test_rejecting_an_older_night_leaves_the_policies_as_they_are(tmp_path: Path) -> None:
    publish_rows(tmp_path, "round=1/evaluation", rounds=[a_round(0, training_run_id="t")])
    publish_rows(tmp_path, "round=1/train-rollouts")
    assert "later nights went on" in decide(
        Warehouse.open(tmp_path), 0, REJECT, "anna", "it flatters"
    )
    row = round_row(Warehouse.open(tmp_path), 0)
    assert row is not None
    assert row["policy_revision_out"] == "policy-1"


@pytest.mark.parametrize(
    ("number", "verdict", "by", "why", "message"),
    [
        (0, ACCEPT, "anna", WHY, "round 0 is completed: it was accepted by the gate"),
        (7, REJECT, "anna", WHY, r"round 7 has no verdict yet; rounds: \[0\]"),
        (0, REJECT, " ", WHY, "--by and --why must say who decides"),
        (0, REJECT, "anna", "", "--by and --why must say who decides"),
    ],
)
def test_a_verdict_that_makes_no_sense_is_refused(
    tmp_path: Path, number: int, verdict: str, by: str, why: str, message: str
) -> None:
    publish_rows(tmp_path, "round=1/evaluation", rounds=[a_round(0, training_run_id="t")])
    head = Ledger(open_store(tmp_path)).head()
    with pytest.raises(ConfigError, match=message):
        decide(Warehouse.open(tmp_path), number, verdict, by, why)
    assert Ledger(open_store(tmp_path)).head() == head


def test_the_commands_ask_for_name_and_reason(tmp_path: Path) -> None:
    publish_rows(tmp_path, "round=1/evaluation", rounds=[a_round(0, training_run_id="t")])
    words = (str(tmp_path), "--round", "0", "--by", "anna")
    assert "--why" in roundhouse("reject", *words, code=2).stderr
    refused = roundhouse("accept", *words, "--why", WHY, code=2)
    assert refused.stderr.startswith("roundhouse: round 0 is c")
    mistyped = tmp_path / "mistyped"
    roundhouse("accept", mistyped, *words[1:], "--why", WHY, code=1)
    assert not mistyped.exists()
    done = roundhouse("reject", *words, "--why", WHY)
    assert done.stdout.startswith("round 0 is rejected,")


def test_sentinel_checks_shows_what_the_gate_saw(tmp_path: Path) -> None:
    labeled_night(tmp_path, 0, canary=0.25)
    labeled_night(tmp_path, 1, canary=0.5, score=lambda gold: 0.9 * gold)
    rows = connect(tmp_path).sql(
        "select round, items, accuracy, kappa, best_canary, best_canary_id, shift "
        "from sentinel_checks where labeler = 'helpful-judge' order by round"
    )
    first, second = rows.fetchall()
    assert first == (0, 11, 1.0, 1.0, 0.25, "s10", None)
    # Five gold items lost .1 each, the canary gained .25: -.25 over 11.
    assert second[:6] == (1, 11, 1.0, 1.0, 0.5, "s10")
    assert second[6] == pytest.approx(-0.25 / 11)
