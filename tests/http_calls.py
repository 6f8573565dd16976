"""Calls of a served model without a socket: the ASGI application is called as uvicorn calls it.

So a test decides when a client leaves, and sees each message that the application sends.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tinyinfer import LLM, __version__
from tinyinfer.server.app import make_app
from tinyinfer.server.service import Service
from tinyinfer.server.switches import ServerSwitches

JSON = {"content-type": "application/json", "host": "127.0.0.1:8000"}
Leave = Callable[[bytes], bool]  # whether the client leaves, having seen this piece of a body


@dataclass
class Answer:
    """What came back. status 0: the client left before a byte came."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error of an answer in OpenAI's form, which has these four fields and no other."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert "Traceback" not in error["message"]
        return dict(error)

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """The events of a stream, but for [DONE], which must be the last one."""
        lines = [line for line in self.body.decode().split("\n\n") if line]
        data = [line.removeprefix("data: ") for line in lines if not line.startswith(":")]
        assert data[-1] == "[DONE]"
        return [json.loads(line) for line in data[:-1]]

    @property
    def choices(self) -> list[dict[str, Any]]:
        """The choices of all chunks, one after another."""
        return [choice for chunk in self.chunks for choice in chunk["choices"]]


class Served:
    """A model that is served, with the log lines that it writes."""

    def __init__(self, llm: LLM, patience: float = 15.0, stalled: float = 60.0, **switches: Any) -> None:
        self.llm, self.lines = llm, list[str]()
        own = ServerSwitches(**switches)
        self.service = Service(llm, "tiny", own, __version__, self.lines.append, patience, stalled)
        self.app = make_app(self.service)

    def get(self, path: str, **headers: str) -> Answer:
        return asyncio.run(self.ask("GET", path, b"", {"host": JSON["host"], **headers}))

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return asyncio.run(self.asked(path, body, **headers))

    def chat(self, content: str = "hello", **fields: Any) -> Answer:
        return self.post("/v1/chat/completions", talk(content, **fields))

    def complete(self, prompt: Any = "hello", **fields: Any) -> Answer:
        return self.post("/v1/completions", {"prompt": prompt, "temperature": 0, **fields})

    async def asked(self, path: str, body: Any, leave: Leave = lambda piece: False, **headers: str) -> Answer:
        """A POST, of which several may run at once."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.ask("POST", path, data, {**JSON, **named}, leave)

    async def ask(
        self, method: str, path: str, body: bytes, headers: dict[str, str], leave: Leave = lambda piece: False,
        gone: asyncio.Event | None = None, taken: Callable[[Any], Awaitable[None]] | None = None,
        receives: Callable[[], Awaitable[dict[str, Any]]] | None = None,
    ) -> Answer:  # fmt: skip
        """A request. taken: what takes the application's messages instead of the answer; receives: what the application
        reads instead of the body.
        """
        answer, gone = Answer(), gone or asyncio.Event()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                answer.pieces.append(message.get("body", b""))
                if leave(answer.pieces[-1]):
                    gone.set()
                    await asyncio.sleep(0)

        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": raw, "scheme": "http", "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 1),
            "root_path": "", "http_version": "1.1", "asgi": {"version": "3.0", "spec_version": "2.3"},
        }  # fmt: skip
        await self.app(scope, receives or receive, taken or send)
        return answer

    def number(self, name: str, **labels: str) -> float:
        """A number of /metrics; all of that name are added up. A name that is not there fails: 0 would pass for it."""
        found, known = 0.0, False
        for line in self.get("/metrics").body.decode().splitlines():
            named, _, value = line.removeprefix("# TYPE ").rpartition(" ")
            same = named.partition("{")[0] in ("vllm:" + name, "tinyinfer:" + name)
            known |= same
            if same and "{" in named and all(f'{k}="{v}"' in named for k, v in labels.items()):
                found += float(value)
        assert known, f"/metrics has no {name}"
        return found

    def at_rest(self) -> bool:
        """Whether nothing of any request is left: places, sequences, blocks but for cached prefixes."""
        cache, scheduler = self.llm.engine.cache, self.llm.engine.scheduler
        held = cache.blocks_in_use - scheduler.prefixes.evictable
        return not (self.service.admission.open or self.service.metrics.open or scheduler.members or held)


def talk(content: str = "hello", **fields: Any) -> dict[str, Any]:
    """The body of a conversation of one message, answered greedily."""
    return {"messages": [{"role": "user", "content": content}], "temperature": 0, **fields}


def eventually(check: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether something becomes true: what another thread does within a step."""
    until = time.monotonic() + seconds
    while not (done := check()) and time.monotonic() < until:
        time.sleep(0.005)
    return done


def together(*calls: Awaitable[Answer]) -> list[Answer]:
    """The answers of calls that run at the same time."""

    async def all_of_them() -> list[Answer]:
        return list(await asyncio.gather(*calls))

    return asyncio.run(all_of_them())
