"""Engines on the fake GPU, whose steps run by kernels, beside the same engines on NumPy: tokens and ledger must agree.

`Watched` counts what the host does meanwhile: waits, copies to the device, graphs and kernels launched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import fake_cuda
import numpy as np
from fake_cupy import DeviceArray, fake_cupy
from helpers import ALWAYS_DRAFT, finish, make_engine, request

from tinyinfer.backends.cupy_ops import CupyOps
from tinyinfer.engine.engine import Engine
from tinyinfer.ledger import Ledger
from tinyinfer.sequence import Sequence as Request

Work = Sequence[tuple[list[int], int]]


def gpu_engine(model: Any, decode: str = "graph", dtype: Any = np.float32, **switches: Any) -> Engine:
    """An engine on the fake device, which has one processor: fewer blocks, fewer fibers, the same kernels."""
    with patch.object(fake_cupy.cuda.runtime, "processors", 1):
        ops = CupyOps(Ledger(), dtype, decode=decode, xp=fake_cupy)
        return make_engine(model, ops=ops, draft_cost=ALWAYS_DRAFT, **switches)


def cpu_engine(model: Any, dtype: Any = np.float32, **switches: Any) -> Engine:
    """The same engine on NumPy."""
    return make_engine(model, dtype=dtype, draft_cost=ALWAYS_DRAFT, **switches)


def ask(work: Work, *params: dict[str, Any]) -> list[Request]:
    """Requests of these prompts and lengths; params: of each in turn, beginning again where there are too few."""
    return [request(prompt, n, **(params[i % len(params)] if params else {})) for i, (prompt, n) in enumerate(work)]


def counted(ledger: Ledger) -> Ledger:
    """A ledger without what kernels need not do: gather blocks that do not lie side by side."""
    return replace(ledger, kv_copied_bytes=0)


def agree(model: Any, work: Work, *params: dict[str, Any], decode: str = "graph", **switches: Any) -> Engine:
    """Asserts that both engines emit the same tokens and count the same work; returns the one on the device."""
    # Drafts of the model itself have a cache of their own beside steps that run ahead; so have these (draft_cache.py).
    itself, candidates = switches.get("speculative") == "self", switches.get("num_draft_candidates", 1)
    own = {"verification": "best-coupling"} if itself and candidates == 1 else {}
    plain, device = cpu_engine(model, **switches | own), gpu_engine(model, decode, **switches)
    expected = finish(plain, *ask(work, *params))
    assert finish(device, *ask(work, *params)) == expected
    if not itself or own:  # candidates in the target's cache and in another one are counted otherwise
        assert counted(device.ledger) == counted(plain.ledger)
    return device


@dataclass
class Watched:
    """What the host did."""

    waits: int = 0  # for an event that was not over yet, or for a copy that the host wanted at once
    copies: int = 0  # to the device
    graphs: int = 0
    kernels: int = 0


@contextmanager
def watched() -> Iterator[Watched]:
    """Counts what the host does inside."""
    seen = Watched()

    def counting(owner: Any, name: str, field: str, when: Any = lambda *args, **options: True) -> Any:
        function = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            setattr(seen, field, getattr(seen, field) + bool(when(*args, **options)))
            return function(*args, **options)

        return patch.object(owner, name, call)

    def pending(event: Any) -> bool:
        return bool(event.stream.done_count < event.number)

    with (
        counting(fake_cuda.Event, "synchronize", "waits", pending),
        counting(DeviceArray, "get", "waits", lambda *args, blocking=True, **options: blocking),
        counting(DeviceArray, "set", "copies"),
        counting(fake_cuda.Graph, "launch", "graphs"),
        counting(fake_cuda.RawKernel, "__call__", "kernels"),
    ):
        yield seen
