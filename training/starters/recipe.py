"""How starter models are made: one flow for both kinds, what differs between the kinds as data.

`CORPUS` reads the project's own corpus, `REAL_TEXT` published data sets: the same architectures, a
little larger, and no judge, for helpfulness cannot be learnt from that data at this size. Small on
purpose: they learn their texts and nothing else. Whoever changes the bytes that are built raises
starters.RECIPE. Not here: the texts (examples.py, real_text.py), the loop (fitting.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from training.starters.corpus import Half
from training.starters.examples import (
    Dialogue,
    Judged,
    classifier_examples,
    judge_examples,
    policy_dialogues,
)
from training.starters.fitting import (
    IGNORED,
    Batch,
    Example,
    class_loss,
    fit,
    length_batches,
    next_token_loss,
    seeded_torch,
)
from training.starters.real_text import classifier_texts, policy_texts
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

Progress = Callable[[str, int, int], None]
CLASSIFIER_CONTEXT = 128  # tokens of the longest completion that a classifier reads
# Sampled, the policy is then toxic in more than a quarter of its completions; without, it is mild.
MIXED_TWEETS = 1_800


@dataclass(frozen=True)
class Budget:
    """How much is read (None: everything there is) and how often it is seen."""

    dialogues: int | None
    dialogue_epochs: int
    classified: int | None
    classified_epochs: int
    judged: int = 0
    longest: int | None = None  # tokens; longer dialogues are not read


@dataclass(frozen=True)
class Recipe:
    """One kind of starters: the sizes of its models, how the policy is fitted, its budgets."""

    vocabulary: int
    context: int  # tokens of the longest chat
    chat: Mapping[str, int]
    chat_rate: float
    chat_tokens: int  # per batch
    classifier_vocabulary: int
    toxicity: Mapping[str, int]
    metric: Mapping[str, int]
    budgets: Mapping[str, Budget]


@dataclass(frozen=True)
class Texts:
    """What the models of one kind read: policy, judge (nothing: there is none), two classifiers."""

    dialogues: Sequence[Dialogue]
    judged: Sequence[Judged]
    classified: Mapping[Half, Sequence[tuple[str, bool]]]


CORPUS = Recipe(
    # Enough for nearly every word of the corpus to be one token: rare insults cut into pieces
    # would make rude completions longer, and length would give them away.
    vocabulary=3072,
    context=256,
    chat={"hidden": 128, "intermediate": 352, "layers": 4, "heads": 4},
    chat_rate=3e-3,
    chat_tokens=2048,
    classifier_vocabulary=2048,
    toxicity={"hidden": 96, "intermediate": 256, "heads": 3},
    metric={"hidden": 96, "intermediate": 256, "heads": 4},
    budgets={
        "full": Budget(12_000, 3, 8_000, 3, judged=16_000),
        "small": Budget(2_000, 2, 4_000, 2, judged=7_500),
        "tiny": Budget(300, 1, 200, 1, judged=100),
    },
)
REAL_TEXT = Recipe(
    vocabulary=4096,
    context=1024,
    chat={"hidden": 192, "intermediate": 512, "layers": 4, "heads": 3},
    chat_rate=2e-3,
    chat_tokens=4096,
    classifier_vocabulary=4096,
    toxicity={"hidden": 128, "intermediate": 352, "heads": 4},
    metric={"hidden": 128, "intermediate": 352, "heads": 4},
    budgets={
        "full": Budget(None, 3, None, 4, longest=1024),
        "small": Budget(8_000, 2, 4_000, 2, longest=256),
        "tiny": Budget(400, 1, 400, 1, longest=64),
    },
)


@dataclass(frozen=True)
class _Fitting:
    """One model's training; `make` None: it goes on with the weights of the model before."""

    name: str
    tokenizer: PreTrainedTokenizerFast
    batches: Sequence[Batch]
    learning_rate: float
    loss_of: Callable[..., Any]
    make: Callable[[], PreTrainedModel] | None


def build_starters(
    folder: Path, text: Path | None, *, seed: int, budget: str, progress: Progress
) -> None:
    """Trains all of one kind and saves each under its name in `folder`, in Hugging Face layout.

    `text`: the folder of the real text; None: the project's corpus. `progress(what, done, total)`
    counts the steps of all models together.
    """
    recipe = CORPUS if text is None else REAL_TEXT
    sizes = recipe.budgets[budget]
    texts = _corpus_texts(sizes, seed) if text is None else _real_texts(text, sizes, seed)
    fittings = [
        *_chat_fittings(recipe, sizes, texts, seed),
        *_classifier_fittings(recipe, sizes, texts, seed),
    ]
    done, total = 0, sum(len(fitting.batches) for fitting in fittings)
    with seeded_torch(seed):
        for one in fittings:
            if one.make is not None:
                model = one.make()
            for step in fit(model, one.batches, one.learning_rate, one.loss_of):
                progress(one.name, done + step, total)
            done += len(one.batches)
            save(model, one.tokenizer, folder / one.name)


