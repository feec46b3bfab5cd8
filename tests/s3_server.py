"""A real S3 server for tests, in a process of its own.

Flask's context proxies answer no attribute outside a request, and vLLM, as it starts, looks at
every attribute of every imported module: where both share a process, vLLM cannot start.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of the server, which ends with the block or with this process."""
    command = [sys.executable, "-m", "tests.s3_server"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address, "the S3 server did not start"
            yield address
        finally:
            process.stdin.close()


def _serve() -> None:
    """Serves until the other end of stdin is gone, one request after the other.

    moto looks whether a key is free (If-None-Match) and then puts: of two threads both would win.
    """
    from moto.moto_server import threaded_moto_server as moto

    one_at_a_time = threading.Lock()

    class Serial(moto.DomainDispatcherApplication):
        def __call__(self, *request: Any) -> Any:
            with one_at_a_time:
                return super().__call__(*request)

    moto.DomainDispatcherApplication = Serial
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    sys.stdout.write(f"http://{host}:{port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    _serve()
