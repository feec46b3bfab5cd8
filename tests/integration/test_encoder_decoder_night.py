"""One small round of a T5: transformers samples, two classifiers label, PPO trains, it is measured.

Policy and classifiers know nothing; what is held is that everything of a round is done with an
encoder-decoder, from the first prompt to the numbers of the next policy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from pipeline.sampling.encoder_decoder import Seq2SeqSampler
from tests.integration import nights
from tests.training.tiny_t5 import tiny_t5, with_end_token
from tests.warehouse.opened import read_table
from training.policy.actor_critic import ActorCritic
from training.policy.sequences import sequence_logprobs
from training.starters.starters import starter_path
from warehouse.catalog.catalog import connect

LABELERS = ", ".join(
    f"{{name: {name}, kind: classifier, role: {role}, criterion: toxicity, model: starter-{name}, "
    "self_test: []}"
    for name, role in (("toxicity", "reward"), ("metric", "metric"))
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 whose words are those of the starters' corpus, without a chat template."""
    words = AutoTokenizer.from_pretrained(starter_path("starter-policy", budget="tiny"))
    folder = tmp_path_factory.mktemp("t5") / "base"
    return tiny_t5(folder, is_tied=False, tokenizer=with_end_token(words))


@pytest.fixture(scope="module")
def night(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("night") / "warehouse"
    nights.run(
        root,
        f"policy.model={base}",
        "policy.starter_budget=tiny",
        "rounds=1",
        "rollouts.engine=transformers",
        "rollouts.max_tokens=12",
        f"labelers=[{LABELERS}]",
        "reward.terms={toxicity: {weight: -1.0, value: raw}}",
        "gate={sentinels: none}",
        "training.learning_rate=1e-3",
        "training.kl_budget=1000",
    )
    return root


def test_every_stage_of_the_round_is_done(night):
    keys = [key.partition("@")[0] for key in nights.keys(night)]
    for work in ("train-rollouts", "train-labels/toxicity", "rewards", "training", "evaluation"):
        assert f"round=0/{work}" in keys
    assert "round=1/evaluation" in keys
    con = connect(night)
    rounds = con.execute("select status from rounds").fetchall()
    used = con.execute("select count(*) from train_use where excluded_reason is null").fetchall()
    kl = con.execute("select round, value from evaluations where metric = 'kl_to_reference'")
    by_round = dict(kl.fetchall())
    con.close()
    assert rounds == [("completed",)]
    assert used[0][0] > 80
    assert abs(by_round[0]) < 1e-5, "policy 0 is the reference"
    assert by_round[1] > 1e-4


def test_the_next_policy_is_another_t5_that_loads_and_samples(night, base):
    (row,) = read_table(night, "rounds").to_pylist()
    assert row["policy_revision_in"] != row["policy_revision_out"]
    folder = night / "policies" / row["policy_revision_out"]
    ours = AutoModelForSeq2SeqLM.from_pretrained(folder)
    before = AutoModelForSeq2SeqLM.from_pretrained(base)
    assert not ours.shared.weight.equal(before.shared.weight)
    assert not ours.lm_head.weight.equal(ours.shared.weight)
    assert ActorCritic.load(folder, device="cpu").has_trained_critic
    prompt = AutoTokenizer.from_pretrained(folder).encode("Human: Why? Assistant:")
    sampler = Seq2SeqSampler(str(folder), device="cpu", max_model_len=64)
    ((sampled,),) = sampler.sample([prompt], [0], 1, 12, lambda _: None)
    (logprobs,) = sequence_logprobs(folder, [prompt], [sampled.token_ids], device="cpu")
    np.testing.assert_allclose(logprobs, sampled.logprobs, atol=1e-5)


def test_what_is_stored_is_what_was_sampled(night, base):
    rows = read_table(night, "rollouts", rounds=[0]).to_pylist()
    assert {row["engine"] for row in rows} == {"transformers"}
    assert {len(row["completion_ids"]) for row in rows if row["finish_reason"] == "length"} == {12}
    found = sequence_logprobs(
        base, [r["prompt_ids"] for r in rows], [r["completion_ids"] for r in rows], device="cpu"
    )
    for ours, row in zip(found, rows, strict=True):
        np.testing.assert_allclose(ours, row["behavior_logprobs"], atol=1e-4)
