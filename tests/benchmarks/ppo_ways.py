"""One update over the stored round in one way, in this process: its seconds and its peak memory.

    python -m tests.benchmarks.ppo_ways WAY FOLDER SHAPE    a line of JSON, the last on stdout

Ways: `stage` is training.ppo.trainer.train_ppo, from a folder with a policy to a folder with the
next; `bare` is forward and backward over the same minibatches and nothing else; `trl` is TRL 1.12's
PPOTrainer (ppo_trl_way.py), where that release stands first on PYTHONPATH.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from tests.benchmarks.figures import Seconds
from tests.benchmarks.ppo_round import (
    EPOCHS,
    MINIBATCH,
    SHAPES,
    Shape,
    stored_rows,
    training_config,
)
from training.ppo.trainer import train_ppo

_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


@dataclass(frozen=True)
class Measured:
    """Of one update: its time, wall seconds of a step, peak memory beyond what imports took.

    Memory in bytes: this process's resident set on a CPU, the allocator's on CUDA. A step is an
    optimizer's, or as many rows; None where a way does not show its steps.
    """

    seconds: Seconds
    step_seconds: float | None
    peak_bytes: int


class Clock:
    """Adds up wall and CPU seconds over `with` blocks."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __enter__(self) -> Clock:
        _synchronize()
        self.wall -= time.perf_counter()
        self.cpu -= time.process_time()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _synchronize()
        self.wall += time.perf_counter()
        self.cpu += time.process_time()

    @property
    def seconds(self) -> Seconds:
        """So far."""
        return Seconds(self.wall, self.cpu)


def main() -> None:
    """Measures one way and prints it."""
    way, folder, shape = sys.argv[1], Path(sys.argv[2]), SHAPES[sys.argv[3]]
    if way == "trl":  # imports TRL, of which there may be none
        from tests.benchmarks.ppo_trl_way import trl_update as update
    else:
        update = {"stage": stage_update, "bare": bare_update}[way]
    before = _peak_bytes()
    seconds, step_seconds = update(folder, shape)
    print(json.dumps(asdict(Measured(seconds, step_seconds, _peak_bytes() - before))))


def stage_update(folder: Path, shape: Shape) -> tuple[Seconds, float | None]:
    """All that a training stage does, the files it reads and writes included."""
    ticks: list[float] = []

    def tick(done: int, total: int, fields: dict[str, float]) -> None:
        _synchronize()
        ticks.append(time.perf_counter())

    with Clock() as clock:
        train_ppo(
            stored_rows(folder),
            policy_dir=folder / "policy",
            reference_dir=folder / "reference",
            out_dir=folder / "trained",
            config=training_config(shape),
            kl_coefficient=0.05,
            round=1,
            seed=0,
            progress=tick,
        )
    steps = EPOCHS * -(-shape.rows // MINIBATCH)
    # One tick after every step; one more may stand at the end of all.
    return clock.seconds, (ticks[steps - 1] - ticks[0]) / (steps - 1)


def bare_update(folder: Path, shape: Shape) -> tuple[Seconds, float | None]:
    """The same rows in minibatches as large, the vocabulary at the same tokens, no optimizer."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32).to(device)
    rows = stored_rows(folder)
    ids = torch.from_numpy(np.hstack([rows.prompt_ids, rows.completion_ids])).long().to(device)
    steps = 0
    with Clock() as clock:
        for epoch in range(EPOCHS):
            order = torch.from_numpy(np.random.default_rng(epoch).permutation(shape.rows))
            for chosen in order.split(MINIBATCH):
                _bare_step(model, ids[chosen], shape)
                steps += 1
    return clock.seconds, clock.wall / steps


def _bare_step(model: torch.nn.Module, ids: torch.Tensor, shape: Shape) -> None:
    model.zero_grad()
    longest = shape.completions[0]
    for part in ids.split(max(1, shape.micro_batch_tokens // ids.shape[1])):
        with torch.autocast(part.device.type, torch.bfloat16, enabled=part.is_cuda):
            output = model(input_ids=part, use_cache=False, logits_to_keep=longest + 1)
        # The state before a token predicts it.
        logits = output.logits[:, :-1].float().flatten(0, 1)
        cross_entropy(logits, part[:, -longest:].flatten()).backward()


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
