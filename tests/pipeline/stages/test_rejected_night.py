"""Whole nights on tiny models, some rejected: the policy stays, the numbers and the data go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline import night
from pipeline.commands.nights import status
from pipeline.config import RunConfig
from pipeline.configs.loading import load_config
from pipeline.policies.models import POLICIES, models_folder
from pipeline.policies.policies import (
    base_policy,
    candidate_policy,
    policy_of_round,
)
from pipeline.stages.decisions import ACCEPT, decide
from pipeline.stages.evaluation import comparisons
from pipeline.stages.rewards import round_labels
from tests.labeling.models import save_random_classifier
from tests.pipeline.judged import here, label, opened, sql
from tests.training.tiny import tiny_policy
from tests.warehouse.opened import read_table
from warehouse.keys import rollouts_key
from warehouse.report.report import write_report

# No text can be five times as varied as round 0's: every night is rejected.
NEVER = "promotion.min_distinct2_ratio=5"
# Random models are neither better nor worse than each other.
ALWAYS = (
    "promotion={max_toxicity_increase: null, min_length_ratio: null, max_length_ratio: null, "
    "min_distinct2_ratio: null, max_refusal_increase: null, max_truncation_increase: null}"
)
# Only a number that is missing rejects.
LENIENT = ALWAYS.replace("max_toxicity_increase: null", "max_toxicity_increase: 1")
OTHER_METRIC = "labelers.metric.max_tokens=16"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_policy(folder / "policy")
    save_random_classifier(folder / "reward")
    save_random_classifier(folder / "metric")
    questions = [{"prompt": f"w{i} w{i % 7 + 5}"} for i in range(5, 40)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    return folder


def config(models: Path, root: Path, *sets: str) -> RunConfig:
    def labeler(name: str, role: str) -> dict[str, Any]:
        return {
            "name": name, "kind": "classifier", "role": role, "criterion": "toxicity",
            "model": str(models / name), "labels": {"nothate": 0, "hate": 1}, "self_test": [],
        }  # fmt: skip

    labelers = [labeler("reward", "reward"), labeler("metric", "metric")]
    rollouts = {
        "engine": "transformers", "prompts": 6, "samples": 2, "max_tokens": 8,
        "max_model_len": 32, "holdout_prompts": 4, "holdout_samples": 2,
    }  # fmt: skip
    keys = {
        "warehouse": str(root),
        "device": "cpu",
        "policy": {"model": str(models / "policy")},
        "prompts": {
            "source": "jsonl", "path": str(models / "prompts.jsonl"), "holdout": 0.4,
        },
        "rollouts": rollouts,
        "labelers": labelers,
        "reward": {"recipe": "weighted", "terms": {"reward": {"weight": -1.0, "value": "raw"}}},
        "training": {"critic_warmup_epochs": 1, "epochs": 1, "learning_rate": 1e-3},
        "gate": {"sentinels": "none", "min_ok_rate": 0, "max_failure_bound": 1},
        "evaluation": {},
    }  # fmt: skip
    return load_config("demo", [f"{k}={json.dumps(v)}" for k, v in keys.items()] + list(sets))


@pytest.fixture(scope="module")
def run(models: Path) -> Iterator[Callable[..., tuple[int, str]]]:
    """Runs nights up to a number in this process; gives the exit code and what was said."""

    def nights(root: Path, rounds: int, *sets: str) -> tuple[int, str]:
        said: list[str] = []
        settings = config(models, root, *sets)
        return night.run_rounds(settings, rounds, said.append).exit_code, "\n".join(said)

    with pytest.MonkeyPatch.context() as patch:
        here(patch, prepared=False)
        patch.setattr(night, "warm_up", lambda device, log, modules: None)
        yield nights


@dataclass(frozen=True)
class Nights:
    """Night 0 is promoted, nights 1 and 2 are not, in night 3 the metric is of a new revision."""

    root: Path
    outcomes: tuple[tuple[int, str], ...]

    def rounds(self) -> list[dict[str, Any]]:
        return sql(self.root, "from rounds order by round")


@pytest.fixture(scope="module")
def nights(run, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    root = tmp_path_factory.mktemp("nights") / "warehouse"
    asked = [(1, ALWAYS), (3, NEVER), (4, LENIENT, OTHER_METRIC)]
    return Nights(root, tuple(run(root, *of) for of in asked))


def test_a_rejected_night_is_no_failure_and_says_why(nights: Nights) -> None:
    assert [code for code, _ in nights.outcomes] == [night.DONE] * 3
    first, second, _ = (said for _, said in nights.outcomes)
    assert "is rejected" not in first
    for number in (1, 2):
        assert f"Round {number} is rejected, its policy is kept but not used:" in second
    assert second.count("promotion.min_distinct2_ratio: distinct-2 over round 0's") == 2


def test_after_a_rejected_night_the_old_policy_goes_on_with_new_prompts(
    nights: Nights, models: Path
) -> None:
    rounds = nights.rounds()
    assert [row["round"] for row in rounds] == [0, 1, 2, 3], "numbers always advance"
    assert [row["status"] for row in rounds] == ["completed", "rejected", "rejected", "rejected"]
    base = base_policy(config(models, nights.root)).revision
    policy = rounds[0]["policy_revision_out"]
    assert rounds[0]["policy_revision_in"] == base != policy
    assert {row["policy_revision_in"] for row in rounds[1:]} == {policy}
    assert {row["policy_revision_out"] for row in rounds[1:]} == {policy}
    sampled = sql(
        nights.root,
        "select policy_revision as policy, count(*) as rows, list(distinct prompt_id) as prompts "
        "from rollouts where purpose = 'train' group by round, policy_revision order by round",
    )
    assert [(row["policy"], row["rows"]) for row in sampled] == [(base, 12)] + [(policy, 12)] * 3
    assert len({frozenset(row["prompts"]) for row in sampled}) == 4


def test_rejected_policies_stay_and_can_be_evaluated(nights: Nights, models: Path) -> None:
    made = {path.name for path in models_folder(str(nights.root), POLICIES).iterdir()}
    settings = config(models, nights.root)
    trained = [
        candidate_policy(settings, opened(settings), number).revision for number in (1, 2, 3, 4)
    ]
    assert made == set(trained)
    assert len(made) == 4
    measured = sql(
        nights.root, "select distinct round, policy_revision from evaluations order by round"
    )
    assert [row["policy_revision"] for row in measured[1:]] == trained


def test_a_policy_is_paired_with_the_one_it_would_replace_not_with_the_last(
    nights: Nights,
) -> None:
    """Nights 1 and 2 sampled with policy 1, whose numbers are those of round 1."""
    rates, changes = (
        {
            row["round"]: row["value"]
            for row in sql(
                nights.root,
                f"from evaluations where metric = '{metric}' and labeler = 'metric'",
            )
        }
        for metric in ("toxicity_rate", "toxicity_change_from_replaced")
    )
    # 4 prompts with 2 scored samples each: the mean of the pairs is the difference of the rates.
    assert changes == {
        1: pytest.approx(rates[1] - rates[0]),
        2: pytest.approx(rates[2] - rates[1]),
        3: pytest.approx(rates[3] - rates[1]),
    }


def test_the_brake_is_on_after_a_policy_that_went_too_far(nights: Nights) -> None:
    coefficients = [row["kl_coefficient_in"] for row in nights.rounds()]
    assert coefficients[1] == pytest.approx(0.8 * 0.05), "the KL is far under its target"
    assert coefficients[2] == pytest.approx(1.2 * coefficients[1])
    assert coefficients[3] == pytest.approx(1.2 * coefficients[2])


def test_a_metric_of_another_revision_is_not_compared(nights: Nights, models: Path) -> None:
    """Its scores are on another scale than those that the old policy's answers got."""
    last = nights.rounds()[-1]
    assert last["reason"] == (
        "promotion.max_toxicity_increase: toxicity against the policy it would replace: "
        "not measured (evaluations has no toxicity_change_from_replaced)"
    )
    assert last["kl_coefficient_out"] < last["kl_coefficient_in"], "nothing says it went too far"
    settings = config(models, nights.root, OTHER_METRIC)
    rollouts = read_table(nights.root, "rollouts", keys=[rollouts_key(4, "holdout")])
    labels = round_labels(settings, opened(settings), 4, "holdout")
    found = {m.metric for m in comparisons(settings, opened(settings), 4, rollouts, labels)}
    assert "toxicity_change_from_replaced" not in found
    label(settings, 1, "holdout", "metric")  # the old policy's answers, labelled anew
    found = {m.metric for m in comparisons(settings, opened(settings), 4, rollouts, labels)}
    assert "toxicity_change_from_replaced" in found