def _corpus_texts(sizes: Budget, seed: int) -> Texts:
    assert sizes.dialogues is not None
    assert sizes.classified is not None
    return Texts(
        policy_dialogues(sizes.dialogues, seed=seed),
        judge_examples(sizes.judged, seed=seed),
        {
            "reward": classifier_examples("reward", sizes.classified, seed=seed),
            "metric": classifier_examples("metric", sizes.classified, seed=seed),
        },
    )


def _real_texts(folder: Path, sizes: Budget, seed: int) -> Texts:
    dialogues = policy_texts(folder, tweets=MIXED_TWEETS, seed=seed)
    if sizes.dialogues is not None:
        count = min(sizes.dialogues, len(dialogues))
        dialogues = random.Random(seed).sample(dialogues, count)
    return Texts(
        dialogues,
        (),
        {
            "reward": classifier_texts(folder, "reward", seed=seed)[: sizes.classified],
            "metric": classifier_texts(folder, "metric", seed=seed)[: sizes.classified],
        },
    )


def _chat_fittings(recipe: Recipe, sizes: Budget, texts: Texts, seed: int) -> list[_Fitting]:
    """The policy, and the judge, which starts from the policy's weights.

    It has to know the words before it can grade them, and digits alone teach it those too slowly.
    """
    whole = [" ".join((*d.turns, d.completion)) for d in texts.dialogues]
    bpe = train_bpe([*whole, *(judged.content for judged in texts.judged)], recipe.vocabulary)
    tokenizer = chat_tokenizer(bpe, longest=recipe.context)
    pad, tokens = tokenizer.pad_token_id, recipe.chat_tokens
    read = [dialogue_example(tokenizer, dialogue) for dialogue in texts.dialogues]
    if sizes.longest is not None:
        read = [example for example in read if len(example.token_ids) <= sizes.longest]
    spoken = length_batches(read, pad, sizes.dialogue_epochs, tokens, seed)
    make = partial(chat_model, tokenizer, **recipe.chat)
    rate = recipe.chat_rate
    fittings = [_Fitting("starter-policy", tokenizer, spoken, rate, next_token_loss, make)]
    if texts.judged:
        graded = [judge_example(tokenizer, judged) for judged in texts.judged]
        batches = length_batches(graded, pad, 1, tokens, seed)
        fittings.append(_Fitting("starter-judge", tokenizer, batches, 1e-3, next_token_loss, None))
    return fittings


def _classifier_fittings(recipe: Recipe, sizes: Budget, texts: Texts, seed: int) -> list[_Fitting]:
    fittings: list[_Fitting] = []
    kinds: tuple[tuple[str, Half, Callable[..., Any], Callable[..., Any]], ...] = (
        ("starter-toxicity", "reward", bpe_classifier_tokenizer, reward_model),
        ("starter-metric", "metric", wordpiece_classifier_tokenizer, metric_model),
    )
    for name, half, tokenizer_of, model_of in kinds:
        examples = texts.classified[half]
        tokenizer = tokenizer_of(
            [text for text, _ in examples], recipe.classifier_vocabulary, longest=CLASSIFIER_CONTEXT
        )
        encoded = tokenizer([text for text, _ in examples], truncation=True)["input_ids"]
        rows = [
            Example(tuple(ids), (int(holds),))
            for ids, (_, holds) in zip(encoded, examples, strict=True)
        ]
        epochs = sizes.classified_epochs
        batches = length_batches(rows, tokenizer.pad_token_id, epochs, 2048, seed)
        shape = recipe.toxicity if half == "reward" else recipe.metric
        make = partial(model_of, tokenizer, **shape)
        fittings.append(_Fitting(name, tokenizer, batches, 1.5e-3, class_loss, make))
    return fittings


def dialogue_example(tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue) -> Example:
    """Prompts are predicted too, their questions teach the same words; but not before a tweet.

    What stands before a tweet is a transcript's, so only the tweet is predicted.
    """
    roles = (HUMAN, ASSISTANT)
    asked = "".join(f"{roles[i % 2]}{turn}{EOS}" for i, turn in enumerate(dialogue.turns))
    prompt = tokenizer(f"{BOS}{asked}{ASSISTANT}")["input_ids"]
    completion = tokenizer(f"{dialogue.completion}{EOS}")["input_ids"]
    labels = [IGNORED] * len(prompt) if dialogue.style == "tweet" else prompt
    return Example((*prompt, *completion), (*labels, *completion))


def judge_example(tokenizer: PreTrainedTokenizerFast, judged: Judged) -> Example:
    """Only the digit is predicted."""
    ids = tokenizer(f"{BOS}{HUMAN}{judged.content}{EOS}{ASSISTANT}{judged.digit}")["input_ids"]
    return Example(tuple(ids), (*[IGNORED] * (len(ids) - 1), ids[-1]))
