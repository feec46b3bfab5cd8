"""The four trainings through TRL as one table: which trainer reads which columns, with what.

DPO on pairs (Rafailov et al. 2305.18290); KTO on single completions, desirable or not (Ethayarajh
et al. 2402.01306), its zero point from another sample of the same prompt (queries.py); SFT on the
best of n, also known as rejection sampling; a reward model from pairs (Bradley-Terry), where there
is a margin with it in the loss (Llama 2, 2307.09288, equation 2). Where rows hold the sampled ids
and the reference's log-probs, these train, token-exactly and without a reference model. Texts that
nobody sampled (imported pairs, revisions, people's answers) are rendered by the model's own chat
template; the reward model always reads so, for so the labeler that serves it reads.
Not here: the rows (rows.py), one run of a trainer (trl_trainer.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import trl
from transformers import AutoConfig

from training.errors import TrainingError
from training.preference.config import PreferenceConfig
from training.preference.rows import require
from training.preference.trained_folder import Trained, refuse_unfit
from training.preference.trl_trainer import (
    Job,
    Say,
    StoredDPOTrainer,
    StoredKTOTrainer,
    as_dataset,
    parity_check,
    train_and_save,
)

_NO_LIMIT = 10**9  # a tokenizer without a limit says 10**30
_PAIR = ("prompt", "chosen", "rejected")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """A trainer and the columns it reads; `ids` are those of them that hold token ids.

    `optional` columns are read where the rows have them.
    """

    trainer: type[Any]
    columns: tuple[str, ...]
    ids: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """One training: how it reads rows with token ids, or rows of text, and its own arguments.

    `name` stands in training.json; `learning_rate` is TRL's own. `has_reference`: a policy that is
    the reference must agree with the stored log-probs. `in_order`: TRL reads the rows in the order
    they stand in, so they are shuffled before.
    """

    name: str
    learning_rate: float
    settings: type[Any]
    arguments: Callable[[Job, pa.Table, Any], dict[str, Any]]
    stored: Reading | None = None
    text: Reading | None = None
    has_reference: bool = False
    in_order: bool = False

    def reading(self, rows: pa.Table) -> Reading:
        """By token ids, if there is one among the rows, or if nothing else is read."""
        if self.text is None or self.stored is None:
            return self.stored or self.text  # type: ignore[return-value]  # one is there
        first = self.stored.ids[0]
        is_text = first not in rows.column_names or rows[first].null_count == rows.num_rows
        return self.text if is_text else self.stored


def train_by(
    kind: str,
    rows: pa.Table,
    *,
    policy_dir: Path,
    out_dir: Path,
    config: PreferenceConfig,
    seed: int,
    device: str = "auto",
    say: Say | None = None,
) -> Trained:
    """Trains the model in `policy_dir` on rows of this kind (rows.ROWS), writes it to `out_dir`.

    Raises TrainingError, before anything is written, for rows of which some lack what the others
    have, for a model that does not fit them, for a policy that is the reference and disagrees with
    its stored log-probs, and for a loss that is not finite.
    """
    method = METHODS[kind]
    reading = method.reading(rows)
    require(rows, reading.columns)
    refuse_unfit(policy_dir, rows, reading.ids)
    job = Job(method.name, method.learning_rate, policy_dir, out_dir, config, seed, device, say)
    columns = [*reading.columns, *(n for n in reading.optional if n in rows.column_names)]
    read = rows
    if method.in_order:
        read = rows.take(pa.array(np.random.default_rng(seed).permutation(rows.num_rows)))

    def make(shared: dict[str, Any], tokenizer: Any) -> Any:
        arguments = shared | method.arguments(job, rows, tokenizer)
        trainer = reading.trainer(
            model=str(policy_dir),
            args=method.settings(**arguments),
            train_dataset=as_dataset(read, columns),
            processing_class=tokenizer,
        )
        _say_what_is_left_out(trainer, rows.num_rows, arguments["max_length"])
        return trainer

    check = parity_check(job, rows) if method.has_reference else None
    return train_and_save(job, rows, make, check)


def class_weights(labels: list[bool]) -> tuple[float, float]:
    """Weights of desirable and undesirable rows: the rarer class counts as much as the other.

    Both products of weight and count are then equal, the lower end of equation 8. Raises
    TrainingError where one class is empty.
    """
    desirable = sum(labels)
    undesirable = len(labels) - desirable
    if not desirable or not undesirable:
        raise TrainingError(
            f"kto: {desirable} desirable and {undesirable} undesirable completions; it needs both: "
            "set preference_training.threshold between the rewards"
        )
    most = max(desirable, undesirable)
    return most / desirable, most / undesirable


def _dpo(job: Job, rows: pa.Table, tokenizer: Any) -> dict[str, Any]:
    del rows, tokenizer
    return {"beta": job.config.beta, "precompute_ref_log_probs": True}


def _kto(job: Job, rows: pa.Table, tokenizer: Any) -> dict[str, Any]:
    if job.config.rows_at_once < 2:
        raise TrainingError("preference_training.micro_batch_size: kto needs at least 2")
    desirable, undesirable = class_weights(rows["label"].to_pylist())
    weights = {"desirable_weight": desirable, "undesirable_weight": undesirable}
    return _dpo(job, rows, tokenizer) | weights


def _reward(job: Job, rows: pa.Table, tokenizer: Any) -> dict[str, Any]:
    """A dialogue longer than the model can read is left out, as the labeler will not score it."""
    del rows
    if not isinstance(tokenizer.chat_template, str):
        raise TrainingError(
            f"{job.policy_dir}: its tokenizer has no chat template (or several), so there is no "
            "one way to read a dialogue; save chat_template.jinja with one beside it"
        )
    config = AutoConfig.from_pretrained(job.policy_dir).get_text_config()
    places = getattr(config, "max_position_embeddings", None)
    known = [n for n in (places, tokenizer.model_max_length) if n is not None and n < _NO_LIMIT]
    return {"max_length": min(known, default=None)}


def _say_what_is_left_out(trainer: Any, count: int, longest: int | None) -> None:
    """TRL drops what is longer, it does not cut. Raises TrainingError where nothing is left."""
    left = len(trainer.train_dataset)
    if not left:
        raise TrainingError(f"all {count} pairs are longer than {longest} tokens")
    if left < count:
        _log.warning(
            "%d of %d pairs are longer than the model's %d tokens and are left out",
            count - left, count, longest,
        )  # fmt: skip


_PAIR_IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
_KTO_IDS = ("prompt_ids", "completion_ids", "KL_completion_ids")
METHODS = {
    "dpo": Method(
        "dpo", 1e-6, trl.DPOConfig, _dpo, has_reference=True,
        stored=Reading(
            StoredDPOTrainer, (*_PAIR_IDS, "ref_chosen_logps", "ref_rejected_logps"), _PAIR_IDS
        ),
        text=Reading(trl.DPOTrainer, _PAIR),
    ),
    "kto": Method(
        "kto", 1e-6, trl.KTOConfig, _kto, has_reference=True, in_order=True,
        stored=Reading(
            StoredKTOTrainer, (*_KTO_IDS, "label", "ref_logps", "ref_KL_logps"), _KTO_IDS
        ),
    ),
    "sft": Method(
        "sft", 2e-5, trl.SFTConfig, lambda *_: {},
        stored=Reading(trl.SFTTrainer, ("input_ids", "labels"), ("input_ids",)),
        text=Reading(trl.SFTTrainer, ("prompt", "completion")),
    ),
    "reward": Method(
        "reward_model", 1e-4, trl.RewardConfig, _reward,
        text=Reading(trl.RewardTrainer, _PAIR, optional=("margin",)),
    ),
}  # fmt: skip
