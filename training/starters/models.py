"""The four starter models: their sizes, budgets, and how each reads its examples.

Small on purpose (at most 1.3 million weights each): they learn the starter corpus and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from training.starters.examples import (
    Dialogue,
    Judged,
    classifier_examples,
    judge_examples,
    policy_dialogues,
)
from training.starters.fitting import (
    IGNORED,
    Example,
    Progress,
    fit,
    fit_classifier,
    length_batches,
    next_token_loss,
    seeded_torch,
)
from training.starters.shapes import chat_model, metric_model, reward_model, save
from training.starters.tokenizers import (
    ASSISTANT,
    BOS,
    EOS,
    HUMAN,
    bpe_classifier_tokenizer,
    chat_tokenizer,
    train_bpe,
    wordpiece_classifier_tokenizer,
)

# Enough for nearly every word of the corpus to be one token: rare insults cut into pieces would
# make rude completions longer, and length would give them away.
VOCABULARY = 3072
CONTEXT = 256  # longest chat in tokens
CLASSIFIER_CONTEXT = 128  # longest completion that a classifier reads, in tokens


@dataclass(frozen=True)
class Budget:
    """How much is drawn and how often it is seen."""

    dialogues: int
    dialogue_epochs: int
    judged: int
    judged_epochs: int
    classified: int
    classified_epochs: int


BUDGETS = {
    "full": Budget(12_000, 3, 16_000, 1, 8_000, 3),
    "tiny": Budget(300, 1, 100, 1, 200, 1),
}


def build_starters(folder: Path, *, seed: int, budget: Budget, progress: Progress) -> None:
    """Train all four and save each under its name in `folder`, in Hugging Face layout."""
    dialogues = policy_dialogues(budget.dialogues, seed=seed)
    judged = judge_examples(budget.judged, seed=seed)
    chat_texts = [" ".join((*d.turns, d.completion)) for d in dialogues]
    bpe = train_bpe([*chat_texts, *(j.content for j in judged)], VOCABULARY)
    tokenizer = chat_tokenizer(bpe, longest=CONTEXT)
    with seeded_torch(seed):
        policy = _build_policy(tokenizer, dialogues, seed, budget, progress)
        save(policy, tokenizer, folder / "starter-policy")
        # The judge starts from the policy's weights: it has to know the words before it can grade
        # them, and digits alone teach it those too slowly.
        _train_judge(policy, tokenizer, judged, seed, budget, progress)
        save(policy, tokenizer, folder / "starter-judge")
        _build_toxicity(folder / "starter-toxicity", seed, budget, progress)
        _build_metric(folder / "starter-metric", seed, budget, progress)


def _build_policy(
    tokenizer: PreTrainedTokenizerFast,
    dialogues: Sequence[Dialogue],
    seed: int,
    budget: Budget,
    progress: Progress,
) -> LlamaForCausalLM:
    model = chat_model(tokenizer, hidden=128, intermediate=352, layers=4, heads=4)
    examples = [_dialogue_example(tokenizer, dialogue) for dialogue in dialogues]
    batches = length_batches(examples, tokenizer.pad_token_id, budget.dialogue_epochs, 2048, seed)
    fit(model, batches, 3e-3, next_token_loss, "starter-policy", progress)
    return model


def _train_judge(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    judged: Sequence[Judged],
    seed: int,
    budget: Budget,
    progress: Progress,
) -> None:
    examples = [_judge_example(tokenizer, one) for one in judged]
    batches = length_batches(examples, tokenizer.pad_token_id, budget.judged_epochs, 2048, seed)
    fit(model, batches, 1e-3, next_token_loss, "starter-judge", progress)


def _build_toxicity(folder: Path, seed: int, budget: Budget, progress: Progress) -> None:
    examples = classifier_examples("reward", budget.classified, seed=seed)
    bpe = train_bpe([text for text, _ in examples], 2048)
    tokenizer = bpe_classifier_tokenizer(bpe, longest=CLASSIFIER_CONTEXT)
    model = reward_model(tokenizer, hidden=96, intermediate=256, heads=3)
    epochs = budget.classified_epochs
    fit_classifier(model, tokenizer, examples, epochs, seed, "starter-toxicity", progress)
    save(model, tokenizer, folder)


def _build_metric(folder: Path, seed: int, budget: Budget, progress: Progress) -> None:
    examples = classifier_examples("metric", budget.classified, seed=seed)
    tokenizer = wordpiece_classifier_tokenizer(
        [text for text, _ in examples], 2048, longest=CLASSIFIER_CONTEXT
    )
    model = metric_model(tokenizer, hidden=96, intermediate=256, heads=4)
    epochs = budget.classified_epochs
    fit_classifier(model, tokenizer, examples, epochs, seed, "starter-metric", progress)
    save(model, tokenizer, folder)


def _dialogue_example(tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue) -> Example:
    """Everything is predicted, prompts too: the questions teach the same words."""
    roles = (HUMAN, ASSISTANT)
    turns = (*dialogue.turns, dialogue.completion)
    text = BOS + "".join(f"{roles[i % 2]}{turn}{EOS}" for i, turn in enumerate(turns))
    ids = tokenizer(text)["input_ids"]
    return Example(tuple(ids), tuple(ids))


def _judge_example(tokenizer: PreTrainedTokenizerFast, judged: Judged) -> Example:
    """Only the digit is predicted."""
    ids = tokenizer(f"{BOS}{HUMAN}{judged.content}{EOS}{ASSISTANT}{judged.digit}")["input_ids"]
    return Example(tuple(ids), (*[IGNORED] * (len(ids) - 1), ids[-1]))
