"""Incremental output text: characters that may be the start of a stop string are held back.

A stop string may begin in one token and end in another. Text that may still become a stop string is shown only when a
later token decides that it does not; a stop string itself is never shown. A stop string that is complete before the
text may end (min_tokens) is text. A special token is no text, but a stop string
may hold its name: the names are looked at, as in transformers' `stop_strings`, and left out of what is shown.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyinfer.text.reasoning import Detokenizer, MarkedStream, Thinking, ThinkingSplit
from tinyinfer.text.tokenizer import Tokenizer


class TextOutput:
    """The text of one sequence. `text` and `reasoning` only grow and end before the first stop string.

    thinking: the markers by which thinking is split from text; None: all is text. Stop strings match in both. least:
    no stop string that is complete with one of so many first tokens ends the text.
    """

    def __init__(
        self, detokenizer: Detokenizer, stops: tuple[str, ...] = (), thinking: Thinking | None = None, least: int = 0
    ) -> None:
        self.text = self.reasoning = ""
        self._split = ThinkingSplit(thinking)
        self.stops, self._early = stops, least  # tokens to come that cannot end the text
        self._detokenizer = detokenizer
        self._held_back = ""  # may be the start of a stop string; holds the names of special tokens, too
        self._hidden: list[bool] = []  # of each letter held back: whether it belongs to a name
        self._passed = 0  # letters held back with which no stop string may end, because they came too early
        self._stopped = False

    def push(self, token: int) -> bool:
        """Adds the text of one token; True when a stop string is complete."""
        complete = self._add(self._detokenizer.push(token))
        complete = complete or (bool(self.stops) and self._add(self._detokenizer.name(token), hidden=True))
        self._early -= 1
        return complete

    def finish(self) -> None:
        """No token follows: shows the text that was held back, up to a stop string."""
        if not self._stopped:
            self._add(self._detokenizer.finish())
        self._show(len(self._held_back))
        self._give(*self._split.finish())

    def _add(self, letters: str, hidden: bool = False) -> bool:
        if not self.stops:
            self._give(*self._split.push("" if hidden else letters))
            return False
        self._held_back += letters
        self._hidden += [hidden] * len(letters)
        if self._early > 0:
            self._passed = len(self._held_back)
        found, starts = [], [len(self._held_back)]  # places where a stop string, or what may become one, begins
        for places in self._readings():
            text = "".join(self._held_back[i] for i in places)
            passed = sum(i < self._passed for i in places)
            begins = (text.find(stop, max(0, passed - len(stop) + 1)) for stop in self.stops)
            found += [places[begin] for begin in begins if begin >= 0]
            longest = self._longest_start(text)
            starts += [places[-longest]] if longest else []
        if found:
            self._held_back = self._held_back[: min(found)]
            self._stopped = True
            return True
        self._show(min(starts))
        return False

    def _readings(self) -> list[Sequence[int]]:
        """Where a stop string is looked for: in all letters held back, and in those alone that are text."""
        every = range(len(self._held_back))
        return [every, [i for i in every if not self._hidden[i]]] if any(self._hidden) else [every]

    def _show(self, count: int) -> None:
        """Gives so many letters of those held back to the reader; names of special tokens are left out."""
        kept = "".join(c for c, hidden in zip(self._held_back[:count], self._hidden, strict=False) if not hidden)
        self._give(*self._split.push(kept))
        self._held_back, self._hidden = self._held_back[count:], self._hidden[count:]
        self._passed = max(0, self._passed - count)

    def _give(self, reasoning: str, text: str) -> None:
        self.reasoning += reasoning
        self.text += text

    def _longest_start(self, text: str) -> int:
        """Length of the longest end of a text that is the start of a stop string."""
        longest = max(map(len, self.stops)) - 1
        for n in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-n:]) for stop in self.stops):
                return n
        return 0


class SpelledStream:
    """A stream of text in which some special tokens, id -> name, are text, too."""

    def __init__(self, stream: Detokenizer, names: dict[int, str]) -> None:
        self._stream, self._names = stream, names

    def push(self, token: int) -> str:
        """The text that is complete with this token."""
        name = self._names.get(token)
        return self._stream.push(token) if name is None else self._stream.finish() + name

    def name(self, token: int) -> str:
        """The name of a special token that `push` gave no text for; "" for other tokens."""
        return "" if token in self._names else self._stream.name(token)

    def finish(self) -> str:
        """The text that is left when no token follows."""
        return self._stream.finish()


def text_output(
    tokenizer: Tokenizer, prompt: Sequence[int], stops: tuple[str, ...] = (), thinking: Thinking | None = None,
    least: int = 0, marks: tuple[str, ...] = (),
) -> TextOutput:  # fmt: skip
    """The text of one answer to a prompt; the markers of its thinking are found also where they are special tokens.

    marks: names of special tokens that are text.
    """
    stream: Detokenizer = tokenizer.stream(prompt)
    names = {id: name for mark in marks for id, name in tokenizer.specials_in(mark).items() if name == mark}
    stream = SpelledStream(stream, names) if names else stream
    if thinking is None:
        return TextOutput(stream, stops, least=least)
    starts, ends = (tokenizer.specials_in(mark) for mark in (thinking.start, thinking.end))
    return TextOutput(MarkedStream(stream, thinking.opened, starts, ends), stops, thinking, least)
