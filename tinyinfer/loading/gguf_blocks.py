"""GGUF's block types as codes, scales and minimums: a matrix that the file has rounded is not rounded again.

    Q8_0          d, 32 signed bytes                               w = d · code
    Q4_0, Q5_0    d, 32 codes                                      w = d · (code - 8), or - 16
    Q4_1, Q5_1    d, m, 32 codes                                   w = d · code + m
    Q4_K, Q5_K    d, dmin, 8 scales and 8 minimums, 256 codes      w = (d · scale) · code - dmin · minimum
    Q6_K          256 codes, 16 scales, d                          w = (d · scale) · (code - 32)

d, m and dmin are float16. A block is 32 consecutive numbers of a row, or 256 in 8 groups of 32 (Q4_K, Q5_K) or 16 of
16 (Q6_K), whose scales and minimums are whole numbers, of 6 bits or of 8 with a sign. These are groups as quantization/
has them, or nested ones: all is taken unchanged, and the weights equal those that gguf dequantizes, bit for bit,
because the operations and their order are the same (a minimum is taken off by adding -dmin · minimum). Codes of a few
bits lie as packing.py has them: byte c of C holds the codes c, c + C, c + 2C ... (ggml's ggml-quants.c.) All other
types are dequantized, with a note: the i-quants look weights up in tables, which no group can hold.
"""

from __future__ import annotations

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from tinyinfer.backends.packing import unpack
from tinyinfer.model.quantized_matrix import Nested, QuantizedMatrix, QuantScheme, Scales

GROUP = 32
SCHEMES = {
    GGMLQuantizationType.Q8_0: QuantScheme(8, GROUP, True),
    GGMLQuantizationType.Q4_0: QuantScheme(4, GROUP, True),
    GGMLQuantizationType.Q4_1: QuantScheme(4, GROUP, False),
    GGMLQuantizationType.Q5_0: QuantScheme(5, GROUP, True),
    GGMLQuantizationType.Q5_1: QuantScheme(5, GROUP, False),
    GGMLQuantizationType.Q4_K: QuantScheme(4, GROUP, False, nested=8),
    GGMLQuantizationType.Q5_K: QuantScheme(5, GROUP, False, nested=8),
    GGMLQuantizationType.Q6_K: QuantScheme(6, 16, True, nested=16),
}
SIMPLE = frozenset(kind for kind, scheme in SCHEMES.items() if scheme.nested is None)
Parts = tuple[np.ndarray, Scales, Scales | None]  # codes from 0 on (N, n, ...), scales and minimums (N, G)


def block_codes(blocks: np.ndarray, kind: GGMLQuantizationType) -> QuantizedMatrix:  # (N, n, bytes) ->
    """The matrix of N outputs whose file has n blocks of a type in SCHEMES for each output."""
    scheme = SCHEMES[kind]
    if scheme.nested is None:
        codes, scale, minimum = simple_blocks(blocks, scheme)
    else:
        codes, scale, minimum = q6_k_blocks(blocks) if scheme.symmetric else q4_k_and_q5_k_blocks(blocks, scheme.bits)
    inputs = blocks.shape[1] * GGML_QUANT_SIZES[kind][0]
    signed = np.add(codes.reshape(len(blocks), inputs), np.int16(scheme.lowest), dtype=np.int16)  # (N, M)
    return QuantizedMatrix(scheme, signed, scale, minimum)


def block_floats(blocks: np.ndarray, kind: GGMLQuantizationType, out: np.ndarray) -> None:  # (n, bytes), (n, 32) ->
    """Writes n blocks of a type in SIMPLE as float32: what gguf makes of them, in half the time or less."""
    scheme = SCHEMES[kind]
    codes, scale, minimum = simple_blocks(blocks[:, None], scheme)
    np.add(codes[:, 0], np.float32(scheme.lowest), out=out)
    out *= scale.astype(np.float32)
    if minimum is not None:
        out += minimum.astype(np.float32)


def simple_blocks(
    blocks: np.ndarray, scheme: QuantScheme
) -> Parts:  # (N, n, bytes) -> (N, n, ...), (N, G), (N, G) | None
    """n blocks of d, of m when there is a minimum, for 5 bits of the fifth bits, and of each code's 4 or 8 bits."""
    start = 2 if scheme.symmetric else 4
    numbers, data = halves(blocks[..., :start]), blocks[..., start:]  # numbers: (N, n, 1 or 2)
    # codes: (N, n, 32); of 8 bits, a signed byte plus 128
    codes = data ^ np.uint8(128) if scheme.bits == 8 else unpack(data[..., -GROUP // 2 :], 4, GROUP, np)
    if scheme.bits == 5:
        codes |= np.unpackbits(data[..., :4], axis=-1, bitorder="little") << np.uint8(4)
    return codes, numbers[..., 0], None if scheme.symmetric else numbers[..., 1]


def q4_k_and_q5_k_blocks(blocks: np.ndarray, bits: int) -> Parts:  # (N, n, bytes) -> (N, n, ...), (N, G), (N, G) | None
    """n blocks of d and dmin, 12 bytes of scales and minimums, for 5 bits the fifth bits, and 4 bits of each code.

    A low half byte is a code of one group, the high half one of the next group.
    """
    outputs, count = blocks.shape[:2]
    numbers, (scale, minimum) = halves(blocks[..., :4]), six_bit_scales(blocks[..., 4:16])
    codes = unpack(blocks[..., -128:].reshape(outputs, count, 4, 32), 4, 64, np)  # (N, n, 4, 64)
    if bits == 5:
        high = unpack(blocks[..., 16:48], 1, 256, np)  # (N, n, 256): bit g of a byte belongs to group g
        codes |= high.reshape(codes.shape) << np.uint8(4)
    return codes, Nested(numbers[..., 0], scale), Nested(-numbers[..., 1], minimum)


def q6_k_blocks(blocks: np.ndarray) -> Parts:  # (N, n, bytes) -> (N, n, ...), (N, G), (N, G) | None
    """n blocks of 128 bytes with 4 bits of each code, 64 with the other 2, 16 signed scales, and d.

    The codes come in two halves, each with its part of both.
    """
    outputs, count = blocks.shape[:2]
    codes = unpack(blocks[..., :128].reshape(outputs, count, 2, 64), 4, 128, np)  # (N, n, 2, 128)
    codes |= unpack(blocks[..., 128:192].reshape(outputs, count, 2, 32), 2, 128, np) << np.uint8(4)
    scale = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8).reshape(outputs, count * 16)  # (N, G)
    return codes, Nested(halves(blocks[..., 208:])[..., 0], scale), None


def halves(data: np.ndarray) -> np.ndarray:  # (N, n, bytes) -> (N, n, numbers)
    """The float16 numbers in these bytes of n blocks."""
    return np.ascontiguousarray(data).view("<f2")


def six_bit_scales(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (N, n, 12) -> (N, G), (N, G)
    """8 scales and 8 minimums of each of n blocks.

    Four bytes begin with the first four scales, four with the first four minimums, 6 bits each. Of the other four of
    both, 4 bits are the halves of the last four bytes, and the upper 2 bits are what the first eight bytes have left.
    """
    first, second, last = data[..., :4], data[..., 4:8], data[..., 8:]
    scale = np.concatenate((first & 63, last & 15 | first >> 6 << 4), axis=-1)  # (N, n, 8)
    minimum = np.concatenate((second & 63, last >> 4 | second >> 6 << 4), axis=-1)
    groups = len(data), data.shape[1] * 8
    return scale.reshape(groups).view(np.int8), minimum.reshape(groups).view(np.int8)
