"""ONNX Runtime as a classifier's backend: the same logits, exported once, refused where not so."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest

from labeling.errors import LabelingError
from labeling.labeler import Labeler
from labeling.labelers.build import build_labeler, labeler_revision
from labeling.labelers.config import ClassifierConfig
from tests.labeling.models import save_random_classifier
from tests.labeling.subjects import subjects

IS_INSTALLED = all(importlib.util.find_spec(n) for n in ("onnxruntime", "onnx", "onnxscript"))
needs_onnx = pytest.mark.skipif(not IS_INSTALLED, reason="the extra [onnx] is not installed")


def settings(folder: Path, backend: str = "onnx") -> ClassifierConfig:
    return ClassifierConfig.model_validate(
        {
            "kind": "classifier", "name": "hate", "role": "reward", "criterion": "toxicity",
            "model": str(folder), "labels": {"nothate": 0, "hate": 1}, "self_test": (),
            "stride": 8, "backend": backend,
        }
    )  # fmt: skip


def build(folder: Path, backend: str = "onnx", device: str = "cpu") -> Labeler:
    config = settings(folder, backend)
    return build_labeler(config, device=device, resolve=lambda model: model)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROUNDHOUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "onnx"


@needs_onnx
def test_logits_are_those_of_pytorch_and_the_graph_is_made_once(random_folder: Path, cache: Path):
    drawn = random.Random(0)
    texts = ["".join(drawn.choices("abc xyz.", k=drawn.randint(1, 200))) for _ in range(60)]
    texts += ["", "one"]
    ours = build(random_folder).label(subjects(texts)).to_pylist()
    theirs = build(random_folder, "transformers").label(subjects(texts)).to_pylist()
    for one, other in zip(ours, theirs, strict=True):
        assert one["status"] == other["status"]
        assert one["score_raw"] == pytest.approx(other["score_raw"], abs=1e-4)
    assert {row["backend"] for row in ours} == {"onnxruntime"}
    (graph,) = cache.glob("*/model.onnx")
    made_at = graph.stat().st_mtime_ns
    build(random_folder)
    assert graph.stat().st_mtime_ns == made_at
    assert [p for p in cache.iterdir() if p.name.startswith(".")] == []


@needs_onnx
def test_a_graph_of_other_weights_is_refused(tmp_path: Path, random_folder: Path, cache: Path):
    import torch
    from transformers import AutoModelForSequenceClassification

    build(random_folder)
    folder = save_random_classifier(tmp_path / "other")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.out_proj.bias += 1
    model.save_pretrained(folder)
    (graph,) = cache.glob("*/model.onnx")
    own = folder / "onnx" / "model.onnx"
    own.parent.mkdir()
    for part in graph.parent.iterdir():  # weights may lie beside the graph
        (own.parent / part.name).write_bytes(part.read_bytes())
    with pytest.raises(LabelingError, match="gives other logits than the model's weights"):
        build(folder)


@needs_onnx
def test_a_graph_that_cannot_be_loaded_is_named(tmp_path: Path, cache: Path):
    folder = save_random_classifier(tmp_path / "model")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(LabelingError, match=r"cannot load .*model\.onnx"):
        build(folder)


@needs_onnx
def test_onnx_is_for_the_cpu(random_folder: Path, cache: Path):
    with pytest.raises(LabelingError, match="onnx is for the CPU, not meta"):
        build(random_folder, device="meta")


@pytest.mark.skipif(IS_INSTALLED, reason="the extra [onnx] is installed")
def test_without_the_extra_the_message_says_what_to_install(random_folder: Path):
    with pytest.raises(LabelingError, match=r"onnxruntime is missing: pip install 'roundhouse\[on"):
        build(random_folder)


def test_the_backend_is_part_of_the_revision_and_the_old_default_keeps_its_own(
    random_folder: Path,
):
    def revision(backend: str) -> str:
        return labeler_revision(settings(random_folder, backend), lambda model: model)

    assert revision("onnx") != revision("transformers")