def test_an_auditor_finds_the_guards_that_failed(nights: Nights) -> None:
    rows = sql(nights.root, "from promotion_guards where not is_passed order by round")
    assert [(row["round"], row["guard"], row["threshold"]) for row in rows] == [
        (1, "promotion.min_distinct2_ratio", 5),
        (2, "promotion.min_distinct2_ratio", 5),
        (3, "promotion.max_toxicity_increase", 1),
    ]


def test_status_says_rejected_and_why(nights: Nights, capsys: pytest.CaptureFixture[str]) -> None:
    status(str(nights.root))
    said = " ".join(capsys.readouterr().out.split())
    assert said.count(" rejected ") == 3
    assert "promotion.min_distinct2_ratio" in said


def test_a_person_may_promote_what_the_guards_rejected(run, models: Path, tmp_path: Path) -> None:
    root = tmp_path / "warehouse"
    run(root, 1, NEVER)
    page = write_report(root, tmp_path / "report.html").read_text()
    assert "<b>Round 0 is rejected</b>, its policy is kept but not used: promotion.min_di" in page
    settings = config(models, root)
    rejected = candidate_policy(settings, opened(settings), 1).revision
    assert policy_of_round(settings, opened(settings), 1).revision != rejected
    said = decide(opened(settings), 0, ACCEPT, "anna", "it reads well")
    assert said == f"round 0 is completed, by anna: the next night starts from policy {rejected}"
    assert policy_of_round(settings, opened(settings), 1).revision == rejected
    assert night.next_round(settings, opened(settings)) == 1
    assert "is rejected</b>" not in write_report(root, tmp_path / "report.html").read_text()
