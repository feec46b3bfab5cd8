"""A labeler that is a sequence classifier: completion in, one score out, in fp32.

It reads the completion only. Long texts are read in overlapping windows and scored by the worst of
them, so that a toxic tail is found. It refuses to start when the model's labels are not those of
the configuration or when known sentences fall on the wrong side. Not here: from logits to a score
(label_map.py).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from labeling.engines.model_identity import ModelIdentity
from labeling.engines.tokens import (
    frame_of,
    pad_right,
    set_padding,
    token_batches,
    tokenizer_sha256,
)
from labeling.errors import Misconfigured
from labeling.label import UNREADABLE, LabelIdentity, Measurement, decoded_texts, label_rows
from labeling.labelers.config import ClassifierConfig
from labeling.labelers.forward import load_classifier, load_forward
from labeling.labelers.label_map import Floats, LabelMap, logits_json, match_labels, scores_of
from labeling.labelers.self_test import check_sentences
from warehouse.schemas import TABLES

Progress = Callable[[int], None]


class ClassifierLabeler:
    """See labeling.labeler.Labeler."""

    def __init__(
        self, config: ClassifierConfig, model: ModelIdentity, revision: str, *, device: str
    ) -> None:
        """Loads the model, checks its labels, runs the self-test. Raises Misconfigured."""
        import torch

        self._config, self._device = config, device
        self._tokenizer, self._model = load_classifier(config, model, torch.float32, device)
        settings = self._model.config
        self._map: LabelMap = match_labels(
            settings.id2label,
            config.label_scores,
            config.activation,
            labeler=config.name,
            model=config.model,
        )
        self._head, self._tail = frame_of(self._tokenizer)
        self._pad = set_padding(self._tokenizer, settings)
        self._forward, *self._backend = load_forward(
            config, model, self._model, len(self._tokenizer), device
        )
        self._room = self._window_room(settings)
        self.identity = self._identity(model, revision)
        check_sentences(config, lambda texts: self._measure(list(texts), None))

    def label(self, subjects: pa.Table, progress: Progress | None = None) -> pa.Table:
        """See Labeler.label."""
        texts = decoded_texts(subjects["completion"])
        return label_rows(self.identity, subjects, self._measure(texts, progress))

    def template_rows(self) -> pa.Table:
        """A classifier has no template."""
        return TABLES["templates"].schema.empty_table()

    def close(self) -> None:
        """Drops the model."""
        del self._model, self._forward

    def _identity(self, model: ModelIdentity, revision: str) -> LabelIdentity:
        config = self._config
        return LabelIdentity(
            labeler=config.name,
            revision=revision,
            kind=config.kind,
            role=config.role,
            criterion=config.criterion,
            model=config.model,
            model_revision=model.revision,
            family=self._model.config.model_type,
            tokenizer_sha256=tokenizer_sha256(self._tokenizer),
            label_map_sha256=self._map.sha256,
            backend=self._backend[0],
            backend_version=self._backend[1],
            device=self._device,
            dtype="float32",
            score_method=self._map.method,
            score_scale="0..1",
            sampling_json=json.dumps({"max_tokens": self._room, "stride": self._stride}),
        )

    @property
    def _stride(self) -> int:
        return min(self._config.stride, self._room // 2)

    def _window_room(self, model_config: Any) -> int:
        """Tokens of text that one window holds beside the model's own marks."""
        longest = self._tokenizer.model_max_length
        if longest > 1_000_000:  # the tokenizer does not know
            # RoBERTa counts positions from the padding id upwards; a token or two less is safe.
            longest = getattr(model_config, "max_position_embeddings", 512) - self._pad - 1
        room = min(self._config.max_tokens, longest) - len(self._head) - len(self._tail)
        if room < 2:
            raise Misconfigured(
                f"labelers.{self._config.name}.max_tokens: a window of {self._config.max_tokens} "
                f"tokens leaves {room} for the text; {self._config.model} takes {longest}"
            )
        return int(room)

    def _measure(self, texts: list[str | None], progress: Progress | None) -> list[Measurement]:
        """One measurement per text, in order."""
        found = [_unreadable(text) for text in texts]
        readable = [index for index, done in enumerate(found) if done is None]
        windows: list[list[int]] = []
        owners: list[int] = []
        for index, ids in zip(readable, self._encode([texts[i] for i in readable]), strict=True):
            own = self._windows(ids)
            if not own:
                found[index] = Measurement("empty", status_detail="no token survives tokenization")
            elif len(own) > self._config.max_windows:
                most = self._config.max_windows
                detail = f"{len(ids)} tokens make {len(own)} windows; max_windows is {most}"
                found[index] = Measurement("too_long", status_detail=detail, input_tokens=len(ids))
            else:
                windows += own
                owners += [index] * len(own)
        _report(progress, sum(done is not None for done in found))
        logits = self._logits(windows, owners, progress)
        return self._joined(found, windows, owners, logits)

    def _joined(
        self,
        found: list[Measurement | None],
        windows: list[list[int]],
        owners: list[int],
        logits: Floats,
    ) -> list[Measurement]:
        """The failures found early, and the worst window of each text that was scored.

        Whole columns at a time: a call of numpy per text costs as much as a small model does.
        """
        odds = self._map.log_odds(logits)
        is_finite = np.isfinite(odds) & np.isfinite(logits).all(axis=1)
        # A window that is not finite is the worst there can be.
        badness = np.where(is_finite, odds, np.inf).tolist()
        finite, raw = is_finite.tolist(), odds.tolist()
        scores = scores_of(np.where(is_finite, odds, 0.0)).tolist()
        outputs = logits.tolist()
        places: dict[int, list[int]] = {}
        for place, owner in enumerate(owners):
            places.setdefault(owner, []).append(place)
        joined: list[Measurement] = []
        for index, done in enumerate(found):
            if done is None:
                own = places[index]
                worst = max(own, key=badness.__getitem__)
                done = Measurement(
                    status="ok" if finite[worst] else "non_finite",
                    score=scores[worst] if finite[worst] else None,
                    score_raw=raw[worst] if finite[worst] else None,
                    raw_output=logits_json(self._map.names, outputs[worst]),
                    window_count=len(own),
                    input_tokens=sum(len(windows[place]) for place in own),
                )
            joined.append(done)
        return joined

    def _encode(self, texts: list[str | None]) -> list[list[int]]:
        """Token ids without marks; marks that stand in a text stay text."""
        if not texts:
            return []
        encoded: list[list[int]] = self._tokenizer(
            texts, add_special_tokens=False, split_special_tokens=True, verbose=False
        )["input_ids"]
        return encoded

    def _windows(self, ids: list[int]) -> list[list[int]]:
        """Overlapping windows over a text's tokens, each with the model's marks around it."""
        step = self._room - self._stride
        starts = range(0, max(1, len(ids) - self._stride), step) if ids else []
        return [[*self._head, *ids[at : at + self._room], *self._tail] for at in starts]

    def _logits(
        self, windows: list[list[int]], owners: Sequence[int], progress: Progress | None
    ) -> Floats:
        """Logits [windows, labels], float64, in the order of `windows`."""
        logits = np.zeros((len(windows), len(self._map.names)))
        waiting = Counter(owners)
        for batch in token_batches([len(w) for w in windows], self._config.token_budget):
            ids, mask = pad_right([windows[place] for place in batch], self._pad)
            logits[batch] = self._forward(ids, mask)
            waiting.subtract(owners[place] for place in batch)
            _report(progress, sum(waiting[owner] == 0 for owner in {owners[p] for p in batch}))
        return logits


def _report(progress: Progress | None, count: int) -> None:
    if progress is not None and count:
        progress(count)


def _unreadable(text: str | None) -> Measurement | None:
    if text is None:
        return UNREADABLE
    return None if text.strip() else Measurement("empty")
