"""Best-of-n SFT learns the sampled tokens; a reward model learns pairs and serves as a labeler."""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa
import pytest
import trl
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from labeling.labelers.build import build_labeler
from labeling.labelers.config import RewardModelConfig
from labeling.labelers.reward_prompt import DialogueBuilder
from tests.training.stored import stored_round
from tests.training.tiny import tiny_policy
from tests.warehouse.builder import prompt, publish_rows, rollout
from training.errors import TrainingError
from training.preference.config import PreferenceConfig
from training.preference.methods import train_by
from training.preference.rows import reward_rows, sft_rows
from training.preference.selection import Selection
from training.revision import policy_revision

ALL = Selection(margin=0.0)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("stored")
    return root, stored_round(root)


@pytest.fixture
def prepared(monkeypatch):
    """The data sets that TRL's trainers made of ours, by class."""
    found = {}
    for trainer in (trl.SFTTrainer, trl.RewardTrainer):
        inner = trainer.train

        def train(self, *args, inner=inner, **kwargs):
            found[type(self).__name__] = self.train_dataset
            return inner(self, *args, **kwargs)

        monkeypatch.setattr(trainer, "train", train)
    return found


def test_sft_learns_the_sampled_tokens(stored, prepared, tmp_path):
    root, policy = stored
    rows = sft_rows(root, ALL).replace_schema_metadata({"warehouse_version": "3"})
    config = PreferenceConfig(learning_rate=3e-3, epochs=8, batch_size=4)
    made = train_by(
        "sft",
        rows,
        policy_dir=policy,
        out_dir=tmp_path / "out",
        config=config,
        seed=0,
        device="cpu",
    )
    assert prepared["SFTTrainer"]["input_ids"] == rows["input_ids"].to_pylist()
    assert prepared["SFTTrainer"]["labels"] == rows["labels"].to_pylist()
    assert made.losses[-1] < made.losses[0] - 0.5
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.vocab_size == 40
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["method"] == "sft"
    assert record["policy_revision_in"] == policy_revision(policy)
    assert record["rows"] == rows.num_rows
    assert record["loss_last"] == made.losses[-1]
    assert record["rounds"] == [0]
    assert record["made_from"] == {"warehouse_version": "3"}
    ids = (tmp_path / "out" / "training_rows.json").read_bytes()
    assert json.loads(ids) == {"rollout_id": rows["rollout_id"].to_pylist()}
    assert hashlib.sha256(ids).hexdigest() == record["rows_sha256"]


@pytest.fixture(scope="module")
def reward_model(stored, tmp_path_factory):
    root, policy = stored
    out = tmp_path_factory.mktemp("rm") / "model"
    config = PreferenceConfig(learning_rate=2e-3, epochs=20, batch_size=16, micro_batch_size=16)
    made = train_by(
        "reward",
        reward_rows(root, ALL),
        policy_dir=policy,
        out_dir=out,
        config=config,
        seed=0,
        device="cpu",
    )
    return made, policy


def test_a_reward_model_learns_to_tell_chosen_from_rejected(reward_model):
    made, policy = reward_model
    assert made.losses[-1] < made.losses[0] / 2
    assert made.last["accuracy"] == 1.0
    model = AutoModelForSequenceClassification.from_pretrained(made.folder)
    assert model.config.num_labels == 1
    assert (made.folder / "tokenizer.json").read_bytes() == (policy / "tokenizer.json").read_bytes()


def test_it_serves_as_a_labeler_that_prefers_what_it_was_trained_to(reward_model, stored):
    made, _ = reward_model
    config = RewardModelConfig.model_validate(
        {
            "kind": "reward_model", "name": "rm", "role": "reward", "criterion": "helpfulness",
            "model": str(made.folder),
        }
    )  # fmt: skip
    labeler = build_labeler(config, device="cpu", resolve=lambda model: model)
    rows = reward_rows(stored[0], ALL).to_pylist()

    def scores(side):
        subjects = pa.table(
            {
                "rollout_id": [row[f"{side}_id"] for row in rows],
                "round": pa.array([0] * len(rows), pa.int32()),
                "prompt_id": [row["prompt_id"] for row in rows],
                "messages": [json.dumps(row["prompt"]) for row in rows],
                "completion": [row[side][0]["content"] for row in rows],
                "completion_sha256": [row[f"{side}_id"] for row in rows],
            }
        )
        return labeler.label(subjects)["score"].to_pylist()

    for chosen, rejected in zip(scores("chosen"), scores("rejected"), strict=True):
        assert chosen > rejected


