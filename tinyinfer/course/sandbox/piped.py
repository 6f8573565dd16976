"""PipedStudent: a student's code in a limited child process; each call crosses a pipe, with a deadline.

    with Sandbox(assignment, source) as sandbox, PipedStudent(assignment, source, sandbox=sandbox) as student:
        student.keep_top_k(s, 5)

The child may do what it likes: print without an end, answer nothing, half a frame or a wrong one, exit, crash, stop
itself. Each of these ends the child, and is a StudentTimeout or a StudentDied that says what was seen. What the child
prints is kept up to a bound, as it may be asked for in a report; the rest is only counted.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

from tinyinfer.course.assignment import Assignment
from tinyinfer.course.errors import CourseError
from tinyinfer.course.sandbox import processes
from tinyinfer.course.sandbox.frames import WireError, read_frame
from tinyinfer.course.sandbox.sandbox import Limits, Sandbox
from tinyinfer.course.sandbox.wire import pack, unpack
from tinyinfer.course.student import (
    Request,
    Student,
    StudentDied,
    StudentError,
    StudentTimeout,
    answered,
    not_loaded,
    packed,
)
from tinyinfer.errors import one_line

LOOK = 0.2  # seconds between two looks at the child's memory, where the system does not limit it
OWN_BYTES = 128 << 20  # more than Python and NumPy take; so a limit of the system, where there is one, comes first
BUSY = 6  # times as long as its seconds a child is waited for, where it gets no core
GRACE = 1.0  # seconds until a child whose pipe has ended must have ended, too


class Child:
    """A child process and the frames that cross to and from it. One thread exchanges frames, another reads prints."""

    def __init__(self, sandbox: Sandbox, limits: Limits) -> None:
        self.limits = limits
        self._process, self._owned = sandbox.start(limits)
        self._printed, self._dropped, self._ended = bytearray(), 0, False
        self._to_send: SimpleQueue[bytes | None] = SimpleQueue()
        self._received: SimpleQueue[bytes | Exception] = SimpleQueue()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._exchange, self._read_prints)]
        for thread in self._threads:
            thread.start()

    @property
    def printed(self) -> tuple[bytes, int]:
        """The beginning of what the child has printed, and how many bytes came behind it."""
        return bytes(self._printed), self._dropped

    def ask(self, frame: bytes, seconds: float) -> bytes:
        """Sends a frame, or none if it is empty, and returns the next one from the child. Raises StudentError.

        seconds: until when it must be there. After an error the child has ended.
        """
        self._to_send.put(frame)
        received = self._wait(seconds)
        if isinstance(received, bytes) and received:
            return received
        died = self._how_it_died()
        self.end()
        raise bad_reply(received) if isinstance(received, WireError) else died

    def end(self) -> None:
        """Ends the child and all that it has started. Raises CourseError when some of it stays."""
        if self._ended:  # its number may be another process's by now
            return
        self._ended = True
        self._to_send.put(None)
        try:
            processes.end(self._process, self._owned)
        finally:
            for thread in self._threads:
                thread.join(processes.PATIENCE)
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                _close(pipe)

    def _wait(self, seconds: float) -> bytes | Exception:
        """What the child answers. Raises StudentTimeout, or StudentError for too much memory.

        While the child waits for a core of a busy machine, only its CPU time counts: that is no fault of its code.
        """
        waited, used, last = 0.0, processes.cpu_seconds(self._process.pid), time.monotonic() + BUSY * seconds
        while waited < seconds and (begun := time.monotonic()) < last:
            try:
                return self._received.get(timeout=min(seconds - waited, LOOK))
            except Empty:
                if processes.resident_bytes(self._process.pid) > self.limits.memory_bytes + OWN_BYTES:
                    self.end()
                    most = self.limits.memory_bytes >> 20
                    raise StudentDied("MemoryError", f"the code used more than {most} MB of memory") from None
            passed, before, used = time.monotonic() - begun, used, processes.cpu_seconds(self._process.pid)
            waited += min(passed, used - before) if processes.runnable(self._process.pid) else passed
        self.end()
        raise StudentTimeout("StudentTimeout", f"the code did not answer within {seconds:.3g} seconds", LOOPS)

    def _how_it_died(self) -> StudentError:
        """Why no reply came from a child whose pipe has ended."""
        if not processes.ended(self._process, GRACE):
            return StudentDied("BadReply", "the student's process closed its pipe and ran on")
        used = processes.cpu_seconds(self._process.pid)
        status = self._process.wait()
        if used >= self.limits.cpu_seconds or -status == getattr(signal, "SIGXCPU", None):
            most = self.limits.cpu_seconds
            return StudentTimeout("StudentTimeout", f"the code used more than {most} seconds of CPU time", LOOPS)
        if status < 0:
            name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
            return StudentDied("StudentDied", f"the student's process was ended by {name}", CRASHES.get(name, ""))
        return StudentDied("StudentDied", f"the student's process ended by itself, with exit status {status}",
                           "a file of functions must not end the process that calls it")  # fmt: skip

    # In threads of their own.

    def _exchange(self) -> None:
        """Writes each frame and reads the reply to it, so that the grader can wait with a deadline."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        while (frame := self._to_send.get()) is not None:
            try:
                self._process.stdin.write(frame)
                self._process.stdin.flush()
                self._received.put(read_frame(self._process.stdout))
            except (OSError, ValueError, WireError) as error:
                self._received.put(error)

    def _read_prints(self) -> None:
        """Reads what is printed until the pipe ends: a full pipe would stop the child."""
        assert self._process.stderr is not None
        while data := os.read(self._process.stderr.fileno(), 1 << 16):
            kept = data[: self.limits.printed_bytes - len(self._printed)]
            self._printed += kept
            self._dropped += len(data) - len(kept)


