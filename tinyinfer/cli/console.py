"""stdout and stderr: answers on stdout as they come; progress, statistics and errors on stderr.

So stdout can be piped. Both may be terminals, pipes whose reader has left, full disks or closed; only this file knows.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

from tinyinfer.cli.place import place, said_elsewhere
from tinyinfer.errors import ModelWarning, RequestError, one_line
from tinyinfer.text.plain_text import decoded

if TYPE_CHECKING:
    from tinyinfer.llm import LLM
    from tinyinfer.sequence import Sequence

BAR = 30  # characters of a full progress bar
ERASE = "\x1b[K"  # what tells a terminal to clear the rest of the line


def prepare() -> None:
    """Piped text is UTF-8, whatever the locale says; a character that stdout's encoding lacks is shown as "?".

    A CR alone ends no piped line: it is a part of the text, as in a file (text/plain_text.py).
    """
    if isinstance(sys.stdin, io.TextIOWrapper) and not is_terminal(sys.stdin):
        with suppress(io.UnsupportedOperation):  # some of it was read, and so prepared, before
            sys.stdin.reconfigure(encoding="utf-8", errors="strict", newline="\n")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def show(text: str) -> None:
    """Writes to stdout and flushes."""
    print(text, end="", flush=True)


def show_json(record: dict[str, Any]) -> None:
    """Writes one line of JSON to stdout. A number that is not finite is null: JSON has no word for it."""
    try:
        line = json.dumps(record, allow_nan=False)
    except ValueError:
        line = json.dumps(finite(record))
    show(line + "\n")


def finite(value: Any) -> Any:
    """What JSON holds, with None for each number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def say(text: str, end: str = "\n") -> None:
    """Writes to stderr; nothing happens when it is closed, or its disk is full. Raises BrokenPipeError."""
    if sys.stderr is not None:
        try:
            print(text, end=end, file=sys.stderr, flush=True)
        except BrokenPipeError:
            raise
        except OSError:
            discard_output()


def is_terminal(stream: object) -> bool:
    """Whether sys.stdin, sys.stdout or sys.stderr is a terminal; a closed one is not."""
    return isinstance(stream, io.TextIOBase) and not stream.closed and stream.isatty()


def fail(message: str) -> int:
    """Writes the message to stderr as one line, and returns the exit status of a mistake, 2.

    Of several processes that were started together, all but the first say which one they are, and one says what all
    would say.
    """
    if not said_elsewhere(message):
        say("tinyinfer: error: " + place() + one_line(message))
    return 2


@contextmanager
def notes(shown: bool = True) -> Iterator[None]:
    """Writes the ModelWarnings of a block to stderr at its end, each once and as one line; other warnings go on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ModelWarning)
        yield
    for sentence in dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, ModelWarning)):
        if shown:
            say("tinyinfer: note: " + sentence)
    for other in caught:
        if not issubclass(other.category, ModelWarning):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)


def describe(error: OSError) -> str:
    """The operating system's reason, behind the name of the file."""
    return f"{error.filename or 'stdin or stdout'}: {error.strerror or error}"


def interrupted() -> None:
    """Writes a line of its own to stderr: Ctrl-C ended the program."""
    say("\ntinyinfer: interrupted" if is_terminal(sys.stderr) else "tinyinfer: interrupted")  # after the ^C


def discard_output() -> None:
    """Redirects a broken stdout or stderr to os.devnull, so that Python's own flush at exit cannot fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):  # no file behind it
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
        except (AttributeError, ValueError):
            continue  # closed


@contextmanager
def progress_bar(title: str, shown: bool = True) -> Iterator[Callable[..., None]]:
    """`loading NAME [####------] 12/30` on a terminal's stderr, wiped at the end; elsewhere nothing.

    The function that it gives takes how much is done, how much there is, and a note to show behind the bar. A line as
    wide as the terminal would wrap, and \\r goes back to the beginning of its last row only.
    """
    if not (shown and is_terminal(sys.stderr)) or os.environ.get("TERM") == "dumb":
        yield lambda done, total, note="": None
        return

    def draw(line: str) -> None:
        say(f"\r{fitting(one_line(line), columns() - 1)}{ERASE}", end="")

    def show(done: int, total: int, note: str = "") -> None:
        full = "#" * (BAR * done // max(1, total))
        draw(f"{title} [{full:-<{BAR}}] {done}/{total}" + f", {note}" * bool(note))

    draw(title)
    try:
        yield show
    finally:
        draw("")


def columns() -> int:
    """How wide the terminal of stderr is now; of one that does not know it, what COLUMNS says, else 80."""
    with suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or get_terminal_size().columns
    return get_terminal_size().columns


def fitting(text: str, columns: int) -> str:
    """The beginning of a text that fits into so many columns; East Asian characters take two."""
    widths = accumulate(1 + (east_asian_width(letter) in "WF") for letter in text)
    return text[: sum(width <= columns for width in widths)]


def read_text(path: str) -> str:
    """A text file, or stdin for "-", without its last line's end. Raises ValueError when it is not UTF-8, OSError."""
    if path == "-":
        if place():
            return path  # the first process has stdin, and the prompt is its own matter
        if getattr(sys.stdin, "buffer", None) is None:
            raise ValueError("stdin is closed; give the prompt as an argument")
        data, name = sys.stdin.buffer.read(), "stdin"
    else:
        data, name = Path(path).read_bytes(), path
    return decoded(data, name).removesuffix("\n")


