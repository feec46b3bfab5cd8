"""Training and export read what was published, bit for bit, or say which file is not it."""

from __future__ import annotations

import pytest

from tests.warehouse.builder import prompt, publish_rows, reward, rollout, round_row
from training.ppo.config import TrainingConfig
from training.ppo.dataset import trainable_rows
from training.preference.export import export_rows
from training.preference.selection import Selection
from warehouse.errors import CorruptFile
from warehouse.ledger.ledger import Ledger
from warehouse.store import open_store

ALL = Selection(margin=0.0, allow_truncated=True)


@pytest.fixture
def root(tmp_path):
    """Two completed rounds of one train prompt, two samples each."""
    publish_rows(tmp_path, "prompts", prompts=[prompt("t1", purpose="train")])
    for number in (0, 1):
        rows = [
            rollout(number, "t1", k, purpose="train", policy_revision="p", dtype="float32",
                    logprobs_mode="raw_logprobs", tokenizer_sha256="t", temperature=1.0,
                    top_p=1.0, top_k=0)
            for k in (0, 1)
        ]  # fmt: skip
        publish_rows(
            tmp_path, f"round={number}", number, rollouts=rows,
            rewards=[reward(row, float(k)) for k, row in enumerate(rows)],
            rounds=[round_row(number)],
        )  # fmt: skip
    return tmp_path


def flip_a_bit(root, table, round):
    (file,) = Ledger(open_store(root)).files(table=table, rounds=[round])
    path = root / file.path
    data = bytearray(path.read_bytes())
    data[6] ^= 1  # in the first page of the first column
    path.write_bytes(bytes(data))
    return file.path


def rows_of(root, number):
    return trainable_rows(
        root, number, recipe_sha256=None, config=TrainingConfig(), policy_revision="p"
    )


@pytest.mark.parametrize("table", ["rollouts", "rewards", "rounds"])
def test_ppo_stops_at_a_flipped_bit_of_its_round_and_not_of_another(root, table):
    assert len(rows_of(root, 1).rollout_ids) == 2
    path = flip_a_bit(root, table, 0)
    with pytest.raises(CorruptFile, match=path):
        rows_of(root, 0)
    assert len(rows_of(root, 1).rollout_ids) == 2


@pytest.mark.parametrize("kind", ["dpo", "kto", "sft", "reward"])
@pytest.mark.parametrize("table", ["rollouts", "rewards", "prompts"])
def test_an_export_writes_nothing_of_a_damaged_file(root, tmp_path, kind, table):
    out = tmp_path / "rows.parquet"
    path = flip_a_bit(root, table, None if table == "prompts" else 0)
    with pytest.raises(CorruptFile, match=path):
        export_rows(root, kind, out, ALL)
    assert not out.exists()
    if table != "prompts":
        only = Selection(margin=0.0, rounds=(1,))
        assert export_rows(root, kind, out, only).num_rows
