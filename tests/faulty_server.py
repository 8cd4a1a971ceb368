"""An OpenAI-compatible server on loopback that answers as told, and fails as planned.

::

    from faulty_server import FaultyServer, Plan

    with FaultyServer(answerer, Plan(rates={"429": 0.1, "hang": 0.02}, seed=1)) as server:
        settings = TeacherSettings(model=server.model, base_url=server.url, ...)
        ...
    server.log          # one Call per request, in order of arrival: what was asked, which fault it met, what was paid for
    server.paid()       # calls that a provider would charge for
    server.open         # requests under way now; server.most_open: the most there were
    server.hung         # how many it has left without an answer as the plan says ("hang")
    server.limit = 20   # the 21st request and those after it are answered once the limit is raised: whoever asks is sure to be at work
    server.until(lambda: server.received >= 8)

``answerer(messages, body) -> str`` gives the text of an answer; it may raise ``Fail("500")`` (any fault's name) for itself. Faults:

``429`` (no Retry-After), ``429_retry`` (Retry-After: plan.retry_after), ``500``, ``503``, ``hang`` (until the client leaves or the server stops),
``cut`` (half of the body, then the connection is closed), ``cut_early`` (closed before any of it), ``truncated`` (half of the text, finish_reason stop),
``length`` (half of the text, finish_reason length), ``schema`` (another object), ``prose`` (no JSON), ``empty``, ``filtered``, ``refusal``, ``nothing`` (finish_reason error, no text and no tokens), ``no_choices`` (an empty list of choices).

A plan is a list (``Plan(faults=["500", None, "hang"])``: by order of arrival, then none) or rates (drawn by ``seed`` from the request's
content and how often that content was asked, so that they do not depend on the order of arrival), or both. Settings that hold for every request:
``refuses`` (ways of asking that get a 400: "json_schema", "json_object"), ``key`` (anything else gets 401), ``model`` (anything else gets 404), ``latency``.
The server runs in a thread (``with``), or in a process of its own: ``python faulty_server.py --latency 2`` prints its URL.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Messages = list[dict[str, str]]
Answerer = Callable[[Messages, dict[str, Any]], str]
#: The teacher was not paid for these: no token was generated.
UNPAID = ("429", "429_retry", "500", "503", "refused", "401", "404")


class Fail(Exception):
    """Raised by an answerer: meet this fault."""


@dataclass
class Plan:
    faults: list[str | None] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    latency: float = 0.0
    retry_after: float = 1.0
    refuses: tuple[str, ...] = ()
    at_most: int | None = None  # requests under way before 429

    def fault(self, number: int, content: str, times: int) -> str | None:
        """What befalls the request that is the ``number``-th to arrive, asked for the ``times``-th time."""
        if number < len(self.faults):
            return self.faults[number]
        draw = random.Random(f"{self.seed} {times} {content}").random()
        for name, rate in self.rates.items():
            if draw < rate:
                return name
            draw -= rate
        return None


@dataclass(frozen=True)
class Call:
    body: dict[str, Any]
    headers: dict[str, str]
    fault: str | None
    content: str  # a hash of model, messages and seed

    @property
    def user(self) -> str:
        return str(self.body["messages"][-1]["content"])

    @property
    def system(self) -> str:
        return str(self.body["messages"][0]["content"])


class FaultyServer:
    def __init__(
        self,
        answerer: Answerer,
        plan: Plan | None = None,
        model: str = "teacher",
        key: str | None = None,
        keep: bool = True,
    ):
        self.answerer, self.plan, self.model, self.key, self.keep = answerer, plan or Plan(), model, key, keep
        self.log: list[Call] = []
        self.received = self.open = self.most_open = self.hung = 0
        self.limit = math.inf
        self.port = 0
        self._times: Counter[str] = Counter()
        self._stopped: asyncio.Event

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def paid(self) -> list[Call]:
        return [call for call in self.log if call.fault not in UNPAID]

    def __enter__(self) -> FaultyServer:
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=lambda: self._loop.run_until_complete(self.serve(started.set)), daemon=True
        )
        self._thread.start()
        assert started.wait(120)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(120)
        self._loop.close()

    @staticmethod
    def until(holds: Callable[[], object], seconds: float = 120) -> None:
        """Wait in another thread than the server's for something to be so."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "it never came to that"
            time.sleep(0.001)

    async def serve(self, ready: Callable[[], object]) -> None:
        """Until told to stop."""
        self._stopped = asyncio.Event()
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._completions)
        app.router.add_get("/v1/models", self._models)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = runner.addresses[0][1]
        ready()
        await self._stopped.wait()
        await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [{"id": self.model, "object": "model", "created": 0, "owned_by": "test"}]}
        )

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        content = hashlib.sha256(json.dumps([body["model"], body["messages"], body.get("seed")]).encode()).hexdigest()
        number = self.received
        fault = self._fault(request, body, content)
        if self.keep:
            self.log.append(
                Call(body, {name.lower(): value for name, value in request.headers.items()}, fault, content)
            )
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            while number >= self.limit:
                await asyncio.sleep(0.005)
            if fault == "hang":
                self.hung += 1
                await self._stopped.wait()
                return web.Response(status=500)
            if self.plan.latency and fault not in UNPAID:
                await asyncio.sleep(self.plan.latency)
            return await self._respond(request, body, fault)
        finally:
            self.open -= 1

    def _fault(self, request: web.Request, body: dict[str, Any], content: str) -> str | None:
        number, self.received = self.received, self.received + 1
        times, self._times[content] = self._times[content], self._times[content] + 1
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return "401"
        if body["model"] != self.model:
            return "404"
        if body.get("response_format", {}).get("type") in self.plan.refuses:
            return "refused"
        if self.plan.at_most is not None and self.open >= self.plan.at_most:
            return "429"
        return self.plan.fault(number, content, times)

    async def _respond(self, request: web.Request, body: dict[str, Any], fault: str | None) -> web.StreamResponse:
        text = ""
        if fault not in UNPAID:
            try:
                text = self.answerer(body["messages"], body)
            except Fail as fail:
                fault = str(fail)
        if fault in UNPAID:
            return self._error(request, body, fault)
        payload = json.dumps(self._completion(body, text, fault)).encode()
        if fault not in ("cut", "cut_early"):
            return web.Response(body=payload, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(payload))})
        if fault == "cut":
            await response.prepare(request)
            await response.write(payload[: len(payload) // 2])
        assert request.transport is not None
        request.transport.close()
        return response

    def _error(self, request: web.Request, body: dict[str, Any], fault: str | None) -> web.Response:
        sent_key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        how = body.get("response_format", {}).get("type")
        status, code, message = {
            "429": (429, "rate_limit_exceeded", "Too many requests"),
            "429_retry": (429, "rate_limit_exceeded", "Too many requests"),
            "500": (500, "internal", "Something broke"),
            "503": (503, "overloaded", "Overloaded"),
            "refused": (400, "invalid_request_error", f"response_format of type {how} is not supported"),
            "401": (401, "invalid_api_key", f"Incorrect API key provided: {sent_key}"),
            "404": (404, "model_not_found", f"The model `{body['model']}` does not exist"),
        }[fault or ""]
        headers = {"Retry-After": f"{self.plan.retry_after:g}"} if fault == "429_retry" else {}
        return web.json_response(
            {"error": {"message": message, "type": code, "code": code, "param": None}}, status=status, headers=headers
        )

    def _completion(self, body: dict[str, Any], text: str, fault: str | None) -> dict[str, Any]:
        output = len(text.split())
        message: dict[str, Any] = {"role": "assistant", "content": text}
        finish = "stop"
        if fault in ("truncated", "length"):
            message["content"] = text[: max(len(text) // 2, 1)]
            finish = "length" if fault == "length" else "stop"
        elif fault == "schema":
            message["content"] = '{"unexpected": [1, 2]}'
        elif fault == "prose":
            message["content"] = "I think that the answer is obvious."
        elif fault == "empty":
            message["content"] = None
        elif fault == "filtered":
            message["content"], finish = None, "content_filter"
        elif fault == "refusal":
            message |= {"content": None, "refusal": "I cannot help with that."}
        elif fault == "nothing":
            message["content"], finish, output = "", "error", 0
        prompt = sum(len(part["content"].split()) for part in body["messages"])
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": f"{self.model}-2026",
            "system_fingerprint": "fp_test",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}] if fault != "no_choices" else [],
            "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output},
        }


def main() -> None:
    """A process of its own that answers every question with the same object, forgetting what was asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--text", default='{"answer": "42", "steps": ["one", "two"]}')
    args = parser.parse_args()
    server = FaultyServer(lambda messages, body: args.text, Plan(latency=args.latency), keep=False)
    server.port = args.port
    asyncio.run(server.serve(lambda: print(server.url, flush=True)))


if __name__ == "__main__":
    main()
