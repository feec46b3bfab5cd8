"""Each export goes through datasets.load_dataset into a step of TRL's own, unadapted trainer."""

from __future__ import annotations

import math

import pytest
import trl
from datasets import load_dataset

from tests.training.stored import stored_round
from training.preference.export import export_rows
from training.preference.rows import ROWS, dpo_rows
from training.preference.selection import Selection

ALL = Selection(margin=0.0)
TRAINERS = {
    "dpo": (trl.DPOTrainer, trl.DPOConfig),
    "kto": (trl.KTOTrainer, trl.KTOConfig),
    "sft": (trl.SFTTrainer, trl.SFTConfig),
    "reward": (trl.RewardTrainer, trl.RewardConfig),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("stored")
    return root, stored_round(root)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("kind", ROWS)
def test_trl_trains_on_the_export_as_it_is(stored, tmp_path, kind, suffix):
    root, policy = stored
    out = tmp_path / f"rows.{suffix}"
    written = export_rows(root, kind, out, ALL)
    rows = load_dataset(
        "json" if suffix == "jsonl" else suffix, data_files=str(out), split="train",
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    assert rows.to_list() == written.to_pylist()
    trainer_class, config_class = TRAINERS[kind]
    trainer = trainer_class(
        model=str(policy),
        args=config_class(
            output_dir=str(tmp_path / "trained"), use_cpu=True, bf16=False, report_to=[],
            gradient_checkpointing=False, max_steps=1, per_device_train_batch_size=4,
            save_strategy="no", disable_tqdm=True, logging_steps=1,
        ),
        train_dataset=rows,
    )  # fmt: skip
    trainer.train()
    (loss,) = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert math.isfinite(loss)
    if kind == "dpo":  # policy and reference are still equal
        assert loss == pytest.approx(math.log(2), abs=1e-3)
    if kind == "sft":  # the sampled tokens, not the rendered text
        prepared = trainer.train_dataset
        assert prepared["input_ids"] == written["input_ids"].to_pylist()
        assert prepared["labels"] == written["labels"].to_pylist()


def test_the_export_holds_the_sampled_tokens_and_the_references_log_probs(stored, tmp_path):
    root, _ = stored
    written = export_rows(root, "dpo", tmp_path / "rows.parquet", ALL)
    assert written.num_rows == 11  # one pair for each train prompt, none for the hold-out one
    assert "h1" not in written["prompt_id"].to_pylist()
    exact = dpo_rows(root, ALL)
    for column in ("prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps"):
        assert written[column].equals(exact[column])
        assert not written[column].null_count


def test_what_a_single_row_lacks_is_left_out_for_all(tmp_path):
    stored_round(tmp_path, 3, with_reference=False)
    names = export_rows(tmp_path, "dpo", tmp_path / "rows.jsonl", ALL).column_names
    assert not {"ref_chosen_logps", "ref_rejected_logps", "reference_revision"} & set(names)
    assert {"prompt_ids", "chosen_ids", "rejected_ids"} <= set(names)