def test_it_trains_on_the_very_tokens_that_the_labeler_will_read(stored, prepared, tmp_path):
    root, policy = stored
    rows = reward_rows(root, ALL).drop_columns(["margin"])  # as people's pairs, without a margin
    train_by(
        "reward",
        rows,
        policy_dir=policy,
        out_dir=tmp_path / "out",
        config=PreferenceConfig(),
        seed=0,
        device="cpu",
    )
    builder = DialogueBuilder(AutoTokenizer.from_pretrained(policy), None, labeler="rm")
    for row in prepared["RewardTrainer"]:
        for side in ("chosen", "rejected"):
            read = builder.build(json.dumps(row["prompt"]), row[side][-1]["content"])
            assert row[f"{side}_ids"] == read.token_ids


def test_a_margin_is_part_of_the_loss(stored, tmp_path):
    root, policy = stored
    rows = reward_rows(root, ALL)
    arguments = {"policy_dir": policy, "seed": 0, "device": "cpu"}
    config = PreferenceConfig(batch_size=16, micro_batch_size=16)
    with_it = train_by("reward", rows, out_dir=tmp_path / "a", config=config, **arguments)
    plain = rows.drop_columns(["margin"])
    without = train_by("reward", plain, out_dir=tmp_path / "b", config=config, **arguments)
    assert with_it.losses[0] > without.losses[0] + 0.05


def test_a_tokenizer_without_a_template_is_refused(stored, tmp_path):
    root, policy = stored
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in policy.iterdir():
        if path.name != "chat_template.jinja":
            (bare / path.name).write_bytes(path.read_bytes())
    with pytest.raises(TrainingError, match="no chat template"):
        train_by(
            "reward", reward_rows(root, ALL), policy_dir=bare, out_dir=tmp_path / "out",
            config=PreferenceConfig(), seed=0, device="cpu",
        )  # fmt: skip


def test_texts_that_nobody_sampled_are_learnt_through_the_template(prepared, tmp_path):
    root = tmp_path / "w"
    policy = tiny_policy(tmp_path / "policy")
    asked = prompt("a", purpose="pairs", messages='[{"role": "user", "content": "w7 w8"}]')
    sides = [
        rollout(0, "a", n, purpose="train", completion=text, prompt_ids=None,
                completion_ids=None, behavior_logprobs=None) | {"round": None}
        for n, text in enumerate(("w5 w6", "w9"))
    ]  # fmt: skip
    people = {"prompt_id": "a", "recipe": "gold/x", "chosen_id": sides[0]["rollout_id"],
              "rejected_id": sides[1]["rollout_id"], "margin": 0.0}  # fmt: skip
    publish_rows(root, "x", None, prompts=[asked], rollouts=sides, preference_pairs=[people])
    rows = sft_rows(root, Selection(margin=0.0, pairs="gold/x"))
    made = train_by(
        "sft", rows, policy_dir=policy, out_dir=tmp_path / "out", device="cpu", seed=0,
        config=PreferenceConfig(epochs=1, batch_size=2, micro_batch_size=2, learning_rate=1e-2),
    )  # fmt: skip
    (seen,) = prepared["SFTTrainer"]
    tokenizer = AutoTokenizer.from_pretrained(policy)
    text = tokenizer.decode(seen["input_ids"])
    assert text.split() == ["user", "w7", "w8", "</s>", "assistant", "w5", "w6", "</s>"]
    assert made.revision == policy_revision(tmp_path / "out") != policy_revision(policy)


def test_a_dialogue_longer_than_the_model_reads_is_left_out_and_said(
    stored, prepared, tmp_path, caplog
):
    root, policy = stored
    rows = reward_rows(root, ALL)
    long = [{"role": "assistant", "content": "w5 " * 80}]  # the model reads 64 tokens
    sides = [long, *rows["chosen"].to_pylist()[1:]]
    rows = rows.set_column(
        rows.column_names.index("chosen"), "chosen", pa.array(sides, rows["chosen"].type)
    )
    config = PreferenceConfig(batch_size=2, micro_batch_size=2)
    train_by(
        "reward",
        rows,
        policy_dir=policy,
        out_dir=tmp_path / "rm",
        config=config,
        seed=0,
        device="cpu",
    )
    assert len(prepared["RewardTrainer"]) == rows.num_rows - 1
    assert f"1 of {rows.num_rows} pairs are longer than the model's 64 tokens" in caplog.text
    every = rows.set_column(
        rows.column_names.index("chosen"), "chosen",
        pa.array([long] * rows.num_rows, rows["chosen"].type),
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"all \d+ pairs are longer than 64 tokens"):
        train_by(
            "reward",
            every,
            policy_dir=policy,
            out_dir=tmp_path / "no",
            config=config,
            seed=0,
            device="cpu",
        )
    assert not (tmp_path / "no").exists()
