"""Labelers by configuration: what a labeler offers, how one is built, how it is named for ever.

Light until a labeler is built: a revision costs a hash of the model's files, not a load.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Protocol

import pyarrow as pa

from labeling.config import ClassifierConfig, JudgeConfig, LabelerConfig
from labeling.label import PARSER_VERSION, LabelIdentity, LabelingError
from labeling.model_identity import ModelIdentity, identify_model
from labeling.rubric import Rubric, load_rubric


class Labeler(Protocol):
    """A loaded labeler."""

    identity: LabelIdentity

    def label(self, subjects: pa.Table, progress: Callable[[int], None] | None = None) -> pa.Table:
        """One final row of table `labels` per subject, in their order.

        Columns read: rollout_id, round, prompt_id, completion, completion_sha256 and, by judges,
        messages (JSON list of role and content). A text that cannot be labelled gets a status;
        only a dead backend raises (LabelingError). `progress` gets the rows done since its last
        call.
        """
        ...

    def template_rows(self) -> pa.Table:
        """Rows of table `templates` that its labels refer to."""
        ...

    def close(self) -> None:
        """Frees the model."""
        ...


def build_labeler(
    config: LabelerConfig,
    *,
    device: str = "auto",
    seed: int = 0,
    resolve: Callable[[str], str],
) -> Labeler:
    """The labeler of a configuration, loaded and self-tested. Raises LabelingError.

    `resolve` maps a starter's name to its folder and leaves every other name alone.
    """
    model = _model_of(config, resolve)
    chosen = _chosen_device(device)
    if isinstance(config, ClassifierConfig):
        from labeling.classifier import ClassifierLabeler

        return ClassifierLabeler(config, model, _revision(config, model), device=chosen)
    from labeling.judge import JudgeLabeler

    rubric = _rubric_of(config)
    revision = _revision(config, model)
    return JudgeLabeler(config, rubric, model, revision, device=chosen, seed=seed)


def labeler_revision(config: LabelerConfig, resolve: Callable[[str], str]) -> str:
    """16 hex digits that change whenever the labeler could give a text another score.

    Hashes the model's content or Hub commit, the rubric, this room's parser version and the
    settings that reach the score; not the name, the role or the batch size.
    """
    return _revision(config, _model_of(config, resolve))


def _revision(config: LabelerConfig, model: ModelIdentity) -> str:
    parts: dict[str, object] = {
        "kind": config.kind,
        "criterion": config.criterion,
        "model": model.revision,
        "parser": PARSER_VERSION,
    }
    if isinstance(config, JudgeConfig):
        parts |= {
            "rubric": _rubric_of(config).sha256,
            "engine": [config.engine.kind, config.engine.dtype, config.engine.max_model_len],
            "min_label_mass": config.min_label_mass,
        }
    else:
        parts |= {
            "labels": config.label_scores,
            "activation": config.activation,
            "windows": [config.max_tokens, config.stride, config.max_windows],
        }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _model_of(config: LabelerConfig, resolve: Callable[[str], str]) -> ModelIdentity:
    source = config.engine if isinstance(config, JudgeConfig) else config
    return identify_model(source.model, source.revision, resolve)


def _rubric_of(config: JudgeConfig) -> Rubric:
    rubric = load_rubric(config.rubric)
    if rubric.criterion != config.criterion:
        raise LabelingError(
            f"labelers.{config.name}.rubric: {config.rubric} measures {rubric.criterion}, the "
            f"labeler's criterion is {config.criterion}; the two must be the same"
        )
    return rubric


def _chosen_device(device: str) -> str:
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
