"""Incremental output text: characters that may be the start of a stop string are held back.

A stop string may begin in one token and end in another. Text that may still become a stop string is shown only when a
later token decides that it does not; a stop string itself is never shown.
"""

from __future__ import annotations

from typing import Protocol


class Detokenizer(Protocol):
    """Tokens in, their text out, one token at a time (tokenizer.TextStream)."""

    def push(self, token: int) -> str:
        """The text that is complete with this token."""

    def finish(self) -> str:
        """The text that is left when no token follows."""


class TextOutput:
    """The text of one sequence. `text` only grows and ends before the first stop string."""

    def __init__(self, detokenizer: Detokenizer, stops: tuple[str, ...] = ()) -> None:
        self.text = ""
        self.reasoning = ""
        self.stops = stops
        self._detokenizer = detokenizer
        self._held_back = ""  # may be the start of a stop string
        self._stopped = False

    def push(self, token: int) -> bool:
        """Adds the text of one token; True when a stop string is complete."""
        return self._add(self._detokenizer.push(token))

    def finish(self) -> None:
        """No token follows: shows the text that was held back, up to a stop string."""
        if not self._stopped:
            self._add(self._detokenizer.finish())
        self.text += self._held_back
        self._held_back = ""

    def _add(self, text: str) -> bool:
        self._held_back += text
        ends = [self._held_back.find(stop) for stop in self.stops if stop in self._held_back]
        if ends:
            self._held_back = self._held_back[: min(ends)]
            self._stopped = True
            return True
        shown = len(self._held_back) - self._longest_start()
        self.text += self._held_back[:shown]
        self._held_back = self._held_back[shown:]
        return False

    def _longest_start(self) -> int:
        """Length of the longest end of the held-back text that is the start of a stop string."""
        longest = max(map(len, self.stops), default=1) - 1
        for n in range(min(longest, len(self._held_back)), 0, -1):
            if any(stop.startswith(self._held_back[-n:]) for stop in self.stops):
                return n
        return 0
