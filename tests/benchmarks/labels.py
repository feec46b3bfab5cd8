"""Classifier labels through the stage against a bare loop, and against batches in random order.

Twice: on assistant turns, which are short, and on long mixed texts, turns and whole dialogues.

The model has the shape of starter-toxicity with room for 512 tokens and random weights: speed does
not depend on what they know. Texts are HH's assistant turns where they lie beside this checkout,
else random words with HH's distribution of lengths. Texts longer than one window are left out, so
that the bare loop is as plain as such a loop gets. Model loading is left out on all sides.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.configs.loading import load_config
from pipeline.runtime.machine import choose_device
from pipeline.runtime.shards import Manifest, StageSpec, run_stage, split_rows
from pipeline.stages.labels import LabelWorker
from tests.benchmarks.figures import print_figure, print_ratio, seconds_in_turn
from training.starters.tokenizers import bpe_classifier_tokenizer

WINDOW, RANDOM_BATCH = 512, 32


@dataclass(frozen=True)
class Setting:
    """Texts and repeats; the model's width; least ratio to random batches; most a logit differs."""

    texts: int
    repeats: int
    hidden: int
    layers: int
    ratio: float
    tolerance: float


# Short: the smallest model there is, so that what the stage adds shows. Long: one whose forward
# pass is what costs, as in any classifier of use; a small one hides what padding wastes.
SHORT = Setting(16384, 5, 96, 2, 3.0, 1e-5)
LONG = Setting(768, 3, 256, 4, 4.0, 1e-6)
WARM_UP_TEXTS = 256
HH = Path(__file__).parents[3] / "shared" / "data" / "hh-rlhf"
# Words of HH's 6,211 distinct assistant turns: mean and deviation of the logarithm.
LOG_MEAN, LOG_DEVIATION, LONGEST = 3.14, 0.96, 418


@functools.cache
def lasting_worker(folder: str) -> LabelWorker:
    """One worker for the model in `folder`: Beam gets this function, pickled by its name."""
    sets = [
        f"warehouse={folder}/warehouse",
        f"labelers.toxicity.model={folder}",
        "labelers.toxicity.labels={polite: 0, rude: 1}",
        "labelers.toxicity.self_test=[]",  # random weights know nothing
    ]
    config = load_config("demo", sets)
    return LabelWorker(config, config.labeler("toxicity"), 0)


def main() -> None:
    """Prints labels/s of the stage, the bare loop and random batches, and how far logits differ."""
    turns, source = hh_texts()
    measure("labels", turns, source, SHORT)
    mixed, source = long_mixed_texts(turns)
    measure("labels, long", mixed, source, LONG)


def measure(name: str, texts: list[str], source: str, setting: Setting) -> None:
    """One corpus, three ways in turn: some of its texts that fit a window."""
    count = setting.texts
    with tempfile.TemporaryDirectory() as here:
        build_model(Path(here), texts, setting)
        worker = lasting_worker(here)
        lengths = [len(ids) for ids in encode(worker, texts)]
        fitting = [text for text, n in zip(texts, lengths, strict=True) if n <= WINDOW]
        random.Random(0).shuffle(fitting)
        chosen = [fitting[i % len(fitting)] for i in range(count)]
        rows = subjects(chosen)
        last: dict[str, Any] = {}
        ways = {
            "stage": lambda n: last.update(stage=_stage(_part(rows, n), here, n)),
            "bare": lambda n: last.update(bare=_bare(worker, _part(chosen, n))),
            "random": lambda n: last.update(random=_random(worker, _part(chosen, n))),
        }
        spent = seconds_in_turn(ways, setting.repeats)
        last["stage"] = written_logits(*last["stage"])
    note = f"{count:,} texts from {len(fitting):,} {source}, {len(texts) - len(fitting)} too long"
    note += f", median of {setting.repeats}; hidden size {setting.hidden}"
    print_ratio(name, "labels", count, spent["stage"], spent["bare"], 0.9,
                against="bare sorted loop", note=note)  # fmt: skip
    print_ratio(f"{name}, random order", "labels", count, spent["stage"], spent["random"],
                setting.ratio, against=f"random batches of {RANDOM_BATCH}", note=note)  # fmt: skip
    for way in ("bare", "random"):
        distance = float(np.abs(last["stage"] - last[way]).max())
        print_figure(f"{name}, logits, {way}", f"largest difference {distance:.1e}",
                     wanted=f"<= {setting.tolerance:.0e}",
                     is_met=distance <= setting.tolerance)  # fmt: skip


def _part(rows: Any, repeat: int) -> Any:
    return rows[: None if repeat else WARM_UP_TEXTS]


