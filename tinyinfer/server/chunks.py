"""Choices and chunks: the form of an answer that completions and chat completions share.

A whole answer is a list of choices and the usage. A stream is a chunk for each piece of a choice, then the usage where
it is asked for, then `[DONE]`.
"""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from typing import Any

from tinyinfer.request import Delta
from tinyinfer.server.collected import CUT, Collected, usage
from tinyinfer.server.errors import APIError
from tinyinfer.server.events import DONE, event
from tinyinfer.server.service import Service


class Chunks(ABC):
    """An answer made of choices. kind, chunk_kind, prefix: how a whole one and a chunk are named, and ids begin.

    usage_last, usage_always: whether a stream ends with the usage, and whether each chunk has it.
    """

    kind: str
    chunk_kind: str
    prefix: str
    stream: bool
    usage_last: bool
    usage_always: bool

    def __init__(self, service: Service) -> None:
        self._head = {"id": self.prefix + secrets.token_hex(12), "object": self.kind, "created": int(time.time())}
        self._head |= {"model": service.name, "system_fingerprint": None}
        self._opened: set[int] = set()

    @abstractmethod
    def whole(self, index: int, answer: Collected) -> dict[str, Any]:
        """An answer that has ended."""

    @abstractmethod
    def opening(self, index: int, answer: Collected) -> list[dict[str, Any]]:
        """What stands before the first piece of an answer."""

    @abstractmethod
    def pieces(self, index: int, answer: Collected, delta: Delta) -> list[dict[str, Any]]:
        """The parts of a stream that a delta becomes."""

    def body(self, answers: list[Collected]) -> dict[str, Any]:
        """All answers, which have ended."""
        choices = [self.whole(index, answer) for index, answer in enumerate(answers)]
        return {**self._head, "choices": choices, "usage": usage(answers)}

    def begin(self) -> bytes:
        """What a stream begins with: nothing."""
        return b""

    def events(self, answers: list[Collected], index: int, delta: Delta) -> bytes:
        """What a stream says of a delta."""
        choices = [] if index in self._opened else self.opening(index, answers[index])
        self._opened.add(index)
        choices += self.pieces(index, answers[index], delta)
        return b"".join(self._chunk([choice], usage(answers) if self.usage_always else None) for choice in choices)

    def end(self, answers: list[Collected]) -> bytes:
        """What a stream ends with."""
        return (self._chunk([], usage(answers)) if self.usage_last else b"") + DONE

    def failed(self, answers: list[Collected], error: APIError) -> bytes:
        """What a stream ends with when an error cuts it."""
        cut = [index for index, answer in enumerate(answers) if answer.finish_reason == CUT.finish_reason]
        return b"".join(self.events(answers, index, CUT) for index in cut) + event(error.as_dict()) + DONE

    def _chunk(self, choices: list[dict[str, Any]], counted: dict[str, Any] | None) -> bytes:
        """One event. usage is null in all but the last, where it is asked for at the end."""
        told = {"usage": counted} if self.usage_last else {}
        return event({**self._head, "object": self.chunk_kind, "choices": choices, **told})
