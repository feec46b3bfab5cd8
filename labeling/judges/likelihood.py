"""A labeler that is a language model: it reads a rubric, prompt and completion, and its score is
the expectation over the likelihoods of the rubric's labels (d-RLAIF, arXiv 2309.00267 §2.2.2).

Nothing is parsed, and nothing is generated but the reasons where they are asked for (`reasoning`).
When too little probability lies on the labels, the judge meant to say something else: status
low_mass, score NULL. Not here: rendering
(prompt.py), engines (engines/), verdicts in words.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pyarrow as pa

from labeling.engines.model_identity import ModelIdentity, loading
from labeling.engines.scoring import load_score_engine
from labeling.engines.tokens import tokenizer_sha256
from labeling.engines.untrusted import UnfitPrompt
from labeling.errors import LabelingError
from labeling.judges.config import JudgeConfig
from labeling.judges.prompt import PromptBuilder, RenderedPrompt, Shown, judged_texts, nonce_of
from labeling.judges.rubric import Principle, Rubric
from labeling.label import (
    UNREADABLE,
    LabelIdentity,
    LabelLogprob,
    Measurement,
    label_rows,
)

Answer = TypeVar("Answer")
_CHUNK = 1024  # prompts of one engine call: enough to batch well, few enough to show progress
_LABEL_ROOM = 32  # tokens after the reasons: the prefix of the label
_ROUNDING = 1e-3  # a log-probability further above 0 is none


class JudgeLabeler:
    """See labeling.labeler.Labeler."""

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

        with loading(f"labelers.{config.name}.engine.model", config.engine.model):
            tokenizer: Any = AutoTokenizer.from_pretrained(model.location, revision=model.commit)
            # Before the engine: a model that cannot be a judge need not be loaded to find out.
            self._builder = PromptBuilder(rubric, tokenizer, judge=config.engine.model)
            self._engine = load_score_engine(config.engine, model, device, labeler=config.name)
        self._config, self._rubric, self._seed = config, rubric, seed
        self._has_reasons = config.chosen_reasoning == "before"
        self.identity = self._identity(model, revision, tokenizer_sha256(tokenizer), seed)

    def label(self, subjects: pa.Table, progress: Callable[[int], None] | None = None) -> pa.Table:
        """See Labeler.label. A column `second` holds the other completion of a pair."""
        rationales: list[str | None] = [None] * subjects.num_rows
        rollouts = subjects["rollout_id"].to_pylist()
        principles = [self._rubric.draw_principle(rollout, self._seed) for rollout in rollouts]
        texts = judged_texts(subjects)
        found = [self._prompt(*row) for row in zip(principles, *texts, strict=True)]
        prompts = {i: it for i, it in enumerate(found) if isinstance(it, RenderedPrompt)}
        if progress is not None and len(prompts) < subjects.num_rows:
            progress(subjects.num_rows - len(prompts))
        order = list(prompts)
        for start in range(0, len(order), _CHUNK):
            chunk = order[start : start + _CHUNK]
            for index, scored, reasons in self._scored({i: prompts[i] for i in chunk}):
                found[index], rationales[index] = scored, reasons
            if progress is not None:
                progress(len(chunk))
        return label_rows(
            self.identity,
            subjects,
            [it for it in found if isinstance(it, Measurement)],
            {"principle": [p and p.name for p in principles], "rationale": rationales},
        )

    def _scored(
        self, prompts: Mapping[int, RenderedPrompt]
    ) -> Iterator[tuple[int, Measurement, str | None]]:
        """Row, measurement and rationale of prompts that ask for a label, or for reasons first."""
        reasons: dict[int, str] = {}
        asked = dict(prompts)
        if self._has_reasons:
            written = self._asked(
                prompts, lambda ids: self._engine.write(ids, self._config.max_output_tokens)
            )
            reasons = dict(zip(prompts, written, strict=True))
            for index, text in reasons.items():
                try:
                    asked[index] = self._builder.build_after(prompts[index], text)
                except UnfitPrompt as error:
                    del asked[index]
                    yield index, Measurement("error", status_detail=str(error)), text
        label_ids, least = self._builder.label_ids, self._config.min_label_mass
        rows = self._asked(asked, lambda ids: self._engine.label_logprobs(ids, label_ids))
        for (index, prompt), row in zip(asked.items(), rows, strict=True):
            found = measure(self._rubric, label_ids, row, prompt, least)
            yield index, found, reasons.get(index)

    def template_rows(self) -> pa.Table:
        """The rubric."""
        return self._rubric.template_rows()

    def close(self) -> None:
        """Frees the engine."""
        self._engine.close()

    def _identity(
        self, model: ModelIdentity, revision: str, tokenizer_hash: str | None, seed: int
    ) -> LabelIdentity:
        from transformers import AutoConfig

        config, rubric, engine = self._config, self._rubric, self._engine
        settings: Any = AutoConfig.from_pretrained(model.location, revision=model.commit)
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
            family=settings.model_type,
            tokenizer_sha256=tokenizer_hash,
            device=engine.device,
            dtype=engine.dtype,
            template=rubric.name,
            template_sha256=rubric.sha256,
            sampling_json=json.dumps({"temperature": 0, "max_tokens": 1}),
            seed=seed,
        )

    def _prompt(
        self,
        principle: Principle | None,
        messages: str | None,
        completion: str | None,
        second: str | None,
    ) -> RenderedPrompt | Measurement:
        """What to ask, or the failed measurement of a text that cannot be shown."""
        if completion is None or second is None:
            return UNREADABLE
        nonce = nonce_of(self.identity.revision, messages, completion + second)
        shown = Shown(messages, completion, nonce, principle, second)
        try:
            if self._has_reasons:
                prompt = self._builder.build_reasons(shown)
            else:
                prompt = self._builder.build(shown)
        except UnfitPrompt as error:
            return Measurement("error", status_detail=str(error))
        most = self._engine.max_prompt_tokens
        if self._has_reasons:  # room for the reasons and for what follows them
            most -= self._config.max_output_tokens + _LABEL_ROOM
        if len(prompt.token_ids) > most:
            return Measurement(
                "too_long",
                status_detail=f"{len(prompt.token_ids)} tokens; the judge reads {most}",
                rendered_prompt=prompt.text,
                input_tokens=len(prompt.token_ids),
            )
        return prompt

    def _asked(
        self, prompts: Mapping[int, RenderedPrompt], ask: Callable[[list[list[int]]], list[Answer]]
    ) -> list[Answer]:
        """What the engine says to each prompt. Raises LabelingError where it is dead."""
        try:
            return ask([prompt.token_ids for prompt in prompts.values()])
        except Exception as error:
            raise LabelingError(
                f"labelers.{self._config.name}: the {self._engine.name} engine failed on "
                f"{len(prompts)} prompts: {type(error).__name__}: {error}; run the stage again"
            ) from error


def measure(
    rubric: Rubric,
    label_ids: Sequence[int],
    logprobs: Sequence[float],
    prompt: RenderedPrompt,
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
    return replace(found, status="ok", score=rubric.share(expected), score_raw=expected)
