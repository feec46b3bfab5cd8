"""`--dry-run`: what the coming night will take, and that it is the night that comes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config import RunConfig
from pipeline.configs.loading import load_config
from pipeline.night import next_round
from pipeline.plan import plan_night
from pipeline.stages import gate
from tests.pipeline.judged import config, judges, opened, store_rollouts
from tests.pipeline.judged import label as label_round
from tests.warehouse.builder import label, prompt, publish_rows, rollout
from tests.warehouse.builder import round_row as a_round
from warehouse.keys import acceptance_key


def paid_config(root: Path) -> RunConfig:
    """The demo with a remote judge in the place of its own."""
    settings = load_config("demo", [f"warehouse={root}", "rollouts.holdout_prompts=null"])
    raw = settings.model_dump(mode="json")
    raw["labelers"][1] = {
        "name": "helpful-judge", "kind": "judge", "role": "reward", "criterion": "helpfulness",
        "rubric": "helpfulness", "samples": 2, "temperature": 0.5, "max_output_tokens": 100,
        "engine": {
            "kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1",
            "price": {"input": 1, "output": 10}, "budget_usd": 0.5,
        },
    }  # fmt: skip
    return RunConfig.model_validate(raw)


def test_the_first_night_s_plan_knows_rows_and_says_what_it_cannot_know(tmp_path: Path) -> None:
    plan = plan_night(paid_config(tmp_path / "none"))
    stages = {stage.stage: stage for stage in plan.stages}
    assert plan.round == 0
    assert next(iter(stages)) == "round=0/eval-rollouts", "the first night measures policy 0 too"
    judge = stages["round=0/train-labels-helpful-judge"]
    sentinels = judge.rows - 512 * 4
    assert sentinels > 10, "the default set's, the judge is no starter"
    assert judge.calls == 2 * judge.rows
    assert (judge.usd, judge.input_tokens) == (None, None)
    assert "known once the prompts are read" in judge.basis
    assert stages["round=1/eval-labels-helpful-judge"].rows == 0


def test_a_plan_goes_by_the_labeler_s_last_round(tmp_path: Path) -> None:
    row = rollout(0, "p0", purpose="train")
    calls = [
        label(row, None if n == 0 else 0.5, "helpful-judge", criterion="helpfulness", attempt=n,
              is_final=n == 1, status="malformed" if n == 0 else "ok", input_tokens=100,
              output_tokens=20)
        for n in range(2)
    ]  # fmt: skip
    prompts = [prompt(f"h{i}") for i in range(5)]
    publish_rows(tmp_path, "prompts", prompts=prompts)
    publish_rows(tmp_path, "round=0/train-rollouts", 0, rollouts=[row])
    publish_rows(tmp_path, "round=0/train-labels/helpful-judge@r1", 0, labels=calls)
    publish_rows(tmp_path, "round=1/evaluation", rounds=[a_round(0)])
    plan = plan_night(paid_config(tmp_path))
    stages = {stage.stage: stage for stage in plan.stages}
    assert plan.round == 1
    judge = stages["round=1/train-labels-helpful-judge"]
    assert (judge.input_tokens, judge.output_tokens) == (200 * judge.rows, 40 * judge.rows)
    assert judge.usd == pytest.approx(judge.rows * (200 * 1 + 40 * 10) / 1e6)
    assert judge.basis == "tokens: as in round 0, MORE than engine.budget_usd 0.5"
    assert stages["round=2/eval-labels-helpful-judge"].rows == 5 * 4
    assert plan.usd == pytest.approx((judge.rows + 20) * 600 / 1e6)
    assert stages["round=1/train-labels-toxicity"].usd is None


def test_after_a_refused_round_whose_labeler_was_mended_that_round_is_planned(tmp_path: Path):
    root = tmp_path / "w"
    with judges() as judging:
        judging.failing = {f"0-t{i}-0": "500" for i in range(10)}
        broken = config(root, judging, model="m-1")
        store_rollouts(root, 0, "train")
        for name in ("api", "metric"):
            label_round(broken, 0, "train", name)
        mended = config(root, judging, model="m-2")
    judged = gate.gate(broken, opened(broken), 0)
    assert not judged.is_accepted
    row = a_round(0, status="refused", reason=judged.reason)
    publish_rows(root, acceptance_key(0, judged.label_set_sha256), 0, rounds=[row])
    assert next_round(broken, opened(broken)) == plan_night(broken).round == 1
    assert next_round(mended, opened(mended)) == plan_night(mended).round == 0
    file = tmp_path / "night.yaml"
    file.write_text(yaml.safe_dump(mended.model_dump(mode="json")))
    shown = CliRunner().invoke(app, ["run", str(file), "--next", "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert "\nround 0: " in shown.output
    assert "round=0/train-labels-api" in shown.output
