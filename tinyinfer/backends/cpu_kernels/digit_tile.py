"""A register tile of one or two rows that come as three bytes a number (three_bytes.py), times 64 outputs.

Three sums of whole numbers for each row and output are 12 vectors a row: two rows are what 32 registers hold, and fewer
registers take the block in turns (registers.py). Codes stay bytes, four in a word, as they lie in memory or after one
shift and one mask.
"""
# numba has no type hints, and its @intrinsic functions are called with types, not with values
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

from itertools import islice

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyinfer.backends.cpu_kernels.dot import adds_pairs, sum_of_codes
from tinyinfer.backends.cpu_kernels.three_bytes import DIGITS, FINER
from tinyinfer.backends.cpu_kernels.tiles import VECTORS, Codes, Maker, turns, unit_of
from tinyinfer.backends.cpu_kernels.vectors import F32, I32, I64, VF, VI, WIDTH


class DigitSums:
    """The sums of each digit of some rows and vectors, in registers."""

    def __init__(self, make, x, stride, rows, vectors, bits):
        b, zero = make.builder, ir.Constant(VI, [0] * WIDTH)
        self.make, self.vectors, self.bits = make, vectors, bits
        self.starts = [[b.add(x, b.mul(stride, ir.Constant(I64, DIGITS * r + d))) for d in range(DIGITS)]
                       for r in range(rows)]  # fmt: skip
        self.places = [[[cgutils.alloca_once_value(b, zero) for _ in vectors] for _ in range(DIGITS)]
                       for _ in range(rows)]  # fmt: skip

    def add(self, offset, quads):
        """Adds the products of some inputs, four by four; quads: the bytes of their codes, of the vectors of outputs.

        offset: where the inputs stand.
        """
        make, b = self.make, self.make.builder
        for starts, rows in zip(self.starts, self.places, strict=True):
            for start, places in zip(starts, rows, strict=True):
                at = b.add(start, offset)
                fours = [make.splat_int(make.load(make.at(at, 4 * i), I32)) for i in range(len(quads))]
                for place, codes in zip(places, zip(*quads, strict=True), strict=True):
                    b.store(sum_of_codes(b, b.load(place), codes, fours, self.bits), place)

    def put(self, y, y_stride, scale, minimum, x_scales, x_sums, x_step):
        """y += scale · (s · sum1 + s/254 · sum2 + s/254² · sum3) + minimum · sum of inputs."""
        make, b = self.make, self.make.builder
        for r, digits in enumerate(self.places):
            row, place = b.add(y, b.mul(y_stride, ir.Constant(I64, r))), b.mul(x_step, ir.Constant(I64, r))
            steps = [make.load(b.add(x_scales, place), F32)]
            for _ in range(DIGITS - 1):
                steps.append(b.fmul(steps[-1], ir.Constant(F32, float(FINER))))
            inputs = make.splat(make.load(b.add(x_sums, place), F32))
            for n, v in enumerate(self.vectors):
                sums = [b.sitofp(b.load(places[n]), VF) for places in digits]
                total = b.fmul(sums[2], make.splat(steps[2]))
                for d in (1, 0):
                    total = make.fma(sums[d], make.splat(steps[d]), total)
                at = make.at(row, 64 * v)
                value = make.fma(inputs, minimum[v], make.load(at, VF))
                make.store(at, make.fma(total, scale[v], value))


@intrinsic(prefer_literal=True)
def digit_tile(
    typing, rows, bits, digits, stride, words, high, first, units, scales, x_scales, x_sums, x_step, y, y_stride
):
    """y += scale · (x Cᵀ) + minimum · Σ x for so many rows and the units of one group; C: codes, from 0 on.

    digits: the address of the first row's first digits of the group; stride: from digit to digit. x_scales, x_sums: of
    the first row, x_step from row to row. The others are those of tiles.packed_tile.
    """
    count, number = rows.literal_value, bits.literal_value

    def code(context, builder, signature, args):
        _, _, digits, stride, words, high, first, units, scales, x_scales, x_sums, x_step, y, y_stride = args
        make = Maker(builder)
        together = unit_of(number) // 4 if adds_pairs(number) else 1  # words of codes whose pairs of products are added
        for vectors in turns(DIGITS * count):
            sums = DigitSums(make, digits, stride, count, vectors, number)
            codes = Codes(make, words, high, number, vectors)
            with cgutils.for_range(builder, units) as loop:
                start = builder.mul(loop.index, ir.Constant(I64, codes.unit))
                quads = codes.bytes(builder.add(first, loop.index))
                for quad in range(0, codes.unit // 4, together):
                    sums.add(make.at(start, 4 * quad), [*islice(quads, together)])
            both = [make.load(make.at(scales, 64 * v), VF) for v in range(2 * VECTORS)]
            sums.put(y, y_stride, both[:VECTORS], both[VECTORS:], x_scales, x_sums, x_step)
        return context.get_dummy_value()

    return types.none(rows, bits, *[types.int64] * 12), code
