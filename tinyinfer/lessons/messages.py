"""What a lesson says to its student: a card in a notebook, plain lines in a terminal.

The colour of a card tells right from wrong, and so does the card's first word, for who does not see the colour.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from html import escape
from typing import Any

COLORS = {"right": "52, 168, 83", "wrong": "219, 50, 54", "open": "66, 133, 244", "note": "128, 128, 128"}
CARD = "border-left: 4px solid rgb({0}); background: rgba({0}, .12); padding: 6px 12px; margin: 4px 0; max-width: 52em"
LONGEST = 1500  # characters of a sentence; a student's value in it can have millions
CODE = "white-space: pre-wrap; overflow-wrap: anywhere; margin: 4px 0"


@dataclass(frozen=True, repr=False)
class Message:
    """One answer of a lesson. kind: right, wrong, open (not answered yet) or note.

    hint: what to think of next. folded: a title and a text that the student unfolds, such as the solution.
    """

    kind: str
    text: str
    hint: str = ""
    folded: tuple[str, str] | None = None

    def __repr__(self) -> str:
        lines = [short(self.text)]
        if self.hint:
            lines.append(f"Hint: {short(self.hint)}")
        if self.folded:
            lines.append(f"[{self.folded[0]}]\n{legible(self.folded[1])}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        parts = [f"<div>{marked(short(self.text))}</div>"]
        if self.hint:
            parts.append(f"<div><i>Hint:</i> {marked(short(self.hint))}</div>")
        if self.folded:
            title, body = (escape(legible(part)) for part in self.folded)
            parts.append(f'<details><summary>{title}</summary><pre style="{CODE}">{body}</pre></details>')
        return f'<div role="status" style="{CARD.format(COLORS[self.kind])}">{"".join(parts)}</div>'


@dataclass(frozen=True, repr=False)
class Prose:
    """Text in Markdown, whose numbers a cell computed."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return self.text


def legible(text: str) -> str:
    """The text with escapes in place of what a terminal obeys or no encoding has: a student's value can hold both."""
    return "".join(c if c.isprintable() or c in "\n\t\xa0" else ascii(c)[1:-1] for c in text)


def short(text: str) -> str:
    """A sentence that a student's huge value does not make longer than a screen."""
    return legible(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def marked(text: str) -> str:
    """A sentence as HTML: what stands between backticks is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def shell() -> Any:
    """The notebook's kernel; None in a plain Python."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


def show(thing: object) -> None:
    """Shows a message, a view or any other object below the cell; prints it where there is no notebook."""
    if shell() is None:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        print(str(thing).encode(encoding, "backslashreplace").decode(encoding))  # a console may lack a letter
        return
    from IPython.display import display

    display(thing)
