"""Products of whole numbers for several rows, of lesson 17: shown and measured there, not written by a student.

Activations are rounded to 8 bits group by group, x = step · a, so that a group's sum is one of whole numbers and exact.
One instruction then multiplies 64 bytes by 64 bytes and adds the products four by four to 16 sums (dot.py). So the
codes of four inputs have to lie side by side for each output: blocks (J, M/4, 64, 4).

The instruction takes one operand without a sign. So codes are stored as code + 128, as in `Packed`, and 128 times the
sum of the group's activations is taken off again.

Wins: several rows, where float kernels wait for arithmetic. Loses: activations of 8 bits are another formula, whose
price in perplexity docs/quantization.md tells.
"""

# numba has no type hints, and the functions of vectors.py are called with values only where they are compiled
# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg"

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinyinfer.backends.cpu_kernels import vectors as v
from tinyinfer.backends.cpu_kernels.dot import dot, dot_bits
from tinyinfer.backends.cpu_kernels.integer_tile import four_rows
from tinyinfer.lessons.compiling import njit
from tinyinfer.lessons.kernel_ladder import in_fours, rounded_rows
from tinyinfer.lessons.kernel_products import Products

__all__ = ["dot", "dot_rows", "four_rows", "has_instruction", "with_fours", "with_rounded"]  # two are the library's


def has_instruction() -> bool:
    """Whether the processor has the product of bytes as one instruction."""
    return dot_bits() > 0


@njit(error_model="numpy")
def dot_rows(codes, scale, x, y):
    """Each group of each block with every row: the 64 sums of whole numbers stay in four registers.

    codes (J, M/4, 64, 4), scale (J, G, 64), y (T, J, 64). x: four activations a word (T, M/4), the step of each group
    and the sum of its activations, both (T, G).
    """
    (words, step, total), G = x, scale.shape[1]
    size = codes.shape[1] // G
    for j in range(len(codes)):
        y[:, j] = 0
        for g in range(G):
            weights, scales = codes[j, g * size].ctypes.data, scale[j, g].ctypes.data
            for t in range(len(words)):
                start = v.splat_int(np.int32(-128) * total[t, g])
                s0, s1, s2, s3 = start, start, start, start
                for k in range(size):
                    four, at = v.splat_int(words[t, g * size + k]), weights + 256 * k
                    s0 = dot(s0, v.load_ints(at), four)
                    s1 = dot(s1, v.load_ints(at + 64), four)
                    s2 = dot(s2, v.load_ints(at + 128), four)
                    s3 = dot(s3, v.load_ints(at + 192), four)
                out, factor = y[t, j].ctypes.data, v.splat(step[t, g])
                v.store(out, v.fma(v.to_floats(s0), factor * v.load(scales), v.load(out)))
                v.store(out + 64, v.fma(v.to_floats(s1), factor * v.load(scales + 64), v.load(out + 64)))
                v.store(out + 128, v.fma(v.to_floats(s2), factor * v.load(scales + 128), v.load(out + 128)))
                v.store(out + 192, v.fma(v.to_floats(s3), factor * v.load(scales + 192), v.load(out + 192)))


def with_fours(blocks: Products) -> Products:
    """The same products with codes as `dot_rows` reads them."""
    return Products(tuple(replace(one, codes=in_fours(one.codes)) for one in blocks.parts))


def with_rounded(rows: Products) -> Products:
    """The same products with inputs as `dot_rows` takes them."""
    return Products(tuple(replace(one, x=rounded_rows(one.x, one.scale.shape[1])) for one in rows.parts))