LOOPS = "is there a loop that never ends?"
CRASHES = {
    "SIGSEGV": "does a function call itself without an end, or does the code reach memory by itself?",
    "SIGKILL": "the code ended itself, or the machine's memory was full",
}


def bad_reply(error: WireError) -> StudentDied:
    """The error for a frame that the child's own modules do not make."""
    return StudentDied("BadReply", f"the student's process sent what is no reply: {one_line(str(error))}")


def _close(pipe: Any) -> None:
    with suppress(OSError):  # bytes for a child that has ended are still to be written
        pipe.close()


class PipedStudent(Student):
    """The student's code in a child of its own. sandbox: one that other children share; else a new one is made.

    Raises CourseError when no child can be started under limits, which is the grader's fault.
    """

    def __init__(
        self, a: Assignment, source: bytes, limits: Limits | None = None, sandbox: Sandbox | None = None
    ) -> None:
        super().__init__(a)
        self._limits, self._shared, self._own = limits or Limits(), sandbox, None if sandbox else Sandbox(a, source)
        self._in_force: tuple[str, ...] | None = None
        self._missing: tuple[str, ...] = ()
        self._loaded = False
        self._fault: StudentError | None = None  # why no request can be answered any more

    def __enter__(self) -> Self:
        sandbox = self._shared or (self._own and self._own.__enter__())
        assert sandbox is not None
        self._sandbox, self._begun = sandbox, time.monotonic()
        try:
            self._child = Child(sandbox, self._limits)
        except BaseException:
            self._remove_own()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._child.end()
        finally:
            self._remove_own()

    @property
    def limits(self) -> tuple[str, ...]:
        """The limits that are in force, each in a sentence."""
        self._greet()
        times = f"{self._limits.request_seconds:g} s for each call, {self._limits.test_seconds:g} s for each test"
        watched = [f"memory in use is watched: {self._limits.memory_bytes >> 20} MB"] * (os.name == "posix")
        return (*(self._in_force or ()), times, *watched)

    @property
    def missing_limits(self) -> tuple[str, ...]:
        """The limits that this system lacks, each in a sentence."""
        self._greet()
        return self._missing

    @property
    def printed(self) -> tuple[bytes, int]:
        """The beginning of what the student's code has printed, and how many bytes came behind it."""
        return self._child.printed

    def load(self) -> None:
        """Waits until the child has executed the student's file. Raises StudentError, also when called again."""
        __tracebackhide__ = True
        self._greet()
        if not self._loaded:
            self._loaded = True
            self._read_file()
        if self._fault is not None:
            raise self._fault

    def _ask(self, request: Request) -> dict[str, Any]:
        __tracebackhide__ = True
        self.load()
        return self._answer(packed(request))

    def _remove_own(self) -> None:
        """Removes the sandbox that only this child has used."""
        if self._own is not None:
            self._own.__exit__(None, None, None)

    def _greet(self) -> None:
        """Waits until the child has said which limits are in force. Raises CourseError."""
        if self._in_force is not None:
            return
        try:
            told = unpack(self._child.ask(b"", self._limits.start_seconds))
        except (StudentError, WireError) as error:
            said = one_line(self.printed[0].decode("utf-8", "replace")[-1000:])
            raise CourseError(f"the child for the student's code did not start: {error}; {said}") from None
        if self._sandbox.as_root and told["uid"] == 0:
            self._child.end()
            why = "; ".join(told["missing"])
            raise CourseError(f"root cannot grade without a second user ({why}); grade as a user who is not root")
        self._in_force, self._missing = tuple(told["in_force"]), tuple(told["missing"])
        self._begun = time.monotonic()  # how long a machine takes to start Python is no fault of the student's

    def _read_file(self) -> None:
        """Lets the child execute the student's file, and keeps why no request can be answered, if there is a reason."""
        try:
            self._answer(b"")
        except (StudentTimeout, StudentDied) as error:
            self._fault = error
        except StudentError as error:
            self._fault = not_loaded(error, self.assignment.file)

    def _answer(self, frame: bytes) -> dict[str, Any]:
        """The child's reply to a frame. Raises StudentError; after one that has ended the child, always the same."""
        __tracebackhide__ = True
        if self._fault is not None:
            raise self._fault
        try:
            reply = self._exchange(frame)
            while self.loans.is_question(reply):
                reply = self._exchange(pack(self.loans.answer(reply)))
        except StudentError as error:
            self._fault = error
            raise
        except WireError as error:
            self._child.end()
            self._fault = bad_reply(error)
            raise self._fault from None
        return answered(reply, self.assignment.file)

    def _exchange(self, frame: bytes) -> Any:
        """What the child sends in return for a frame. Raises StudentError, WireError."""
        left = self._begun + self._limits.test_seconds - time.monotonic()
        return unpack(self._child.ask(frame, max(0.0, min(self._limits.request_seconds, left))))
