"""A model that has shapes and no weights: enough to write down its launches, in milliseconds and without memory.

Its arrays are NumPy's with all strides 0: one number that pretends to be a matrix.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from gpu_parts.cases import Case, random_checkpoint
from tinyinfer.backends.kernels.buffers import RESULT, RING
from tinyinfer.backends.kernels.launch import Plan
from tinyinfer.backends.kernels.memory import Memory, Sizes, allocate, fields_of
from tinyinfer.backends.kernels.persistent_plan import persistent_plan
from tinyinfer.backends.kernels.plan import decode_plan
from tinyinfer.backends.packed_rows import PackedRows
from tinyinfer.backends.packing import packed_size
from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import build_model
from tinyinfer.model.transformer import Model
from tinyinfer.model.weights import Dense, Weight

MULTIPROCESSORS = 132  # of an H100: grids are made for them
BLOCK = 16  # positions of a block of the cache


class Hollow(np.ndarray):
    """An array with an address, as CuPy's have; nothing is there."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        """An address that no kernel reads."""
        return SimpleNamespace(ptr=0)


def pretending(*shape: int, dtype: Any) -> np.ndarray:
    """An array of any shape in the memory of one number."""
    return np.broadcast_to(np.zeros((), dtype), shape).view(Hollow)


class HollowOps(ReferenceOps):
    """Takes matrices by their shape alone, in the layouts of the GPU."""

    def take_array(self, *parts: np.ndarray) -> np.ndarray:
        """Small arrays are what they are."""
        return super().take_array(*parts).view(Hollow)

    def take(self, matrix: Any) -> Weight:
        """The matrix without its numbers."""
        (outputs, inputs), scheme = matrix.shape, matrix.parts[0].scheme
        if scheme is None:
            return Dense(pretending(inputs, outputs, dtype=self.dtype))
        codes = pretending(outputs, packed_size(-(-inputs // 8) * 8, scheme.bits), dtype=np.uint8)
        scale = pretending(outputs, scheme.groups(inputs), dtype=np.float16)
        return PackedRows(scheme, (outputs, inputs), codes, scale, None if scheme.symmetric else scale, np)


def hollow_model(case: Case) -> Model:
    """The case's model without weights."""
    return build_model(random_checkpoint(case.config, case.weights), HollowOps(Ledger(), ml_dtypes.bfloat16))


def memory_of(case: Case, model: Model) -> Memory:
    """The arrays of a decode step of the case's batch."""
    room = -(-(case.prompt + case.new) // BLOCK)
    sizes = Sizes(case.batch, case.batch, room, MULTIPROCESSORS)
    fields = fields_of(model, sizes)
    row = fields.over(np.zeros(fields.nbytes, np.uint8).view(Hollow))
    results = np.zeros((RING, case.batch, RESULT), np.int32)
    return allocate(model, sizes, np, row, results)


def plan_of(case: Case, persistent: bool = False) -> Plan:
    """The launches of a decode step of the case; persistent: the one launch of one row."""
    model = hollow_model(case)
    memory = memory_of(case, model)
    return persistent_plan(model, memory, np) if persistent else decode_plan(model, memory)
