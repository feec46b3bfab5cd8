"""The forward pass of a sequence classifier by its backend. Not here: ONNX's own part."""

from __future__ import annotations

from typing import Any

import numpy as np

from labeling.batching import Floats, Forward, Ids
from labeling.config import ClassifierConfig
from labeling.label import LabelingError
from labeling.model_identity import ModelIdentity


def load_forward(
    config: ClassifierConfig, model: ModelIdentity, loaded: Any, vocabulary: int, device: str
) -> tuple[Forward, str, str]:
    """The forward pass, the name of the package that does it, and its version.

    `loaded`: the classifier in PyTorch, ready; under backend onnx its weights are dropped. Raises
    LabelingError.
    """
    if config.backend == "transformers":
        import transformers

        return torch_forward(loaded, device), "transformers", str(transformers.__version__)
    if device != "cpu":
        raise LabelingError(f"labelers.{config.name}.backend: onnx is for the CPU, not {device}")
    from labeling.engines.onnx_classifier import onnx_forward

    forward, version = onnx_forward(loaded, model, labeler=config.name, vocabulary=vocabulary)
    loaded.to("meta")
    return forward, "onnxruntime", version


def torch_forward(model: Any, device: str) -> Forward:
    """The forward pass in PyTorch."""
    import torch

    def forward(ids: Ids, mask: Ids) -> Floats:
        with torch.inference_mode():
            out = model(
                input_ids=torch.as_tensor(ids, device=device),
                attention_mask=torch.as_tensor(mask, device=device),
            )
        return np.asarray(out.logits.double().cpu().numpy())

    return forward
