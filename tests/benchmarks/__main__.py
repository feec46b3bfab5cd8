"""Runs the named benchmarks, or all, one process each. Light: what is heavy is in those processes.

Exit codes: 0 all ran, whatever they measured; 1 one of them failed; 2 an unknown name.
"""

from __future__ import annotations

import subprocess
import sys

from pipeline.runtime.machine import choose_device
from pipeline.runtime.process import prepare_environment
from tests.benchmarks.figures import machine_line

BENCHMARKS = {
    "rollouts": "completions/s through the stage against plain LLM.generate",
    "labels": "classifier labels/s through the stage against a bare loop and random batches",
    "onnx_backend": "a classifier's forward pass in ONNX Runtime against PyTorch on the CPU",
    "overhead": "share of a round that is no work; cold start of `roundhouse sql`",
    "busy_machine": "building starters beside a busy core against a quiet one",
    "remote_judge": "calls/s of a remote judge's engine against its slots, at a faulty endpoint",
    "local_judge": "rows/s of a judge on vLLM by score tokens against the same judge writing JSON",
    "ppo_update": "one PPO update over a stored round against TRL 1.12's and against bare passes",
    "warehouse": "10 and 100 million labels read, publishing against pyarrow (12 GB, made once)",
    "learning": "three seeds of the demo: toxicity, length, diversity, KL, wall time (minutes)",
}


def usage() -> str:
    """The names there are, with what each measures."""
    lines = [f"  {name:<12} {what}" for name, what in BENCHMARKS.items()]
    return "\n".join(["usage: python -m tests.benchmarks [NAME ...]", *lines])


def main(names: list[str]) -> int:
    """Runs the benchmarks of these names (none: all); returns the exit code."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}\n{usage()}", file=sys.stderr)
        return 2
    # A preloaded allocator and thread counts must be there before a process starts.
    prepare_environment(choose_device("auto"))
    print(machine_line(), flush=True)
    failed = [name for name in names or BENCHMARKS if not _run(name)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str) -> bool:
    # Imported under its own name, not run as __main__: Beam pickles functions by their module.
    call = f"from tests.benchmarks.{name} import main; main()"
    return subprocess.run([sys.executable, "-c", call], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
