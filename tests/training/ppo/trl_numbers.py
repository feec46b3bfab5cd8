"""Makes trl_numbers.json: what TRL 1.12's own PPO code computes from fixed tensors. Run by hand.

    pip install --no-deps --target FOLDER trl==1.12.0      the last release with a PPOTrainer
    PYTHONPATH=FOLDER python -m tests.training.ppo.trl_numbers

PPOTrainer.train() runs as it stands. Only its models are replaced: `forward` and `get_reward` give
fixed logits, values and scores. Its local variables are read where it calls `accelerator.backward`
and `log`. test_parity_with_trl.py compares training/ppo/formulas.py with the numbers and needs no
TRL.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

NUMBERS = Path(__file__).with_name("trl_numbers.json")
PAD, EOS, VOCABULARY, PROMPT, FIRST_MARK = 0, 2, 6, 2, 3
# One row is cut at five tokens, one ends at its fifth, two end earlier.
COMPLETIONS = [[3, 4, 5, 3, 4], [5, 3, 2, 0, 0], [4, 5, 3, 2, 0], [3, 3, 5, 4, 2]]
ROUND = (
    *("logprobs", "ref_logprobs", "values", "scores", "padding_mask", "padding_mask_p1", "kl"),
    *("rewards", "returns", "advantages"),
)
STEP = ("micro_batch_inds", "new_logprobs", "vpred", "ratio", "pg_loss", "vf_loss")
METRICS = (
    *("objective/kl", "objective/non_score_reward", "policy/approxkl_avg", "policy/clipfrac_avg"),
    *("loss/policy_avg", "loss/value_avg", "policy/entropy_avg"),
)
OWN_WHITEN = ppo_trainer.masked_whiten
CASES = [
    {"kl_estimator": estimator, "lam": lam, "gamma": 1.0, "rows": 4}
    for estimator in ("k1", "k3")
    for lam in (0.0, 0.95, 1.0)
] + [
    {"kl_estimator": "k1", "lam": 0.95, "gamma": 0.9, "rows": 4},
    {"kl_estimator": "k1", "lam": 0.95, "gamma": 1.0, "rows": 2},  # two micro-batches to a step
]


def main() -> None:
    """Writes inputs and outputs of every case."""
    assert trl.__version__ == "1.12.0", f"TRL {trl.__version__}; see this module's first lines"
    inputs = fixed_inputs()
    found = {
        "versions": {"trl": trl.__version__, "torch": torch.__version__},
        "inputs": {name: numbers(value) for name, value in inputs.items()},
        "functions": functions(inputs),
        "cases": [run_case(inputs, **case) for case in CASES],
    }
    text = json.dumps(found, indent=1, allow_nan=False)
    NUMBERS.write_text(re.sub(r"\[[^][{}]+\]", lambda row: " ".join(row[0].split()), text) + "\n")


def fixed_inputs() -> dict[str, torch.Tensor]:
    """Logits [4, 7, 6] of sampling, reference and moving policy; values [4, 7]; scores [4]."""
    random = torch.Generator().manual_seed(12)
    shape = (len(COMPLETIONS), PROMPT + len(COMPLETIONS[0]))
    sampled = torch.randn(*shape, VOCABULARY, generator=random)
    return {
        "completions": torch.tensor(COMPLETIONS),
        "proximal_logits": sampled,
        "reference_logits": sampled + 0.5 * torch.randn(sampled.shape, generator=random),
        # Far enough for some ratios to leave the clipping range.
        "policy_logits": sampled + 0.4 * torch.randn(sampled.shape, generator=random),
        "old_values": torch.randn(shape, generator=random),
        "values": torch.randn(shape, generator=random),
        "scores": torch.randn(len(COMPLETIONS), generator=random),
    }


def functions(inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The module's pure functions on values and a mask."""
    x, mask = inputs["old_values"][:, PROMPT:], inputs["completions"] != PAD
    logits = inputs["policy_logits"][:, PROMPT - 1 : -1]
    found = {
        "masked_mean": ppo_trainer.masked_mean(x, mask),
        "masked_var": ppo_trainer.masked_var(x, mask),
        "masked_whiten": ppo_trainer.masked_whiten(x, mask),
        "selective_log_softmax": ppo_trainer.selective_log_softmax(logits, inputs["completions"]),
    }
    return {name: numbers(value) for name, value in found.items()}


