"""What TRL itself writes comes in: a real GRPO run of a tiny policy, and DPO on its completions."""

from __future__ import annotations

import math

import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from pipeline.ingest.importer import import_files
from pipeline.ingest.meaning import ImportOptions
from tests.pipeline.judged import sql
from tests.training.tiny import tiny_policy
from training.preference.config import PreferenceConfig
from training.preference.methods import train_by
from training.preference.rows import dpo_rows
from training.preference.selection import Selection


def evenness(completions, log_extra, **_):
    """Share of words with an even number; nothing to say about a text without words."""
    texts = [completion[0]["content"] for completion in completions]
    log_extra("words", [len(text.split()) for text in texts])
    return [
        sum(int(word[1:]) % 2 == 0 for word in text.split() if word[1:].isdigit())
        / len(text.split())
        if text.split()
        else None
        for text in texts
    ]


def brevity(completions, **_):
    """Never above 0."""
    return [-float(len(completion[0]["content"])) for completion in completions]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder of the policy, the completions files of two steps of GRPO, as TRL wrote them)."""
    folder = tmp_path_factory.mktemp("grpo")
    policy = tiny_policy(folder / "policy")
    questions = [[{"role": "user", "content": f"w{n} w{n + 1}"}] for n in range(5, 13)]
    trainer = GRPOTrainer(
        model=str(policy),
        reward_funcs=[evenness, brevity],
        args=GRPOConfig(
            output_dir=str(folder / "out"),
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=6,
            max_steps=2,
            logging_steps=1,
            log_completions=True,
            report_to=[],
            use_cpu=True,
            seed=0,
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": questions}),
    )
    trainer.train()
    return policy, sorted((folder / "out" / "completions").glob("completions_*.parquet"))


def test_every_completion_that_trl_logged_is_a_row(run, tmp_path):
    _, files = run
    assert [path.name for path in files] == [f"completions_0000{n}.parquet" for n in (1, 2)]
    result = import_files(tmp_path, files, ImportOptions("trl", "grpo", holdout=0.01))
    problems = [problem for done in result.files for problem in done.problems]
    assert all("completion is empty" in problem for problem in problems)
    brought = sum(done.train + done.holdout for done in result.files)
    assert brought + len(problems) == 16  # two steps of eight
    assert set(result.unscaled) == {"brevity"}
    labels = sql(tmp_path, "select distinct labeler, status from labels order by labeler")
    assert labels == [
        {"labeler": "grpo/brevity", "status": "out_of_range"},
        {"labeler": "grpo/evenness", "status": "ok"},
    ]
    steps = sql(tmp_path, "select distinct policy_revision as step from rollouts order by step")
    assert [row["step"] for row in steps] == ["grpo/step-1", "grpo/step-2"]


def test_dpo_trains_on_what_was_imported_as_text(run, tmp_path):
    policy, files = run
    import_files(tmp_path, files, ImportOptions("trl", "grpo", holdout=0.01))
    rows = dpo_rows(tmp_path, Selection(imported="grpo", margin=0.0))
    assert rows.num_rows == 4  # two prompts a step
    made = train_by(
        "dpo",
        rows,
        policy_dir=policy,
        out_dir=tmp_path / "out",
        config=PreferenceConfig(learning_rate=2e-3, epochs=8, batch_size=4, micro_batch_size=4),
        seed=0,
        device="cpu",
    )
    assert made.losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert made.losses[-1] < 0.5
    assert (tmp_path / "out" / "config.json").is_file()
