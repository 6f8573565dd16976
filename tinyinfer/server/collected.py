"""What came of one answer so far, and the usage of all answers of a call.

A stream and a whole answer are made of the same deltas, so they cannot differ: one sends each delta on, the other waits
for the last one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tinyinfer.request import Delta, Request, TokenLogprob
from tinyinfer.server.tool_calls.calls import Piece
from tinyinfer.server.tool_calls.splitter import CallSplitter, Format

CUT = Delta("", [], None, "", "error")  # the end of an answer that an error cuts: clients wait for a finish_reason


class ToolCall:
    """A call that the model asks for. arguments: JSON, as far as it has come."""

    def __init__(self, id: str, name: str) -> None:
        self.id, self.name, self.arguments = id, name, ""

    def argue(self, text: str) -> None:
        """Takes more of the arguments."""
        self.arguments += text


class Collected:
    """One answer: its text, calls, thinking, tokens and end so far.

    format: how calls are written in its text; None: all of it is text. one: whether calls behind the first are left
    out. new: what the last delta brought, text and calls apart.
    """

    def __init__(self, request: Request, format: Format | None = None, one: bool = False) -> None:
        self.source = request
        self.text = self.reasoning = ""
        self.calls: list[ToolCall] = []
        self.new: list[Piece] = []
        self._format, self._splitter, self._one = format, CallSplitter(format) if format else None, one
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: str | None = None
        self._thinking: Any = None  # the answer's text up to `_read` tokens, to find where its thinking ends
        self._read = self._last = 0

    def add(self, delta: Delta) -> None:
        """Takes what is new."""
        self.new = self._split(delta)
        for text, call, name in self.new:
            if call is None:
                self.text += text
            elif name is not None:
                assert self._format is not None
                self.calls.append(ToolCall(self._format.new_id(), name))
            else:
                self.calls[-1].argue(text)
        self.reasoning += delta.reasoning
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs or []
        self.finish_reason = delta.finish_reason

    def _split(self, delta: Delta) -> list[Piece]:
        if self._splitter is None:
            return [Piece(delta.text)] if delta.text else []
        pieces = self._splitter.push(delta.text)
        if delta.finish_reason is not None:
            pieces += self._splitter.finish()
        return [piece for piece in pieces if not (self._one and piece.call)]

    @property
    def ended(self) -> str | None:
        """The finish_reason for a caller: a call that was cut is none to run, so that its end is the engine's own."""
        called = self._splitter is not None and self._splitter.complete and self.finish_reason == "stop"
        return "tool_calls" if called else self.finish_reason

    @property
    def prompt(self) -> list[int]:
        return self.source.seq.prompt

    @property
    def is_first(self) -> bool:
        """Whether it is the first answer to its prompt, for which the prompt is counted."""
        return self.source.seq.request.branch == 0

    @property
    def reasoning_tokens(self) -> int:
        """How many tokens the thinking took: those up to its last character. Reads each token once, however often it is
        asked for.
        """
        if not self.reasoning:
            return 0
        text = self._thinking = self._thinking or self.source.seq.new_text()
        for n, token in enumerate(self.token_ids[self._read :], self._read + 1):
            before = len(text.reasoning)
            text.push(token)
            self._last = n if len(text.reasoning) > before else self._last
        self._read = len(self.token_ids)
        return self._last


def usage(answers: Iterable[Collected]) -> dict[str, Any]:
    """The tokens of all answers of a call, in OpenAI's form: each prompt once, and each answer."""
    answers = list(answers)
    firsts = [one for one in answers if one.is_first]
    prompt, new = sum(len(one.prompt) for one in firsts), sum(len(one.token_ids) for one in answers)
    cached = sum(one.source.seq.progress.cached_tokens for one in firsts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": sum(one.reasoning_tokens for one in answers)},
    }
