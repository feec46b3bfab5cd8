"""A policy of two small layers over forty words, and rollouts sampled from it, for the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as FastTokenizer

from training.ppo.dataset import TrainingSet

VOCABULARY = 40
EOS = 2
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
NONE_EXCLUDED = pa.table(
    {
        "rollout_id": pa.array([], pa.string()),
        "source_round": pa.array([], pa.int32()),
        "reward": pa.array([], pa.float32()),
        "excluded_reason": pa.array([], pa.string()),
    }
)


def tiny_policy(folder: Path, seed: int = 0) -> Path:
    """A random Llama with a word tokenizer whose padding is the end token."""
    words = ["<unk>", "<s>", "</s>", "user", "assistant", *(f"w{i}" for i in range(5, VOCABULARY))]
    words = words[:VOCABULARY]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = FastTokenizer(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>"
    )
    fast.chat_template = TEMPLATE
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            eos_token_id=EOS,
            pad_token_id=EOS,
        )
    )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@torch.no_grad()
def sample_rows(
    folder: Path,
    count: int,
    reward: Callable[[list[int]], float],
    *,
    seed: int = 0,
    max_tokens: int = 8,
    group: int = 1,
    round: int = 0,
) -> TrainingSet:
    """Rollouts of the policy in `folder`, sampled the slow and plain way; they end at EOS.

    `group` completions stand together for each prompt.
    """
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    random = torch.Generator().manual_seed(seed)
    prompts = torch.randint(5, VOCABULARY, (count // group, 3), generator=random)
    prompts = prompts.repeat_interleave(group, 0)
    ids, logs = prompts, []
    for _ in range(max_tokens):
        step = model(ids).logits[:, -1].log_softmax(-1)
        drawn = torch.multinomial(step.exp(), 1, generator=random)
        logs.append(step.gather(1, drawn))
        ids = torch.cat([ids, drawn], 1)
    logprobs = torch.cat(logs, 1).numpy()
    completions = [_until_eos(row) for row in ids[:, 3:].tolist()]
    return TrainingSet(
        rollout_ids=[f"r{i:04d}" for i in range(round * 1000, round * 1000 + count)],
        source_rounds=[round] * count,
        prompt_names=[f"p{i // group:04d}" for i in range(count)],
        prompt_ids=[np.array(row, np.int32) for row in prompts.tolist()],
        completion_ids=[np.array(row, np.int32) for row in completions],
        behavior_logprobs=[
            row[: len(ids)].copy() for row, ids in zip(logprobs, completions, strict=True)
        ],
        reference_logprobs=[None] * count,
        rewards=np.array([reward(row) for row in completions], np.float32),
        finish_reasons=["stop" if row[-1] == EOS else "length" for row in completions],
        is_fresh=np.ones(count, bool),
        excluded=NONE_EXCLUDED,
        is_float32=True,
    )


def _until_eos(row: list[int]) -> list[int]:
    return row[: row.index(EOS) + 1] if EOS in row else row
