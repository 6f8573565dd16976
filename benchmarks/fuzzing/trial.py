"""One input: loaded, encoded, decoded, streamed, rendered, and two short answers generated.

What is promised: a file's fault is a ModelError of one line; a setting or a prompt that does not suit the model is a
SwitchError, or one of the sentences of ASKED; what the engine cannot run to its end is a RequestError (memory that is
not there, numbers that are not finite). All else is a finding. So is an input that takes more than 5 s of processor
time, or memory of 20 times its size; 64 MB are always allowed, because an engine with its caches takes some whatever
the file, and NumPy's and the tokenizer's tables grow on first use.
"""

from __future__ import annotations

import re
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from fuzzing.seeds import Seed
from tinyinfer import LLM, SamplingParams
from tinyinfer.errors import ModelError, RequestError, SwitchError, one_line

PROMISED = (SwitchError, RequestError)  # and ModelError, and the sentences of ASKED
SECONDS, TIMES, FLOOR_MB = 5.0, 20, 64
TEXTS = ("hi there", "Gr\u00fc\u00dfe \u65e5\u672c\u8a9e <|im_end|>\n\n  x")
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <b>"}]
ASKED = re.compile(r"the prompt is empty|has no chat template|token id|not valid Unicode|prompt")
ADDRESS_SPACE = 8 << 30  # bytes: an input that asks for more gets a MemoryError and not the machine's memory


class Late(BaseException):
    """An input has used up its time."""


@dataclass(frozen=True)
class Outcome:
    """How an input ended. fault: "" or what is wrong, on the first line, and where. times: memory over size."""

    ending: str  # refused, loaded, or declined: it loads, but some use of it is refused
    seconds: float
    megabytes: float
    times: float
    fault: str = ""


def tried(folder: Path, seed: Seed, rendered: set[tuple[str, ...]], judged: bool = True) -> Outcome:
    """Runs the model whose files lie in `folder`.

    rendered: the templates that were tried before, with their special tokens; they are compiled once. judged: whether
    time and memory count.
    """
    size = sum(map(len, seed.files.values()))
    before, start = _reset_peak(), time.process_time()
    ending, fault = _ended(lambda: _use(str(folder / seed.opened) if seed.opened else str(folder), rendered))
    seconds = time.process_time() - start
    peak = max(0, _peak() - before)
    if judged and not fault and peak > max(FLOOR_MB << 20, TIMES * size):
        fault = f"takes {peak >> 20} MB, {peak / size:.0f} times its size"
    if judged and not fault and seconds > SECONDS:
        fault = f"takes {seconds:.1f} s"
    return Outcome(ending, seconds, peak / 2**20, peak / size if peak > FLOOR_MB << 20 else 0.0, fault)


def _ended(work: Callable[[], str]) -> tuple[str, str]:
    """The ending of the work, and what is wrong with its time or its exception."""
    with warnings.catch_warnings(), _limited() as places:
        warnings.simplefilter("ignore")
        ended = _told(work)
    return ("late", f"takes more than {SECONDS:.0f} s\n{places[0]}") if places else ended


def _told(work: Callable[[], str]) -> tuple[str, str]:
    """The ending of the work, and what is wrong with its exception."""
    try:
        return work(), ""
    except ModelError as error:
        return "refused", _unclear(error)
    except PROMISED as error:
        return "declined", _unclear(error)
    except BaseException as error:
        if type(error) is ValueError and ASKED.search(str(error)):
            return "declined", _unclear(error)
        return "raised", f"{type(error).__name__}: {str(error)[:300]}\n{traceback.format_exc(-6)}"


def _unclear(error: BaseException) -> str:
    """What is wrong with a message: a line's end, what no terminal shows, or no end to it."""
    text = str(error)
    if one_line(text) != text or len(text) > 1500:
        return f"{type(error).__name__} is no clear line: {ascii(text)[:300]}\n{traceback.format_exc(-6)}"
    return ""


def _use(path: str, rendered: set[tuple[str, ...]]) -> str:
    """Does all that a user may do with a model. Raises what a user would meet."""
    llm = LLM(path, backend="numpy", threads=1)
    tokenizer = llm.tokenizer
    for text in TEXTS:
        ids = tokenizer.encode(text)
        stream = tokenizer.stream(ids[:2])
        [stream.push(i) for i in (*ids, 0, 5, 2**20)]
        stream.finish()
        tokenizer.decode([*ids, 0, 5, 2**20])
    ending, uses = "loaded", [lambda: _generate(llm)]
    template = (str(tokenizer.chat_template), *tokenizer._vocabulary.special_tokens.values())
    if template not in rendered:
        rendered.add(template)
        uses.append(lambda: tokenizer.render(MESSAGES))
    for asked in uses:
        try:
            asked()
        except (ModelError, *PROMISED) as error:
            if fault := _unclear(error):
                raise AssertionError(fault) from error
            ending = "declined"
        except ValueError as error:
            if not ASKED.search(str(error)):
                raise
            ending = "declined"
    return ending


def _generate(llm: LLM) -> None:
    """Two short answers at once, a greedy and a sampled one."""
    params = [SamplingParams(max_tokens=2), SamplingParams(max_tokens=3, temperature=1.0, seed=1)]
    for _ in llm.run(llm.sequences([TEXTS[0], [1, 3, 2]], params)):
        pass


@contextmanager
def _limited() -> Iterator[list[str]]:
    """Raises Late after SECONDS of processor time; time that other programs take does not count.

    Gives a list, to which the place is added then: a loader that catches whatever the tokenizer's library raises
    catches Late, too.
    """
    places: list[str] = []

    def late(_: int, frame: FrameType | None) -> None:
        places.append("".join(traceback.format_stack(frame, 6)))
        raise Late

    previous = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield places
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def limit_memory() -> None:
    """Bounds the address space of this process."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))


def _reset_peak() -> int:
    """Lets the peak of memory begin anew; returns the bytes that are resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak() -> int:
    """The most bytes that were resident since `_reset_peak`."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
