"""What the endpoints share: one model, its name, the queue before it, the threads beside it, and where lines go."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tinyinfer.errors import one_line
from tinyinfer.llm import LLM
from tinyinfer.server.admission import Admission
from tinyinfer.server.logprobs import Speller
from tinyinfer.server.metrics import Metrics
from tinyinfer.server.switches import ServerSwitches

TEXT_THREADS = 4  # tokenizing, templates: work of milliseconds, of which none should wait for a long one
PATIENCE = 15.0  # seconds of silence after which a stream says that it lives: proxies cut what is silent for a minute


class Service:
    """A model that is served. version: tinyinfer's; write: takes log lines; patience: see PATIENCE."""

    def __init__(
        self, llm: LLM, name: str, switches: ServerSwitches, version: str, write: Callable[[str], None],
        patience: float = PATIENCE,
    ) -> None:  # fmt: skip
        self.version = version
        self.llm, self.switches, self.patience, self._write = llm, switches, patience, write
        self.name = switches.served_model_name or name
        self.created = int(time.time())
        self.clock = llm.engine.clock
        self.metrics = Metrics(llm, self.name)
        self.admission = Admission(llm.engine_config.max_num_seqs, switches.max_queue, self.metrics.rejected)
        self.pool = ThreadPoolExecutor(TEXT_THREADS, thread_name_prefix="tinyinfer text")
        self.speller = Speller(llm.tokenizer)

    def log(self, **facts: Any) -> None:
        """Writes one line: what happened, without any text of a prompt or an answer."""
        known = {key: value for key, value in facts.items() if value is not None}
        if self.switches.log_json:
            self._write(json.dumps({"time": round(time.time(), 3), **known}))
            return
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._write(one_line(f"{now} " + " ".join(f"{key}={value}" for key, value in known.items())))

    def log_unknown(self, path: str, names: Iterable[str]) -> None:
        """Names the fields of a body that were passed over."""
        if found := sorted(names):
            shown = [name[:40] for name in found[:10]] + ["..."] * (len(found) > 10)
            self.log(note="unknown fields were passed over", path=path, fields=",".join(shown))

    def close(self) -> None:
        """Ends the threads; the model is its owner's to close."""
        self.pool.shutdown(wait=False, cancel_futures=True)
