"""Real text for starter models: who of policy, reward and metric may read which part of it.

From three published data sets in one folder: Anthropic HH (`hh-rlhf/*.jsonl.gz`, 2204.05862),
Davidson's tweets (`davidson/labeled_data.csv`, 1703.04009) and human-rated ToxiGen
(`toxigen/toxiGen.json`, 2203.09509). HH alone is mild, so one half of the tweets becomes answers in
the policy's text; the other half is split again between the two classifiers. Pure Python, no
tensor. Nothing of the data lies in this repository, and no model made of it is one to use for
anything else.
"""

from __future__ import annotations

import csv
import gzip
import html
import json
import random
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from training.starters.corpus import Half, half_of, is_unseen
from training.starters.examples import Dialogue
from warehouse.errors import RoundhouseError
from warehouse.files import file_sha256, sha256_of, text_sha256

HH_TRAIN, HH_TEST = "hh-rlhf/train.jsonl.gz", "hh-rlhf/test.jsonl.gz"
TWEETS, STATEMENTS = "davidson/labeled_data.csv", "toxigen/toxiGen.json"
DATA_FILES = (HH_TRAIN, HH_TEST, TWEETS, STATEMENTS)
SHORTEST_TWEET, LONGEST_TWEET = 15, 140  # characters after cleaning
SHORTEST_NEGATIVE, LONGEST_NEGATIVE = 10, 40  # words: a completion of 48 tokens holds about 40
# Mean human rating from 1 (benign) to 5; statements between the two bounds divide the raters.
_BENIGN, _TOXIC = 2.5, 3.5
_TURN = re.compile(r"\n\n(Human|Assistant):")
_NOISE = re.compile(r"https?://\S+|@\w+:?|\bRT\b|_x000D_|#(?=\w)")
_EDGE = " \t\n\"':!-.,;"

Owner = Literal["policy", "reward", "metric"]


class StarterTextError(RoundhouseError, ValueError):
    """The folder of real text does not give what is asked of it; the message says why."""

    exit_code = 2


def real_text_sha256(folder: Path) -> str:
    """Digest of the data files. Raises StarterTextError naming the one that is not there."""
    for name in DATA_FILES:
        if not (folder / name).is_file():
            raise StarterTextError(
                f"{folder / name}: no such file; the folder must hold {', '.join(DATA_FILES)}"
            )
    return sha256_of([file_sha256(folder / name) for name in DATA_FILES])


def parse_turns(transcript: str) -> tuple[str, ...]:
    """Turns of an HH transcript, human first, alternating; () if it is none.

    Survives what the data has: consecutive turns of one role are joined by a blank line, an empty
    answer at the end is dropped.
    """
    parts = _TURN.split(transcript)
    if len(parts) < 3 or parts[0].strip() or parts[1] != "Human":
        return ()
    turns: list[str] = []
    for role, content in zip(parts[1::2], parts[2::2], strict=True):
        if len(turns) % 2 == (role == "Human"):  # the turn before has the same role
            turns[-1] = f"{turns[-1]}\n\n{content.strip()}"
        else:
            turns.append(content.strip())
    while turns and not turns[-1]:
        turns.pop()
    return tuple(turns)


def clean_tweet(tweet: str) -> str:
    """The tweet without retweet marks, names, links, hash signs and emoji, on one line."""
    text = _NOISE.sub(" ", html.unescape(tweet))
    return " ".join(text.encode("ascii", "ignore").decode().split()).strip(_EDGE)


def owner_of(text: str) -> Owner:
    """Who may read this tweet: half of them the policy, a quarter each classifier.

    By the hash of the cleaned text, so that a tweet and its copies have one owner.
    """
    is_even = int(text_sha256(text.casefold())[:2], 16) % 2 == 0
    return "policy" if is_even else half_of(text)


