"""Runs one stage in its own process, so that vLLM and the trainer never share memory.

On the CPU the processes are forked from a server that has imported torch, vLLM and Beam once (the
standard library's forkserver): the first stage pays the imports, the others start at once. A forked
process may not use CUDA that its parent touched, so GPU machines start each stage afresh (spawn).
Each stage leads its own process group: whatever it started (a vLLM engine) dies with it, and the
stage dies with its driver, also after kill -9.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, StageFailed
from warehouse.errors import RoundhouseError

logger = logging.getLogger(__name__)

# What vLLM, torch and the tokenizers must find in the environment before they are imported.
_QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    # A stage ends by os._exit: its semaphores are the tracker's to sweep, silently.
    "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker",
}
_CPU_ENGINE = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    # A thread that waits looks a thousand times and sleeps: that is as fast as spinning where both
    # cores are free, and beside a busy core spinning threads take each other's time.
    "GOMP_SPINCOUNT": "1000",
    # glibc would give a batch's large blocks back to the system and fault them in for the next: a
    # tenth to a fifth of a scoring pass. Read at a process's start, unknown elsewhere.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
}
_TCMALLOC = "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4"


def prepare_environment(device: str) -> None:
    """Sets, unless the user has, what the stage's packages read at import."""
    settings = _QUIET | (_CPU_ENGINE if device == "cpu" else {})
    settings["OMP_NUM_THREADS"] = str(os.cpu_count() or 1)
    if device == "cpu" and Path(_TCMALLOC).exists():
        settings["LD_PRELOAD"] = _TCMALLOC
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def context(device: str) -> Any:
    """The start method for stages: fork server on the CPU, spawn on CUDA."""
    prepare_environment(device)
    return multiprocessing.get_context("spawn" if device == "cuda" else "forkserver")


def warm_up(device: str, log: Path, modules: list[str]) -> None:
    """Starts the fork server, if stages have one, with these modules imported (preloads.py).

    What the imports print goes to `log`. A server that runs already stays as it is.
    """
    start = context(device)
    if start.get_start_method() != "forkserver":
        return
    from multiprocessing import forkserver

    start.set_forkserver_preload(modules)
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        # Its standard error is the one it finds when it starts: several packages complain there.
        with log.open("ab") as file:
            os.dup2(file.fileno(), 2)
        forkserver.ensure_running()
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def run_in_process(
    target: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    log: Path,
    device: str,
) -> tuple[Any, float]:
    """Calls `target(*arguments)` in a stage process; returns its value and the start-up seconds.

    `target` is a module-level function and everything picklable. Raises StageFailed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start = context(device)
    result, child_result = start.Pipe(duplex=False)
    child_alive, alive = start.Pipe(duplex=False)
    process = start.Process(
        target=_child, args=(target, arguments, str(log), child_result, child_alive, time.time())
    )
    process.start()
    child_result.close()
    child_alive.close()
    try:
        outcome = result.recv()
    except EOFError:
        outcome = None
    finally:
        # The group, not the process: an engine subprocess must not outlive its stage.
        _kill_group(process.pid)
        process.kill()  # for the moment before it leads a group of its own
        process.join()
        alive.close()
    if outcome is None:
        raise StageFailed(
            f"the stage's process died (exit code {process.exitcode}); its log: {log}\n"
            "What it had finished is kept: run the same command again to go on."
        )
    kind, value, startup = outcome
    if kind == "usage":
        raise ConfigError(value)
    if kind == "error":
        raise StageFailed(f"{value}\nIts log: {log}")
    return value, startup


def _kill_group(pid: int | None) -> None:
    if pid is None:
        return
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        logger.debug("process group %s is gone", pid)


def _child(
    target: Callable[..., Any],
    arguments: tuple[Any, ...],
    log: str,
    result: Connection,
    driver_alive: Connection,
    started_at: float,
) -> None:
    startup = time.time() - started_at
    os.setsid()
    threading.Thread(target=_die_with_driver, args=(driver_alive,), daemon=True).start()
    _redirect_output(log)
    try:
        outcome = ("ok", target(*arguments), startup)
    except RoundhouseError as error:
        traceback.print_exc()  # for --debug's reader: the log has what the driver cannot show
        said = f"{error}; {error.next_step}" if error.next_step else str(error)
        outcome = ("usage" if error.exit_code == ConfigError.exit_code else "error", said, startup)
    except Exception as error:  # noqa: BLE001 (the boundary: it is written down and sent on)
        traceback.print_exc()
        outcome = ("error", f"{type(error).__name__}: {error}", startup)
    sys.stdout.flush()
    sys.stderr.flush()
    result.send(outcome)
    result.close()
    # vLLM's and Beam's threads need a second or more to wind down; nothing is left to save.
    os._exit(0)


def _die_with_driver(driver_alive: Connection) -> None:
    """Blocks until the driver's end of the pipe closes, which kill -9 does too."""
    try:
        driver_alive.recv_bytes()
    except (EOFError, OSError):
        _kill_group(os.getpid())
        os._exit(1)


def _redirect_output(log: str) -> None:
    """Sends everything this process prints, C libraries included, to the stage's log."""
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)
