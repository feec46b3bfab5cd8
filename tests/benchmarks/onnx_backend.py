"""A classifier's forward pass in ONNX Runtime against PyTorch, on the CPU, in fp32.

The model has the shape of roberta-base and random weights; the lengths of the texts are log-normal,
4 to 512 tokens, in the labeler's own batches (longest first, 4,096 tokens). Exporting and loading
are left out. Needs the extra [onnx].
"""

from __future__ import annotations

import importlib.util
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from labeling.engines.model_identity import identify_model
from labeling.engines.tokens import pad_right, token_batches
from tests.benchmarks.figures import print_figure, seconds_in_turn

TEXTS, REPEATS, BUDGET, VOCABULARY = 96, 3, 4096, 50265
LOG_MEAN, LOG_DEVIATION, SHORTEST, LONGEST = 4.0, 0.9, 4, 512
Forward = Callable[[np.ndarray, np.ndarray], np.ndarray]


def main() -> None:
    """Prints rows/s of both and the largest difference of a logit."""
    missing = [n for n in ("onnxruntime", "onnx", "onnxscript") if not importlib.util.find_spec(n)]
    if missing:
        print(f"onnx_backend: not installed: {', '.join(missing)}; pip install 'roundhouse[onnx]'")
        return
    rng = random.Random(0)
    lengths = [min(LONGEST, max(SHORTEST, int(rng.lognormvariate(LOG_MEAN, LOG_DEVIATION))))
               for _ in range(TEXTS)]  # fmt: skip
    rows = [[rng.randrange(3, VOCABULARY) for _ in range(length)] for length in lengths]
    ways = forwards()
    last: dict[str, np.ndarray] = {}
    measured = {
        name: lambda repeat, name=name: last.update({name: logits(ways[name], rows, repeat)})
        for name in ways
    }
    spent = seconds_in_turn(measured, REPEATS)
    ours, theirs = (median(s.wall for s in spent[name]) for name in ("onnx", "torch"))
    print_figure(
        "onnx backend",
        f"ONNX Runtime {TEXTS / ours:,.1f} texts/s, PyTorch {TEXTS / theirs:,.1f} texts/s, "
        f"ratio {theirs / ours:.2f}",
        wanted="> 1",
        is_met=theirs > ours,
        note=f"{TEXTS} texts, {sum(lengths):,} tokens, roberta-base's shape, median of {REPEATS}",
    )
    distance = float(np.abs(last["onnx"] - last["torch"]).max())
    print_figure("onnx backend, logits", f"largest difference {distance:.1e}",
                 wanted="<= 1e-4", is_met=distance <= 1e-4)  # fmt: skip


def forwards() -> dict[str, Forward]:
    """Both backends with one random model."""
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification

    from labeling.labelers.forward import onnx_forward, torch_forward

    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=LONGEST + 2, type_vocab_size=1
    )
    model = RobertaForSequenceClassification(config).eval()
    with tempfile.TemporaryDirectory() as here:
        os.environ["ROUNDHOUSE_CACHE"] = here
        folder = Path(here) / "model"
        model.save_pretrained(folder)
        identity = identify_model(str(folder), None, lambda name: name)
        onnx, _ = onnx_forward(model, identity, labeler="benchmark", vocabulary=VOCABULARY)
    return {"torch": torch_forward(model, "cpu"), "onnx": onnx}


def logits(forward: Forward, rows: list[list[int]], repeat: int) -> np.ndarray:
    """Logits [rows, 2] in the order of the rows; a few rows to warm up at repeat 0."""
    chosen = rows if repeat else rows[:8]
    found = np.zeros((len(chosen), 2))
    for batch in token_batches([len(row) for row in chosen], BUDGET):
        found[batch] = forward(*pad_right([chosen[place] for place in batch], 1))
    return found
