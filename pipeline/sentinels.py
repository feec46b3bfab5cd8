"""Which sentinels a labeler of a run scores. Not here: the texts, and what their scores mean."""

from __future__ import annotations

from labeling.config import LabelerConfig
from labeling.label import LabelingError
from labeling.sentinel import SentinelSet, is_starter, load_sentinels
from pipeline.config import ConfigError, RunConfig


def sentinel_set(config: RunConfig, labeler: LabelerConfig) -> SentinelSet | None:
    """The set for this labeler; None where there is none, or none of its criterion.

    `auto` takes the starters' own set for starters trained on the project's grammar, else the
    default one. Raises ConfigError for a set that cannot be read.
    """
    name = config.gate.sentinels
    if name == "none" or getattr(labeler, "mode", "pointwise") != "pointwise":
        return None
    if name == "auto":
        is_grammar = is_starter(labeler) and config.policy.starter_text is None
        name = "starter" if is_grammar else "default"
    try:
        found = load_sentinels(name)
    except LabelingError as error:
        raise ConfigError(f"gate.sentinels: {error}") from error
    return found if found.of(labeler.criterion) else None
