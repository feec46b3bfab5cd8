"""A command on a real pseudo-terminal, as people use it. Not here: what it must answer."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[()][A-Z0-9]|\x1b[=>]|\x1b\][^\x07]*\x07")
ROOT = Path(__file__).parents[1]


class Terminal:
    """What a program shows, and a keyboard."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        self._descriptor = descriptor
        self.process = process
        self.shown = ""
        self._read_to = 0

    def wait_for(self, text: str, seconds: float = 30) -> str:
        """What was shown since the last call, up to and with `text`."""
        end = time.monotonic() + seconds
        while (place := self.shown.find(text, self._read_to)) < 0:
            left = end - time.monotonic()
            if left <= 0 or not self._read(left):
                raise AssertionError(f"{text!r} did not come: {self.shown[self._read_to :]!r}")
        start, self._read_to = self._read_to, place + len(text)
        return self.shown[start : self._read_to]

    def type(self, keys: str) -> None:
        """Presses keys: \\r is Enter, \\x03 Ctrl-C, \\x04 Ctrl-D, \\t Tab."""
        os.write(self._descriptor, keys.encode())

    def wait_for_work(self, seconds: float) -> None:
        """Until the program has used so many seconds more of the processor."""
        start, end = self._processor_seconds(), time.monotonic() + 60
        while self._processor_seconds() < start + seconds:
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"it does not work: {self.shown[self._read_to :]!r}")
            time.sleep(0.05)

    def _processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait_for_end(self, seconds: float = 30) -> int:
        """The exit code; what the program still shows is read."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._read(end - time.monotonic()):
            pass
        return self.process.wait(max(0.1, end - time.monotonic()))

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if not ready:
            return False
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # the other side is closed
            return False
        self.shown += _ESCAPE.sub("", data.decode(errors="replace"))
        return bool(data)


def _sit_down() -> None:
    """In the child: this terminal is its own, and Ctrl-C means what it says.

    A test run in the background would pass on that it ignores it.
    """
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def roundhouse_on_a_terminal(
    *arguments: str, columns: int = 120, cache: Path
) -> Iterator[Terminal]:
    """`roundhouse …` on a terminal of that width; its caches lie in `cache`."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_sit_down,
        cwd=ROOT,
        env=os.environ
        | {"ROUNDHOUSE_CACHE": str(cache), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
    )
    os.close(theirs)
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
