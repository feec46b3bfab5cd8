"""A stored round as PPO finds it, with random weights: what the ways of an update are given alike.

Two policies of one shape: `policy`, which sampled the round and has a critic as after a first
round, and `reference`. Not here: clocks (ppo_ways.py), figures (ppo_update.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.policy.actor_critic import ActorCritic
from training.policy.sequences import sequence_logprobs
from training.ppo.config import TrainingConfig
from training.ppo.dataset import TrainingSet

PAD, BOS, EOS = 0, 1, 2
EPOCHS, MINIBATCH = 2, 32
_EXCLUDED = ("rollout_id", "source_round", "reward", "excluded_reason")


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes and a round's: `prompts` and `completions` are lengths to draw from [tokens].

    `longest` is the most a completion may have; one that is shorter ends with the end token.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    rows: int
    prompts: tuple[int, ...]
    completions: tuple[int, ...]
    longest: int
    micro_batch_tokens: int = 4096

    @property
    def is_even(self) -> bool:
        """All rows are as long as all others: no way has anything to pad."""
        return len(self.prompts) == len(self.completions) == 1

    @property
    def head(self) -> int:
        """Weights of the output layer."""
        return self.vocabulary * self.hidden


_STARTER = Shape(192, 512, 4, 6, 6, 4096, 1024, (16,), (48,), 48)
SHAPES = {
    # For the test: milliseconds.
    "tiny": Shape(32, 64, 2, 2, 2, 64, 64, (4,), (8,), 8),
    # 2.5 million parameters, 48 tokens each.
    "even": _STARTER,
    # The same policy; lengths at the 20 middles of equal shares of round 0 of the demo, which
    # samples up to 48 tokens.
    "demo": replace(
        _STARTER,
        prompts=(10, 10, 11, 11, 11, 12, 12, 12, 12, 12, 12, 13, 13, 13, 13, 14, 14, 44, 50, 53),
        completions=(
            *(21, 22, 23, 23, 24, 25, 25, 26, 26, 27),
            *(27, 28, 28, 29, 30, 30, 31, 31, 32, 35),
        ),
    ),
    # The 1B class of Llama 3.2, on CUDA.
    "1b": Shape(2048, 8192, 16, 32, 8, 128256, 1024, (128,), (128,), 128, 16384),
}


def training_config(shape: Shape) -> TrainingConfig:
    """Two epochs in minibatches of 32 rows, none ended early."""
    return TrainingConfig(
        epochs=EPOCHS,
        minibatch_size=MINIBATCH,
        micro_batch_tokens=shape.micro_batch_tokens,
        learning_rate=1e-5,
        max_kl_per_token=1e9,
    )


def build_round(folder: Path, shape: Shape) -> int:
    """Writes both policies and the round's tokens to `folder`; the parameters of a policy."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": PAD, "<s>": BOS, "</s>": EOS})),
        pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left",
    )  # fmt: skip
    tokenizer.save_pretrained(folder / "tokenizer")
    for seed, name in enumerate(("reference", "policy")):
        model = ActorCritic(_llama(shape, seed))
        model.save(folder / name, folder / "tokenizer")
    rng = np.random.default_rng(0)
    prompts = [_tokens(rng, n, shape) for n in rng.choice(shape.prompts, shape.rows)]
    completions = [_tokens(rng, n, shape) for n in rng.choice(shape.completions, shape.rows)]
    for ids in completions:
        if len(ids) < shape.longest:
            ids[-1] = EOS
    logprobs = sequence_logprobs(
        folder / "policy", prompts, completions, micro_batch_tokens=shape.micro_batch_tokens
    )
    np.savez(
        folder / "round.npz",
        prompts=np.concatenate(prompts),
        prompt_lengths=[len(ids) for ids in prompts],
        completions=np.concatenate(completions),
        completion_lengths=[len(ids) for ids in completions],
        logprobs=np.concatenate(logprobs),
        rewards=rng.normal(size=shape.rows).astype(np.float32),
    )
    return model.policy.num_parameters()


def stored_rows(folder: Path) -> TrainingSet:
    """The round as training.ppo.dataset hands it over."""
    with np.load(folder / "round.npz") as stored:
        rows = dict(stored)
    count = len(rows["rewards"])

    def ragged(name: str, lengths: str) -> list[np.ndarray]:
        return np.split(rows[name], np.cumsum(rows[lengths])[:-1])

    return TrainingSet(
        rollout_ids=[f"0-{i}-0" for i in range(count)],
        source_rounds=[0] * count,
        prompt_names=[str(i) for i in range(count)],
        prompt_ids=ragged("prompts", "prompt_lengths"),
        completion_ids=ragged("completions", "completion_lengths"),
        behavior_logprobs=ragged("logprobs", "completion_lengths"),
        reference_logprobs=[None] * count,
        rewards=rows["rewards"],
        finish_reasons=["length"] * count,
        is_fresh=np.ones(count, bool),
        excluded=pa.table({name: pa.nulls(0) for name in _EXCLUDED}),
        is_float32=not torch.cuda.is_available(),
    )


def _tokens(rng: np.random.Generator, length: int, shape: Shape) -> np.ndarray:
    return rng.integers(EOS + 1, shape.vocabulary, length).astype(np.int32)


def _llama(shape: Shape, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_value_heads,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
    )