def hh_texts() -> tuple[list[str], str]:
    """Distinct texts, sorted, and where they come from."""
    files = sorted(HH.glob("*.jsonl.gz"))
    if files:
        found = {turn for path in files for turn in assistant_turns(path)}
        return sorted(found), "HH assistant turns"
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 8))) for _ in range(3000)]
    lengths = [min(LONGEST, int(rng.lognormvariate(LOG_MEAN, LOG_DEVIATION)) + 1)
               for _ in range(6000)]  # fmt: skip
    texts = {" ".join(rng.choices(words, k=length)) for length in lengths}
    return sorted(texts), f"random texts, log-normal({LOG_MEAN}, {LOG_DEVIATION}) words as in HH"


def long_mixed_texts(turns: list[str]) -> tuple[list[str], str]:
    """The turns and longer texts among them: HH's whole dialogues, else several turns in one."""
    files = sorted(HH.glob("*.jsonl.gz"))
    if files:
        return sorted({*turns, *(text for path in files for text in dialogues(path))}), (
            "HH assistant turns and whole dialogues"
        )
    rng = random.Random(1)
    joined = {" ".join(rng.choices(turns, k=rng.randint(2, 6))) for _ in range(len(turns) // 2)}
    return sorted({*turns, *joined}), "random texts, a third of them joined to longer ones"


def dialogues(path: Path) -> Iterator[str]:
    """Both transcripts of every pair of HH."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            pair = json.loads(line)
            yield from (pair["chosen"].strip(), pair["rejected"].strip())


def assistant_turns(path: Path) -> Iterator[str]:
    """Every assistant turn of both sides of HH's pairs."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            pair = json.loads(line)
            for side in ("chosen", "rejected"):
                for turn in pair[side].split("\n\nAssistant:")[1:]:
                    text = turn.split("\n\nHuman:")[0].strip()
                    if text:
                        yield text


def build_model(folder: Path, texts: list[str], setting: Setting) -> None:
    """starter-toxicity's kind with WINDOW positions; a vocabulary that fits the texts."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    tokenizer = bpe_classifier_tokenizer(texts, 8192, longest=WINDOW)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=setting.hidden,
        intermediate_size=setting.hidden * 8 // 3,
        num_hidden_layers=setting.layers,
        num_attention_heads=setting.hidden // 32,
        max_position_embeddings=WINDOW + tokenizer.pad_token_id + 1,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        id2label={0: "polite", 1: "rude"},
        label2id={"polite": 0, "rude": 1},
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def subjects(texts: list[str]) -> pa.Table:
    """The texts as the label stage reads them."""
    count = len(texts)
    return pa.table(
        {
            "rollout_id": [f"0-{i}-0" for i in range(count)],
            "round": pa.array([0] * count, pa.int32()),
            "prompt_id": [str(i) for i in range(count)],
            "completion": texts,
            "completion_sha256": [hashlib.sha256(t.encode()).hexdigest() for t in texts],
            "messages": ["[]"] * count,
        }
    )


def _stage(rows: pa.Table, folder: str, repeat: int) -> tuple[StageSpec, list[Manifest]]:
    """The stage, with all it does but the publishing."""
    beam = load_config("demo").beam
    spec = StageSpec("labels", Path(folder) / f"run-{repeat}", "benchmark", "labels", beam)
    make_worker = functools.partial(lasting_worker, folder)
    return spec, run_stage(spec, split_rows(rows, beam.shard_rows), make_worker)


def written_logits(spec: StageSpec, manifests: list[Manifest]) -> np.ndarray:
    """Logits [texts, 2] as the stage wrote them, in the order of its rows."""
    written = [
        raw
        for manifest in manifests
        for raw in pq.read_table(spec.path("rows", manifest.shard))["raw_output"].to_pylist()
    ]
    return np.array([list(json.loads(raw).values()) for raw in written])


def encode(worker: LabelWorker, texts: list[str]) -> list[list[int]]:
    """Token ids with the model's marks."""
    return worker._labeler._tokenizer(texts, split_special_tokens=True)["input_ids"]


def _bare(worker: LabelWorker, texts: list[str]) -> np.ndarray:
    """Longest first, at most the labeler's token budget in a batch: no stage, no rows."""
    budget = worker._labeler._config.token_budget
    ids = encode(worker, texts)
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    logits, at = np.zeros((len(ids), 2)), 0
    while at < len(order):
        batch = order[at : at + max(1, budget // len(ids[order[at]]))]
        logits[batch] = _forward(worker, [ids[i] for i in batch])
        at += len(batch)
    return logits


def _random(worker: LabelWorker, texts: list[str]) -> np.ndarray:
    """Batches of 32 in random order, padded to the longest of each."""
    ids = encode(worker, texts)
    order = random.Random(0).sample(range(len(ids)), len(ids))
    logits = np.zeros((len(ids), 2))
    for at in range(0, len(order), RANDOM_BATCH):
        batch = order[at : at + RANDOM_BATCH]
        logits[batch] = _forward(worker, [ids[i] for i in batch])
    return logits


@torch.inference_mode()
def _forward(worker: LabelWorker, rows: list[list[int]]) -> np.ndarray:
    labeler, device = worker._labeler, choose_device("auto")
    padded = labeler._tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(device)
    return labeler._model(**padded).logits.double().cpu().numpy()
