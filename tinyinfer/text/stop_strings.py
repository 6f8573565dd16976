"""Text as it comes: what may be shown of a sequence so far, with stop strings watched for and never shown.

A stop string may begin in one token and end in another, so text that could still become one is held back.
"""

from __future__ import annotations

from typing import Protocol


class Pieces(Protocol):
    """What turns tokens into text piece by piece (tokenizer.TextStream)."""

    def push(self, token: int) -> str:
        """The text that this token settles."""

    def finish(self) -> str:
        """What is left at the end."""


class TextOutput:
    """The text of one sequence. `text` only grows and ends before the first stop string."""

    def __init__(self, pieces: Pieces, stops: tuple[str, ...] = ()) -> None:
        self.text = ""
        self.stops = stops
        self._pieces = pieces
        self._held = ""  # may be the beginning of a stop string
        self._stopped = False

    def push(self, token: int) -> bool:
        """Takes one more token; True when a stop string is complete."""
        return self._take(self._pieces.push(token))

    def finish(self) -> None:
        """No token will follow: shows what was held back, up to a stop string."""
        if not self._stopped:
            self._take(self._pieces.finish())
        self.text += self._held
        self._held = ""

    def _take(self, piece: str) -> bool:
        self._held += piece
        found = [self._held.find(stop) for stop in self.stops if stop in self._held]
        if found:
            self._held = self._held[: min(found)]
            self._stopped = True
            return True
        settled = len(self._held) - self._longest_beginning()
        self.text += self._held[:settled]
        self._held = self._held[settled:]
        return False

    def _longest_beginning(self) -> int:
        """Length of the longest end of the held text with which some stop string begins."""
        longest = max(map(len, self.stops), default=1) - 1
        for n in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-n:]) for stop in self.stops):
                return n
        return 0
