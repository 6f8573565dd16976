"""Settings of the process: BLAS's threads, and memory that costs nothing before it is written."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest

from tinyinfer.backends.cpu import available_cores, lazy_array, set_blas_threads, tune_process
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.ledger import Ledger


def blas_threads() -> int | None:
    """What OpenBLAS itself says; None with another BLAS."""
    library = ctypes.CDLL(np._core._multiarray_umath.__file__)
    for name in ("scipy_openblas_get_num_threads64_", "openblas_get_num_threads64_", "openblas_get_num_threads"):
        if hasattr(library, name):
            return getattr(library, name)()
    return None


@pytest.mark.skipif(blas_threads() is None, reason="NumPy is built on another BLAS")
def test_threads_reach_blas():
    """`--threads 1` must not be a word that nobody hears, nor one that the backend keeps for itself."""
    try:
        set_blas_threads(1)
        assert blas_threads() == 1
        tune_process(None)
        assert blas_threads() == available_cores()
        NumpyOps(Ledger(), threads=1)
        assert blas_threads() == 1
    finally:
        tune_process(None)


def test_a_lazy_array_is_an_ordinary_array_of_zeros():
    """Writable, of the shape asked for, and its own: two arrays share nothing."""
    a, b = lazy_array((3, 4)), lazy_array((3, 4))
    assert (a.shape, a.dtype) == ((3, 4), np.float32)
    a[1] = 7
    assert a.sum() == 28
    assert not b.any()
    assert lazy_array((0, 4)).shape == (0, 4)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_lazy_array_takes_up_only_what_is_written():
    """A context of 8192 positions is promised to every sequence, and most of it is never used."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    rows = lazy_array((64, 1 << 20))  # 256 MB
    rows[:, :16] = 1  # the first page of each row
    assert resident() - before < 32 << 20


@pytest.mark.parametrize("rows", [1 << 50, 1 << 70])
def test_a_lazy_array_that_nobody_has_room_for_is_a_memory_error(rows: int):
    """The system's "Cannot allocate memory" named neither what it was for nor what to do; 2^70 was an OverflowError."""
    with pytest.raises(MemoryError, match=rf"KV cache needs {rows * 8} bytes.*max_model_len"):
        lazy_array((rows, 2))
