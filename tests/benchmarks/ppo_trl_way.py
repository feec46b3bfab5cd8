"""The update of TRL 1.12's PPOTrainer, the last release with PPO, over the stored round.

The trainer's own train() runs: its reference, value and training passes, its epochs. Only what a
stored round has already is handed to it instead of made: completions (its seconds of sampling do
not count, nor the whole round's logits, which it would keep) and rewards. Loading and saving do not
count either. The folder of 1.12 stands first on this process's PYTHONPATH.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import trl
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from tests.benchmarks.figures import Seconds
from tests.benchmarks.ppo_round import EOS, EPOCHS, MINIBATCH, PAD, Shape, stored_rows
from tests.benchmarks.ppo_ways import Clock

_FORWARD_ROWS = 64  # PPOConfig's default of local_rollout_forward_batch_size


class StoredRound:
    """Answers the trainer's calls for completions, their logits and their rewards."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        rows = stored_rows(folder)
        self.prompts = rows.prompt_ids
        self.sampling = Clock()
        self._rewards = torch.from_numpy(rows.rewards)
        self._completions = torch.full((len(self.prompts), shape.longest), PAD)
        for place, ids in enumerate(rows.completion_ids):
            self._completions[place, : len(ids)] = torch.from_numpy(ids)
        # Found again by its prompt, whatever order the trainer takes the rows in.
        self._row = {ids.tobytes(): row for row, ids in enumerate(self.prompts)}
        assert len(self._row) == len(self.prompts)

    def generate(self, policy: Any, queries: torch.Tensor, *_: Any) -> tuple[torch.Tensor, Any]:
        """In place of batch_generation: queries and completions; an object to slice for logits."""
        completions = self._completions[self._find(queries)].to(queries.device)
        tokens = torch.cat([queries, completions], 1)
        return tokens, _Logits(policy, tokens, queries.shape[1], self.sampling)

    def rewards(self, tokens: torch.Tensor, context: int) -> torch.Tensor:
        """Of rows of tokens, whose first `context` are the padded prompts."""
        return self._rewards[self._find(tokens[:, :context])].to(tokens.device)

    def _find(self, queries: torch.Tensor) -> list[int]:
        rows = queries.cpu().numpy().astype(np.int32)
        return [self._row[row[row != PAD].tobytes()] for row in rows]


class _Logits:
    """The round's logits, computed for the slice that is asked for, off the clock."""

    def __init__(self, policy: Any, tokens: torch.Tensor, context: int, clock: Clock) -> None:
        self._policy, self._tokens, self._context, self._clock = policy, tokens, context, clock

    def __getitem__(self, rows: slice) -> torch.Tensor:
        with self._clock:
            logits = ppo_trainer.forward(self._policy, self._tokens[rows], PAD).logits
            return logits[:, self._context - 1 : -1].contiguous()


def trl_update(folder: Path, shape: Shape) -> tuple[Seconds, float | None]:
    """Runs the update; train()'s seconds less those of sampling. It shows no single step."""
    if not trl.__version__.startswith("1.12."):
        raise SystemExit(f"TRL {trl.__version__} stands there; the last with PPO is 1.12")
    stored = StoredRound(folder, shape)
    trainer = _trainer(folder, shape, stored.prompts)
    own_reward = ppo_trainer.get_reward

    def get_reward(model: Any, tokens: torch.Tensor, pad: int, context: int) -> Any:
        if model is trainer.reward_model:
            return None, stored.rewards(tokens, context), None
        return own_reward(model, tokens, pad, context)

    ppo_trainer.batch_generation, ppo_trainer.get_reward = stored.generate, get_reward
    with Clock() as clock:
        trainer.train()
    outside = stored.sampling
    return Seconds(clock.wall - outside.wall, clock.cpu - outside.cpu), None


def _trainer(folder: Path, shape: Shape, prompts: list[np.ndarray]) -> PPOTrainer:
    queries = Dataset.from_dict({"input_ids": [ids.tolist() for ids in prompts]})
    return PPOTrainer(
        args=_arguments(folder, shape),
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer"),
        model=AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32),
        ref_model=AutoModelForCausalLM.from_pretrained(folder / "reference", dtype=torch.float32),
        reward_model=torch.nn.Identity(),
        value_model=AutoModelForSequenceClassification.from_pretrained(
            folder / "policy", num_labels=1, dtype=torch.float32
        ),
        train_dataset=queries,
        eval_dataset=queries.select([0]),
    )


def _arguments(folder: Path, shape: Shape) -> PPOConfig:
    is_cuda = torch.cuda.is_available()
    return PPOConfig(
        output_dir=str(folder / "trl"),
        # One optimizer step a minibatch, as here. (Cut further, by gradient_accumulation_steps, it
        # would step only once in that many minibatches.)
        per_device_train_batch_size=shape.rows,
        num_mini_batches=shape.rows // MINIBATCH,
        gradient_accumulation_steps=1,
        num_ppo_epochs=EPOCHS,
        total_episodes=shape.rows,
        local_rollout_forward_batch_size=min(_FORWARD_ROWS, shape.rows),
        response_length=shape.longest,
        temperature=1.0,
        stop_token_id=EOS,
        learning_rate=1e-5,
        num_sample_generations=0,
        gradient_checkpointing=False,
        bf16=is_cuda,
        use_cpu=not is_cuda,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
