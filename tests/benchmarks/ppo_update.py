"""One PPO update over a stored round against TRL 1.12's PPOTrainer, and against bare passes.

    python -m tests.benchmarks.ppo_update [--shape even ...] [--repeats 3]

Each way runs in a process of its own, in turn, and the medians are compared. Shapes: `even` and
`demo`, a 2.5M policy over 1,024 rows, 48 tokens each or with the demo's lengths; on CUDA also `1b`,
a Llama of the 1B class in bf16. TRL 1.12 is taken from the folder in ROUNDHOUSE_TRL_PPO:

    pip install --no-deps --target FOLDER trl==1.12.0

Model FLOPs: with N weights met by a token, a forward pass is 2N a token and a backward pass 4N; the
output layer counts at completion tokens only. An update is a forward pass of the reference, one of
the policy, and both passes in each epoch; the bare loop is these epochs' passes and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch

from pipeline.runtime.machine import choose_device
from pipeline.runtime.process import prepare_environment
from tests.benchmarks.figures import Seconds, print_figure, print_ratio
from tests.benchmarks.ppo_round import EPOCHS, MINIBATCH, SHAPES, Shape, build_round, stored_rows
from tests.benchmarks.ppo_ways import Measured

TRL = "ROUNDHOUSE_TRL_PPO"
_FORWARD, _BOTH = 2, 6  # FLOPs a weight and token
_UPDATE = 2 * _FORWARD + EPOCHS * _BOTH


def main(arguments: list[str] | None = None) -> None:
    """Prints the figures of every shape; `arguments` None: those of the command line."""
    is_cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ppo_update")
    shapes = ["even", "demo", "1b"] if is_cuda else ["even", "demo"]
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=shapes)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    prepare_environment(choose_device("auto"))  # of the processes to come: as a stage's
    if TRL not in os.environ:
        print(
            "ppo update against TRL: left out; pip install --no-deps --target FOLDER trl==1.12.0, "
            f"then set {TRL}=FOLDER"
        )
    for name in options.shape:
        with tempfile.TemporaryDirectory() as here:
            _print_shape(name, Path(here), options.repeats)


def _print_shape(name: str, folder: Path, repeats: int) -> None:
    shape = SHAPES[name]
    parameters = build_round(folder, shape)
    rows = stored_rows(folder)
    tokens = sum(map(len, rows.completion_ids))
    read = tokens + sum(map(len, rows.prompt_ids))
    ways = ["stage", *(["bare"] if shape.is_even else []), *(["trl"] if TRL in os.environ else [])]
    runs: dict[str, list[Measured]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            runs[way].append(run_way(way, folder, name))
    about = f"{parameters / 1e6:,.1f}M parameters, {shape.rows:,} rows, {tokens:,} tokens"
    title = f"ppo update, {name}"
    if "trl" in runs:
        _print_against_trl(title, runs["stage"], runs["trl"], tokens, about)
    flops = (parameters - shape.head) * read + shape.head * tokens
    if "bare" in runs:
        _print_against_bare(title, runs["stage"], runs["bare"], flops, about)
    if torch.cuda.is_available():
        peak = _peak_flops(torch.cuda.get_device_name())
        _print_utilization(title, runs["stage"], shape, flops, tokens, peak)


def run_way(way: str, folder: Path, shape: str) -> Measured:
    """One update of a shape in SHAPES in a process of its own. Raises SystemExit where it fails."""
    path = [os.environ[TRL]] if way == "trl" else []
    path += [entry for entry in (str(Path.cwd()), os.environ.get("PYTHONPATH")) if entry]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.ppo_ways", way, str(folder), shape],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"ppo update, {way}: exit {done.returncode}\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Measured(**found | {"seconds": Seconds(**found["seconds"])})


def _print_against_trl(
    title: str, ours: list[Measured], theirs: list[Measured], tokens: int, about: str
) -> None:
    print_ratio(title, "tokens", tokens, [run.seconds for run in ours],
                [run.seconds for run in theirs], 3.0, against="TRL 1.12", note=about)  # fmt: skip
    mine, other = (median(run.peak_bytes for run in runs) / 2**20 for runs in (ours, theirs))
    print_figure(
        f"{title}, memory",
        f"peak {mine:,.0f} MiB, TRL 1.12 {other:,.0f} MiB, ratio {mine / other:.2f}",
        wanted="< 1",
        is_met=mine < other,
        note="without the logits of the round's sampling, which TRL keeps",
    )


def _print_against_bare(
    title: str, ours: list[Measured], bare: list[Measured], flops: float, about: str
) -> None:
    """`flops` is what one FLOP per weight and token comes to: weights times their tokens."""
    rate = _UPDATE * flops / median(run.seconds.wall for run in ours)
    other = EPOCHS * _BOTH * flops / median(run.seconds.wall for run in bare)
    in_cpu = (_UPDATE / median(run.seconds.cpu for run in ours)) / (
        EPOCHS * _BOTH / median(run.seconds.cpu for run in bare)
    )
    print_figure(
        f"{title}, model FLOPs",
        f"stage {rate / 1e9:,.0f} GFLOP/s, bare loop {other / 1e9:,.0f}, ratio {rate / other:.2f}",
        wanted=">= 0.8",
        is_met=rate / other >= 0.8,
        note=f"in CPU time {in_cpu:.2f}; {about}",
    )


def _print_utilization(
    title: str, runs: list[Measured], shape: Shape, flops: float, tokens: int, peak: float | None
) -> None:
    """On CUDA: of the epochs alone, so that reading and writing weights does not count."""
    step = median(run.step_seconds for run in runs if run.step_seconds is not None)
    seconds = step * -(-shape.rows // MINIBATCH)  # an epoch
    achieved = _BOTH * flops / seconds
    used = f"MFU {achieved / peak:.0%}" if peak else "MFU unknown for this device"
    memory = median(run.peak_bytes for run in runs) / 2**30
    whole = tokens / median(run.seconds.wall for run in runs)
    print(
        f"{title + ', device':<28} {whole:,.0f} tokens/s in all, {tokens / seconds:,.0f} in an "
        f"epoch, {achieved / 1e12:,.1f} TFLOP/s, {used}; peak {memory:.1f} GiB",
        flush=True,
    )


def _peak_flops(device: str) -> float | None:
    """Dense bf16 FLOPs a second of a device by its name, as TRL lists them; None where not."""
    try:
        from trl.trainer.utils import get_peak_flops
    except ImportError:
        return None
    return get_peak_flops(device, "bfloat16")


if __name__ == "__main__":
    main()
