"""What came of one answer so far, and the usage of all answers of a call.

A stream and a whole answer are made of the same deltas, so they cannot differ: one sends each delta on, the other waits
for the last one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tinyinfer.request import Delta, Request, TokenLogprob


class Collected:
    """One answer: its text, thinking, tokens and end so far."""

    def __init__(self, request: Request) -> None:
        self.source = request
        self.text = self.reasoning = ""
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: str | None = None
        self._thinking: Any = None  # the answer's text up to `_read` tokens, to find where its thinking ends
        self._read = self._last = 0

    def add(self, delta: Delta) -> None:
        """Takes what is new."""
        self.text += delta.text
        self.reasoning += delta.reasoning
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs or []
        self.finish_reason = delta.finish_reason

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
