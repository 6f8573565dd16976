"""stdout and stderr: answers on stdout as they come; progress, statistics and errors on stderr.

So stdout can be piped. Both may be terminals, pipes whose reader has left, full disks or closed; only this file knows.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyinfer.llm import LLM
    from tinyinfer.sequence import Sequence

BAR = 30  # characters of a full progress bar
BAR_FORMAT = f"{{desc}} [{{bar:{BAR}}}] {{n_fmt}}/{{total_fmt}}{{postfix}}"


def prepare() -> None:
    """A character that stdout's encoding does not have is shown as "?" instead of raising."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def show(text: str) -> None:
    """Writes to stdout and flushes."""
    print(text, end="", flush=True)


def say(text: str, end: str = "\n") -> None:
    """Writes to stderr; nothing happens when it is closed."""
    if sys.stderr is not None:
        print(text, end=end, file=sys.stderr, flush=True)


def is_terminal(stream: object) -> bool:
    """Whether sys.stdin, sys.stdout or sys.stderr is a terminal; a closed one is not."""
    return isinstance(stream, io.TextIOBase) and not stream.closed and stream.isatty()


def fail(message: str) -> int:
    """Writes the message to stderr as one line, and returns the exit status of a mistake, 2."""
    say("tinyinfer: error: " + " ".join(message.split("\n")))
    return 2


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

    The function that it gives takes how much is done, how much there is, and a note to show behind the bar.
    """
    if not (shown and is_terminal(sys.stderr)):
        yield lambda done, total, note="": None
        return
    from tqdm import tqdm

    columns, lines = get_terminal_size()  # of a terminal that knows its size, else 80 x 24
    form = {"bar_format": "{desc}", "ascii": "-#", "ncols": columns, "nrows": lines}
    with tqdm(desc=title, leave=False, mininterval=0, miniters=1, **form) as bar:

        def show(done: int, total: int, note: str = "") -> None:
            bar.bar_format, bar.total = BAR_FORMAT, total
            bar.set_postfix_str(note, refresh=False)
            bar.update(done - bar.n)

        yield show


def read_text(path: str) -> str:
    """A text file, or stdin for "-", without its last line's end. Raises ValueError when it is not UTF-8, OSError."""
    if path == "-":
        if getattr(sys.stdin, "buffer", None) is None:
            raise ValueError("stdin is closed; give the prompt as an argument")
        data, name = sys.stdin.buffer.read(), "stdin"
    else:
        data, name = Path(path).read_bytes(), path
    return decoded(data, name, "utf-8-sig").removesuffix("\n").removesuffix("\r")


def decoded(data: bytes, name: str, encoding: str = "utf-8") -> str:
    """The text of a file or of stdin, by its name. Raises ValueError when it is not UTF-8."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 text (byte {error.start}); convert it to UTF-8 first") from None


class Answers:
    """Several sequences' texts on stdout, in their order: the first unfinished one as it comes, later ones after it.

    titles: a line above each answer; none when there is one answer.
    """

    def __init__(self, sequences: list[Sequence], titles: list[str]) -> None:
        self.sequences, self.titles = sequences, titles
        self.current, self.shown = 0, 0  # index of the sequence being shown, and how many of its characters are
        self._begin()

    def update(self) -> None:
        """Shows the text that was generated since the last call."""
        while self.current < len(self.sequences):
            seq = self.sequences[self.current]
            if len(seq.text.text) > self.shown:
                show(seq.text.text[self.shown :])
                self.shown = len(seq.text.text)
            if not seq.finished:
                return
            show("\n")
            self.current, self.shown = self.current + 1, 0
            self._begin()

    def interrupt(self) -> None:
        """Ends the line of an answer that was cut short."""
        if self.current < len(self.sequences):
            show("\n")

    def _begin(self) -> None:
        if len(self.sequences) > 1 and self.current < len(self.sequences):
            gap = "\n" if self.current else ""
            show(f"{gap}==> {self.titles[self.current]} <==\n")


def run_sequences(llm: LLM, sequences: list[Sequence], trace: bool, update: Callable[[], None]) -> bool:
    """Computes the sequences, calling `update` after each step; False when Ctrl-C ended it early.

    trace: whether to write each step's StepTrace to stderr.
    """
    try:
        for step in llm.run(sequences, watch=trace):
            update()
            if trace:
                midline = is_terminal(sys.stdout) and any(seq.text.text for seq in sequences)
                say(f"\n{step}" if midline else str(step))
    except KeyboardInterrupt:
        return False
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
