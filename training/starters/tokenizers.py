"""Tokenizers of the starter models, trained on the starter corpus.

Byte-level BPE with chat markers for policy, judge and the reward's classifier; lower-cased
WordPiece for the metric, so that the two classifiers do not even cut a text alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, HUMAN, ASSISTANT = "<pad>", "<s>", "<|end|>", "<|human|>", "<|assistant|>"
# Every turn ends with the end marker, also the assistant's: what trains is what is sampled.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|assistant|>' if message['role'] == 'assistant' else '<|human|>' }}"
    "{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_bpe(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE with the five chat markers first (ids 0-4); digits never merge."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS, HUMAN, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def chat_tokenizer(bpe: Tokenizer, *, longest: int) -> PreTrainedTokenizerFast:
    """The tokenizer of policy and judge: markers come from the chat template only."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[HUMAN, ASSISTANT],
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def bpe_classifier_tokenizer(
    texts: Iterable[str], vocabulary: int, *, longest: int
) -> PreTrainedTokenizerFast:
    """Byte-level BPE that frames a text as `<s> text <|end|>`, as RoBERTa does."""
    bpe = train_bpe(texts, vocabulary)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        special_tokens=[(BOS, bpe.token_to_id(BOS)), (EOS, bpe.token_to_id(EOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        cls_token=BOS,
        sep_token=EOS,
        model_max_length=longest,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def wordpiece_classifier_tokenizer(
    texts: Iterable[str], vocabulary: int, *, longest: int
) -> PreTrainedTokenizerFast:
    """Lower-cased WordPiece that frames a text as `[CLS] text [SEP]`, as BERT does.

    The pieces are printable characters and the most frequent words, counted here: the library's
    WordPiece trainer numbers its pieces differently on every run.
    """
    cut, lower = pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer(lowercase=True)
    counts = Counter(
        word for text in texts for word, _ in cut.pre_tokenize_str(lower.normalize_str(text))
    )
    frequent = sorted(counts, key=lambda word: (-counts[word], word))
    characters = [c for c in map(chr, range(33, 127)) if not c.isupper()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *characters, *(f"##{c}" for c in characters)]
    vocabulary_ids = {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, *frequent]))}
    kept = {piece: i for piece, i in vocabulary_ids.items() if i < vocabulary}
    tokenizer = Tokenizer(models.WordPiece(kept, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = lower, cut
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=longest,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