def dimmed(text: str, stream: object) -> str:
    """The text as a terminal shows it in a weak colour; elsewhere, and where no colours are wanted, as it is."""
    plain = not is_terminal(stream) or os.environ.get("TERM") == "dumb" or bool(os.environ.get("NO_COLOR"))
    return text if plain else f"\x1b[2m{text}\x1b[22m"


class Answers:
    """Several sequences' texts on stdout, in their order: the first unfinished one as it comes, later ones after it.

    titles: a line above each answer; none when there is one answer. thinking: whether it is shown, too: dimmed above
    its answer on a terminal, else on stderr, so that a pipe holds the answers alone. traced: a StepTrace follows each
    step. Where both come to one terminal, the text comes line by line, so that no trace is in the middle of a line.
    """

    def __init__(
        self, sequences: list[Sequence], titles: list[str], thinking: bool = True, traced: bool = False
    ) -> None:
        self.sequences, self.titles, self.thinking = sequences, titles, thinking
        self.by_line = traced and is_terminal(sys.stdout) and is_terminal(sys.stderr)
        self.current, self.shown = 0, 0  # index of the sequence being shown, and how many of its characters are
        self.thought, self.closed = 0, False  # how many characters of its thinking are shown, and whether it has ended
        self._begin()

    def update(self) -> bool:
        """Shows the text since the last call; whether that left a line begun on stderr, by thinking."""
        while self.current < len(self.sequences):
            seq = self.sequences[self.current]
            midline = self._write(seq, seq.finished)
            if not seq.finished:
                return midline
            show("\n")
            self.current, self.shown, self.thought, self.closed = self.current + 1, 0, 0, False
            self._begin()
        return False

    def interrupt(self) -> None:
        """Ends the line of an answer that was cut short, and of its thinking on stderr."""
        if self.current < len(self.sequences):
            self._write(self.sequences[self.current], ended=True)
            show("\n")

    def _write(self, seq: Sequence, ended: bool) -> bool:
        """Shows what is new of a sequence; whether that left a line begun on stderr."""
        midline = self.thinking and self._think(seq, ended or bool(seq.text.text))
        piece = self._ready(seq.text.text, self.shown, ended)
        if piece:
            show(piece)
        self.shown += len(piece)
        return midline

    def _think(self, seq: Sequence, ended: bool) -> bool:
        """Shows the thinking since the last call, and the blank line behind all of it; whether a line is begun."""
        piece, above = self._ready(seq.text.reasoning, self.thought, ended), is_terminal(sys.stdout)
        self.thought += len(piece)
        if piece:
            text = dimmed(piece, sys.stdout if above else sys.stderr)
            show(text) if above else say(text, end="")
        if self.thought and ended and not self.closed:
            self.closed = True
            show("\n\n" if seq.text.text else "") if above else say("")
            return False
        return bool(piece) and not above

    def _ready(self, text: str, shown: int, ended: bool) -> str:
        """What to show of a text of which so many characters are shown: all of the rest, or its whole lines."""
        return text[shown:] if ended or not self.by_line else text[shown : text.rfind("\n") + 1]

    def _begin(self) -> None:
        if len(self.sequences) > 1 and self.current < len(self.sequences):
            gap = "\n" if self.current else ""
            show(f"{gap}==> {self.titles[self.current]} <==\n")


def run_sequences(llm: LLM, sequences: list[Sequence], trace: bool, update: Callable[[], bool]) -> bool:
    """Computes the sequences, calling `update` after each step; False when Ctrl-C ended it early.

    update: Answers.update, or what returns whether it left a line begun on stderr. trace: whether to write each step's
    StepTrace there. Raises RequestError for a sequence that cannot go on, after the others have ended.
    """
    try:
        for step in llm.run(sequences, watch=trace):
            midline = update()
            if trace:
                say(f"\n{step}" if midline else str(step))
    except KeyboardInterrupt:
        return False
    except RequestError:
        update()
        raise
    return True


def statistics(sequences: list[Sequence]) -> list[str]:
    """Lines about what was computed: prompt and generation speed over all sequences, waiting time, peak memory."""
    from tinyinfer.engine.metrics import peak_memory_bytes, run_metrics

    m = run_metrics(sequences, [])
    cached = f" ({m.cached_tokens} cached)" if m.cached_tokens else ""
    prompt = f"Prompt: {m.prompt_tokens} tokens{cached}, {_pace(m.prompt_tps)}"
    if m.ttft:
        several = sum(bool(seq.timing.times) for seq in sequences) > 1
        prompt += f", TTFT {m.ttft.mean:.3f} s" + (" on average" if several else "")
    generation = f"Generation: {m.generated_tokens} tokens, {_pace(m.generation_tps)}"
    if m.acceptance_rate is not None:
        generation += f", acceptance rate {m.acceptance_rate:.3f}"
    return [prompt, generation, f"Peak memory: {peak_memory_bytes() / 1e9:.3f} GB"]


def _pace(tokens_per_second: float | None) -> str:
    return "too few to time" if tokens_per_second is None else f"{tokens_per_second:.3f} tokens-per-sec"
