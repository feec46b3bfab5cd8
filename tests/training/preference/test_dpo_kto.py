"""DPO and KTO on stored rows: the sampled tokens, stored reference log-probs, no second model."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from trl import DPOConfig

from tests.training.stored import stored_round
from training.errors import TrainingError
from training.preference import trl_trainer as trl_support
from training.preference.config import PreferenceConfig
from training.preference.methods import class_weights, train_by
from training.preference.rows import dpo_rows, kto_rows
from training.preference.selection import Selection
from training.preference.trl_trainer import Job
from training.revision import TOKENIZER_FILES, policy_revision

ALL = Selection(margin=0.0)
FAST = PreferenceConfig(learning_rate=2e-3, epochs=4, batch_size=6, micro_batch_size=3)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("stored")
    return root, stored_round(root)


@pytest.fixture
def seen(monkeypatch):
    """The batches that reach the loss, and how many models are loaded."""
    seen = {"batches": [], "loaded": []}
    load = PreTrainedModel.from_pretrained.__func__

    def counted(cls, name, *args, **kwargs):
        seen["loaded"].append(str(name))
        return load(cls, name, *args, **kwargs)

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(counted))
    for trainer in (trl_support.StoredDPOTrainer, trl_support.StoredKTOTrainer):
        inner = trainer.compute_loss

        def compute_loss(self, model, inputs, *args, inner=inner, **kwargs):
            seen["batches"].append({name: value.clone() for name, value in inputs.items()})
            return inner(self, model, inputs, *args, **kwargs)

        monkeypatch.setattr(trainer, "compute_loss", compute_loss)
    return seen


def sequences(batches, prefix=""):
    """Every (tokens, completion tokens) of the batches, without padding."""
    found = []
    for batch in batches:
        names = ("input_ids", "attention_mask", "completion_mask")
        for ids, there, scored in zip(*(batch[prefix + name] for name in names), strict=True):
            tokens = ids[there.bool()].tolist()
            found.append((tokens, ids[scored.bool()].tolist()))
    return sorted(found)


def expected(rows, *columns):
    table = rows.to_pydict()
    return sorted(
        (prompt + ids, ids)
        for column in columns
        for prompt, ids in zip(table["prompt_ids"], table[column], strict=True)
    )


def test_the_first_loss_of_dpo_is_ln_2_and_its_tokens_are_those_sampled(stored, seen, tmp_path):
    root, policy = stored
    rows = dpo_rows(root, ALL)
    config = PreferenceConfig(batch_size=6, micro_batch_size=3)
    made = train_by(
        "dpo",
        rows,
        policy_dir=policy,
        out_dir=tmp_path / "out",
        config=config,
        seed=0,
        device="cpu",
    )
    assert made.losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert sequences(seen["batches"]) == expected(rows, "chosen_ids", "rejected_ids")
    assert seen["loaded"] == [str(policy)]  # one model, and no second one for the reference
    # The texts would have given other tokens: the way through them is not open.
    tokenizer = AutoTokenizer.from_pretrained(policy)
    for row in rows.to_pylist():
        turns = row["prompt"] + row["chosen"]
        rendered = tokenizer.apply_chat_template(turns, tokenize=True)["input_ids"]
        assert rendered != row["prompt_ids"] + row["chosen_ids"]


def test_a_shifted_reference_shifts_the_first_loss(stored, tmp_path):
    root, policy = stored
    rows = dpo_rows(root, ALL)
    at = rows.schema.get_field_index("ref_chosen_logps")
    shifted = rows.set_column(
        at, rows.field(at), pc.add(rows["ref_chosen_logps"], pa.scalar(2.0, pa.float32()))
    )
    other = rows.schema.get_field_index("reference_revision")
    shifted = shifted.set_column(other, rows.field(other), pa.array(["another"] * rows.num_rows))
    made = train_by(
        "dpo", shifted, policy_dir=policy, out_dir=tmp_path / "out", seed=0, device="cpu",
        config=PreferenceConfig(batch_size=6, micro_batch_size=3, beta=0.1),
    )  # fmt: skip
    assert made.losses[0] == pytest.approx(math.log1p(math.exp(0.1 * 2.0)), abs=1e-5)


def test_a_policy_that_is_not_what_the_reference_scored_is_found_out(stored, tmp_path):
    root, policy = stored
    rows = dpo_rows(root, ALL)
    at = rows.schema.get_field_index("ref_rejected_logps")
    wrong = rows.set_column(
        at, rows.field(at), pc.multiply(rows["ref_rejected_logps"], pa.scalar(1.1, pa.float32()))
    )
    with pytest.raises(TrainingError, match="nats a completion off the stored ones"):
        train_by(
            "dpo",
            wrong,
            policy_dir=policy,
            out_dir=tmp_path / "out",
            config=FAST,
            seed=0,
            device="cpu",
        )
    assert not list(tmp_path.iterdir())


def test_dpo_learns_the_pairs_and_leaves_a_folder_that_loads(stored, tmp_path):
    root, policy = stored
    out = tmp_path / "out"
    made = train_by(
        "dpo",
        dpo_rows(root, ALL),
        policy_dir=policy,
        out_dir=out,
        config=FAST,
        seed=0,
        device="cpu",
    )
    assert made.losses[-1] < 0.5 < made.losses[0]
    assert made.revision == policy_revision(out) != policy_revision(policy)
    AutoModelForCausalLM.from_pretrained(out)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((out / name).read_text()) == json.loads((policy / name).read_text())
    for name in TOKENIZER_FILES:
        if (policy / name).exists():
            assert (out / name).read_bytes() == (policy / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    again = train_by(
        "dpo",
        dpo_rows(root, ALL),
        policy_dir=policy,
        out_dir=tmp_path / "again",
        config=FAST,
        seed=0,
        device="cpu",
    )
    assert again.revision == made.revision  # the same rows give the same weights, bit for bit


def test_kto_reads_the_stored_tokens_and_another_sample_of_the_prompt(stored, seen, tmp_path):
    root, policy = stored
    rows = kto_rows(root, ALL)
    config = PreferenceConfig(batch_size=8, micro_batch_size=8)
    made = train_by(
        "kto",
        rows,
        policy_dir=policy,
        out_dir=tmp_path / "out",
        config=config,
        seed=0,
        device="cpu",
    )
    # Policy and reference agree, so every row's loss is 1 - sigmoid(0) times its class's weight.
    first = seen["batches"][0]["label"].tolist()
    desirable, undesirable = class_weights(rows["label"].to_pylist())
    mean = sum(desirable if label else undesirable for label in first) / len(first) / 2
    assert made.losses[0] == pytest.approx(mean, abs=1e-5)
    assert made.first["kl"] == pytest.approx(0, abs=1e-5)
    assert sequences(seen["batches"]) == expected(rows, "completion_ids")
    assert sequences(seen["batches"], "KL_") == expected(rows, "KL_completion_ids")
    assert seen["loaded"] == [str(policy)]


def test_kto_learns_which_is_desirable(stored, tmp_path):
    root, policy = stored
    config = PreferenceConfig(learning_rate=2e-3, epochs=15, batch_size=64, micro_batch_size=64)
    made = train_by(
        "kto",
        kto_rows(root, ALL),
        policy_dir=policy,
        out_dir=tmp_path / "out",
        config=config,
        seed=0,
        device="cpu",
    )
    assert made.losses[-1] < made.losses[0] - 0.1
    assert made.last["rewards/margins"] > made.first["rewards/margins"] + 0.2


def test_kto_needs_both_classes():
    assert class_weights([True, False, False, False]) == (3.0, 1.0)
    with pytest.raises(TrainingError, match="0 desirable and 2 undesirable"):
        class_weights([False, False])


def test_rows_without_ids_or_reference_are_refused_by_count_and_id(tmp_path):
    policy = stored_round(tmp_path, 4, with_reference=False)
    rows = dpo_rows(tmp_path, ALL)
    assert rows.num_rows == 3
    arguments = {"policy_dir": policy, "config": FAST, "seed": 0, "device": "cpu"}
    first = rows["chosen_id"][0].as_py()
    with pytest.raises(
        TrainingError, match=f"3 of 3 rows have no stored reference.*{first}.*--round"
    ):
        train_by("dpo", rows, out_dir=tmp_path / "out", **arguments)
    at = rows.schema.get_field_index("chosen_ids")
    bare = rows.set_column(at, rows.field(at), pa.array([[5], None, None], pa.list_(pa.int32())))
    with pytest.raises(TrainingError, match=r"2 of 3 rows have no token ids \(chosen_ids\)"):
        train_by("dpo", bare, out_dir=tmp_path / "out", **arguments)
    with pytest.raises(TrainingError, match=r"(\d+) of \1 rows have no stored reference"):
        train_by("kto", kto_rows(tmp_path, ALL), out_dir=tmp_path / "out", **arguments)
    with pytest.raises(TrainingError, match="there is no row to train on"):
        train_by("dpo", rows.slice(0, 0), out_dir=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_another_policys_tokens_and_a_taken_folder_are_refused(stored, tmp_path):
    root, policy = stored
    rows = dpo_rows(root, ALL)
    arguments = {"policy_dir": policy, "config": FAST, "seed": 0, "device": "cpu"}
    at = rows.schema.get_field_index("chosen_ids")
    ids = [[40]] + [[5]] * (rows.num_rows - 1)
    alien = rows.set_column(at, rows.field(at), pa.array(ids, pa.list_(pa.int32())))
    with pytest.raises(
        TrainingError, match=r"chosen_ids holds token 40, the vocabulary .* ends at 39"
    ):
        train_by("dpo", alien, out_dir=tmp_path / "out", **arguments)
    (tmp_path / "taken").mkdir()
    with pytest.raises(TrainingError, match="taken exists already"):
        train_by("dpo", rows, out_dir=tmp_path / "taken", **arguments)


def test_a_loss_that_is_not_finite_leaves_nothing(stored, tmp_path):
    root, policy = stored
    config = FAST.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(TrainingError, match="nothing was written"):
        train_by(
            "dpo",
            dpo_rows(root, ALL),
            policy_dir=policy,
            out_dir=tmp_path / "out",
            config=config,
            seed=0,
            device="cpu",
        )
    assert not list(tmp_path.iterdir())


def test_a_reference_model_is_refused_where_trl_would_load_one(stored, tmp_path):
    root, policy = stored
    job = Job("dpo", 1e-6, policy, tmp_path / "out", FAST, 0, "cpu")
    rows = dpo_rows(root, ALL)
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    with pytest.raises(TrainingError, match="TRL loaded a reference model"):
        trl_support.StoredDPOTrainer(
            model=str(policy),
            args=DPOConfig(**job.arguments(str(tmp_path))),
            train_dataset=trl_support.as_dataset(rows, columns),
        )
