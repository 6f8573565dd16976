"""float16 to float32: all 65,536 numbers, by the CPU's instruction and by arithmetic on bits."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.cpu


def test_every_float16_becomes_the_same_float32():
    """Both ways. Catches subnormal numbers that become zero, infinity that becomes 65,536, and a sign that is lost."""
    from numba import njit, types
    from numba.extending import intrinsic

    from tinyinfer.backends.cpu_kernels.halves import by_bits
    from tinyinfer.backends.cpu_kernels.scalars import half_at
    from tinyinfer.backends.cpu_kernels.vectors import WIDTH, load_half, store

    @intrinsic
    def from_bits(typing, bits):
        return types.float32(types.uint16), lambda context, builder, signature, args: by_bits(builder, args[0])

    @njit
    def convert(bits, address, vectors, numbers, plain):
        for i in range(0, len(bits), WIDTH):
            store(vectors + 4 * i, load_half(address + 2 * i))
        for i in range(len(bits)):
            numbers[i], plain[i] = half_at(address + 2 * i), from_bits(bits[i])

    bits = np.arange(1 << 16, dtype=np.uint16)
    vectors, numbers, plain = (np.zeros(len(bits), np.float32) for _ in range(3))
    convert(bits, bits.ctypes.data, vectors.ctypes.data, numbers, plain)
    with np.errstate(invalid="ignore"):
        expected = bits.view(np.float16).astype(np.float32)
    for found in (vectors, numbers, plain):
        np.testing.assert_array_equal(found, expected)  # takes any NaN for NaN
        assert (np.signbit(found) == np.signbit(expected)).all()
