"""Policy, reward and metric built from real text: their sizes, budgets, and how each is trained.

The same three architectures as the starters of the project's own corpus, a little larger. There is
no judge: helpfulness cannot be learnt from this data at this size.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

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
from training.starters.real_text import TextDialogue, classifier_texts, policy_texts
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

VOCABULARY = 4096
# Sampled, the policy is then toxic in more than a quarter of its completions; without, it is mild.
MIXED_TWEETS = 1_800
CONTEXT = 1024  # tokens of the longest dialogue
CLASSIFIER_CONTEXT = 128  # tokens of the longest completion that a classifier reads
_CLASSIFIER_SHAPE = {"hidden": 128, "intermediate": 352, "heads": 4}


@dataclass(frozen=True)
class TextBudget:
    """How much is read (None: everything there is) and how often it is seen."""

    dialogues: int | None
    longest: int  # tokens; longer dialogues are not read
    dialogue_epochs: int
    classified: int | None
    classified_epochs: int


TEXT_BUDGETS = {
    "full": TextBudget(None, CONTEXT, 3, None, 4),
    "tiny": TextBudget(400, 64, 1, 400, 1),
}


def build_text_starters(
    folder: Path, text: Path, *, seed: int, budget: TextBudget, progress: Progress
) -> None:
    """Train the three from the data in `text` and save each under its name in `folder`."""
    with seeded_torch(seed):
        _build_policy(folder / "starter-policy", text, seed, budget, progress)
        _build_toxicity(folder / "starter-toxicity", text, seed, budget, progress)
        _build_metric(folder / "starter-metric", text, seed, budget, progress)


def _build_policy(
    folder: Path, text: Path, seed: int, budget: TextBudget, progress: Progress
) -> None:
    dialogues = policy_texts(text, tweets=MIXED_TWEETS, seed=seed)
    if budget.dialogues is not None:
        count = min(budget.dialogues, len(dialogues))
        dialogues = random.Random(seed).sample(dialogues, count)
    bpe = train_bpe((" ".join((*d.turns, d.completion)) for d in dialogues), VOCABULARY)
    tokenizer = chat_tokenizer(bpe, longest=CONTEXT)
    model = chat_model(tokenizer, hidden=192, intermediate=512, layers=4, heads=3)
    examples = [_dialogue_example(tokenizer, dialogue) for dialogue in dialogues]
    readable = [example for example in examples if len(example.token_ids) <= budget.longest]
    batches = length_batches(readable, tokenizer.pad_token_id, budget.dialogue_epochs, 4096, seed)
    fit(model, batches, 2e-3, next_token_loss, "starter-policy", progress)
    save(model, tokenizer, folder)


def _dialogue_example(tokenizer: PreTrainedTokenizerFast, dialogue: TextDialogue) -> Example:
    """A transcript is predicted as a whole; before a tweet stands one, so only the tweet is."""
    roles = (HUMAN, ASSISTANT)
    asked = "".join(f"{roles[i % 2]}{turn}{EOS}" for i, turn in enumerate(dialogue.turns))
    prompt = tokenizer(f"{BOS}{asked}{ASSISTANT}")["input_ids"]
    completion = tokenizer(f"{dialogue.completion}{EOS}")["input_ids"]
    labels = [IGNORED] * len(prompt) if dialogue.is_tweet else prompt
    return Example((*prompt, *completion), (*labels, *completion))


def _build_toxicity(
    folder: Path, text: Path, seed: int, budget: TextBudget, progress: Progress
) -> None:
    examples = classifier_texts(text, "reward", seed=seed)[: budget.classified]
    bpe = train_bpe([text for text, _ in examples], VOCABULARY)
    tokenizer = bpe_classifier_tokenizer(bpe, longest=CLASSIFIER_CONTEXT)
    model = reward_model(tokenizer, **_CLASSIFIER_SHAPE)
    epochs = budget.classified_epochs
    fit_classifier(model, tokenizer, examples, epochs, seed, "starter-toxicity", progress)
    save(model, tokenizer, folder)


def _build_metric(
    folder: Path, text: Path, seed: int, budget: TextBudget, progress: Progress
) -> None:
    examples = classifier_texts(text, "metric", seed=seed)[: budget.classified]
    tokenizer = wordpiece_classifier_tokenizer(
        [text for text, _ in examples], VOCABULARY, longest=CLASSIFIER_CONTEXT
    )
    model = metric_model(tokenizer, **_CLASSIFIER_SHAPE)
    epochs = budget.classified_epochs
    fit_classifier(model, tokenizer, examples, epochs, seed, "starter-metric", progress)
    save(model, tokenizer, folder)
