"""A replica: an engine that does what the front tells it, and reports each step, until the front is gone."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection

from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import Engine
from tinyinfer.errors import RequestError
from tinyinfer.ledger import Ledger
from tinyinfer.replicas.messages import Add, Advance, Build, Close, Drop, Failures, Forget, Report, Watch, Wire
from tinyinfer.sequence import Sequence

NUMBER = 4  # bytes before a message: the number of the engine that it is for


class Served:
    """One engine of a replica, and the sequences that the front has given it. offset: from the front's clock to ours.
    """

    def __init__(self, engine: Engine, offset: float) -> None:
        self.engine, self.offset, self.watch = engine, offset, False
        self.sequences: dict[int, Sequence] = {}  # by the numbers of their placements
        self.dropped: list[int] = []
        self.verified: dict[Sequence, tuple[int, int]] = {}  # drafts of each so far, as last reported

    def do(self, message: object) -> dict[int, Exception]:
        """Does what the front tells; the sequences that have ended by it, with their errors."""
        if isinstance(message, Add):
            return self.add(message)
        if isinstance(message, Drop):
            self.drop(message.numbers)
        elif isinstance(message, Watch):
            self.watch = message.on
        elif isinstance(message, Forget):
            self.engine.forget_prefixes()
        return {}

    def add(self, message: Add) -> dict[int, Exception]:
        """Queues a request, its tokens so far with it, as after a preemption."""
        seq = Sequence(replace(message.request, delay=0.0), message.new_text)
        seq.extend(message.choices, 0.0)
        seq.record_computed(message.computed)
        try:
            self.engine.add(seq, min(self.engine.clock(), message.arrival + self.offset))
        except Exception as error:
            return {seq.id: portable(error)}
        self.sequences[seq.id] = seq
        return {}

    def drop(self, numbers: list[int]) -> None:
        """Ends sequences. Finished ones that a static batch keeps as padding leave with the last of the others."""
        self.engine.abort(*(self.sequences.pop(number) for number in numbers if number in self.sequences))
        self.dropped += numbers
        if all(seq.finished for seq in self.sequences.values()):
            self.dropped += self.sequences
            self.sequences.clear()
            self.engine.abort(*list(self.engine.scheduler.running))

    def step(self, hear: Callable[[float], bool]) -> list[Report | Failures]:
        """What a step did, behind what has ended with an error in it; nothing when no sequence was ready.

        hear: waits for the front.
        """
        if not self.engine.busy or not self.engine.wait(hear):  # what the front told last may have ended all of it
            return []
        try:
            trace = self.engine.step(self.watch)
        except Exception as error:
            return [self.failures(error)]
        errors = {number: portable(seq.progress.error) for number, seq in self.sequences.items() if seq.progress.error}
        failed = [Failures(errors)] if errors else []
        self.drop(list(errors))
        for seq in trace.left:
            self.sequences.pop(seq.id, None)
        owners = dict.fromkeys(span.seq.owner for span in trace.batch.spans)
        ended, under_way = [*self.dropped, *(seq.id for seq in trace.left)], self.under_way()
        dropped, self.dropped = [n for n in ended if n not in under_way], [n for n in ended if n in under_way]
        report = Report(trace, Ledger(), [self.advance(seq) for seq in owners], dropped)
        for seq in trace.left:
            self.verified.pop(seq, None)
        return [*failed, report]

    def under_way(self) -> set[int]:
        """The sequences that traces of passes will name that stages compute now."""
        found: set[int] = set()
        for record, batch, _ in self.engine.passes:
            named = (*(span.seq.owner for span in batch.spans), *record.joined, *record.preempted)
            found |= {seq.id for seq in named} | {*record.idle, *record.waiting}
        return found

    def advance(self, seq: Sequence) -> Advance:
        """What is new of a sequence since its last step."""
        drafts, before = seq.speculation, self.verified.get(seq, (0, 0))
        self.verified[seq] = drafts.proposed, drafts.accepted
        proposed, accepted = drafts.proposed - before[0], drafts.accepted - before[1]
        return Advance(seq.id, seq.progress.computed, proposed, accepted)

    def failures(self, error: Exception) -> Failures:
        """Ends the sequence that an error names, else those that joined in the step, else all that were in it."""
        held, scheduler = set(self.sequences.values()), self.engine.scheduler
        named = [seq for seq in held if isinstance(error, RequestError) and seq.id == error.request_id]
        groups = [[seq for seq in group if seq in held] for group in (named, scheduler.joined, scheduler.preempted)]
        numbers = [seq.id for seq in next(filter(None, groups), held)]
        self.drop(numbers)
        return Failures(dict.fromkeys(numbers, portable(error)))


class Server:
    """All engines of a replica. build: makes one; wire: how messages are written; connection: to the front."""

    def __init__(self, connection: Connection, wire: Wire, build: Callable[[EngineConfig], Engine]) -> None:
        self.connection, self.wire, self.build = connection, wire, build
        self.engines: dict[int, Served] = {}
        self.counted: dict[int, Ledger] = {}  # what each engine's ledger had counted at the last report

    def run(self) -> None:
        """Serves until the front is gone."""
        try:
            while True:
                busy = [number for number, one in self.engines.items() if one.engine.busy]
                self.hear(None if not busy else 0.0)
                for number in busy:
                    self.step(number)
        except (EOFError, OSError):
            return

    def hear(self, seconds: float | None) -> bool:
        """Does what the front has told by now, or tells within so many seconds (None: waits); whether it did."""
        found = False
        while self.connection.poll(0.0 if found else seconds):
            words = self.connection.recv_bytes()
            self.do(int.from_bytes(words[:NUMBER], "big"), self.wire.loads(words[NUMBER:]))
            found = True
        return found

    def do(self, number: int, message: object) -> None:
        """Does what the front tells an engine."""
        if isinstance(message, Build):
            engine = self.build(message.config)
            self.engines[number] = Served(engine, engine.clock() - message.now)
            self.counted[number] = engine.ledger.copy()
        elif isinstance(message, Close):
            self.engines.pop(number, None)
        elif number in self.engines and (errors := self.engines[number].do(message)):
            self.tell(number, Failures(errors))

    def step(self, number: int) -> None:
        """A step of an engine, if one of its sequences is ready."""
        served = self.engines.get(number)
        for found in served.step(self.hear) if served else ():
            if served and isinstance(found, Report):
                ledger = served.engine.ledger
                found = replace(found, ledger=ledger - self.counted[number])
                self.counted = dict.fromkeys(self.engines, ledger.copy())  # engines over the same weights share it
            self.tell(number, found)

    def tell(self, number: int, message: object) -> None:
        """Sends a message of an engine to the front."""
        self.connection.send_bytes(number.to_bytes(NUMBER, "big") + self.wire.dumps(message))


def portable(error: Exception) -> Exception:
    """The error, or one that says the same, if the error cannot travel."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def serve(connection: Connection, wire: Wire, build: Callable[[EngineConfig], Engine]) -> None:
    """A replica's life, from the beginning of its work to the end of the front."""
    Server(connection, wire, build).run()
