"""Replicas in one process, for tests: each other one serves in a thread, over a connection of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from helpers import Words, checkpoint_of, random_tensors, remade, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.clock import WallClock
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import Engine, build_engine
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import load_model
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.replicas.front import Front
from tinyinfer.replicas.messages import Ready, Wire
from tinyinfer.replicas.peer import hang_up
from tinyinfer.replicas.serve import Server, serve
from tinyinfer.replicas.start import Place, Replicas
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import Batch, RequestSpec, Sequence
from tinyinfer.text.stop_strings import TextOutput

MODEL = small_config()
IDS = count(1000)
Build = Callable[[EngineConfig], Engine]
Kind = Callable[[int, Connection, Build], None]


def new_text(stops: tuple[str, ...]) -> TextOutput:
    """A text that travels by its name."""
    return TextOutput(Words(), stops)


def asked(prompt: list[int], max_tokens: int = 5, delay: float = 0.0, **params: Any) -> Sequence:
    """A sequence for the front; greedy unless told otherwise."""
    given = SamplingParams(max_tokens=max_tokens, **params)
    spec = RequestSpec(next(IDS), list(prompt), given, given.seed or 0, max_tokens, frozenset(), delay)
    return Sequence(spec, partial(new_text, tuple(given.stop)))


class Threads:
    """Replicas in threads. pairs: the front's end and the replica's of each connection; ledgers: of all.

    kind: what the others do in the place of serving to the end.
    """

    def __init__(self, size: int, checkpoint: Checkpoint | None = None, kind: Kind | None = None) -> None:
        self.checkpoint = checkpoint or checkpoint_of(MODEL, random_tensors(MODEL))
        self.pairs = {number: Pipe() for number in range(1, size)}
        self.kind = kind or serve_until_the_end
        self.ledgers = [Ledger() for _ in range(size)]
        self.threads: list[threading.Thread] = []

    def start(self, c: EngineConfig) -> tuple[Replicas, Engine]:
        """Starts all; the front's Replicas and engine."""
        for number, (_, end) in self.pairs.items():
            thread = threading.Thread(target=self.replica, args=(number, end, c), daemon=True)
            self.threads.append(thread)
            thread.start()
        ops = NumpyOps(self.ledgers[0])
        replicas = Replicas(c, ops.ledger, Place(0, None, "", b""))
        replicas.links.update((number, front) for number, (front, _) in self.pairs.items())
        return replicas, replicas.build(load_model(self.checkpoint, ops, c), ops, c, WallClock())

    def replica(self, number: int, end: Connection, c: EngineConfig) -> None:
        """What the process of a replica does, without LLM."""
        ops = NumpyOps(self.ledgers[number])
        model = load_model(self.checkpoint, ops, c)
        end.send_bytes(Wire(None).dumps(Ready()))
        try:
            self.kind(number, end, lambda config: build_engine(model, ops, config, WallClock()))
        finally:  # as the system does for a process
            end.close()

    def end(self) -> None:
        """Ends all threads, which must end by themselves when the front is gone."""
        for front, _ in self.pairs.values():
            hang_up(front)
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()


def serve_until_the_end(number: int, end: Connection, build: Build) -> None:
    """A replica that does what it shall."""
    serve(end, Wire(None), build)


# Others, for the place of `kind`.


def records(engines: list[Engine]) -> Kind:
    """Serves, and lists its engines."""

    def kind(number: int, end: Connection, build: Build) -> None:
        def recorded(c: EngineConfig) -> Engine:
            engines.append(build(c))
            return engines[-1]

        serve(end, Wire(None), recorded)

    return kind


def in_stages(stages: int) -> Kind:
    """Serves an engine with so many passes under way, as stages have them."""

    def kind(number: int, end: Connection, build: Build) -> None:
        def staged(c: EngineConfig) -> Engine:
            engine = build(c)
            engine.scheduler.stages = stages
            return engine

        serve(end, Wire(None), staged)

    return kind


class Stopping(Server):
    """Calls `stop` in the place of its n-th report."""

    def __init__(self, end: Connection, build: Build, after: int, stop: Callable[[Connection], None]) -> None:
        super().__init__(end, Wire(None), build)
        self.left, self.stop = after, stop

    def tell(self, number: int, message: object) -> None:
        if not self.left:
            self.stop(self.connection)
        self.left -= 1
        super().tell(number, message)


def dies_after(reports: int) -> Any:
    """Dies after so many reports, in the middle of a step."""

    def stop(end: Connection) -> None:
        raise EOFError

    def kind(number: int, end: Connection, build: Build, numbers: tuple[int, ...] = (1,)) -> None:
        if number in numbers:
            Stopping(end, build, reports, stop).run()
        else:
            serve_until_the_end(number, end, build)

    return kind


def hangs_after(reports: int) -> Kind:
    """Says nothing more after so many reports."""

    def stop(end: Connection) -> None:
        while True:
            end.recv_bytes()  # EOFError at the end of the front

    return lambda number, end, build: Stopping(end, build, reports, stop).run()


def fails_at(step: int) -> Kind:
    """Raises an error in that step of its engine."""

    def kind(number: int, end: Connection, build: Build) -> None:
        def failing(c: EngineConfig) -> Engine:
            engine, steps = build(c), count(1)

            class Failing(Engine):
                def forward(self, batch: Batch) -> Any:
                    if next(steps) == step:
                        raise RuntimeError("of a test")
                    return super().forward(batch)

            return remade(engine, Failing)

        serve(end, Wire(None), failing)

    return kind


@contextmanager
def fronted(
    size: int, kind: Kind | None = None, checkpoint: Checkpoint | None = None, **switches: Any
) -> Iterator[Front]:
    """A front with so many replicas. kind: what the others do."""
    threads = Threads(size, checkpoint, kind)
    _, engine = threads.start(EngineConfig(data_parallel_size=size, **switches))
    assert isinstance(engine, Front)
    try:
        yield engine
    finally:
        threads.end()
