"""float16 on CPUs that convert it by an instruction and on those that do not: all of them, and the same bits."""

from __future__ import annotations

import pytest
from processes import run

pytestmark = pytest.mark.cpu
PROGRAM = """
from numba import njit, types
from tinyinfer.backends.cpu_kernels.scalars import half_at, half_bits, set_float, set_half_bits
from tinyinfer.backends.cpu_kernels.vectors import load_half, store
from tinyinfer.backends.cpu_kernels.halves import converts
@njit
def widen(halves, one, many, count):
    for i in range(count):
        set_float(one + 4 * i, half_at(halves + 2 * i))
    for i in range(0, count, 16):
        store(many + 4 * i, load_half(halves + 2 * i))
@njit
def narrow(values, halves):
    for i in range(len(values)):
        set_half_bits(halves + 2 * i, half_bits(values[i]))
every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
one, many = np.zeros(1 << 16, np.float32), np.zeros(1 << 16, np.float32)
widen(every.ctypes.data, one.ctypes.data, many.ctypes.data, 1 << 16)
want = every.astype(np.float32)
sound = want == want
for x in (one, many):
    print(np.array_equal(x, want, equal_nan=True) and (np.signbit(x) == np.signbit(want))[sound].all())
between = (want[:-1].astype(np.float64) + want[1:]) / 2  # ties, and what is just beside them
near = [want, between, np.nextafter(between.astype(np.float32), np.float32(0)), want * np.float32(1.0001), -want / 3]
values = np.concatenate(near).astype(np.float32)
halves = np.zeros(len(values), np.float16)
narrow(values, halves.ctypes.data)
with np.errstate(all="ignore"):
    want = values.astype(np.float16)
print(np.array_equal(halves, want, equal_nan=True), converts())
"""


@pytest.mark.parametrize(("features", "converts"), [("", False), ("+avx,+avx2,+fma,+f16c", True)])
def test_every_float16_is_read_and_written_as_numpy_does(features: str, converts: bool) -> None:
    """Subnormal ones, infinities and ties included. Catches a process that LLVM ends for want of a function."""
    out = run(PROGRAM, NUMBA_CPU_NAME="x86-64" if not features else "generic", NUMBA_CPU_FEATURES=features)
    assert out == f"True\nTrue\nTrue {converts}\n"
