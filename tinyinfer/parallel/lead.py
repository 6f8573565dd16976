"""One rank leads: it schedules and proposes drafts. The others follow: they compute what it tells them.

    leader      an Engine like any other, with a pass (`Leading`) that sends an order before it computes
    follower    `follow`: waits for an order, makes the same changes to its own cache, computes its part of the pass

An order (orders.py) says what changed in the cache since the last one and which rows to compute. So no scheduler, no
drafter and no clock has to be the same on all ranks: only the leader has one. Orders do not wait for the ranks: they
are done in turn, so that each stage of a pipeline has its own batch.

The ranks of the last stage choose the tokens (choose.py), and its first one sends them to the leader.

Wins: every switch that lives in the scheduler works as it is. Loses: the leader's host work is no shorter, and the
others wait for it.
"""

from __future__ import annotations

import signal
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import Any, cast

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.backends.limits import NO_LIMIT
from tinyinfer.backends.overflow_search import OverflowSearch, name_of
from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.base import Cache, CacheSpec, NoCache
from tinyinfer.ledger import Ledger
from tinyinfer.model.interfaces import Compiled, KVCache, Ops, Sampled
from tinyinfer.model.transformer import Model
from tinyinfer.parallel.choose import NOTHING, Draw, choose_together, draw_of, drawn_rows
from tinyinfer.parallel.comm import Comm, CommError
from tinyinfer.parallel.orders import Alive, Begin, End, Mirrored, Pass, Search, known
from tinyinfer.parallel.pipeline import Stage
from tinyinfer.parallel.tally import Tally, add_work
from tinyinfer.parallel.tensor import TensorOps
from tinyinfer.sequence import Batch, Span, Wanted

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows: fewer
AHEAD = 2  # passes for each stage that the leader orders before it asks for the first one's result
PATIENCE = 60.0  # seconds that the end of a command waits for a step


class Given:
    """The logits of a pass that was ordered: in their place what the last stage finds in them, once that is known.

    shape: that of the logits. draws: see Pass.
    """

    def __init__(self, shape: tuple[int, int], draws: list[Draw | None]) -> None:
        self.shape, self.draws = shape, draws
        self.found: Sampled | None = None

    def receive(self, comm: Comm, source: int) -> None:
        """What the last stage has sent (`send`)."""
        tokens, low, high = comm.receive(np.empty((3, self.shape[0])), source)  # each (R,)
        left, rows = [n for n, draw in enumerate(self.draws) if draw is None], None
        if left:
            rows = np.zeros(self.shape, np.float32)  # (R, V)
            rows[left] = comm.receive(np.empty((len(left), self.shape[1]), np.float32), source)
        self.found = Sampled(tokens.astype(np.int64), low, high, rows)


