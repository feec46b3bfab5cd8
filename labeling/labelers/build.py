"""Labelers by configuration: how one is built, how it is named for ever.

Light until a labeler is built: a revision costs a hash of the model's files, not a load.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from labeling.engines.chat import PaidWork
from labeling.engines.config import TransformersEngineConfig, VllmEngineConfig
from labeling.engines.model_identity import ModelIdentity, engine_model, identify_model
from labeling.errors import Misconfigured
from labeling.judges.asking import WORDING_SHA256
from labeling.judges.config import JudgeConfig
from labeling.judges.prompt import PROMPT_VERSION, REASONS_SHA256
from labeling.judges.rubric import Rubric
from labeling.judges.score import MOST_BRACKET
from labeling.judges.verdict import VERDICT_VERSION
from labeling.label import PARSER_VERSION
from labeling.labeler import Labeler
from labeling.labelers.config import ClassifierConfig, LabelerConfig, RewardModelConfig
from warehouse.files import text_sha256


def build_labeler(
    config: LabelerConfig,
    *,
    device: str,
    seed: int = 0,
    resolve: Callable[[str], str],
    paid: PaidWork | None = None,
) -> Labeler:
    """The labeler of a configuration, loaded and self-tested. Raises LabelingError.

    `resolve` maps a starter's name to its folder and leaves every other name alone.
    """
    model = _model_of(config, resolve)
    if isinstance(config, ClassifierConfig):
        from labeling.labelers.classifier import ClassifierLabeler

        return ClassifierLabeler(config, model, _revision(config, model), device=device)
    if isinstance(config, RewardModelConfig):
        from labeling.labelers.reward_model import RewardModelLabeler

        return RewardModelLabeler(config, model, _revision(config, model), device=device)
    judge = _build_judge(config, model, device, seed, paid)
    if config.mode == "pointwise":
        return judge
    from labeling.judges.pairwise import PairwiseJudgeLabeler

    return PairwiseJudgeLabeler(judge)


def _build_judge(
    config: JudgeConfig, model: ModelIdentity, device: str, seed: int, paid: PaidWork | None
) -> Labeler:
    """A judge of what it is shown: one completion, or two in one order."""
    rubric = rubric_of(config)
    revision = _revision(config, model)
    if config.is_remote or config.chosen_method == "written":
        from labeling.engines.load import load_writing_engine
        from labeling.judges.written import WrittenJudgeLabeler

        engine, facts = load_writing_engine(
            config.engine,
            model,
            device=device,
            key=f"labelers.{config.name}",
            paid=paid,
            reuse_answers=config.reuse_answers,
        )
        judge = WrittenJudgeLabeler(config, rubric, model, revision, engine, seed=seed)
        judge.identity = replace(judge.identity, **facts)
        return judge
    from labeling.judges.likelihood import JudgeLabeler

    return JudgeLabeler(config, rubric, model, revision, device=device, seed=seed)


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
            "rubric": rubric_of(config).sha256,
            "prompt": PROMPT_VERSION,
            "min_label_mass": config.min_label_mass,
        }
        engine = config.engine
        if isinstance(engine, VllmEngineConfig | TransformersEngineConfig):
            if config.chosen_method == "written":
                parts |= _chat_parts(config)
            elif config.chosen_reasoning == "before":
                parts["reasons"] = [REASONS_SHA256, config.max_output_tokens]
            parts["engine"] = [engine.kind, engine.dtype, engine.max_model_len]
        else:
            parts |= _chat_parts(config)
    elif isinstance(config, RewardModelConfig):
        parts |= {
            "template": config.template,
            "squash": [config.center, config.scale],
            "reads": [config.max_tokens, config.dtype],
        }
    else:
        parts |= {
            "labels": config.label_scores,
            "activation": config.activation,
            "windows": [config.max_tokens, config.stride, config.max_windows],
        }
        if config.backend != "transformers":
            parts["backend"] = config.backend
    return text_sha256(json.dumps(parts, sort_keys=True))[:16]


def _chat_parts(config: JudgeConfig) -> dict[str, object]:
    """What reaches the score of a judge that is asked in messages.

    The place of a remote endpoint is in its model's revision.
    """
    parts: dict[str, object] = {
        "engine": [config.engine.kind],
        "method": config.chosen_method,
        "wording": WORDING_SHA256,
    }
    if config.chosen_method == "written":
        parts |= {
            "verdict": VERDICT_VERSION,
            "samples": config.samples,
            "reasoning": config.chosen_reasoning,
            "sampling": [config.temperature, config.max_output_tokens],
        }
    else:
        parts["bracket"] = MOST_BRACKET
    return parts


def _model_of(config: LabelerConfig, resolve: Callable[[str], str]) -> ModelIdentity:
    if isinstance(config, ClassifierConfig | RewardModelConfig):
        return identify_model(config.model, config.revision, resolve)
    return engine_model(config.engine, resolve)


def rubric_of(config: JudgeConfig) -> Rubric:
    """The judge's rubric, which must measure what the judge is for. Raises Misconfigured."""
    rubric = Rubric.load(config.rubric)
    if rubric.is_pairwise != (config.mode == "pairwise"):
        raise Misconfigured(
            f"labelers.{config.name}.rubric: {config.rubric} "
            f"{'compares two completions' if rubric.is_pairwise else 'shows one completion'}, the "
            f"labeler's mode is {config.mode}; mode: pairwise goes with the slot {{second}}"
        )
    if rubric.criterion != config.criterion:
        raise Misconfigured(
            f"labelers.{config.name}.rubric: {config.rubric} measures {rubric.criterion}, the "
            f"labeler's criterion is {config.criterion}; the two must be the same"
        )
    return rubric
