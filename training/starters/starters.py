"""Starter models built from scratch, so that the demo and the tests need no download.

Four small models that know only the project's own corpus: a policy that is rude in about three of
ten completions, a classifier for the reward, another for the metric, and a judge of helpfulness.
The judge tells manners and effort apart; whether an answer fits its question it does not see.
They show that the pipeline works; they are not models to use for anything else. Everything is
built together, once, under a lock, into a cache folder named by the hash of whatever decides the
weights. Given a folder of real text, policy and classifiers are built from that instead
(real_text.py). This module is light: torch is imported only when a build is needed.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from filelock import FileLock

from training.starters.corpus import corpus_text, questions
from training.starters.examples import dialogue_turns
from training.starters.real_text import StarterTextError, real_text_sha256
from warehouse.files import leftovers, sha256_of, whole_folder

STARTERS = ("starter-policy", "starter-toxicity", "starter-metric", "starter-judge")
_BUDGETS = ("full", "small", "tiny")
# Raised by whoever changes what is drawn, cut into tokens or fitted, so that other bytes are built:
# cached starters are then built anew. A change that leaves the bytes as they are leaves it too.
RECIPE = 1
_LIBRARIES = ("torch", "transformers", "tokenizers")


def starter_path(
    name: str,
    *,
    seed: int = 0,
    budget: str = "full",
    progress: Callable[[str, int, int], None] | None = None,
    text: Path | None = None,
) -> Path:
    """Folder of a starter model in Hugging Face layout; builds all of them if none are there.

    `budget` "full" takes two or three minutes on two cores; "small" one, and its models know enough
    for a night that the gate accepts; "tiny" takes seconds and gives models that load and run but
    know nothing. `progress(what, done, total)` is called as steps are done.
    The cache is `$ROUNDHOUSE_CACHE/starters`, by default under `~/.cache/roundhouse`.
    `text` is the folder of the data sets that real_text.py names; StarterTextError if one of
    them is not there, and for the judge, which cannot be built from them.
    """
    if name not in STARTERS:
        raise ValueError(f"no starter model {name!r}: choose one of {', '.join(STARTERS)}")
    if budget not in _BUDGETS:
        raise ValueError(f"no starter budget {budget!r}: choose one of {', '.join(_BUDGETS)}")
    if text is not None and name == "starter-judge":
        raise StarterTextError(
            f"{name} cannot be built from {text}: helpfulness cannot be learnt from this data; "
            "leave the judge out"
        )
    root = Path(os.environ.get("ROUNDHOUSE_CACHE") or Path.home() / ".cache/roundhouse")
    key = _cache_key(seed, budget, text)
    folder = root.expanduser() / "starters" / key
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{key}.lock"):
            if not folder.is_dir():
                _build(folder, seed, budget, text, progress or _silent)
    return folder / name


def resolve_model(
    model: str,
    *,
    seed: int = 0,
    budget: str = "full",
    progress: Callable[[str, int, int], None] | None = None,
    text: Path | None = None,
) -> str:
    """The local folder of a starter ("starter" is the policy); any other name unchanged."""
    name = "starter-policy" if model == "starter" else model
    if name not in STARTERS:
        return model
    return str(starter_path(name, seed=seed, budget=budget, progress=progress, text=text))


def starter_prompts(*, seed: int = 0) -> list[list[dict[str, str]]]:
    """Prompts as chat messages, each with a first human turn of its own, in seeded order.

    About one in seven has three turns (user, assistant, user). They include those that the policy
    was trained on; the questions of `starter_corpus.is_unseen` it has never read.
    """
    rng = random.Random(f"prompts {seed}")
    shuffled = rng.sample(questions(), len(questions()))
    roles = ("user", "assistant")
    return [
        [
            {"role": roles[place % 2], "content": text}
            for place, text in enumerate(dialogue_turns(question, rng))
        ]
        for question in shuffled
    ]


def _cache_key(seed: int, budget: str, text: Path | None) -> str:
    """Hash of what decides the weights: text, recipe, libraries, seed, budget."""
    return sha256_of(
        {
            "text": real_text_sha256(text) if text else corpus_text(),
            "recipe": RECIPE,
            "libraries": {library: metadata.version(library) for library in _LIBRARIES},
            "seed": seed,
            "budget": budget,
        }
    )[:16]


def _build(
    folder: Path,
    seed: int,
    budget: str,
    text: Path | None,
    progress: Callable[[str, int, int], None],
) -> None:
    """Build beside `folder`, then rename: whoever sees the folder sees it whole."""
    # Read when torch is imported: waiting threads soon sleep, where spinning ones would make a busy
    # machine ten times slower. The sums are the same.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from training.starters.recipe import build_starters

    for leftover in leftovers(folder):  # of a build that was killed: the lock is ours
        shutil.rmtree(leftover)
    with whole_folder(folder) as fresh:
        build_starters(fresh, text, seed=seed, budget=budget, progress=progress)


def _silent(what: str, done: int, total: int) -> None:
    """Progress that nobody asked for."""
    del what, done, total
