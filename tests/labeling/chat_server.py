"""A chat endpoint for tests: OpenAI's and Bedrock's paths, with delays and faults by plan.

What happens to a call depends on its text and on how often that text has come, never on the order
of arrival. As a program it takes a plan as JSON, prints its port and ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from tests.labeling.chat_bodies import FINISH, changed, completion_body, converse_body

ERRORS = {  # kind -> HTTP status, OpenAI's code, Bedrock's
    "429": (429, "rate_limit_exceeded", "ThrottlingException"),
    "500": (500, "server_error", "InternalServerException"),
    "401": (401, "invalid_api_key", "UnrecognizedClientException"),
    "404": (404, "model_not_found", "ResourceNotFoundException"),
    "400": (400, "invalid_request", "ValidationException"),
    "408": (408, "timeout", "ModelTimeoutException"),
    "424": (424, "failed_dependency", "ModelErrorException"),
    "403": (403, "forbidden", "AccessDeniedException"),
    "quota": (429, "insufficient_quota", "ThrottlingException"),
    "prompt_filtered": (400, "content_filter", "ValidationException"),
}


@dataclass(frozen=True)
class Plan:
    """Shares of calls that go wrong; seconds of delay. The rest is answered well."""

    delay: float = 0.0
    throttled: float = 0.0
    broken: float = 0.0
    malformed: float = 0.0
    slow: float = 0.0
    slow_delay: float = 0.0
    retry_after: str = "0.05"
    seed: int = 0

    def __call__(self, text: str, attempt: int) -> str:
        draw = random.Random(f"{self.seed} {text} {attempt}").random()
        for kind, share in (
            ("429", self.throttled),
            ("500", self.broken),
            ("malformed", self.malformed),
            ("slow", self.slow),
        ):
            draw -= share
            if draw < 0:
                return kind
        return "ok"


@dataclass
class ChatServer:
    """Counts what it is asked. `choose` (text, attempt from 0) -> kind overrides the plan's."""

    plan: Plan = field(default_factory=Plan)
    choose: Callable[[str, int], str] | None = None
    port: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, object]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    keeps_bodies: bool = True
    times: list[float] = field(default_factory=list)  # of the first call, of the last answer
    reply: Callable[[str], str] = "answer to {}".format  # to a call that goes well

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._openai)
        app.router.add_post("/model/{model}/converse", self._bedrock)
        app.router.add_get("/stats", self._stats)
        return app

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._answer(request, body, body["messages"][-1]["content"], 0)

    async def _bedrock(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._answer(request, body, body["messages"][-1]["content"][0]["text"], 1)

    async def _answer(
        self, request: web.Request, body: dict[str, object], text: str, dialect: int
    ) -> web.StreamResponse:
        if self.keeps_bodies:
            self.bodies.append(body)
            self.headers.append(dict(request.headers))
        kind = (self.choose or self.plan)(text, self.calls[text])
        self.calls[text] += 1
        self.kinds[kind] += 1
        self.times = self.times or [time.monotonic(), 0.0]
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.plan.slow_delay if kind == "slow" else self.plan.delay)
        finally:
            self.in_flight -= 1
            self.times[1] = time.monotonic()
        if kind == "reset":
            assert request.transport is not None
            request.transport.abort()
        if kind in ERRORS:
            return self._error(kind, dialect, request.headers.get("Authorization", ""))
        if kind in ("malformed", "no_choices"):
            body_text = '{"choices": [' if kind == "malformed" else '{"id": "x"}'
            return web.Response(text=body_text, content_type="application/json")
        reply = "" if kind == "empty" else self.reply(text)
        finish = FINISH.get(kind, ("stop", "end_turn"))[dialect]
        made = converse_body(reply, finish) if dialect else completion_body(reply, finish)
        if kind in ("cut", "drops"):
            return await self._piecemeal(request, kind, json.dumps(made).encode())
        self.answered[text] += 1
        return web.json_response(changed(made, kind))

    async def _piecemeal(self, request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
        """The connection ends in the middle of the body, or its bytes come one by one."""
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        if kind == "cut":
            await response.write(body[: len(body) // 2])
            assert request.transport is not None
            request.transport.abort()
            return response
        for byte in body:
            await response.write(bytes([byte]))
            await asyncio.sleep(0.1)
        return response

    def _error(self, kind: str, dialect: int, authorization: str) -> web.Response:
        status, *codes = ERRORS[kind]
        message = f"made to fail; you sent {authorization}"  # as endpoints quote keys
        headers = {"Retry-After": self.plan.retry_after} if status == 429 else {}
        if dialect:
            headers["x-amzn-ErrorType"] = codes[1]
            return web.json_response({"message": message}, status=status, headers=headers)
        error = {"error": {"message": message, "type": "made", "code": codes[0]}}
        return web.json_response(error, status=status, headers=headers)

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "kinds": self.kinds,
                "texts": len(self.calls),
                "doubled": sum(count > 1 for count in self.answered.values()),
                "answered": len(self.answered),
                "most_in_flight": self.most_in_flight,
                "seconds": self.times[1] - self.times[0] if self.times else 0.0,
            }
        )

    async def start(self) -> web.AppRunner:
        runner = web.AppRunner(self.app(), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        return runner


@contextmanager
def serving(server: ChatServer) -> Iterator[ChatServer]:
    """Serves in a thread with a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _serve(plan: Plan) -> None:
    server = ChatServer(plan, keeps_bodies=False)
    runner = await server.start()
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_serve(Plan(**json.loads(sys.argv[1]))))