def run_case(
    inputs: dict[str, torch.Tensor], *, kl_estimator: str, lam: float, gamma: float, rows: int
) -> dict[str, Any]:
    """One update in one epoch; `rows` to a micro-batch."""
    np.random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            PPOConfig(
                output_dir=folder,
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=len(COMPLETIONS) // rows,
                num_mini_batches=1,
                num_ppo_epochs=1,
                total_episodes=len(COMPLETIONS),
                response_length=len(COMPLETIONS[0]),
                temperature=1 - 1e-7,  # it adds as much before it divides
                stop_token_id=EOS,
                kl_estimator=kl_estimator,
                kl_coef=0.05,
                lam=lam,
                gamma=gamma,
                cliprange=0.2,
                cliprange_value=0.2,
                num_sample_generations=0,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
        )
        replace_models(trainer, inputs)
        seen = watch(trainer)
        trainer.train()
    settings = {"kl_estimator": kl_estimator, "lam": lam, "gamma": gamma, "rows": rows}
    return {"settings": settings, **seen}


def make_trainer(arguments: PPOConfig) -> PPOTrainer:
    """Its models are there to be replaced."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": PAD, "</s>": EOS})),
        pad_token="<pad>", eos_token="</s>", padding_side="left",
    )  # fmt: skip
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=4, intermediate_size=4, num_hidden_layers=1,
        num_attention_heads=1, pad_token_id=PAD, eos_token_id=EOS, num_labels=1,
    )  # fmt: skip
    # The last prompt token tells the rows apart, which come shuffled.
    marks = range(FIRST_MARK, FIRST_MARK + len(COMPLETIONS))
    queries = Dataset.from_dict({"input_ids": [[FIRST_MARK, mark] for mark in marks]})
    return PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=LlamaForCausalLM(config),
        ref_model=LlamaForCausalLM(config),
        reward_model=torch.nn.Identity(),
        value_model=LlamaForSequenceClassification(config),
        train_dataset=queries,
        eval_dataset=queries,
    )


def replace_models(trainer: PPOTrainer, inputs: dict[str, torch.Tensor]) -> None:
    """Fixed logits, values and scores in place of what models would give."""

    def rows(given: torch.Tensor) -> torch.Tensor:
        return given[:, PROMPT - 1] - FIRST_MARK

    def generate(_: Any, queries: torch.Tensor, *__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = torch.cat([queries, inputs["completions"][rows(queries)]], 1)
        return tokens, inputs["proximal_logits"][rows(queries), PROMPT - 1 : -1].clone()

    def forward(model: Any, given: torch.Tensor, pad: int) -> Any:
        if model is trainer.ref_model:
            return SimpleNamespace(logits=inputs["reference_logits"][rows(given)].clone())
        logits = inputs["policy_logits"][rows(given)].requires_grad_().clone()
        values = inputs["values"][rows(given)][..., None].requires_grad_()
        return SimpleNamespace(logits=logits), values

    def get_reward(model: Any, given: torch.Tensor, *_: Any) -> Any:
        if model is trainer.reward_model:
            return None, inputs["scores"][rows(given)].clone(), None
        return inputs["old_values"][rows(given)][..., None].clone(), None, None

    ppo_trainer.batch_generation = generate
    ppo_trainer.forward = forward
    ppo_trainer.get_reward = get_reward


def watch(trainer: PPOTrainer) -> dict[str, Any]:
    """Filled while train() runs: `round`, `steps` (one a micro-batch) and its own `metrics`."""
    seen: dict[str, Any] = {"round": {}, "steps": [], "metrics": {}}
    own_backward = trainer.accelerator.backward

    def whiten(values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
        seen["round"]["advantages_before_whitening"] = numbers(values)
        return OWN_WHITEN(values, mask, shift_mean)

    def backward(loss: torch.Tensor) -> None:
        names = sys._getframe(1).f_locals
        if not seen["steps"]:
            seen["round"]["rows"] = numbers(names["queries"][:, PROMPT - 1] - FIRST_MARK)
            seen["round"] |= {name: numbers(names[name]) for name in ROUND}
        step = {name: numbers(names[name]) for name in STEP}
        names["new_logprobs"].retain_grad()
        names["vpred"].retain_grad()
        own_backward(loss)
        step["logprobs_grad"] = numbers(names["new_logprobs"].grad)
        step["values_grad"] = numbers(names["vpred"].grad)
        seen["steps"].append(step)

    def log(metrics: dict[str, float], *_: Any) -> None:
        seen["metrics"] = {name: numbers(metrics[name]) for name in METRICS}

    trainer.accelerator.backward, trainer.log = backward, log
    ppo_trainer.masked_whiten = whiten
    return seen


def numbers(value: Any) -> Any:
    """As JSON; nine digits tell every float32 from its neighbours."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return numbers(value.tolist())
    if isinstance(value, list):
        return [numbers(one) for one in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
