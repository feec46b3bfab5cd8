"""An HTTP proxy in front of the S3 server of the tests that counts requests and does harm by plan.

What it can do to a request is `Kind`; the last three are the nasty ones: the server has done the
work and the client does not learn it. Not here: the server (tests/s3_server.py).
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, get_args
from urllib.parse import unquote, urlsplit

Kind = Literal[
    "slow",  # no answer within the client's patience; the server never hears of it
    "error 500",
    "error 503",
    "conflict 409",
    "cut before",  # the connection ends before the body is read
    "cut body",  # half of the answer's body, then the end
    "flip",  # one wrong byte in the answer's body
    "done, then cut",
    "done, then 500",
    "done, then slow",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
_DROPPED = {"connection", "expect", "transfer-encoding", "keep-alive"}
_CODES = {
    "error 500": (500, "InternalError"),
    "error 503": (503, "SlowDown"),
    "conflict 409": (409, "ConditionalRequestConflict"),
    "done, then 500": (500, "InternalError"),
}


@dataclass(frozen=True)
class Seen:
    """A request as it came in; `key` is the unquoted path, `query` what followed."""

    method: str
    key: str
    query: str
    range: str | None
    status: int | None  # None: the client got no whole answer


@dataclass
class Fault:
    """Does `kind` to `times` requests of `method` whose path matches `path`, after `skip` others.

    An empty method or path matches all. `every_other`: each request fails once, its retry does not.
    """

    kind: Kind
    method: str = ""
    path: str = ""
    times: int = 1
    skip: int = 0
    every_other: bool = False
    done: int = 0

    def strikes(self, method: str, path: str) -> bool:
        if self.method not in ("", method) or not re.search(self.path, path):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.done >= self.times:
            return False
        self.done += 1
        self.skip = int(self.every_other)
        return True


@dataclass
class FaultyS3:
    """The proxy: its address, what it has seen, what it is to do."""

    upstream: str
    address: str = ""
    delay: float = 1.0  # seconds of `slow`; the client under test must be less patient
    seen: list[Seen] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    refusal: tuple[int, str] | None = None  # status and code of every answer
    dropped: set[str] = field(default_factory=set)  # headers that the server never sees
    lock: threading.Lock = field(default_factory=threading.Lock)

    def plan(self, kind: Kind, method: str = "", path: str = "", **more: int) -> Fault:
        """Adds one fault to the plan."""
        fault = Fault(kind, method, path, **more)
        self.faults.append(fault)
        return fault

    def calm(self) -> None:
        """Forgets the plan and what was seen."""
        self.faults.clear()
        self.seen.clear()
        self.refusal, self.dropped = None, set()

    def refuse(self, status: int, code: str) -> None:
        """Answers everything with this error."""
        self.refusal = (status, code)

    def methods(self, path: str = "") -> list[str]:
        """The methods of the requests whose path matches, in order."""
        return [one.method for one in self.seen if re.search(path, one.key)]

    def choose(self, method: str, path: str) -> Kind | None:
        with self.lock:
            return next((f.kind for f in self.faults if f.strikes(method, path)), None)


@contextlib.contextmanager
def faulty_s3(upstream: str) -> Iterator[FaultyS3]:
    """A proxy to the S3 server at `upstream`, which ends with the block."""
    proxy = FaultyS3(upstream)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        proxy.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: 40 ms an answer otherwise
    proxy: FaultyS3

    def do_GET(self) -> None:
        self._serve()

    do_PUT = do_HEAD = do_DELETE = do_POST = do_GET

    def _serve(self) -> None:
        kind = self.proxy.choose(self.command, unquote(self.path))
        if kind == "cut before":
            self._cut()
            return
        body = self._body()
        if self.proxy.refusal is not None:
            self._refuse(*self.proxy.refusal)
            return
        if kind is None or kind in ("flip", "cut body") or kind.startswith("done"):
            status, headers, answer = self._forward(body)
        if kind in ("slow", "done, then slow"):
            time.sleep(self.proxy.delay)
        if kind in ("slow", "done, then slow", "done, then cut"):
            self._cut()
        elif kind in _CODES:
            self._refuse(*_CODES[kind])
        else:
            if kind == "flip" and answer:
                middle = len(answer) // 2
                wrong = bytes([answer[middle] ^ 1])
                answer = answer[:middle] + wrong + answer[middle + 1 :]
            self._answer(status, headers, answer, cut=kind == "cut body")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        to = urlsplit(self.proxy.upstream)
        connection = http.client.HTTPConnection(str(to.hostname), to.port)
        dropped = _DROPPED | self.proxy.dropped
        headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        connection.request(self.command, self.path, body=body, headers=headers)
        response = connection.getresponse()
        answer = response.read()
        kept = [(k, v) for k, v in response.getheaders() if k.lower() not in _DROPPED]
        connection.close()
        return response.status, kept, answer

    def _answer(
        self, status: int, headers: list[tuple[str, str]], answer: bytes, cut: bool
    ) -> None:
        self._note(None if cut else status)
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers) and status != 204:
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command == "HEAD" and not cut:
            return
        with contextlib.suppress(OSError):
            self.wfile.write(answer[: len(answer) // 2] if cut else answer)
        if cut:
            self._cut(noted=True)

    def _refuse(self, status: int, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>planned</Message></Error>".encode()
        self._answer(status, [("Content-Type", "application/xml")], text, cut=False)

    def _cut(self, noted: bool = False) -> None:
        """Ends the connection hard: the client sees a reset, not a tidy end."""
        if not noted:
            self._note(None)
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _note(self, status: int | None) -> None:
        path, _, query = self.path.partition("?")
        range_ = self.headers.get("Range")
        with self.proxy.lock:
            self.proxy.seen.append(Seen(self.command, unquote(path), query, range_, status))

    def log_message(self, *_: Any) -> None:
        """Nothing: what was seen is in `seen`."""
