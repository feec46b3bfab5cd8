"""Starts the processes of a training that has several, and brings back what the first one made.

Not here: what the processes do together (parallel.py).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from training.errors import TrainingError
from training.ppo.dataset import TrainingSet

if TYPE_CHECKING:
    from training.ppo.trainer import TrainingOutcome

_LOOK_AGAIN = 0.5  # seconds


def train_in_processes(rows: TrainingSet, count: int, **arguments: Any) -> TrainingOutcome:
    """train_ppo in `count` processes of this machine; its outcome. All arguments are picklable.

    On CUDA each takes a device of its own. Raises what train_ppo raises, and TrainingError where a
    process dies.
    """
    start = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    received, sent = start.Pipe(duplex=False)
    processes = [
        start.Process(target=_work, args=(rank, count, port, sent, rows, arguments))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    sent.close()
    found: TrainingOutcome | Exception | None = None
    try:
        # The others wait for one that died, for half an hour: so it is looked for.
        while not received.poll(_LOOK_AGAIN) and not any(p.exitcode for p in processes):
            continue
        with contextlib.suppress(EOFError):
            found = received.recv() if received.poll() else None
    finally:
        for process in processes:
            if found is None:
                process.terminate()
            process.join()
    if found is None:
        codes = [process.exitcode for process in processes]
        raise TrainingError(f"a training process died (exit codes {codes}); nothing was written")
    if isinstance(found, Exception):
        raise found
    return found


def _work(
    rank: int, count: int, port: int, sent: Connection, rows: TrainingSet, arguments: dict[str, Any]
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    import torch

    from training.ppo.trainer import train_ppo

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    try:
        outcome: object = train_ppo(rows, **arguments)
    except (TrainingError, ValueError) as error:
        outcome = error
    if rank == 0:
        sent.send(outcome)
    torch.distributed.destroy_process_group()
