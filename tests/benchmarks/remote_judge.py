"""Calls/s of a remote judge's engine against what its slots allow, at a local faulty endpoint.

The endpoint (its own process) answers after 200 ms: 5 % with 429 and a Retry-After, 2 % with 500,
1 % with a body that is no JSON. A call that is retried takes a slot again, so what the slots allow,
max_in_flight / latency, is held against answers of every status. 16 slots, the default: a call
takes about 2 ms of CPU, nearly all in the openai library, so that many more slots at this latency
measure two cores and not the dispatcher. Not here: a real network, several workers.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labeling.engines.chat import ChatEngine, ChatRequest, PaidWork
from labeling.engines.config import OpenAIEngineConfig
from labeling.engines.load import load_chat_engine
from tests.benchmarks.figures import print_figure

ROWS, WARM_UP, SLOTS, LATENCY, WANTED = 10_000, 200, 16, 0.2, 0.9
PLAN = {
    "delay": LATENCY,
    "throttled": 0.05,
    "broken": 0.02,
    "malformed": 0.01,
    "retry_after": "0.2",
}
TEXT = "Is this answer polite? " * 40  # about 1 kB, as a judge's prompt is


def main() -> None:
    """Prints the rate of calls against the slots', losses, and growth of memory."""
    with served_engine() as (engine, _):  # imports and caches, in memory too
        engine.complete(chat_requests(WARM_UP))
    with served_engine() as (engine, port):
        memory, requests, arrived = peak_mib(), chat_requests(ROWS), Counter[str]()
        started, cpu = time.perf_counter(), time.process_time()
        answers = engine.complete(requests, lambda answer: arrived.update([answer.key]))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats") as response:
            stats = json.load(response)
    calls, allowed = sum(stats["kinds"].values()), SLOTS / LATENCY
    rate = calls / seconds
    print_figure(
        "remote judge",
        f"{rate:.0f} calls/s of {allowed:.0f} that {SLOTS} slots allow, ratio "
        f"{rate / allowed:.2f}; {ROWS / seconds:.0f} rows/s, {calls:,} calls in {seconds:.1f} s",
        wanted=f">= {WANTED:g}",
        is_met=rate / allowed >= WANTED,
        note=f"{1000 * cpu / calls:.2f} ms of CPU a call; answers by kind {stats['kinds']}",
    )
    pairs = zip(requests, answers, strict=True)
    lost = sum(a.key != r.key or a.status != "ok" or r.key not in a.text for r, a in pairs)
    doubled = stats["doubled"] + sum(count != 1 for count in arrived.values())
    print_figure(
        "remote judge, rows",
        f"{lost} lost, {doubled} doubled of {ROWS:,}; at most {stats['most_in_flight']} in flight",
        wanted=f"0, 0, <= {SLOTS}",
        is_met=(lost, doubled) == (0, 0) and stats["most_in_flight"] <= SLOTS,
    )
    grown = peak_mib() - memory
    print_figure(
        "remote judge, memory",
        f"{grown:.1f} MiB more at the peak, {1024 * grown / ROWS:.1f} KiB a row",
        wanted="<= 8 KiB a row",
        is_met=1024 * grown / ROWS <= 8,
        note="requests and answers of all rows are in it",
    )


def chat_requests(count: int) -> list[ChatRequest]:
    """One per row, each with a text of its own."""
    return [
        ChatRequest(f"row-{n:05}", ({"role": "user", "content": f"{TEXT} row-{n:05}"},), 64)
        for n in range(count)
    ]


@contextmanager
def served_engine() -> Iterator[tuple[ChatEngine, int]]:
    """An engine and the port of its endpoint, which runs until the end of the block."""
    command = [sys.executable, "-m", "tests.labeling.chat_server", json.dumps(PLAN)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        url = f"http://127.0.0.1:{port}/v1"
        config = OpenAIEngineConfig(kind="openai", base_url=url, model="m", max_in_flight=SLOTS)
        with tempfile.TemporaryDirectory() as folder:  # limits shared, as in a night
            engine = load_chat_engine(config, PaidWork(spending=Path(folder) / "spending.sqlite"))
            yield engine, port
            engine.close()
        server.stdin.close()


def peak_mib() -> float:
    """Of this process since its start."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