def policy_texts(folder: Path, *, tweets: int, seed: int) -> list[Dialogue]:
    """HH's chosen and rejected transcripts, then `tweets` HH prompts that a toxic tweet answers.

    None opens with a question that may be held out (`starter_corpus.is_unseen`), and none holds a
    tweet of the classifiers' half.
    """
    dialogues = [
        Dialogue(turns[:-1], turns[-1], "transcript")
        for key in ("chosen", "rejected")
        for turns in _transcripts(folder, HH_TRAIN, key)
        if len(turns) % 2 == 0
    ]
    if not dialogues:
        raise StarterTextError(f"{folder / HH_TRAIN} holds no transcript that may be trained on")
    rng = random.Random(f"tweets {seed}")
    prompts = sorted({dialogue.turns for dialogue in dialogues})
    toxic = [text for text, is_toxic in _tweets(folder, "policy") if is_toxic]
    answers = rng.sample(toxic, min(tweets, len(toxic)))
    return dialogues + [Dialogue(rng.choice(prompts), text, "tweet") for text in answers]


def classifier_texts(folder: Path, half: Half, *, seed: int) -> list[tuple[str, bool]]:
    """(text, is it toxic) for one classifier, shuffled; the two classifiers share no text.

    Tweets and rated statements carry people's labels. HH's assistant turns are weak negatives:
    without them plain chat, which no tweet looks like, is called toxic.
    """
    rng = random.Random(f"{half} {seed}")
    examples = dict(_tweets(folder, half))
    examples |= {text: toxic for text, toxic in _statements(folder) if half_of(text) == half}
    for name in (HH_TRAIN, HH_TEST):
        for turns in _transcripts(folder, name, "chosen"):
            for words in map(str.split, turns[1::2]):
                # Equal cuts of two turns begin alike, so they are in the same half.
                if half_of(" ".join(words[:SHORTEST_NEGATIVE])) == half:
                    # Sometimes less than a completion holds: sampling stops anywhere.
                    length = rng.randint(SHORTEST_NEGATIVE, LONGEST_NEGATIVE)
                    examples[" ".join(words[:length])] = False
    taken = {"", *(text for text, _ in _tweets(folder, "policy"))}  # ToxiGen quotes a few tweets
    kept = sorted(item for item in examples.items() if item[0] not in taken)
    return rng.sample(kept, len(kept))


def _transcripts(folder: Path, name: str, key: str) -> Iterator[tuple[str, ...]]:
    """Turns of every transcript that opens with a question nobody holds out."""
    path = folder / name
    with (
        _readable(path, "gzipped JSON lines with chosen and rejected transcripts"),
        gzip.open(path, "rt", encoding="utf-8") as file,
    ):
        for line in file:
            turns = parse_turns(json.loads(line)[key])
            if turns and turns[0] and not is_unseen(turns[0]):
                yield turns


def _tweets(folder: Path, owner: Owner) -> Iterator[tuple[str, bool]]:
    """Cleaned tweets of one owner; toxic: most raters called it hateful or offensive."""
    path = folder / TWEETS
    with (
        _readable(path, "the columns class and tweet"),
        path.open(encoding="utf-8", newline="") as file,
    ):
        for row in csv.DictReader(file):
            text = clean_tweet(row["tweet"])
            if SHORTEST_TWEET <= len(text) <= LONGEST_TWEET and owner_of(text) == owner:
                yield text, row["class"] != "2"


def _statements(folder: Path) -> Iterator[tuple[str, bool]]:
    path = folder / STATEMENTS
    with _readable(path, "a JSON list of objects with text and toxicity_score"):
        for row in json.loads(path.read_text(encoding="utf-8")):
            if not _BENIGN < row["toxicity_score"] < _TOXIC:
                yield clean_tweet(row["text"]), row["toxicity_score"] >= _TOXIC


@contextmanager
def _readable(path: Path, what: str) -> Iterator[None]:
    """Whatever a file of another form makes of its reader is a StarterTextError naming it."""
    try:
        yield
    except (OSError, EOFError, ValueError, LookupError, TypeError, csv.Error, zlib.error) as error:
        raise StarterTextError(
            f"{path} cannot be read ({type(error).__name__}: {error}); it must hold {what}"
        ) from error
