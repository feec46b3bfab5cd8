"""Whole nights on tiny models under the settings of training: replay, adapter, baseline, base."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from pipeline.errors import ConfigError
from pipeline.policies.models import POLICIES, models_folder
from pipeline.policies.policies import base_policy, policy_of_round
from tests.pipeline.judged import opened, sql
from tests.pipeline.stages import test_rejected_night as tiny
from tests.pipeline.stages.test_rejected_night import ALWAYS, config
from tests.training.tiny import tiny_policy
from training.revision import policy_revision
from warehouse.lineage.policies import trace_policy
from warehouse.lineage.trace import Lineage

models, run = tiny.models, tiny.run  # fixtures
WINDOW = (ALWAYS, "training.replay_rounds=1", "training.replay_min_ess=0")


@pytest.fixture(scope="module")
def replayed(run, tmp_path_factory):
    """Three nights; each trains on its own round and the one before."""
    root = tmp_path_factory.mktemp("replayed") / "warehouse"
    code, said = run(root, 3, *WINDOW)
    assert code == 0, said
    return root


def test_a_window_trains_on_two_rounds_and_says_with_what_weight(replayed):
    use = sql(
        replayed,
        "select round, source_round, count(*) as rows, count(*) filter (is_used) as used, "
        "avg(importance_weight) as weight from train_use group by all order by all",
    )
    assert [(row["round"], row["source_round"], row["rows"]) for row in use] == [
        (0, 0, 12), (1, 0, 12), (1, 1, 12), (2, 1, 12), (2, 2, 12),
    ]  # fmt: skip
    assert min(row["used"] for row in use) >= 8  # random text is empty now and then
    fresh = [row["weight"] for row in use if row["round"] == row["source_round"]]
    assert fresh == pytest.approx([1, 1, 1], abs=1e-3)
    sizes = sql(
        replayed,
        "select metric, value from training_metrics where round = 2 and metric like 'ess_seq/%' "
        "order by metric",
    )
    assert [row["metric"] for row in sizes] == ["ess_seq/round=1", "ess_seq/round=2"]
    assert 0 < sizes[0]["value"] < sizes[1]["value"] <= 1 + 1e-6


def test_a_rollout_is_scored_once_by_each_policy(replayed):
    twice = sql(
        replayed,
        "select rollout_id, policy_revision from policy_logprobs group by all having count(*) > 1",
    )
    assert twice == []
    roles = sql(
        replayed,
        "select l.round, r.round as source, role, count(*) as rows from policy_logprobs as l "
        "join rollouts as r using (rollout_id) where purpose = 'train' group by all order by all",
    )
    assert [(row["round"], row["source"], row["role"]) for row in roles] == [
        (0, 0, "reference"),
        (1, 0, "proximal"),  # its reference log-probs are night 0's
        (1, 1, "proximal"),
        (1, 1, "reference"),
        (2, 1, "proximal"),
        (2, 2, "proximal"),
        (2, 2, "reference"),
    ]


def test_a_policy_leads_back_to_the_rows_and_files_that_trained_it(replayed):
    """By its folder alone, over the replayed round, to its ancestors and the version it read."""
    lineage = Lineage(replayed)
    last = sql(replayed, "from trainings order by round")[-1]
    folder = models_folder(str(replayed), POLICIES) / last["trained_revision"]
    found = trace_policy(lineage, policy_revision(folder))
    used = sql(replayed, "select rollout_id from train_use where round = 2 and is_used")
    assert {r["rollout_id"] for r in found["rows"]} == {r["rollout_id"] for r in used}
    assert {row["source_round"] for row in found["rows"]} == {1, 2}
    assert all(row["label_ids"] for row in found["rows"])
    assert len(found["ancestors"]) == 3
    assert last["read_version"] == last["version"] - 1
    assert {(row["path"].split("/")[0], row["path"].split("/")[1]) for row in found["read"]} == {
        *(("rollouts", "round=1"), ("rollouts", "round=2")),
        *(("rewards", "round=1"), ("rewards", "round=2")),
    }
    assert found["config"]["config"]["training"]["replay_rounds"] == 1


def test_every_stage_says_what_its_work_took(replayed):
    stages = sql(replayed, "from stage_throughput where round = 1")
    assert {row["stage"] for row in stages} == {
        *("eval-rollouts", "eval-labels", "train-rollouts", "train-labels", "training"),
    }
    assert all(row["made_per_second"] > 0 for row in stages)
    counted = {row["stage"] for row in stages if row["tokens_per_second"]}
    assert counted >= {"eval-rollouts", "train-rollouts", "training"}


def test_a_finished_night_run_again_starts_no_process_and_changes_nothing(replayed, tmp_path):
    """By the command, where a set-up could only fail: no prompts, no models, an empty cache."""
    root = tmp_path / "warehouse"
    shutil.copytree(replayed, root)
    (root / "report.html").write_text("of the last night that ran")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    file = tmp_path / "night.yaml"
    settings = config(tmp_path / "gone", root, *WINDOW)
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    script = (
        "import sys\nfrom pipeline.cli import main\n"
        f"sys.argv = ['roundhouse', 'run', {str(file)!r}, '--rounds', '3']\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        "    heavy = {'torch', 'vllm', 'apache_beam', 'transformers', 'pandas'}\n"
        "    print('ended', end.code, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "ROUNDHOUSE_CACHE": str(tmp_path / "cache")},
    )
    assert done.stdout.splitlines()[-1] == "ended 0 []", done.stdout + done.stderr
    assert done.stdout.startswith("Every round that is asked for is published: nothing is left")
    assert not (root / "_logs").exists(), "every stage's process has a log"
    assert not (tmp_path / "cache").exists()
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_an_adapter_trains_night_after_night_against_the_base(run, models, tmp_path):
    settings = (ALWAYS, "policy.adapter={r: 4, alpha: 32}", "training.advantage=rloo")
    code, said = run(tmp_path / "warehouse", 2, *settings)
    assert code == 0, said
    rounds = sql(tmp_path / "warehouse", "from rounds order by round")
    assert [row["status"] for row in rounds] == ["completed", "completed"]
    revisions = [rounds[0]["policy_revision_in"], *(r["policy_revision_out"] for r in rounds)]
    assert len(set(revisions)) == 3
    for revision in revisions[1:]:
        folder = models_folder(str(tmp_path / "warehouse"), POLICIES) / revision
        assert (folder / "model.safetensors").is_file()
        assert json.loads((folder / "adapter/adapter_config.json").read_text())["r"] == 4
    gaps = sql(
        tmp_path / "warehouse",
        "select value from training_metrics where metric = 'parity_mean_abs' order by round",
    )
    assert max(row["value"] for row in gaps) < 1e-5


def test_a_warehouse_trained_from_another_base_is_refused(replayed, models, tmp_path):
    tiny_policy(tmp_path / "other", seed=5)
    settings = config(models, replayed, f"policy.model={tmp_path / 'other'}")
    ours = base_policy(settings).revision
    with pytest.raises(ConfigError, match=rf"was trained from policy \w+, the .* is {ours}; use"):
        policy_of_round(settings, opened(settings), 3)


def test_a_policy_that_is_gone_is_named(replayed, models, tmp_path):
    root = tmp_path / "warehouse"
    shutil.copytree(replayed, root)
    shutil.rmtree(models_folder(str(root), POLICIES))
    settings = config(models, root)
    with pytest.raises(ConfigError, match=r"policy \w{32} is not in .*policies; restore it"):
        policy_of_round(settings, opened(settings), 3)
