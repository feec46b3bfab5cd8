"""What a person says about an import: whose the records are and what their scores mean.

Within one source a score means one thing: its options are written into every commit, and another
meaning needs another source. People's pairs (`hh-pairs`) have no scores, so nothing to repeat.
Not here: rows (rows.py).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import ConfigError
from warehouse.files import file_sha256
from warehouse.keys import GOLD_PAIRS, gold_pairs_key, import_key, import_prefix

_SOURCE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
PARSER_VERSION = "1"


@dataclass(frozen=True)
class ImportOptions:
    """How the files of one source are read.

    By name of the score: `criteria` what it measures (else `reward`), `scales` the two raw values
    that become 0 and 1, `weights` its share in the reward (else 1). `rewards`: the columns that are
    scores, none for all of them. `holdout`: the share by which the warehouse's prompts are split.
    """

    format: str
    source: str
    holdout: float = 0.2
    rewards: tuple[str, ...] = ()
    criteria: Mapping[str, str] = field(default_factory=dict)
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses a source whose name could not be part of a key."""
        if not _SOURCE.fullmatch(self.source):
            raise ConfigError(
                f"--source {self.source}: expected lower-case letters, digits, '.', '_' and '-'"
            )

    @property
    def has_scores(self) -> bool:
        """Whether the files hold scores; people's pairs have none."""
        return self.format != "hh-pairs"

    @property
    def stage(self) -> str:
        """The first word of the source's ledger keys, and whose its dead letters are."""
        return "import" if self.has_scores else "gold-pairs"

    @property
    def key_prefix(self) -> str:
        """What the ledger keys of the source begin with."""
        return import_prefix(self.source) if self.has_scores else GOLD_PAIRS

    def key(self, path: Path) -> str:
        """Ledger key of a file's rows: the file's bytes, whatever it is called."""
        sha256 = file_sha256(path)
        return import_key(self.source, sha256) if self.has_scores else gold_pairs_key(sha256)

    @property
    def recipe(self) -> str:
        """The reward recipe of the source's rollouts."""
        return f"imported/{self.source}"

    def text(self) -> str:
        """All that shapes a label or a reward, as JSON: equal options, equal text."""
        about = {
            "format": self.format,
            "parser_version": PARSER_VERSION,
            "rewards": sorted(self.rewards),
            "criteria": dict(self.criteria),
            "scales": {name: list(scale) for name, scale in self.scales.items()},
            "weights": dict(self.weights),
            "reward": "sum of weight * raw score; a chat line without scores: its weight",
        }
        return json.dumps(about, sort_keys=True)

    def refuse_unknown(self, names: set[str]) -> None:
        """Raises ConfigError for an option about a score that no file has."""
        for option, keys in (
            ("--criterion", self.criteria),
            ("--scale", self.scales),
            ("--weight", self.weights),
        ):
            unknown = sorted(set(keys) - names)
            if unknown:
                there = ", ".join(sorted(names)) or "none"
                raise ConfigError(f"{option} {unknown[0]}: no file has this score; there: {there}")


def parse_options(
    format: str,
    source: str | None,
    holdout: float,
    *,
    rewards: Sequence[str] = (),
    criteria: Sequence[str] = (),
    scales: Sequence[str] = (),
    weights: Sequence[str] = (),
) -> ImportOptions:
    """The options of the command line: `NAME=criterion`, `NAME=low,high`, `NAME=weight`.

    Raises ConfigError naming the option.
    """
    return ImportOptions(
        format=format,
        source=source or format,
        holdout=holdout,
        rewards=tuple(rewards),
        criteria=_named("--criterion", criteria),
        scales={name: _scale(name, text) for name, text in _named("--scale", scales).items()},
        weights={
            name: _finite("--weight", name, text)
            for name, text in _named("--weight", weights).items()
        },
    )


def _named(option: str, texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (name and separator and value):
            raise ConfigError(f"{option} {text}: expected NAME=VALUE")
        found[name] = value
    return found


def _scale(name: str, text: str) -> tuple[float, float]:
    low, separator, high = text.partition(",")
    if not separator:
        raise ConfigError(f"--scale {name}={text}: expected two numbers, as in {name}=-1,1")
    scale = (_finite("--scale", name, low), _finite("--scale", name, high))
    if scale[0] == scale[1]:
        raise ConfigError(f"--scale {name}={text}: the two values must differ")
    return scale


def _finite(option: str, name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{option} {name}={text}: {text!r} is not a finite number")
    return number
