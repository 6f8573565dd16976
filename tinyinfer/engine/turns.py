"""One turn of an engine with several callers: read the inbox, step once, and tell each caller what came.

Sequences of all callers are in one scheduler and share steps, which is what continuous batching is for (Orca; Yu et al.
2022). A turn also decides what each caller must not feel of the others: a step that fails ends the requests that came
with that step, a cancelled request leaves before the next one, and a request that can never run does not let the others
wait.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Sequence as Seq
from threading import Lock
from weakref import WeakMethod

import numpy as np

from tinyinfer.engine.engine import Engine
from tinyinfer.engine.inbox import Client, Inbox, Run
from tinyinfer.engine.scoring import Scoring
from tinyinfer.engine.trace import StepTrace
from tinyinfer.errors import RequestError
from tinyinfer.sequence import Sequence

Listener = Callable[[StepTrace], None]


def at_once(seconds: float) -> bool:
    """Ends a wait for later requests, because a prompt is scored meanwhile."""
    return True


class StepLock:
    """One step at a time of all engines that share weights and a ledger: a lock for each process."""

    def __init__(self) -> None:
        self._locks: dict[int, Lock] = {}

    @property
    def lock(self) -> Lock:
        """The lock of this process."""
        return self._locks.get(os.getpid()) or self._locks.setdefault(os.getpid(), Lock())

    def __reduce__(self) -> tuple[type[StepLock], tuple[()]]:
        return StepLock, ()


class Turns:
    """Takes the turns of an engine, for the callers whose requests are in its inbox."""

    def __init__(self, engine: Engine, step_lock: StepLock, listeners: list[Listener]) -> None:
        self.engine, self.step_lock, self.listeners = engine, step_lock, listeners
        self.scoring = Scoring(engine)
        self.inbox = Inbox(WeakMethod(self.serve))

    def serve(self) -> None:
        """What the engine's thread does: turns until no request is open."""
        while self.inbox.pending:
            try:
                self.turn()
            except BaseException as error:
                self._fail(error)

    def turn(self) -> None:
        """Reads the inbox, steps the engine once if a sequence is ready, and tells all who wait."""
        with self.inbox.turn():
            self.engine.ops.on_this_thread()
            self._tidy()
            self._tell(self._step())

    def _tidy(self) -> None:
        """Does what an interrupted turn, or the interrupted reader of a run, has left undone."""
        self._tell_ended()
        for run in tuple(self.inbox.runs):
            if run.gone:
                self.finish(run)

    def _step(self) -> StepTrace | None:
        """One step; None when no sequence is ready, or when the step failed."""
        woken = at_once if self.scoring.next else self.inbox.hear  # who is scored now may end by it, and is told
        self._score()
        try:
            if not self.engine.busy or not self.engine.wait(woken):
                return None
            with self.step_lock.lock:
                trace = self.engine.step(any(run.watch for run in tuple(self.inbox.runs)))
        except Exception as error:
            self._fail(error)
            return None
        return trace

    def _score(self) -> None:
        """A piece of a prompt whose own log-probabilities are asked for; an error in it ends that request."""
        if (seq := self.scoring.next) is None:
            return
        try:
            with self.step_lock.lock:
                self.scoring.step()
        except Exception as error:
            self._end_with([seq], error)

    def _tell(self, trace: StepTrace | None) -> None:
        """Tells listeners what the step did, each request in it that it goes on or is over, and each run."""
        requests = self.inbox.requests
        if trace is not None:
            for listener in tuple(self.listeners):
                listener(trace)
        for span in trace.batch.spans if trace else ():
            client = requests.get(span.seq.owner)
            if client is not None and not client.seq.finished:
                client.progress()
        for seq in trace.left if trace else self._held():  # after a step that failed any of them may have ended before
            if seq.finished and seq.progress.error is not None:
                self._end_with([seq], seq.progress.error)
        if finished := [seq for seq in list(requests) if seq.finished]:
            self._end(finished)
        for run in tuple(self.inbox.runs):
            run.tell(trace)

    # Ends.

    def _end(self, sequences: list[Sequence], error: BaseException | None = None) -> None:
        """Ends requests whose sequences have ended. The engine is at rest before the last of them is told."""
        requests = self.inbox.requests
        if not requests.keys() - set(sequences) and not self.inbox.runs:
            self._abort(list(self.engine.scheduler.running))  # of a static batch: finished, and kept as padding
        self._note_ended(sequences, error)
        for seq in sequences:
            requests.pop(seq, None)
        self._tell_ended()

    def _note_ended(self, sequences: list[Sequence], error: BaseException | None) -> None:
        """From here on the requests of these sequences are over, with this error or their own, whatever interrupts the
        driver.
        """
        requests = self.inbox.requests
        ended = {seq: (requests[seq], error or seq.progress.error) for seq in sequences if seq in requests}
        self.inbox.ended.update(ended)

    def _tell_ended(self) -> None:
        """Tells the clients of requests that are over; an interrupt may have left sequences that were to be aborted."""
        ended = self.inbox.ended
        if left := [seq for seq in ended if not seq.finished]:
            self._abort(left)
        for seq, (client, error) in list(ended.items()):
            self.inbox.requests.pop(seq, None)
            client.end(error)
            ended.pop(seq, None)

    def _end_with(self, sequences: list[Sequence], error: BaseException) -> None:
        """Ends sequences, and the runs that they belong to, with an error."""
        for run in tuple(self.inbox.runs):
            if any(seq in sequences for seq in run.sequences):
                run.fail(error)
        self._note_ended(sequences, error)
        self._abort(sequences)
        self._end(sequences, error)

    def _fail(self, error: BaseException) -> None:
        """A step failed and was rolled back: ends the sequence that the error names, else those that joined in it, else
        all that were in it. The others are computed again.
        """
        requests, scheduler = self.inbox.requests, self.engine.scheduler
        held = {seq for seq in self._held() if seq in requests or not seq.finished}
        named = [seq for seq in held if isinstance(error, RequestError) and seq.id == error.request_id]
        causes = (named, scheduler.joined, scheduler.preempted, held)
        groups = ([seq for seq in group if seq in held] for group in causes)
        self._end_with(next(filter(None, groups), []), error)

    def _held(self) -> set[Sequence]:
        """The sequences of all callers."""
        return {*self.inbox.requests, *(seq for run in tuple(self.inbox.runs) for seq in run.sequences)}

    def _abort(self, sequences: Seq[Sequence]) -> None:
        self.engine.abort(*sequences)
        self.scoring.drop(sequences)

    # Actions, which a caller leaves in the inbox and the driver does.

    def enter(self, clients: Seq[Client], now: float) -> None:
        """Queues requests that were submitted at `now`."""
        for client in clients:
            if client.seq in self.inbox.requests:
                try:
                    self.scoring.add(client.seq, now)
                except Exception as error:
                    self._end_with([client.seq], error)

    def leave(self, client: Client) -> None:
        """Drops a request that is cancelled."""
        if client.seq in self.inbox.requests:
            self._abort([client.seq])
            self._end([client.seq])

    def begin(self, run: Run, now: float) -> None:
        """Queues the sequences of a run that began at `now`, unless its reader has left already."""
        if run.over:
            return
        self.inbox.runs.add(run)
        try:
            for seq in run.sequences:
                self.scoring.add(seq, now)
        except Exception as error:
            run.fail(error)
            self._abort(run.sequences)

    def finish(self, run: Run) -> None:
        """Drops the sequences of a run whose reader leaves."""
        run.leave()
        self._abort(run.sequences)
        self.inbox.runs.discard(run)
        self._end([])

    def stop(self) -> None:
        """Ends all runs, as if their sequences were cancelled."""
        for run in tuple(self.inbox.runs):
            self._abort(run.sequences)

    def logits(self, seq: Sequence, start: int, most: int) -> np.ndarray:
        """The logits of at most `most` positions of a sequence, (R, V); after its last ones its room is free."""
        with self.step_lock.lock:
            logits = self.engine.logits(seq, start, most)
        if start + len(logits) == len(seq.tokens):
            self.give_back(seq)
        return logits

    def give_back(self, seq: Sequence) -> None:
        """Frees the room of a sequence whose logits were computed."""
        self._abort([seq])
        self.inbox.borrowed.discard(seq)
