"""A bucket: steps of up to T rows, as a CUDA graph that is launched again and again.

One launch from Python costs the host 5 to 10 microseconds, and a step of 30 layers has 150 of them: a millisecond in
which the GPU, done with each in a fraction of that, waits for the host. A CUDA graph is the list of launches, recorded
once and handed to the driver whole. To launch it costs as much as one kernel, and from one kernel to the next the GPU
needs about a microsecond by itself. (CuPy refuses cuBLAS in a capture: hence no library's products in here.)

A graph fits one number of rows. A batch takes the smallest bucket that holds it; the rows that are left over have
position -1, and kernels pass them over.

Wins: a step takes the GPU's time, not the host's. Loses: nothing may change but numbers in memory, so that each bucket
keeps its own arrays, and its first step takes as long as compiling its kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.backends.kernels.buffers import RING, Results, Seat, Seats, Staging
from tinyinfer.backends.kernels.launch import Kernels, Plan
from tinyinfer.backends.kernels.memory import Sizes, allocate, fields_of
from tinyinfer.backends.kernels.persistent_plan import persistent_plan
from tinyinfer.backends.kernels.plan import decode_plan
from tinyinfer.model.transformer import Model
from tinyinfer.sequence import Batch

INT_MAX = 2**31 - 1
PADDED = -1  # the position of a row that is not there


class Program:
    """The launches of a plan: one by one the first time, which loads every kernel; from then on as one graph."""

    def __init__(self, calls: list[Callable[[], None]], capturing: Any) -> None:
        self._calls, self._capturing = calls, capturing
        self._warm, self._graph = False, None

    def run(self, stream: Any) -> None:
        """Lets a stream compute all of it. capturing is the stream that records; None: never a graph."""
        if self._graph is None and self._warm and self._capturing is not None:
            self._graph = self._captured(self._capturing)
        with stream:
            self._graph.launch(stream) if self._graph is not None else self._all()
        self._warm = True

    def _all(self) -> None:
        for call in self._calls:
            call()

    def _captured(self, stream: Any) -> Any:
        with stream:
            stream.begin_capture()
            try:
                self._all()
            finally:
                graph = stream.end_capture()
        return graph


class Bucket:
    """The buffers, programs and results of steps of up to `sizes.rows` rows."""

    def __init__(self, model: Model, sizes: Sizes, kernels: Kernels, stream: Any, capturing: Any, way: str) -> None:
        xp, self.way = kernels.xp, way
        self.model, self.sizes, self.kernels, self.stream, self.capturing = model, sizes, kernels, stream, capturing
        self.staging, self.results = Staging(xp, fields_of(model, sizes)), Results(xp, sizes.rows)
        self.seats = Seats(self.staging)
        self.memory = allocate(model, sizes, xp, self.staging.device, self.results.device)
        self._programs: dict[bool, Program] = {}
        self._filters = False
        self._views: dict[int, Array] = {}  # how many rows -> the logits of so many

    def load(self, batch: Batch, cache: Any) -> list[Seat]:
        """Tells the device a batch, in one copy; the seats of its spans."""
        self.staging.wait()
        host, rows = self.staging.host, len(batch)
        host["tokens"][:rows], host["positions"][:rows] = batch.tokens, batch.positions
        host["tokens"][rows:], host["positions"][rows:] = 0, PADDED
        host["sets"][:rows], host["step"][0] = batch.rotation_sets, self.results.fetched % RING
        seats = self.seats.take([cache.pools_of(span.seq) for span in batch.spans])
        for slot, span in enumerate(batch.spans):
            params, some = span.seq.request.params, slice(span.start, span.stop)
            host["slots"][some], host["seeds"][some] = slot, span.seq.request.seed % 2**64
            host["temperatures"][some], host["top_k"][some] = params.temperature, min(params.top_k, INT_MAX)
            host["top_p"][some], host["min_p"][some] = params.top_p, params.min_p
        drawn = [span.seq.request.params for span in batch.spans if span.seq.request.params.temperature > 0]
        self._filters = any(p.top_k or p.top_p < 1 or p.min_p for p in drawn)
        self.staging.send(self.stream)
        return seats

    def launch(self) -> int:
        """Lets the device compute the next step; the number by which `results.wait` knows its tokens."""
        if self._filters not in self._programs:
            plan = self.plan()
            self._programs[self._filters] = Program([self.kernels.bind(one) for one in plan.launches], self.capturing)
        self._programs[self._filters].run(self.stream)
        return self.results.fetch(self.stream)

    def plan(self) -> Plan:
        """The launches of a step; a single one for one row that the persistent kernel can compute."""
        if self.way == "persistent" and self.sizes.rows == 1 and not self._filters:
            return persistent_plan(self.model, self.memory, self.kernels.xp)
        return decode_plan(self.model, self.memory, self._filters)

    def logits(self, rows: np.ndarray) -> Array:
        """The newest step's logits of some rows: a view, made once, where they are the first ones in order."""
        if not (rows == np.arange(len(rows))).all():
            return self.memory.logits[self.kernels.xp.asarray(rows)]
        if len(rows) not in self._views:
            self._views[len(rows)] = self.memory.logits[: len(rows)]
        return self._views[len(rows)]

    def tokens_and_ends(self, number: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The token, the smallest and the largest logit of some rows of a step."""
        found = self.results.wait(number)[rows]  # (R, 4)
        ends = found.view(np.float32)
        return found[:, 0].astype(np.int64), ends[:, 1], ends[:, 2]
