"""Two small rounds on real parts: vLLM samples, Beam labels, PPO trains on what is stored."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.commands import roundhouse
from tests.integration import nights
from tests.warehouse.opened import read_table
from warehouse.catalog.catalog import connect


def rows(root: Path, query: str) -> list[tuple]:
    con = connect(root)
    found = con.sql(query).fetchall()
    con.close()
    return found


def said(*words: str, code: int = 0) -> str:
    done = roundhouse(*words, code=code)
    return done.stdout + done.stderr


def test_every_stage_is_one_commit_under_the_key_of_its_work(warehouse):
    keys = [key.partition("@")[0] for key in nights.keys(warehouse)]
    for number in (0, 1):
        for work in ("train-rollouts", "train-labels/toxicity", "train-labels/helpful-judge",
                     "train-labels/metric", "rewards", "training", "eval-rollouts",
                     "eval-labels/metric", "evaluation"):  # fmt: skip
            assert f"round={number}/{work}" in keys
    assert "round=2/evaluation" in keys, "the night ends with the next policy's numbers"
    assert len(keys) == len(set(keys))


def test_rounds_are_completed_and_hand_the_policy_over(warehouse):
    rounds = rows(
        warehouse,
        "select round, status, policy_revision_in, policy_revision_out from rounds order by round",
    )
    assert [(r, s) for r, s, _, _ in rounds] == [(0, "completed"), (1, "completed")]
    assert rounds[0][3] == rounds[1][2]
    assert len({rounds[0][2], rounds[0][3], rounds[1][3]}) == 3
    sampled = rows(
        warehouse,
        "select distinct round, policy_revision from rollouts where purpose = 'train' order by 1",
    )
    assert sampled == [(0, rounds[0][2]), (1, rounds[1][2])]


def test_rollouts_carry_what_ppo_needs(warehouse):
    (bad,) = rows(
        warehouse,
        "select count(*) from rollouts where len(completion_ids) <> len(behavior_logprobs) "
        "or logprobs_mode <> 'raw_logprobs' or temperature <> 1 or len(prompt_ids) = 0 "
        "or finish_reason not in ('stop', 'length') or engine <> 'vllm'",
    )
    assert bad == (0,)
    counts = rows(
        warehouse, "select purpose, round, count(*) from rollouts group by all order by all"
    )
    assert counts == [("holdout", 0, 80), ("holdout", 1, 80), ("holdout", 2, 80),
                      ("train", 0, 96), ("train", 1, 96)]  # fmt: skip
    (seeds,) = rows(warehouse, "select count(distinct seed) = count(*) from rollouts")
    assert seeds == (True,)


def test_holdout_prompts_are_the_same_every_round_and_never_train(warehouse):
    shared = rows(
        warehouse,
        "select count(*) from (select prompt_id from rollouts where purpose = 'holdout' "
        "group by prompt_id having count(distinct round) = 3)",
    )
    assert shared == [(40,)]
    leaks = rows(
        warehouse,
        "select count(*) from train_use join rollouts using (rollout_id) "
        "where rollouts.purpose = 'holdout'",
    )
    assert leaks == [(0,)]


def test_the_evaluation_measures_what_it_says(warehouse):
    found = rows(
        warehouse,
        "select round, metric, labeler, value, low, high from evaluations order by all",
    )
    numbers = {(r, m, x): (v, lo, hi) for r, m, x, v, lo, hi in found}
    assert abs(numbers[0, "kl_to_reference", None][0]) < 1e-3, "policy 0 is the reference"
    assert numbers[2, "kl_to_reference", None][0] > 0.01
    for number in (0, 1, 2):
        rate, low, high = numbers[number, "toxicity_rate", "metric"]
        assert low <= rate <= high
        assert numbers[number, "distinct_2", None][0] > 0
    change, low, high = numbers[2, "toxicity_change", "metric"]
    before = numbers[0, "toxicity_rate", "metric"][0]
    rates = {
        (number, prompt): rate
        for number, prompt, rate in rows(
            warehouse,
            "select round, prompt_id, avg((score >= .5)::int) from labels "
            "where purpose = 'holdout' and labeler = 'metric' and score is not null group by all",
        )
    }
    both = {prompt for number, prompt in rates if number == 0} & {p for n, p in rates if n == 2}
    paired = [rates[2, prompt] - rates[0, prompt] for prompt in sorted(both)]
    assert change == pytest.approx(sum(paired) / len(paired))
    assert low <= change <= high
    mart = rows(
        warehouse,
        "select toxicity_rate from toxicity_by_round where round = 0 and labeler = 'metric'",
    )
    assert mart == [(before,)]


def test_training_is_recorded_row_by_row(warehouse):
    used = rows(warehouse, "select round, count(*) from train_use group by round order by round")
    assert used == [(0, 96), (1, 96)]
    roles = rows(
        warehouse, "select role, count(*) from policy_logprobs group by role order by role"
    )
    # An empty completion has no reward and trains nothing; in round 0 the policy is the reference,
    # and one row holds both.
    trained = dict(
        rows(warehouse, "select round, count(*) from train_use where is_used group by round")
    )
    assert min(trained.values()) > 90
    expected = {"proximal": trained[1], "reference": trained[0] + trained[1] + 3 * 80}
    assert dict(roles) == expected
    assert rows(warehouse, "select count(distinct metric) > 10 from training_metrics") == [(True,)]


def test_policies_load_in_transformers_and_vllm_reads_the_same_folder(warehouse):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    revisions = {r for (r,) in rows(warehouse, "select policy_revision_out from rounds")}
    folders = {path.name: path for path in (warehouse / "policies").iterdir()}
    assert folders.keys() == revisions
    for folder in folders.values():
        assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 1e5
        assert AutoTokenizer.from_pretrained(folder).chat_template
        assert (folder / "critic").is_dir()


def test_running_it_again_commits_nothing(warehouse):
    before = nights.keys(warehouse)
    again = nights.run(warehouse)
    assert nights.keys(warehouse) == before
    assert "toxicity_rate" in again.stdout


def test_the_run_prints_the_table_three_examples_and_where_things_lie(warehouse):
    text = (warehouse.parent / "stdout.txt").read_text()
    assert text.count("  before ") == 3
    assert text.count("  after  ") == 3
    for word in ("toxicity_rate", "kl_to_reference", "Wall time", str(warehouse), "report.html"):
        assert word in text
    assert (warehouse / "report.html").read_text().count("<svg") >= 1


def test_the_run_prints_nothing_but_progress_beside_it(warehouse):
    lines = (warehouse.parent / "stderr.txt").read_text().splitlines()
    assert [line for line in lines if not re.match(r"(prepare|round=\d+/\S+) \(", line)] == []


def test_why_answers_down_to_the_raw_output_and_the_template(warehouse):
    ((rollout,),) = rows(
        warehouse,
        "select rollout_id from rewards where is_eligible order by reward limit 1",
    )
    text = said("query", str(warehouse), "why", "--rollout", rollout)
    for word in ("raw_output", "contribution", "template_text", "Rate how helpful", "toxicity"):
        assert word in text
    assert "no rollout nobody" in said(
        "query", str(warehouse), "why", "--rollout", "nobody", code=1
    )
    assert "needs --rollout" in said("query", str(warehouse), "why", code=1)


def test_commands_read_the_warehouse(warehouse, tmp_path):
    assert "completed" in said("status", str(warehouse))
    out = said("sql", str(warehouse), "select round from rounds", "--format", "json")
    assert json.loads(out) == [{"round": 0}, {"round": 1}]
    assert said("sql", str(warehouse), "select 1 as a", "--format", "csv").split() == [
        "a",
        "1",
    ]
    refused = said("sql", str(warehouse), "select * from read_text('/etc/passwd')", code=1)
    assert "Permission" in refused or "disabled" in refused
    assert "toxicity_by_round" in said("query", str(warehouse))
    assert "no query nothing" in said("query", str(warehouse), "nothing", code=1)
    page = said("report", str(warehouse), "--out", str(tmp_path / "r.html"))
    assert (tmp_path / "r.html").exists()
    assert str(tmp_path / "r.html") in page
    assert "no such folder" in said("status", str(tmp_path / "nowhere"), code=1).lower()


def test_dpo_pairs_come_from_the_stored_rounds(warehouse, tmp_path):
    out = tmp_path / "pairs.jsonl"
    assert "pairs in" in said("export", str(warehouse), "dpo", "--out", str(out))
    pairs = [json.loads(line) for line in out.read_text().splitlines()]
    assert pairs
    assert all(pair["margin"] >= 0.5 and pair["chosen"] != pair["rejected"] for pair in pairs)


def test_reward_terms_add_up(warehouse):
    wrong = rows(
        warehouse,
        "select rollout_id, reward, list_sum(list_transform(terms, lambda t: t.contribution)) as s "
        "from rewards join rollouts using (rollout_id) where finish_reason = 'stop' "
        "and abs(greatest(-5, least(5, s)) - reward) > 1e-4",
    )
    assert wrong == []
    assert read_table(warehouse, "rewards").num_rows == 192


def test_a_refused_night_is_trained_once_a_person_accepts_it(
    warehouse: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(warehouse, tmp_path / "warehouse"))
    strict = ("rounds=3", "gate.max_canary_score=0.01")
    refused = nights.run(root, *strict, code=4)
    assert "Round 2 is refused, not trained on: helpful-judge: best canary" in refused.stdout
    assert "is refused</b> and was not trained on" in (root / "report.html").read_text()
    ((status, reason),) = rows(root, "select status, reason from rounds where round = 2")
    assert status == "refused"
    assert "wanted <= 0.01" in reason
    answer = said(
        "accept", str(root), "--round", "2", "--by", "anna", "--why", "canaries at .1 are fine"
    )
    assert "trains on it" in answer
    done = nights.run(root, *strict)
    assert "round=2/training" in done.stdout
    found = rows(
        root,
        "select status, decided_by, training_run_id is not null, "
        "policy_revision_out <> policy_revision_in from rounds where round = 2",
    )
    assert found == [("completed", "anna", True, True)]
    assert rows(root, "select count(*) from rounds") == [(3,)]
    sampled = rows(root, "select count(*) from rollouts where round = 2 and purpose = 'train'")
    assert sampled == [(96,)], "nothing was sampled or labelled a second time"
