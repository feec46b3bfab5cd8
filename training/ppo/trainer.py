"""PPO over one stored round: from a folder with a policy to a folder with a better one.

The order: reference and proximal log-probs once, parity gate, epochs over shuffled minibatches,
save. Everything is checked before anything is written, and on a CPU the same rows give the same
weights, bit for bit.
Not here: which rows train (dataset.py), the epochs (epochs.py), the formulas (formulas.py),
publishing (pipeline).
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from torch import Tensor

from training.policy.actor_critic import ActorCritic
from training.policy.adapters import AdapterConfig
from training.policy.loading import resolve_device
from training.policy.sequences import sequence_logprobs
from training.ppo.checkpoint import Checkpoints
from training.ppo.config import TrainingConfig
from training.ppo.dataset import TrainingSet
from training.ppo.epochs import Progress, train_epochs
from training.ppo.guards import DivergedError, ParityError
from training.ppo.log import (
    Floats,
    MetricsLog,
    policy_logprobs_table,
    train_use_table,
    training_run_id,
)
from training.ppo.parallel import Parallel
from training.ppo.stored_round import StoredRound, prepare_round
from training.revision import policy_revision
from warehouse.files import whole_folder

__all__ = ["DivergedError", "ParityError", "TrainingOutcome", "train_ppo"]


@dataclass(frozen=True)
class TrainingOutcome:
    """A trained policy on disk, its tables for the warehouse, and the numbers worth a line.

    `summary` also holds seconds_training and tokens_per_second, which no table does: they differ
    between two equal nights.
    """

    policy_dir: Path
    policy_revision: str
    training_run_id: str
    train_use: pa.Table
    training_metrics: pa.Table
    policy_logprobs: pa.Table
    summary: dict[str, float]


def train_ppo(
    rows: TrainingSet,
    *,
    policy_dir: Path,
    reference_dir: Path,
    out_dir: Path,
    config: TrainingConfig,
    kl_coefficient: float,
    round: int,
    seed: int,
    device: str = "auto",
    progress: Progress | None = None,
    work_dir: Path | None = None,
    adapter: AdapterConfig | None = None,
) -> TrainingOutcome:
    """Trains the policy in `policy_dir` on `rows`, writes the next one to `out_dir` in one rename.

    With `work_dir` a killed call goes on where it was, on a CPU to the same bits. With `adapter`
    only that is trained, and the reference is the policy without it. Raises ParityError,
    DivergedError, AdapterError, UnsupportedPolicy, before `out_dir` is written.
    """
    started = time.monotonic()
    policy, reference = policy_revision(policy_dir), policy_revision(reference_dir)
    inputs = (rows, config, round, policy, reference, kl_coefficient, seed)
    run_id = training_run_id(*inputs, *([adapter] if adapter else []))
    log, checkpoints = MetricsLog(run_id, round), Checkpoints(work_dir, run_id)
    parallel = Parallel(config, resolve_device(device))

    load = functools.partial(_load, policy_dir, reference_dir, config, device, adapter)
    kept = checkpoints.prepared(rows)
    if kept is not None:
        model, (prepared, head) = load(), kept
        model.value_head.load_state_dict(head)
    else:
        is_same = policy == reference
        # Without an adapter the reference comes and goes before the policy is loaded.
        logprobs = None
        if not is_same and not adapter:
            logprobs = _reference(rows, reference_dir, config, device, parallel)
        model = load()
        if adapter and not is_same:
            with model.as_reference():
                logprobs = _reference(rows, model, config, device, parallel)
        prepared = prepare_round(
            model, rows, logprobs, config, parallel, kl_coefficient=kl_coefficient, seed=seed
        )
        if parallel.is_main:
            checkpoints.save_prepared(prepared, model.value_head.state_dict())
    epochs, last, trained = train_epochs(
        model, prepared, config, log, checkpoints, parallel, order_seed=(seed, round),
        progress=(progress or _silent) if parallel.is_main else _silent,
    )  # fmt: skip
    rows, metrics = prepared.rows, prepared.metrics
    log.add(metrics | {"epochs": float(epochs)})
    if parallel.world > 1:
        whole = parallel.state(trained)  # every process takes part in collecting it
        if parallel.is_main:
            model = load()
            model.load_state_dict(whole)
    revision = _save(model, out_dir, policy_dir) if parallel.is_main else ""
    parallel.wait()
    checkpoints.clear()
    seconds = time.monotonic() - started
    speed = {"seconds_training": seconds, "tokens_per_second": metrics["tokens"] * epochs / seconds}
    return TrainingOutcome(
        policy_dir=out_dir,
        policy_revision=revision,
        training_run_id=run_id,
        train_use=train_use_table(rows, prepared.stored, run_id, round, epochs),
        training_metrics=log.table(),
        policy_logprobs=_logprobs_table(rows, prepared.stored, round, policy, reference),
        summary=metrics | last | {"epochs": float(epochs)} | speed,
    )


def _load(
    policy_dir: Path,
    reference_dir: Path,
    config: TrainingConfig,
    device: str,
    adapter: AdapterConfig | None,
) -> ActorCritic:
    """The policy to train, with what the configuration says about memory and speed."""
    model = ActorCritic.load(
        policy_dir,
        device=device,
        dtype=config.dtype,
        adapter=adapter,
        base=reference_dir,
        logits_limit=config.logits_in_memory,
    )
    if config.gradient_checkpointing:
        model.spend_less_memory()
    if config.compile:
        model.policy.base_model.compile(dynamic=True)
    return model


def _reference(
    rows: TrainingSet,
    reference: Path | ActorCritic,
    config: TrainingConfig,
    device: str,
    parallel: Parallel,
) -> list[Floats]:
    """The reference's log-probs of every row; only those that no earlier night stored cost."""
    known = rows.reference_logprobs
    missing = [place for place, logprobs in enumerate(known) if logprobs is None]
    missing = missing[parallel.rank :: parallel.world]
    found = sequence_logprobs(
        reference,
        [rows.prompt_ids[place] for place in missing],
        [rows.completion_ids[place] for place in missing],
        device=device,
        dtype=config.dtype,
        micro_batch_tokens=config.micro_batch_tokens,
    )
    fresh = dict(parallel.gather(zip(missing, found, strict=True)))
    return [fresh[i] if logprobs is None else logprobs for i, logprobs in enumerate(known)]


def _logprobs_table(
    rows: TrainingSet, stored: StoredRound, round: int, policy: str, reference: str
) -> pa.Table:
    """Proximal and reference log-probs; where both are one policy, one row, as the reference's.

    A reference's log-probs that an earlier night stored are not stored again.
    """

    def ragged(x: Tensor) -> list[Floats]:
        return [row[: len(i)].numpy() for row, i in zip(x, rows.completion_ids, strict=True)]

    is_new = [known is None for known in rows.reference_logprobs]
    of_reference = ragged(stored.reference)
    table = policy_logprobs_table(rows, round, reference, "reference", of_reference, is_new)
    if policy == reference:
        return table
    proximal = policy_logprobs_table(rows, round, policy, "proximal", ragged(stored.proximal))
    return pa.concat_tables([table, proximal])


def _save(model: ActorCritic, out_dir: Path, tokenizer_from: Path) -> str:
    """Writes the policy beside `out_dir`, then renames it in; its revision."""
    with whole_folder(out_dir, replace=True) as fresh:  # what lies there, a killed run left
        model.save(fresh, tokenizer_from)
        return policy_revision(fresh)


def _silent(done: int, total: int, fields: dict[str, float]) -> None:
    """No progress is shown."""