class Orders:
    """The leader's orders, one at a time: the thread that gives one has the turn until it has done its own part.

    total: counts the work of the other ranks. waiting: the passes whose results the last stage sends, in this order.
    """

    def __init__(self, stage: Stage, total: Ledger) -> None:
        self.stage, self.comm, self.turn, self.ended = stage, stage.comm, threading.RLock(), threading.Event()
        self.total = total
        self.waiting: deque[Given] = deque()
        self.gone: list[int] = []  # numbers of caches whose engines are gone

    def tell(self, order: object) -> None:
        """Gives an order to all other ranks, and does not wait for them."""
        for rank in range(1, self.comm.size):
            self.comm.tell(order, rank)

    def say_alive(self, seconds: float) -> None:
        """From now on tells the others again and again that the leader lives; a leader that is stopped does not.

        Neither does one that hangs in its turn. How often that is depends on time, so it is not counted.
        """
        quiet = self.comm.counting(Ledger())

        def thread() -> None:
            while not self.ended.wait(seconds):
                with self.turn:
                    for rank in range(1, quiet.size) if not self.ended.is_set() else ():
                        quiet.tell(Alive(), rank)

        threading.Thread(target=thread, name="the leader lives", daemon=True).start()

    def result(self, given: Given) -> Sampled:
        """What a pass has given, and before it those that were ordered before it."""
        with self.together():
            while given.found is None:
                self.waiting[0].receive(self.comm, self.stage.answers)
                add_work(self.total, self.comm)
                self.waiting.popleft()
        return given.found

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wraps an order, and what the leader does of it. Raises CommError once the ranks have ended."""
        with self.turn:
            if self.ended.is_set():
                raise CommError("the ranks have ended")
            with undisturbed(self.comm):
                yield

    def end(self) -> None:
        """Lets the other ranks end; again, it does nothing. An order that another thread has given is waited for."""
        if not self.turn.acquire(timeout=PATIENCE):
            self.comm.abort(f"a step took more than {PATIENCE:.0f} seconds, and this command is at its end")
        try:
            if not self.ended.is_set():
                for given in tuple(self.waiting):
                    self.result(given)
                self.ended.set()
                self.tell(End())
                self.comm.barrier()
        finally:
            self.turn.release()


@contextmanager
def undisturbed(comm: Comm) -> Iterator[None]:
    """Ctrl-C, and signals that end the process, wait until what all ranks do together is done.

    An error inside ends all ranks, because the others would wait for this one for ever.
    """
    caught: list[tuple[int, Any]] = []
    main = threading.current_thread() is threading.main_thread()  # Python runs handlers in no other thread
    before = {number: signal.getsignal(number) for number in SIGNALS} if main else {}
    for number in before:
        signal.signal(number, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    except CommError:
        raise
    except Exception as error:
        comm.fail(error)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number, frame in caught:
        handler = before[number]
        if callable(handler):
            handler(number, frame)
        elif handler is not signal.SIG_IGN:
            signal.raise_signal(number)


class LeaderOps(TensorOps):
    """The operations of the leader, whose passes of the divided model are computed by all ranks.

    model: the leader's part of it. room: bytes with which its cache may be planned, if other ranks have less than it.
    total: counts the work of the other ranks. Other models, such as a draft model, are the leader's alone, and compiled
    where the backend compiles.
    """

    def __init__(
        self, inner: Ops, stage: Stage, model: Model, room: int = NO_LIMIT, total: Ledger | None = None
    ) -> None:
        super().__init__(inner, stage.together)
        self.model, self.room, self._numbers, self.orders = model, room, count(), Orders(stage, total or Ledger())
        # At the end of Python the newest goes first: an engine's thread ends before the ranks do.
        self.close = weakref.finalize(self, self.orders.end)

    def compile(self, model: Model, cache: KVCache, rows: int = 1) -> Compiled | None:
        """The pass that all ranks compute, for a cache whose changes are noted.

        Raises SwitchError for another model than the one that was divided.
        """
        if not isinstance(cache, Mirrored):
            return self.inner.compile(model, cache, rows)
        if model is not self.model:
            reason = "{value} ranks have divided another model than the one that is to run"
            raise SwitchError("", self.orders.comm.size, reason, "give the model when the LLM is opened")
        number = next(self._numbers)
        with self.orders.together():
            gone = [self.orders.gone.pop() for _ in range(len(self.orders.gone))]
            self.orders.tell(Begin(number, type(cache.cache), cache.cache.spec, gone))
        leading = Leading(number, cache, self)
        weakref.finalize(leading, self.orders.gone.append, number)
        return leading

    def search_together(self, batch: Batch) -> str:
        """Where numbers overflow, which each rank looks for in its part."""
        spans = [(known(span.seq), *span[1:]) for span in batch.spans]
        with self.orders.together():
            self.orders.tell(Search(batch.tokens, batch.positions, batch.logit_rows, spans))
            return search(self.model, batch, self.orders.stage, self)

    def available_memory(self) -> int:
        """As much as all ranks have for their parts."""
        return min(self.inner.available_memory(), self.room)

    def whole(self, logits: Array) -> np.ndarray:  # (R, V) -> (R, all)
        """The logits of all tokens, from all ranks; `logits` is what the pass of a scored batch has `Given`."""
        return cast(np.ndarray, self.orders.result(logits).rows)


class Leading:
    """The leader's passes with one cache, which all ranks compute (model/interfaces.py, Compiled)."""

    def __init__(self, number: int, cache: Mirrored, ops: LeaderOps) -> None:
        self.number, self.cache, self.ops, self.model = number, cache, ops, ops.model

    def forward(self, batch: Batch) -> Array:  # (T,) -> (R, V)
        """A pass that all ranks begin; in the place of its logits what is `Given`."""
        orders, cache = self.ops.orders, cast(Cache, self.cache)
        changes = list(self.cache.changes)
        self.cache.changes.clear()
        spans = [(known(span.seq), *span[1:]) for span in batch.spans]
        arrays = batch.tokens, batch.positions, batch.logit_rows
        tokens, positions, rows = (np.asarray(array).tolist() for array in arrays)
        draws = [draw_of(*one) for one in batch.wanted] or [None] * len(rows)  # a scored batch wants all its logits
        for n in drawn_rows(batch):
            draws[n] = None
        given = Given((len(rows), self.model.config.vocab_size), draws)
        if len(orders.waiting) >= AHEAD * orders.stage.count:
            orders.result(orders.waiting[0])
        with orders.together():
            orders.tell(Pass(self.number, changes, tokens, positions, rows, spans, draws))
            logits = orders.stage.compute(self.model, batch, cache, self.ops)  # (R, V) | None
            if logits is None:
                orders.waiting.append(given)
            else:
                given.found = choose_together(self.ops.to_host(logits), draws, self.ops.comm, given.shape[1])
                add_work(orders.total, orders.comm)
        return given

    def sample(self, logits: Array, wanted: Seq[Wanted]) -> Sampled:  # (R, V) ->
        """The best token of all ranks for each row. logits: what `forward` has `Given`, or those of an idle step."""
        return self.ops.orders.result(logits) if wanted else NOTHING


