"""Thinking is split from the answer, by the markers that the chat template itself writes.

A reasoning model thinks between two markers (`<think>` and `</think>`, `[THINK]` and `[/THINK]`) and then answers. The
template shows which: it writes the thinking of an earlier answer between them, or its source names them. Some templates
open the block in the prompt, so that the model begins inside; some write an empty block, so that the model does not
think. Only a block at the beginning counts: what comes after it is the answer, markers and all.

Wins: text is the answer alone, as a conversation needs it back. Loses: a text that may begin with a marker waits for a
token or two. Stop strings match in thinking, too, as in vLLM: they see what the model writes.

Markers found by rendering: llama.cpp's chat parser; thinking and text apart: vLLM's reasoning parsers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from tinyinfer.errors import ModelError

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")  # a message's thinking, as templates name it
THINKING_SWITCHES = ("enable_thinking", "thinking")  # variables of templates, by which a caller switches it off
Render = Callable[..., str]  # ChatTemplate.render
QUESTION, THOUGHT, ANSWER = "a question", "some thinking", "an answer"  # what a template is shown to find its markers
MARK = r"<[^<>\s]+>|\[[^\[\]\s]+\]"  # <think>, [THINK]
NAME = r"[\w:-]{0,40}(?:think|thought|reasoning)[\w:-]{0,40}"  # of a marker in a template's source
NAMED = [rf"(<)/({NAME})(>)", rf"(\[)/({NAME})(\])", rf"(<)({NAME})(>)"]  # the end marker first: it has fewer namesakes


class Detokenizer(Protocol):
    """Tokens in, their text out, one token at a time (tokenizer.TextStream)."""

    def push(self, token: int) -> str:
        """The text that is complete with this token."""

    def name(self, token: int) -> str:
        """The name of a special token that `push` gave no text for; "" for other tokens."""

    def finish(self) -> str:
        """The text that is left when no token follows."""


@dataclass(frozen=True)
class Thinking:
    """The markers around a model's thinking. opened: whether the prompt has opened the block already.

    off: whether the caller has switched thinking off: an answer in a form (guided/thoughts.py) then begins at once.
    """

    start: str
    end: str
    opened: bool = False
    off: bool = False

    def after(self, prompt: str) -> Thinking | None:
        """How the answer to a prompt is split; None when the prompt ends with a block that is closed."""
        prompt = prompt.rstrip()
        return None if prompt.endswith(self.end) else replace(self, opened=prompt.endswith(self.start))


class ChatPrompt(list[int]):
    """The token ids of a rendered conversation, and how the answer's thinking is to be split (None: not at all).

    marks: names of special tokens that are text in the answer, such as [TOOL_CALLS] for who reads calls.
    """

    def __init__(self, tokens: Iterable[int], thinking: Thinking | None, marks: tuple[str, ...] = ()) -> None:
        super().__init__(tokens)
        self.thinking, self.marks = thinking, marks

    @property
    def thought(self) -> Thinking | None:
        """The thinking that may come before an answer in a form; None for none."""
        return None if self.thinking is None or (self.thinking.off and not self.thinking.opened) else self.thinking


# The markers of a template.


def find_markers(render: Render, source: str) -> Thinking | None:
    """The markers that a template writes around thinking, or else those that its source names; None without any."""
    return _rendered_markers(render) or _named_markers(source)


def _rendered_markers(render: Render) -> Thinking | None:
    """What stands around the thinking of an earlier answer, however the template takes it from a message."""
    parts = [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": ANSWER}]
    for message in ({"content": ANSWER, **dict.fromkeys(REASONING_FIELDS, THOUGHT)}, {"content": parts}):
        conversation = [{"role": "user", "content": QUESTION}, {"role": "assistant", **message}]
        try:
            text = render(conversation, add_generation_prompt=False, enable_thinking=True, thinking=True)
        except ModelError:  # it does not take such a message
            continue
        before = text[: max(0, text.rfind(ANSWER))]
        found = re.search(rf"((?:{MARK})[^<>\[\]\s]*)\s*{THOUGHT}\s*({MARK})", before)
        if found and found[2] not in text[text.find(QUESTION) : found.start()]:  # or else it ends every message
            return Thinking(found[1], found[2])
    return None


def _named_markers(source: str) -> Thinking | None:
    """A pair of markers whose name speaks of thinking: a template may only cut them out of earlier answers."""
    for pattern in NAMED:
        if found := re.search(pattern, source, re.IGNORECASE):
            left, name, right = found.groups()
            return Thinking(left + name + right, f"{left}/{name}{right}")
    return None


# The split.


class MarkedStream:
    """A stream of text in which the markers are text, too, when they are special tokens (which are no text elsewhere).

    starts, ends: the special tokens of the markers, id -> text. Each is spelled only where the block begins or ends.
    """

    def __init__(self, stream: Detokenizer, opened: bool, starts: dict[int, str], ends: dict[int, str]) -> None:
        self._stream, self._ends = stream, ends
        self._inside = opened or not starts
        self._expected = starts | ends if self._inside else starts
        self._spelled = False  # whether the newest token is a marker, whose name is text

    def push(self, token: int) -> str:
        """The text that is complete with this token."""
        self._spelled = token in self._expected
        if self._spelled:
            mark = self._expected[token]
            self._inside, self._expected = True, {} if token in self._ends else self._ends
            return self._stream.finish() + mark
        text = self._stream.push(token)
        if text.strip():  # no start marker can follow
            self._expected = {id: mark for id, mark in self._expected.items() if id in self._ends}
        return text

    def name(self, token: int) -> str:
        """The name of a special token that `push` gave no text for; "" for other tokens."""
        return "" if self._spelled else self._stream.name(token)

    def finish(self) -> str:
        """The text that is left when no token follows."""
        return self._stream.finish()


class ThinkingSplit:
    """Splits text that comes in pieces into thinking and answer, without markers and the whitespace around them.

    The result is the same however the text is cut into pieces. Without a block at its beginning, all is the answer,
    letter by letter; a block that is never closed is thinking to the end.
    """

    def __init__(self, thinking: Thinking | None) -> None:
        self._thinking = thinking or Thinking("", "")
        self._part = "answer" if thinking is None else "before"  # then "thinking", then "gap", then "answer"
        self._held = ""  # may be (the start of) a marker, or whitespace beside one
        self._begun = False  # whether some thinking was given

    def push(self, text: str) -> tuple[str, str]:
        """The thinking and the answer that are certain with this text, which may bring both."""
        self._held += text
        if self._part == "before":
            self._open()
        thought = self._think() if self._part == "thinking" else ""
        if self._part == "gap":
            self._held = self._held.lstrip()
            self._part = "answer" if self._held else "gap"
        answer = self._take(len(self._held)) if self._part == "answer" else ""
        return thought, answer

    def finish(self) -> tuple[str, str]:
        """The thinking and the answer that were held back, when no text follows."""
        held = self._take(len(self._held))
        if self._part == "before":
            return (held.strip(), "") if self._thinking.opened else ("", held)
        return held.rstrip(), ""

    def _open(self) -> None:
        """Begins the thinking, or the answer, as soon as the text is longer than a start marker's beginning."""
        text, start = self._held.lstrip(), self._thinking.start
        if text.startswith(start):  # also where it repeats the prompt's
            self._held, self._part = text[len(start) :], "thinking"
        elif not start.startswith(text):
            self._part = "thinking" if self._thinking.opened else "answer"

    def _think(self) -> str:
        """The thinking that is certain: all before an end marker, or before what may become one."""
        self._held = self._held if self._begun else self._held.lstrip()
        end = self._thinking.end
        stop, closed = self._held.find(end), end in self._held
        if not closed:
            starts = (n for n in range(len(end) - 1, 0, -1) if self._held.endswith(end[:n]))
            stop = len(self._held) - next(starts, 0)
        thought = self._take(len(self._held[:stop].rstrip()))
        self._begun = self._begun or bool(thought)
        if closed:
            self._held, self._part = self._held.partition(end)[2], "gap"
        return thought

    def _take(self, n: int) -> str:
        """Removes the first n characters of what is held back."""
        taken, self._held = self._held[:n], self._held[n:]
        return taken
