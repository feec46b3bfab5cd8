"""A labeler that is a trained reward model: prompt and completion in, one logit out.

Any sequence classifier with a single output, for instance what TRL's RewardTrainer saves. It reads
the dialogue through the chat template it was trained with; score_raw is its logit, and score =
sigmoid((logit - center) / scale), with center and scale from the configuration: a reward model
knows only differences, so where its zero lies is the user's to say. Nothing is ever cut off. Not
here: how the dialogue becomes tokens (reward_prompt.py), training (training/).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from labeling.engines.model_identity import ModelIdentity
from labeling.engines.tokens import pad_right, set_padding, token_batches, tokenizer_sha256
from labeling.engines.untrusted import UnfitPrompt
from labeling.errors import Misconfigured
from labeling.judges.prompt import RenderedPrompt
from labeling.label import UNREADABLE, LabelIdentity, Measurement, decoded_texts, label_rows
from labeling.labelers.config import RewardModelConfig
from labeling.labelers.forward import load_classifier, torch_forward
from labeling.labelers.label_map import logits_json
from labeling.labelers.reward_prompt import DialogueBuilder
from labeling.shipped import template_row
from warehouse.files import text_sha256

Progress = Callable[[int], None]


class RewardModelLabeler:
    """See labeling.labeler.Labeler."""

    def __init__(
        self, config: RewardModelConfig, model: ModelIdentity, revision: str, *, device: str
    ) -> None:
        """Loads the model and tries its template. Raises Misconfigured."""
        import torch

        from labeling.engines.hugging_face import transformers

        self._config, self._device = config, device
        dtype = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]
        tokenizer, loaded = load_classifier(config, model, dtype, device)
        if loaded.config.num_labels != 1:
            raise Misconfigured(
                f"labelers.{config.name}.model: {config.model} has {loaded.config.num_labels} "
                "outputs, a reward model has one; use kind: classifier with labels"
            )
        self._model, self._forward = loaded, torch_forward(loaded, device)
        self._builder = DialogueBuilder(tokenizer, config.template, labeler=config.name)
        self._pad = set_padding(tokenizer, loaded.config)
        self._most = _most_tokens(config.max_tokens, tokenizer, loaded.config, self._pad)
        self._template_sha256 = text_sha256(self._builder.template)
        self.identity = self._identity(model, revision, tokenizer, transformers.__version__)

    def label(self, subjects: pa.Table, progress: Progress | None = None) -> pa.Table:
        """See Labeler.label."""
        texts = [decoded_texts(subjects[name]) for name in ("messages", "completion")]
        found = [self._prompt(*row) for row in zip(*texts, strict=True)]
        prompts = {i: it for i, it in enumerate(found) if isinstance(it, RenderedPrompt)}
        if progress is not None and len(prompts) < len(found):
            progress(len(found) - len(prompts))
        order = list(prompts)
        lengths = [len(prompts[index].token_ids) for index in order]
        for batch in token_batches(lengths, self._config.token_budget):
            chosen = [order[place] for place in batch]
            # Padding stands right, where the model's pooling expects it.
            padded = pad_right([prompts[index].token_ids for index in chosen], self._pad)
            logits = self._forward(*padded)[:, 0].tolist()
            for index, logit in zip(chosen, logits, strict=True):
                found[index] = self._measurement(prompts[index], logit)
            if progress is not None:
                progress(len(chosen))
        measured = [it for it in found if isinstance(it, Measurement)]
        return label_rows(self.identity, subjects, measured)

    def template_rows(self) -> pa.Table:
        """The chat template, which is what the model is asked."""
        name, version = f"{self._config.name}-template", self._template_sha256[:8]
        return template_row("chat template", name, version, self._builder.template)

    def close(self) -> None:
        """Drops the model."""
        del self._model, self._forward

    def _prompt(self, messages: str | None, completion: str | None) -> RenderedPrompt | Measurement:
        if completion is None:
            return UNREADABLE
        try:
            prompt = self._builder.build(messages, completion)
        except UnfitPrompt as error:
            return Measurement("error", status_detail=str(error))
        if len(prompt.token_ids) > self._most:
            return Measurement(
                "too_long",
                status_detail=f"{len(prompt.token_ids)} tokens; the model reads {self._most}",
                rendered_prompt=prompt.text,
                input_tokens=len(prompt.token_ids),
            )
        return prompt

    def _measurement(self, prompt: RenderedPrompt, logit: float) -> Measurement:
        is_finite = math.isfinite(logit)
        score = None
        if is_finite:
            score = squashed(logit, self._config.center, self._config.scale)
        return Measurement(
            "ok" if is_finite else "non_finite",
            score=score,
            score_raw=logit if is_finite else None,
            raw_output=logits_json(("reward",), (logit,)),
            rendered_prompt=prompt.text,
            input_tokens=len(prompt.token_ids),
        )

    def _identity(
        self, model: ModelIdentity, revision: str, tokenizer: Any, version: str
    ) -> LabelIdentity:
        config = self._config
        sampling = {"max_tokens": self._most, "center": config.center, "scale": config.scale}
        return LabelIdentity(
            labeler=config.name,
            revision=revision,
            kind=config.kind,
            role=config.role,
            criterion=config.criterion,
            model=config.model,
            model_revision=model.revision,
            family=self._model.config.model_type,
            tokenizer_sha256=tokenizer_sha256(tokenizer),
            backend="transformers",
            backend_version=version,
            device=self._device,
            dtype=str(self._model.dtype).removeprefix("torch."),
            score_method="reward_sigmoid",
            score_scale="0..1",
            template=f"{config.name}-template",
            template_sha256=self._template_sha256,
            sampling_json=json.dumps(sampling),
        )


def squashed(logit: float, center: float, scale: float) -> float:
    """sigmoid((logit - center) / scale) in [0, 1], without overflow."""
    return 0.5 * (1 + math.tanh((logit - center) / scale / 2))


def _most_tokens(wanted: int, tokenizer: Any, model_config: Any, pad: int) -> int:
    """The longest dialogue that both the configuration and the model take."""
    longest = [wanted, int(min(tokenizer.model_max_length, wanted))]
    positions = getattr(model_config, "max_position_embeddings", None)
    if positions:
        # RoBERTa counts positions from the padding id upwards.
        is_roberta = "roberta" in model_config.model_type
        longest.append(positions - pad - 1 if is_roberta else positions)
    return min(longest)
