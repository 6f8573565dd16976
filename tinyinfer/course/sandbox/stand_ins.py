"""Stand-ins: what the student's code gets in place of the grader's objects that are no plain data.

A Sequence belongs to the engine's run, and a device to a backend. The child has neither. So the grader sends what an
assignment's code may ask of them: a SequenceView has the sequence's numbers, a DeviceView makes arrays of NumPy and has
a ledger of its own. No count of a grade comes from that ledger: it lies in the child's memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from tinyinfer.arrays import Array, Xp
from tinyinfer.ledger import Ledger


@dataclass(eq=False)
class SequenceView:
    """The numbers of a tinyinfer.sequence.Sequence, with its names; as there, compared by identity.

    drafts: of tinyinfer.sequence.Draft. params: a SamplingParams.
    """

    id: int
    prompt: list[int]
    new_tokens: list[int]
    drafts: list[Any]
    most_positions: int
    params: Any
    seed: int

    @property
    def tokens(self) -> list[int]:
        """The prompt's tokens and the generated ones."""
        return [*self.prompt, *self.new_tokens]

    @property
    def sampling(self) -> tuple[Any, list[int], list[int], int]:
        """What `choose` needs beside the logits: the parameters, the prompt, the new tokens and the noise's seed."""
        return self.params, self.prompt, list(self.new_tokens), self.seed

    def update(self, new: SequenceView) -> SequenceView:
        """The same view, with the numbers that the sequence has by now."""
        for one in fields(self):
            setattr(self, one.name, getattr(new, one.name))
        return self


@dataclass
class DeviceView:
    """A tinyinfer.model.interfaces.Device on NumPy, with its own ledger."""

    ledger: Ledger = field(default_factory=Ledger)
    xp: ClassVar[Xp] = np

    def reserve(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:  # -> shape
        """An array full of NaN, or of zeros where dtype has no NaN: nothing is promised of what is not yet written."""
        return np.full(shape, np.nan if np.dtype(dtype).kind in "fc" else 0, dtype=dtype)

    def to_host(self, array: Array) -> np.ndarray:  # (...,) -> (...,)
        """The same array: NumPy's arrays lie in the host's memory."""
        return array


def stand_in(value: Any) -> Any:
    """The stand-in for a sequence or a device of the engine; any other value as it is.

    The two are known by their attributes: the child has only a part of the package, mostly without sequence.py.
    """
    if isinstance(value, (SequenceView, DeviceView)):
        return value
    if hasattr(value, "request") and hasattr(value, "most_positions"):
        drafts, params = list(value.drafts), value.request.params
        new, most = list(value.new_tokens), value.most_positions
        return SequenceView(value.id, list(value.prompt), new, drafts, most, params, value.request.seed)
    if all(hasattr(value, name) for name in ("xp", "ledger", "reserve", "to_host")):
        return DeviceView()
    return value
