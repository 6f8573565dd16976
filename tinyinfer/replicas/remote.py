"""One engine of another replica, as the front has it: which sequences were placed there, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from time import monotonic

from tinyinfer.engine.trace import StepTrace
from tinyinfer.errors import RequestError
from tinyinfer.replicas.messages import Add, Drop, Failures, Report, Wire
from tinyinfer.replicas.peer import Heard, Peer
from tinyinfer.sequence import Sequence


class Remote:
    """One engine of another replica.

    sent: the sequences that were placed there, by the numbers of their placements; placed: those that still count.
    held: bytes that its cache holds, and the unused part; blocks: those that sequences held after its last step.
    """

    def __init__(self, peer: Peer, engine: int, wire: Wire) -> None:
        self.peer, self.engine, self.wire = peer, engine, wire
        self.sent: dict[int, Sequence] = {}
        self.placed: dict[Sequence, int] = {}
        self.held, self.blocks = (0, 0), 0
        self.since = monotonic()  # when it was last given work

    def tell(self, message: object) -> None:
        """Sends a message to the engine."""
        self.peer.send(self.engine, self.wire.dumps(message))

    def add(self, seq: Sequence, number: int) -> None:
        """Places a sequence here."""
        self.since = monotonic()
        self.sent[number], self.placed[seq] = seq, number
        request, progress = replace(seq.request, id=number), seq.progress
        self.tell(Add(request, seq.new_text, seq.timing.arrival, list(progress.choices), progress.computed))

    def drop(self, sequences: Iterable[Sequence]) -> None:
        """Takes sequences away from here; what the engine still says of them does not count."""
        numbers = [self.placed.pop(seq) for seq in sequences if seq in self.placed]
        if numbers:
            self.tell(Drop(numbers))

    def is_current(self, number: int) -> bool:
        """Whether a placement still counts."""
        seq = self.sent.get(number)
        return seq is not None and self.placed.get(seq) == number

    @property
    def blocks_held(self) -> int:
        """Blocks that sequences hold; those of dropped ones are free before the engine says so."""
        return self.blocks if any(not seq.finished for seq in tuple(self.placed)) else 0

    def silent_for(self, now: float) -> float:
        """Seconds for which the engine has had work and said nothing."""
        return now - max(self.since, self.peer.heard) if any(not seq.finished for seq in self.placed) else 0.0

    def hear(self, heard: Heard) -> object:
        """What the engine says, with the front's own sequences in it."""
        return self.wire.loads(heard.words or b"", self.sent.__getitem__)

    def take(self, report: Report, now: float, came: float) -> StepTrace:
        """Writes what a step did into the front's sequences, at the time when the report came; the trace, with their
        ids, at the time when it is handed on.
        """
        trace, begun = report.trace, now - report.trace.seconds
        cached = {turn.id: turn.cached for turn in trace.turns}
        advances = [one for one in report.advances if self.is_current(one.number)]
        for one in advances:
            if self.sent[one.number] in trace.joined:
                self.sent[one.number].start(came - trace.seconds, cached[one.number])
        for turn, choices in zip(trace.turns, trace.choices, strict=True):
            if self.is_current(turn.id):
                self.sent[turn.id].extend(choices, came)
        for one in advances:
            self.sent[one.number].record_computed(one.computed)
            self.sent[one.number].record_verification(one.proposed, one.accepted)
        joined, preempted = (
            tuple(seq for seq in group if seq in self.placed) for group in (trace.joined, trace.preempted)
        )
        left = tuple(seq for seq in trace.left if seq.progress.finish_reason in ("stop", "length"))  # not dropped ones
        for seq in preempted:
            seq.record_preemption()
        times = begun, begun + trace.times[1] - trace.times[0], now
        self.held, self.blocks = (trace.cache_bytes, trace.wasted_bytes), trace.blocks_held
        ids = {number: seq.id for number, seq in self.sent.items()}
        return replace(
            trace, times=times, replica=self.peer.number, joined=joined, left=left, preempted=preempted,
            turns=tuple(turn._replace(id=ids[turn.id]) for turn in trace.turns),
            idle=tuple(ids[number] for number in trace.idle), waiting=tuple(ids[number] for number in trace.waiting),
        )  # fmt: skip

    def failures(self, message: Failures) -> dict[Sequence, Exception]:
        """The sequences that have ended by errors, which name the front's own ids."""
        errors = {self.sent[number]: error for number, error in message.errors.items() if self.is_current(number)}
        return {seq: named(error, seq.id, self.peer.number) for seq, error in errors.items()}

    def tidy(self, report: Report) -> None:
        """Forgets placements that the engine will not name again."""
        for number in report.dropped:
            self.sent.pop(number, None)


def named(error: Exception, id: int, replica: int) -> Exception:
    """An error of a replica as one that ends the request of this id."""
    if isinstance(error, RequestError):
        return type(error)(error.reason, error.cure, id, **error.texts)
    words = f"{type(error).__name__}: {error}"
    return RequestError("replica {replica} has failed with it ({words})", "", id, replica=replica, words=words)