def follow(model: Model, ops: TensorOps, stage: Stage) -> None:
    """Computes what the leader orders, until it ends. model: the rank's part."""
    comm, vocabulary = stage.comm, model.config.vocab_size
    caches: dict[int, Cache] = {}
    tally = Tally(comm)
    while not isinstance(order := comm.hear(0), End):
        if isinstance(order, Alive):
            continue
        if isinstance(order, Search):
            spans = tuple(Span(*fields) for fields in order.spans)
            search(model, Batch(order.tokens, order.positions, order.logit_rows, spans), stage, ops)
            continue
        if isinstance(order, Begin):
            for number in order.gone:
                del caches[number]
            caches[order.number] = order.kind(replace(order.spec, memory=model.config.memory), ops)
            continue
        if not isinstance(order, Pass):
            raise CommError(f"rank {comm.rank} does not know the order {order!r}")
        cache = caches[order.number]
        for name, arguments in order.changes:
            with suppress(ValueError, MemoryError):  # as the leader's engine does with its own
                getattr(cache, name)(*arguments)
        spans = tuple(Span(*fields) for fields in order.spans)
        numbers = order.tokens, order.positions, order.logit_rows
        tokens, positions, rows = (np.array(some, np.int64) for some in numbers)
        batch = Batch(tokens, positions, rows, spans)
        with np.errstate(over="ignore", invalid="ignore"):
            logits = stage.compute(model, batch, cache, ops)  # (R, V) | None
        if logits is not None:
            found = choose_together(ops.to_host(logits), order.draws, stage.together, vocabulary)
            if comm.rank == stage.answers and not stage.first:
                send(found, order.draws, comm)
        tally.tell()
    comm.barrier()


def search(model: Model, batch: Batch, stage: Stage, ops: TensorOps) -> str:
    """Where the numbers of whole sequences overflow, in words; all ranks call it. The ledger does not count it."""
    quiet = Ledger()
    looking = OverflowSearch(TensorOps(ops.inner.counting(quiet), ops.comm.counting(quiet)))
    cache = NoCache(CacheSpec(model.config.memory, len(batch)), looking)
    with np.errstate(over="ignore", invalid="ignore"):
        logits = stage.compute(model, batch, cache, looking)  # (R, V) | None
    if logits is not None:
        looking.look_at(logits)
    told = [stage.comm.share((looking.place, looking.changes), rank) for rank in range(stage.comm.size)]
    before, places = 0, list[int]()
    for first in range(0, len(told), stage.together.size):  # of each stage
        found = [place for place, _ in told[first : first + stage.together.size] if place is not None]
        places += [before + min(found)] if found else []
        before += told[first][1]
    return name_of(places[0] if places else None, before)


def send(found: Sampled, draws: list[Draw | None], comm: Comm) -> None:
    """Sends to the leader what the last stage has found (Given.receive)."""
    comm.post(np.stack([found.tokens.astype(np.float64), found.low, found.high]), 0)  # (3, R)
    if found.rows is not None:
        comm.post(found.rows[[n for n, draw in enumerate(draws) if draw is None]], 0)
