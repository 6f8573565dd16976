"""What the endpoints share: one model, its name, the queue before it, the threads beside it, and where lines go."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import Any, TypeVar

from tinyinfer.errors import one_line
from tinyinfer.llm import LLM
from tinyinfer.server.admission import Admission
from tinyinfer.server.body import Receive, parse, read_body
from tinyinfer.server.logprobs import Speller
from tinyinfer.server.metrics import Metrics
from tinyinfer.server.running import in_pool
from tinyinfer.server.switches import ServerSwitches
from tinyinfer.server.tool_calls.formats import format_of
from tinyinfer.server.tool_calls.splitter import Format

T = TypeVar("T")
AT_ONCE = 32 << 10  # bytes of a body that are read in less than a millisecond; longer ones are a thread's
TEXT_THREADS = 4  # tokenizing, templates: work of milliseconds, of which none should wait for a long one
PATIENCE = 15.0  # seconds of silence after which a stream says that it lives: proxies cut what is silent for a minute
STALLED = 60.0  # seconds in which a client must take what was sent: one that reads nothing would keep its place


class Service:
    """A model that is served. version: tinyinfer's; write: takes log lines; patience, stalled: see above.

    aside, small: the thread and the queue of calls that only ask for texts and tokens, so that a flood of them holds up
    no answer.
    """

    def __init__(
        self, llm: LLM, name: str, switches: ServerSwitches, version: str, write: Callable[[str], None],
        patience: float = PATIENCE, stalled: float = STALLED,
    ) -> None:  # fmt: skip
        self.version, self.stalled = version, stalled
        self.llm, self.switches, self.patience, self._write = llm, switches, patience, write
        self.name = switches.served_model_name or name
        self.created = int(time.time())
        self.clock = llm.engine.clock
        self.metrics = Metrics(llm, self.name)
        self.admission = Admission(llm.engine_config.max_num_seqs, switches.max_queue, self.metrics.rejected)
        self.pool = ThreadPoolExecutor(TEXT_THREADS, thread_name_prefix="tinyinfer text")
        self.small = Admission(1, switches.max_queue, self.metrics.rejected)
        self.aside = ThreadPoolExecutor(1, thread_name_prefix="tinyinfer tokens")
        self.speller = Speller(llm.tokenizer)

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the chat template has a place for tools."""
        tokenizer = self.llm.tokenizer
        return tokenizer.chat_template is not None and not tokenizer.unused_variables(["tools"])

    @cached_property
    def call_format(self) -> Format | None:
        """How the model writes calls: as the server was told, or as the chat template shows; None: neither says so."""
        return format_of(self.llm.tokenizer.chat_template or "", self.switches.tool_call_parser)

    async def read(
        self, queue: Admission, headers: Mapping[str, str], receive: Receive, make: Callable[[dict[str, Any]], T]
    ) -> T:
        """What `make` makes of a body's JSON object. A long one is read and made on a thread: it takes a second.
        queue: where its call will have its place.

        Raises APIError for a body that is none, ClientGone when the client has left.
        """
        with queue.reading():
            coming = read_body(headers, receive, self.switches.max_body)
            body = await self.admission.arrived(coming, self.switches.body_timeout)
            return make(parse(body)) if len(body) <= AT_ONCE else await in_pool(self.pool, lambda: make(parse(body)))

    def log(self, **facts: Any) -> None:
        """Writes one line: what happened, without any text of a prompt or an answer. That none reads it is no error."""
        known = {key: value for key, value in facts.items() if value is not None}
        if self.switches.log_json:
            line = json.dumps({"time": round(time.time(), 3), **known})
        else:
            words = (f"{key}={spelled(value)}" for key, value in known.items())
            line = one_line(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(words)}")
        with suppress(OSError):
            self._write(line)

    def log_unknown(self, path: str, names: Iterable[str]) -> None:
        """Names the fields of a body that were passed over."""
        if found := sorted(names):
            shown = [name[:40] for name in found[:10]] + ["..."] * (len(found) > 10)
            self.log(note="unknown fields were passed over", path=path, fields=",".join(shown))

    def close(self) -> None:
        """Ends the threads; the model is its owner's to close."""
        self.metrics.close()
        for pool in (self.pool, self.aside):
            pool.shutdown(wait=False, cancel_futures=True)


def spelled(value: Any) -> str:
    """A value in a line of key=value: in quotes where it could be read as more than one."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(' ="') else text
