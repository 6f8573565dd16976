"""Several callers of one LLM, for tests: an engine whose steps wait for a permission, and one that is at rest."""

from __future__ import annotations

import threading
from typing import Any

from helpers import check_blocks

from tinyinfer import LLM
from tinyinfer.kv_cache.prefix_cache import PrefixCache

LONG = 60.0  # seconds after which a test has hung


class Gate:
    """Steps of an LLM's engine that wait until the test lets them begin; so nothing depends on which thread is faster.

    arrived: counts the steps that wait or waited.
    """

    def __init__(self, llm: LLM) -> None:
        self.step, self.opened = llm.engine.step, False
        self.arrived, self.permits = threading.Semaphore(0), threading.Semaphore(0)
        llm.engine.step = self  # type: ignore[method-assign, assignment]

    def __call__(self, watch: bool = False) -> Any:
        if not self.opened:
            self.arrived.release()
            assert self.permits.acquire(timeout=LONG)
        return self.step(watch)

    def wait(self) -> None:
        """Returns when the next step wants to begin."""
        assert self.arrived.acquire(timeout=LONG)

    def let(self, steps: int = 1) -> None:
        """Lets so many steps begin, and returns when the one after them wants to."""
        for _ in range(steps):
            self.permits.release()
            self.wait()

    def open(self) -> None:
        """Lets all steps begin from now on."""
        self.opened = True
        self.permits.release()


def engine_threads() -> list[threading.Thread]:
    """The engines' threads that are alive."""
    return [thread for thread in threading.enumerate() if thread.name == "tinyinfer engine"]


def check_rest(*llms: LLM) -> None:
    """The engines' threads end, and nothing is left: no sequence, no room, no block without an owner."""
    while threads := engine_threads():
        threads[0].join(LONG)
        assert not threads[0].is_alive()
    for llm in llms:
        engine = llm.engine
        assert not engine.scheduler.busy
        if engine.cache.num_blocks:
            prefixes = engine.scheduler.prefixes
            check_blocks(engine, prefixes if isinstance(prefixes, PrefixCache) else None)
        else:
            assert engine.cache.held_bytes == 0
