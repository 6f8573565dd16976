"""What the front and a replica tell each other, and how it becomes bytes.

The front tells what to build, and which sequences to add or drop; a replica tells what each step did, as the StepTrace
that the step returned. A sequence travels by its number alone: the front has its own object of the same sequence, with
the text and the times that callers see. Each placement of a sequence has a number of its own, so what a replica says of
a placement that is over is not mixed up with what came after it.

The tokenizer stays where it is, too: each process has its own.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.trace import StepTrace
from tinyinfer.ledger import Ledger
from tinyinfer.sampling import Choice
from tinyinfer.sequence import RequestSpec, Sequence
from tinyinfer.text.stop_strings import TextOutput

# From the front.


@dataclass(frozen=True)
class Build:
    """Build an engine with these switches. now: the front's clock."""

    config: EngineConfig
    now: float


@dataclass(frozen=True)
class Add:
    """Continue this request. choices: its tokens so far; computed: how many of its positions were computed elsewhere.

    arrival: when it arrived, on the front's clock.
    """

    request: RequestSpec
    new_text: Callable[[], TextOutput]
    arrival: float
    choices: list[Choice] = field(default_factory=list)
    computed: int = 0


@dataclass(frozen=True)
class Drop:
    """End these sequences, and free what is kept for them."""

    numbers: list[int]


@dataclass(frozen=True)
class Watch:
    """Whether traces hold block tables and the waiting queue, from now on."""

    on: bool


@dataclass(frozen=True)
class Forget:
    """Empty the prefix cache."""


@dataclass(frozen=True)
class Close:
    """The engine is not used any more."""


# From a replica.


@dataclass(frozen=True)
class Ready:
    """The model is loaded, or could not be, for this reason."""

    failure: str = ""


@dataclass(frozen=True)
class Advance:
    """What is new of a sequence that was in a step: positions computed so far, drafts verified and accepted since."""

    number: int
    computed: int
    proposed: int
    accepted: int


@dataclass(frozen=True)
class Report:
    """A step. ledger: all that was counted since the last report; dropped: numbers that will not come again."""

    trace: StepTrace
    ledger: Ledger
    advances: list[Advance]
    dropped: list[int]


@dataclass(frozen=True)
class Failures:
    """These sequences have ended by their errors, in a step that was rolled back or that stands; the others go on."""

    errors: dict[int, Exception]


class Wire:
    """Messages as bytes and back. tokenizer: of this process, in the place of the other one's."""

    def __init__(self, tokenizer: object) -> None:
        self.tokenizer = tokenizer

    def dumps(self, message: object) -> bytes:
        """The bytes of a message."""
        out = io.BytesIO()
        _Pickler(out, self.tokenizer).dump(message)
        return out.getvalue()

    def loads(self, words: bytes, sequence: Callable[[int], object] = lambda number: None) -> Any:
        """The message. sequence: gives the process's own object of a sequence, by its number."""
        return _Unpickler(io.BytesIO(words), self.tokenizer, sequence).load()


class _Pickler(pickle.Pickler):
    def __init__(self, out: io.BytesIO, tokenizer: object) -> None:
        super().__init__(out, pickle.HIGHEST_PROTOCOL)
        self.tokenizer = tokenizer

    def persistent_id(self, one: object) -> int | str | None:
        """A sequence is its number, of a candidate its owner's; the tokenizer is a word; all else is itself."""
        if isinstance(one, Sequence):
            return one.owner.id
        return "tokenizer" if one is self.tokenizer and one is not None else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, words: io.BytesIO, tokenizer: object, sequence: Callable[[int], object]) -> None:
        super().__init__(words)
        self.tokenizer, self.sequence = tokenizer, sequence

    def persistent_load(self, name: int | str) -> object:
        """This process's own object."""
        return self.tokenizer if isinstance(name, str) else self.sequence(name)
