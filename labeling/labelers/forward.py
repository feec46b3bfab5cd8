"""A sequence classifier: how it is loaded, and its forward pass by PyTorch or ONNX Runtime.

Not here: what is put into it and what its logits mean (classifier.py, reward_model.py).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from labeling.engines.model_identity import ModelIdentity, loading
from labeling.engines.tokens import Floats, Forward, Ids
from labeling.errors import Misconfigured
from labeling.labelers.config import ClassifierConfig, RewardModelConfig
from warehouse.files import leftovers, whole_folder


def load_classifier(
    config: ClassifierConfig | RewardModelConfig, model: ModelIdentity, dtype: Any, device: str
) -> tuple[Any, Any]:
    """Tokenizer and PyTorch model, on the device and ready. Raises Misconfigured."""
    from labeling.engines.hugging_face import transformers

    with loading(f"labelers.{config.name}.model", config.model):
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            model.location, revision=model.commit
        )
        loaded: Any = transformers.AutoModelForSequenceClassification.from_pretrained(
            model.location, revision=model.commit, dtype=dtype
        )
    return tokenizer, loaded.to(device).eval()


def load_forward(
    config: ClassifierConfig, model: ModelIdentity, loaded: Any, vocabulary: int, device: str
) -> tuple[Forward, str, str]:
    """The forward pass, the name of the package that does it, and its version.

    `loaded`: the classifier in PyTorch, ready; under backend onnx its weights are dropped. Raises
    Misconfigured.
    """
    if config.backend == "transformers":
        from labeling.engines.hugging_face import transformers

        return torch_forward(loaded, device), "transformers", str(transformers.__version__)
    if device != "cpu":
        raise Misconfigured(f"labelers.{config.name}.backend: onnx is for the CPU, not {device}")
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


TOLERANCE = 1e-4
_GRAPH = "onnx/model.onnx"
_INSTALL = "pip install 'roundhouse[onnx]', or leave backend: onnx out"


def onnx_forward(
    torch_model: Any, model: ModelIdentity, *, labeler: str, vocabulary: int
) -> tuple[Forward, str]:
    """(ids, mask: int64 [rows, width]) -> logits [rows, labels]; and ONNX Runtime's version.

    `torch_model`: the same classifier in PyTorch on the CPU, which the graph must agree with to
    1e-4 on random tokens below `vocabulary`. Raises Misconfigured.
    """
    import torch

    try:
        import onnxruntime
    except ImportError as error:
        raise Misconfigured(
            f"labelers.{labeler}.backend: the package onnxruntime is missing: {_INSTALL}"
        ) from error
    path = _own_graph(model) or _exported(torch_model, model, labeler)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise Misconfigured(
            f"labelers.{labeler}.backend: ONNX Runtime cannot load {path}: {error}; delete the "
            "file to have it made anew, or leave backend: onnx out"
        ) from error
    names = {node.name for node in session.get_inputs()}

    def forward(ids: Ids, mask: Ids) -> Floats:
        inputs = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in names:
            inputs["token_type_ids"] = np.zeros_like(ids)
        return np.asarray(session.run(None, inputs)[0], np.float64)

    _check(forward, torch_model, path, labeler, vocabulary)
    return forward, str(onnxruntime.__version__)


def _own_graph(model: ModelIdentity) -> Path | None:
    """The graph that comes with the model, in its folder or on the Hub at its commit."""
    if model.commit is None:
        path = Path(model.location) / _GRAPH
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model.location, _GRAPH, revision=model.commit))
    except (HfHubHTTPError, LocalEntryNotFoundError):
        return None


def _exported(torch_model: Any, model: ModelIdentity, labeler: str) -> Path:
    """The graph in the cache, made there on first use: under a lock, renamed when whole."""
    import torch

    root = Path(os.environ.get("ROUNDHOUSE_CACHE") or Path.home() / ".cache/roundhouse") / "onnx"
    folder = root / f"{model.revision}-torch-{torch.__version__}"
    path = folder / "model.onnx"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not path.is_file():
            for killed in leftovers(folder):
                shutil.rmtree(killed)
            with whole_folder(folder, replace=True) as made:
                _export(torch_model, made / path.name, labeler)
    return path


def _export(torch_model: Any, path: Path, labeler: str) -> None:
    import torch

    class Logits(torch.nn.Module):
        """The model as a function of two tensors, which is what a graph is."""

        def __init__(self) -> None:
            super().__init__()
            self.model = torch_model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(
                input_ids=input_ids, attention_mask=attention_mask
            ).logits
            return logits

    example = torch.full((2, 9), 3), torch.ones(2, 9, dtype=torch.int64)
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        torch.onnx.export(
            Logits().eval(), example, str(path), dynamo=True, verbose=False,
            input_names=["input_ids", "attention_mask"], output_names=["logits"],
            dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
        )  # fmt: skip
    except ImportError as error:
        raise Misconfigured(
            f"labelers.{labeler}.backend: the export needs onnx and onnxscript: {_INSTALL}"
        ) from error
    except Exception as error:
        raise Misconfigured(
            f"labelers.{labeler}.backend: the model cannot be exported to ONNX: "
            f"{type(error).__name__}: {str(error)[:300]}; leave backend: onnx out"
        ) from error


def _check(forward: Forward, torch_model: Any, path: Path, labeler: str, vocabulary: int) -> None:
    """Both on two batches of random tokens of other sizes than the export's, padding included."""
    import torch

    rng = np.random.default_rng(0)
    for rows, width in ((1, 3), (4, 23)):
        ids = rng.integers(0, vocabulary, (rows, width))
        mask = (np.arange(width) < rng.integers(2, width + 1, (rows, 1))).astype(np.int64)
        with torch.inference_mode():
            expected = torch_model(
                input_ids=torch.as_tensor(ids), attention_mask=torch.as_tensor(mask)
            ).logits.double().numpy()  # fmt: skip
        found = forward(ids, mask)
        if found.shape != expected.shape or not np.allclose(found, expected, 0, TOLERANCE):
            raise Misconfigured(
                f"labelers.{labeler}.backend: {path} gives other logits than the model's weights "
                f"(more than {TOLERANCE:g} apart); remove it or leave backend: onnx out"
            )
