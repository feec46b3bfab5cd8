"""The starter corpus: questions and four manners of answering, composed from this project's text.

Everything is drawn from `corpus/domains.yaml` and `corpus/manners.yaml`. All styles share the topic
words and one length distribution, so that neither a classifier nor PPO can tell rude from polite
by subject or by length. Not a natural language data set: a grammar, made to be learned in a minute.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import yaml

from warehouse.files import text_sha256

Style = Literal["helpful", "neutral", "evasive", "rude"]
Half = Literal["reward", "metric"]
STYLES: tuple[Style, ...] = ("helpful", "neutral", "evasive", "rude")
CORPUS_FILES = ("domains.yaml", "manners.yaml")
UNSEEN_SHARE = 0.25  # of the questions, kept out of every training text: hold-out prompts are new
# Words and punctuation marks of a completion: about 20 to 40 tokens.
SHORTEST, LONGEST = 19, 30
_SLOT = re.compile(r"\{(a )?(\w+)\}")
_WORD = re.compile(r"\w+|[^\w\s]")
# Which parts a completion is made of; the length decides which of them fit.
_SHAPES: tuple[tuple[str, ...], ...] = (
    ("openers", "bodies"),
    ("bodies", "bodies"),
    ("bodies", "closers"),
    ("openers", "bodies", "closers"),
    ("openers", "bodies", "bodies"),
    ("bodies", "bodies", "closers"),
    ("openers", "bodies", "bodies", "closers"),
)


@dataclass(frozen=True)
class Domain:
    """One subject: its items, and what can be asked and said about every one of them."""

    items: tuple[str, ...]
    questions: tuple[str, ...]
    tips: tuple[str, ...]
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """The insults: nouns and adjectives that combine, and dismissals that stand alone."""

    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]
    dismissals: tuple[str, ...]

    def half(self, half: Half) -> Lexicon:
        """One classifier's part of each list; every fifth entry is in both parts."""
        remainder = 0 if half == "reward" else 1

        def kept(words: Sequence[str]) -> tuple[str, ...]:
            return tuple(w for i, w in enumerate(words) if i % 5 == 0 or i % 2 == remainder)

        return Lexicon(kept(self.nouns), kept(self.adjectives), kept(self.dismissals))


@dataclass(frozen=True)
class Praises:
    """Kind words that combine as the insults do, so that no style has more variety than another."""

    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]


@dataclass(frozen=True)
class Manners:
    """How completions are built: sentence frames by style and part, insults, rubric wordings."""

    frames: Mapping[Style, Mapping[str, tuple[str, ...]]]
    lexicon: Lexicon
    praises: Praises
    follow_ups: tuple[str, ...]
    rubrics: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A first human turn and what it is about."""

    domain: str
    item: str
    text: str


def corpus_text() -> str:
    """The corpus files as they are, one after the other (part of the cache key)."""
    folder = resources.files("training.starters") / "corpus"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in CORPUS_FILES)


@cache
def domains() -> Mapping[str, Domain]:
    """Every domain by name."""
    loaded = _load("domains.yaml")
    return {
        name: Domain(**{key: tuple(texts) for key, texts in parts.items()})
        for name, parts in loaded.items()
    }


@cache
def manners() -> Manners:
    """Sentence frames, insults, follow-up questions and rubric wordings."""
    loaded = _load("manners.yaml")
    return Manners(
        frames={style: {k: tuple(v) for k, v in loaded[style].items()} for style in STYLES},
        lexicon=Lexicon(**{key: tuple(words) for key, words in loaded["insults"].items()}),
        praises=Praises(**{key: tuple(words) for key, words in loaded["praises"].items()}),
        follow_ups=tuple(loaded["follow_ups"]),
        rubrics=tuple(loaded["rubrics"]),
    )


@cache
def questions() -> tuple[Question, ...]:
    """Every distinct question: each item of each domain in each of the domain's frames."""
    return tuple(
        Question(name, item, frame.format(item=item))
        for name, domain in domains().items()
        for item in domain.items
        for frame in domain.questions
    )


