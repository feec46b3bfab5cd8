"""The four starter models: their sizes, budgets, and how each reads its examples.

Small on purpose (at most 1.3 million weights each): they learn the starter corpus and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from training.starter_examples import (
    Dialogue,
    Judged,
    classifier_examples,
    judge_examples,
    policy_dialogues,
)
from training.starter_tokenizers import (
    ASSISTANT,
    BOS,
    EOS,
    HUMAN,
    bpe_classifier_tokenizer,
    chat_tokenizer,
    train_bpe,
    wordpiece_classifier_tokenizer,
)
from training.starter_training import (
    IGNORED,
    Example,
    Progress,
    class_loss,
    fit,
    length_batches,
    next_token_loss,
    seeded_torch,
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
        _save(policy, tokenizer, folder / "starter-policy")
        # The judge starts from the policy's weights: it has to know the words before it can grade
        # them, and digits alone teach it those too slowly.
        _train_judge(policy, tokenizer, judged, seed, budget, progress)
        _save(policy, tokenizer, folder / "starter-judge")
        _build_toxicity(folder / "starter-toxicity", seed, budget, progress)
        _build_metric(folder / "starter-metric", seed, budget, progress)


def _build_policy(
    tokenizer: PreTrainedTokenizerFast,
    dialogues: Sequence[Dialogue],
    seed: int,
    budget: Budget,
    progress: Progress,
) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,  # heads of 32, the smallest that vLLM's CPU attention takes
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_k=0,  # no cut: what is sampled is the policy itself
    )
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
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=3,
        # RoBERTa counts positions from the padding id upwards
        max_position_embeddings=CLASSIFIER_CONTEXT + tokenizer.pad_token_id + 1,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        id2label={0: "polite", 1: "rude"},
        label2id={"polite": 0, "rude": 1},
    )
    model = RobertaForSequenceClassification(config)
    _train_classifier(model, tokenizer, examples, seed, budget, "starter-toxicity", progress)
    _save(model, tokenizer, folder)


def _build_metric(folder: Path, seed: int, budget: Budget, progress: Progress) -> None:
    examples = classifier_examples("metric", budget.classified, seed=seed)
    tokenizer = wordpiece_classifier_tokenizer(
        [text for text, _ in examples], 2048, longest=CLASSIFIER_CONTEXT
    )
    config = DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=96,
        hidden_dim=256,
        n_layers=2,
        n_heads=4,
        max_position_embeddings=CLASSIFIER_CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
        id2label={0: "acceptable", 1: "toxic"},
        label2id={"acceptable": 0, "toxic": 1},
    )
    model = DistilBertForSequenceClassification(config)
    _train_classifier(model, tokenizer, examples, seed, budget, "starter-metric", progress)
    _save(model, tokenizer, folder)


def _train_classifier(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[tuple[str, bool]],
    seed: int,
    budget: Budget,
    name: str,
    progress: Progress,
) -> None:
    encoded = tokenizer([text for text, _ in examples], truncation=True)["input_ids"]
    rows = [
        Example(tuple(ids), (int(is_rude),))
        for ids, (_, is_rude) in zip(encoded, examples, strict=True)
    ]
    batches = length_batches(rows, tokenizer.pad_token_id, budget.classified_epochs, 2048, seed)
    fit(model, batches, 1.5e-3, class_loss, name, progress)


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


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
