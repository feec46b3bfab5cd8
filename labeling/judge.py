"""A labeler that is a language model: it reads a rubric, prompt and completion, and its score is
the expectation over the likelihoods of the rubric's labels (d-RLAIF, arXiv 2309.00267 §2.2.2).

Nothing is generated and nothing is parsed. When too little probability lies on the labels, the
judge meant to say something else: status low_mass, score NULL. Not here: rendering
(judge_prompt.py), engines (engines/), verdicts in words.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from labeling.config import JudgeConfig
from labeling.engine_config import TransformersEngineConfig, VllmEngineConfig
from labeling.engines.scoring import ScoreEngine
from labeling.judge_prompt import JudgePrompt, PromptBuilder, UnfitPrompt, nonce_of
from labeling.label import (
    LabelIdentity,
    LabelingError,
    LabelLogprob,
    Measurement,
    decoded_texts,
    label_rows,
)
from labeling.model_identity import ModelIdentity
from labeling.rubric import Rubric
from labeling.tokenization import tokenizer_sha256

_CHUNK = 1024  # prompts of one engine call: enough to batch well, few enough to show progress
_ROUNDING = 1e-3  # a log-probability further above 0 is none


class JudgeLabeler:
    """See labeling.labelers.Labeler."""

    def __init__(
        self,
        config: JudgeConfig,
        rubric: Rubric,
        model: ModelIdentity,
        revision: str,
        *,
        device: str,
        seed: int,
    ) -> None:
        """Loads tokenizer and engine; raises LabelingError when they cannot judge by the rubric."""
        from transformers import AutoTokenizer

        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(model.location, revision=model.commit)
            # Before the engine: a model that cannot be a judge need not be loaded to find out.
            self._builder = PromptBuilder(rubric, tokenizer, judge=config.engine.model)
            self._engine = load_engine(config, model, device)
        except (OSError, ValueError) as error:
            message = f"labelers.{config.name}.engine.model: cannot load {config.engine.model}"
            raise LabelingError(f"{message}: {error}") from error
        self._config, self._rubric = config, rubric
        self.identity = self._identity(model, revision, tokenizer_sha256(tokenizer), seed)

    def label(self, subjects: pa.Table, progress: Callable[[int], None] | None = None) -> pa.Table:
        """See Labeler.label."""
        measurements: list[Measurement | None] = [None] * subjects.num_rows
        prompts: dict[int, JudgePrompt] = {}
        for index, prompt in enumerate(self._prompts(subjects)):
            if isinstance(prompt, Measurement):
                measurements[index] = prompt
            else:
                prompts[index] = prompt
        if progress is not None and len(prompts) < subjects.num_rows:
            progress(subjects.num_rows - len(prompts))
        order = list(prompts)
        for start in range(0, len(order), _CHUNK):
            chunk = order[start : start + _CHUNK]
            rows = self._logprobs([prompts[index] for index in chunk])
            for index, row in zip(chunk, rows, strict=True):
                measurements[index] = measure(
                    self._rubric,
                    self._builder.label_ids,
                    row,
                    prompts[index],
                    self._config.min_label_mass,
                )
            if progress is not None:
                progress(len(chunk))
        return label_rows(self.identity, subjects, [m for m in measurements if m is not None])

    def template_rows(self) -> pa.Table:
        """The rubric."""
        return self._rubric.template_rows()

    def close(self) -> None:
        """Frees the engine."""
        self._engine.close()

    def _identity(
        self, model: ModelIdentity, revision: str, tokenizer_hash: str | None, seed: int
    ) -> LabelIdentity:
        config, rubric, engine = self._config, self._rubric, self._engine
        return LabelIdentity(
            labeler=config.name,
            revision=revision,
            kind=config.kind,
            role=config.role,
            criterion=config.criterion,
            model=config.engine.model,
            model_revision=model.revision,
            backend=engine.name,
            backend_version=engine.version,
            score_method="logprob_expectation",
            score_scale=rubric.scale,
            family=_family(model),
            tokenizer_sha256=tokenizer_hash,
            device=engine.device,
            dtype=engine.dtype,
            template=rubric.name,
            template_sha256=rubric.sha256,
            sampling_json=json.dumps({"temperature": 0, "max_tokens": 1}),
            seed=seed,
        )

    def _prompts(self, subjects: pa.Table) -> list[JudgePrompt | Measurement]:
        """A prompt per subject, or the failed measurement of a text that cannot be shown."""
        texts = (decoded_texts(subjects[name]) for name in ("messages", "completion"))
        return [self._prompt(*both) for both in zip(*texts, strict=True)]

    def _prompt(self, messages: str | None, completion: str | None) -> JudgePrompt | Measurement:
        if completion is None:
            return Measurement("error", status_detail="the completion is NULL or not valid UTF-8")
        nonce = nonce_of(self.identity.revision, messages, completion)
        try:
            prompt = self._builder.build(messages, completion, nonce)
        except UnfitPrompt as error:
            return Measurement("error", status_detail=str(error))
        most = self._engine.max_prompt_tokens
        if len(prompt.token_ids) > most:
            return Measurement(
                "too_long",
                status_detail=f"{len(prompt.token_ids)} tokens; the judge reads {most}",
                rendered_prompt=prompt.text,
                input_tokens=len(prompt.token_ids),
            )
        return prompt

    def _logprobs(self, prompts: Sequence[JudgePrompt]) -> list[list[float]]:
        try:
            return self._engine.label_logprobs(
                [prompt.token_ids for prompt in prompts], self._builder.label_ids
            )
        except Exception as error:
            raise LabelingError(
                f"labelers.{self._config.name}: the {self._engine.name} engine failed on "
                f"{len(prompts)} prompts: {type(error).__name__}: {error}; run the stage again"
            ) from error


def measure(
    rubric: Rubric,
    label_ids: Sequence[int],
    logprobs: Sequence[float],
    prompt: JudgePrompt,
    min_label_mass: float,
) -> Measurement:
    """The measurement in one row of label log-probs (nats), one per label of the rubric.

    score_raw is the expected value, score the same in [0, 1], entropy that of the labels'
    normalised distribution in nats; all of them only where the labels' mass is large enough.
    """
    seen = tuple(
        LabelLogprob(label, token, logprob if math.isfinite(logprob) else None)
        for label, token, logprob in zip(rubric.labels, label_ids, logprobs, strict=True)
    )
    found = Measurement(
        "non_finite",
        score_logprobs=seen,
        rendered_prompt=prompt.text,
        input_tokens=len(prompt.token_ids),
        output_tokens=1,
    )
    if any(math.isnan(x) or x > _ROUNDING for x in logprobs):
        return replace(found, status_detail=f"label log-probs {[repr(x) for x in logprobs]}")
    mass = math.fsum(math.exp(x) for x in logprobs)
    found = replace(found, status="low_mass", label_mass=min(mass, 1.0))
    if mass == 0:
        return found
    shares = [math.exp(x) / mass for x in logprobs]
    likeliest = max(range(len(shares)), key=lambda i: shares[i])
    entropy = -math.fsum(p * math.log(p) for p in shares if p > 0)
    found = replace(found, raw_output=rubric.labels[likeliest], entropy=max(0.0, entropy))
    if mass < min_label_mass:
        return found
    expected = math.fsum(v * p for v, p in zip(rubric.values, shares, strict=True))
    low, high = min(rubric.values), max(rubric.values)
    score = min(1.0, max(0.0, (expected - low) / (high - low)))
    return replace(found, status="ok", score=score, score_raw=expected)


def load_engine(config: JudgeConfig, model: ModelIdentity, device: str) -> ScoreEngine:
    """The engine of a judge that runs here, loaded. Raises LabelingError for a remote one."""
    engine = config.engine
    if isinstance(engine, VllmEngineConfig):
        from labeling.engines.vllm_scorer import VllmScorer

        return VllmScorer(
            model.location,
            device=device,
            revision=model.commit,
            dtype=engine.dtype,
            max_model_len=engine.max_model_len,
            gpu_memory_utilization=engine.gpu_memory_utilization,
        )
    if not isinstance(engine, TransformersEngineConfig):
        raise LabelingError(f"labelers.{config.name}.engine: {engine.kind} shows no likelihoods")
    from labeling.engines.transformers_scorer import TransformersScorer

    return TransformersScorer(
        model.location,
        device=device,
        revision=model.commit,
        dtype=engine.dtype,
        max_model_len=engine.max_model_len,
        token_budget=engine.token_budget,
    )


def _family(model: ModelIdentity) -> str:
    from transformers import AutoConfig

    family: str = AutoConfig.from_pretrained(model.location, revision=model.commit).model_type
    return family
