"""The scales of a group of inputs for 64 outputs, as a product of floats uses them: float32, in the nearest cache.

They lie in memory as float16, or nested as whole numbers times a float16 (model/quantized_matrix.py). Codes count from
0 on, so what is added for each input of a group is minimum + lowest · scale: every product then has two numbers for
each output and group, whatever the scheme. `layout` gives a launch the eight arguments that say where scales lie.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels.vectors import (
    fma,
    load_bytes,
    load_half,
    shl,
    shr_signed,
    splat,
    splat_int,
    store,
    to_floats,
)
from tinyinfer.backends.lanes import PackedLanes
from tinyinfer.model.quantized_matrix import Nested, Scales

SCALES = 128  # numbers: 64 scales and 64 minimums
MINIMUMS = 256  # bytes from scales to minimums


@njit(forceinline=True)
def scale_at(array, steps, nested, block, groups, g, v):
    """The scales (or minimums) of group g for 16 outputs, from lane v on."""
    if nested == 0:
        return load_half(array + 2 * ((block * groups + g) * 64 + v))
    codes, by = load_bytes(array + (block * groups + g) * 64 + v), splat_int(np.int32(24))
    step = load_half(steps + 2 * ((block * (groups // nested) + g // nested) * 64 + v))
    return step * to_floats(shr_signed(shl(codes, by), by))


@njit(forceinline=True)
def put_scales(a, at, block, g, out, factor):
    """Writes factor · scale and factor · (minimum + lowest · scale) of 64 outputs; `at`: where `layout` stands in a."""
    lowest, by = splat(np.float32(a[at + 7])), splat(factor)
    for v in range(0, 64, 16):
        scale = scale_at(a[at], a[at + 2], a[at + 4], block, a[at + 5], g, v) * by
        minimum = scale * lowest
        if a[at + 1]:
            minimum = fma(scale_at(a[at + 1], a[at + 3], a[at + 4], block, a[at + 5], g, v), by, minimum)
        store(out + 4 * v, scale)
        store(out + MINIMUMS + 4 * v, minimum)


def layout(weight: PackedLanes) -> tuple[int | np.ndarray, ...]:
    """Scales, minimums or 0, the steps of both or 0, groups that share one or 0, groups, inputs of one, lowest code."""
    scheme, inputs = weight.scheme, weight.shape[1]

    def arrays(scales: Scales | None) -> tuple[int | np.ndarray, int | np.ndarray]:
        if scales is None:
            return 0, 0
        return (scales.codes, scales.step) if isinstance(scales, Nested) else (scales, 0)

    (scale, step), (minimum, minimum_step) = arrays(weight.scale), arrays(weight.minimum)
    group = scheme.group_size or inputs
    return scale, minimum, step, minimum_step, scheme.nested or 0, scheme.groups(inputs), group, scheme.lowest