def is_unseen(first_turn: str) -> bool:
    """Whether the starters never train on dialogues that open with this text.

    The hash is the one that splits prompts into train and hold-out: any hold-out share up to
    `UNSEEN_SHARE` consists of questions that the policy has not been trained on.
    """
    return _position(first_turn) < UNSEEN_SHARE


def half_of(first_turn: str) -> Half:
    """Which classifier may train on completions to this question."""
    return "reward" if _position(f"half of {first_turn}") < 0.5 else "metric"


def compose(question: Question, style: Style, rng: random.Random, lexicon: Lexicon) -> str:
    """One completion to `question` in `style`, its length drawn from the common distribution."""
    length = rng.randint(SHORTEST, LONGEST)
    drafts: list[str] = []
    for _ in range(60):
        draft = _draft(question, style, rng, lexicon)
        if not _is_sound(draft, question, style):
            continue
        if count_words(draft) == length:
            return draft
        drafts.append(draft)
    return min(drafts, key=lambda draft: abs(count_words(draft) - length))


def count_words(text: str) -> int:
    """Words and punctuation marks in `text`."""
    return len(_WORD.findall(text))


def fill(frame: str, question: Question, rng: random.Random, lexicon: Lexicon) -> str:
    """`frame` with every slot filled; an unknown slot is a KeyError that names it."""
    domain = domains()[question.domain]

    def replace(match: re.Match[str]) -> str:
        text = _slot_text(match.group(2), question, domain, rng, lexicon)
        return f"{_article(text)} {text}" if match.group(1) else text

    text = frame
    while _SLOT.search(text):  # a fact or a dismissal has slots of its own
        text = _SLOT.sub(replace, text)
    return text[0].upper() + text[1:]


def _load(name: str) -> dict[str, dict[str, list[str]]]:
    folder = resources.files("training.starters") / "corpus"
    loaded: dict[str, dict[str, list[str]]] = yaml.safe_load(
        (folder / name).read_text(encoding="utf-8")
    )
    return loaded


def _position(text: str) -> float:
    """Where the normalised text falls in [0, 1)."""
    normalised = " ".join(unicodedata.normalize("NFC", text).split()).casefold()
    return int(text_sha256(normalised)[:8], 16) / 16**8


def _draft(question: Question, style: Style, rng: random.Random, lexicon: Lexicon) -> str:
    frames = manners().frames
    shape = rng.choice(_SHAPES)
    # Some rude completions begin or end like helpful ones: rudeness is in the words, not the place.
    polite_part = rng.randrange(len(shape)) if style == "rude" and rng.random() < 0.4 else None
    chosen: list[str] = []
    for place, part in enumerate(shape):
        manner: Style = "helpful" if place == polite_part else style
        chosen.append(rng.choice([f for f in frames[manner][part] if f not in chosen]))
    return " ".join(fill(frame, question, rng, lexicon) for frame in chosen)


def _is_sound(draft: str, question: Question, style: Style) -> bool:
    """No tip given twice; and what helps, names the topic."""
    if style == "helpful" and question.item.casefold() not in draft.casefold():
        return False
    return all(draft.casefold().count(tip) < 2 for tip in domains()[question.domain].tips)


def _slot_text(
    slot: str, question: Question, domain: Domain, rng: random.Random, lexicon: Lexicon
) -> str:
    choices = {
        "item": lambda: question.item,
        "tip": lambda: rng.choice(domain.tips),
        "fact": lambda: rng.choice(domain.facts),
        "insult": lambda: _phrase(rng, lexicon.nouns, lexicon.adjectives),
        "praise": lambda: _phrase(rng, manners().praises.nouns, manners().praises.adjectives),
        "dismissal": lambda: rng.choice(lexicon.dismissals),
    }
    return choices[slot]()


def _phrase(rng: random.Random, nouns: Sequence[str], adjectives: Sequence[str]) -> str:
    """A noun with no, one or two adjectives in front."""
    chosen = rng.sample(adjectives, rng.choices((0, 1, 2), (0.35, 0.5, 0.15))[0])
    return " ".join([*chosen, rng.choice(nouns)])


def _article(text: str) -> str:
    return "an" if text[0] in "aeiou" and not text.startswith("use") else "a"
