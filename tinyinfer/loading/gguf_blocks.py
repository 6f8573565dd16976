"""GGUF's simple block types as codes, scales and minimums: a matrix that the file has rounded is not rounded again.

    Q8_0   scale, 32 signed bytes        w = scale · code
    Q4_0   scale, 32 nibbles             w = scale · (code - 8)
    Q4_1   scale, minimum, 32 nibbles    w = scale · code + minimum

A block is 32 consecutive numbers of a row; scale and minimum (d and m in ggml's source) are float16. The first 16
numbers are the low nibbles of 16 bytes, the others the high nibbles. These are groups as quantization/ has them: codes,
scales and minimums are taken unchanged, and the weights equal those that gguf dequantizes, bit for bit. (ggml's
ggml-quants.c. The k-quants and i-quants have scales of scales, which a group cannot hold; they are dequantized.)
"""

from __future__ import annotations

import numpy as np
from gguf.constants import GGMLQuantizationType

from tinyinfer.model.weights import QuantizedMatrix, QuantScheme

GROUP = 32
SCHEMES = {
    GGMLQuantizationType.Q8_0: QuantScheme(8, GROUP, True),
    GGMLQuantizationType.Q4_0: QuantScheme(4, GROUP, True),
    GGMLQuantizationType.Q4_1: QuantScheme(4, GROUP, False),
}


def block_codes(blocks: np.ndarray, kind: GGMLQuantizationType) -> QuantizedMatrix:  # (N, G, bytes) ->
    """The codes of a matrix (N, 32·G) whose file has it in blocks of a type in SCHEMES: G blocks to an output."""
    scheme = SCHEMES[kind]
    scales = 2 if scheme.symmetric else 4  # bytes of the scale, or of scale and minimum
    halves = np.ascontiguousarray(blocks[..., :scales]).view("<f2")  # (N, G, 1 or 2)
    data = blocks[..., scales:]  # (N, G, 32 or 16)
    if scheme.bits == 8:
        codes = data.view(np.int8).astype(np.int16)  # (N, G, 32)
    else:  # the low nibbles of all 16 bytes come first, then the high ones
        codes = np.concatenate((data & 15, data >> 4), axis=-1).astype(np.int16) + np.int16(scheme.lowest)
    scale, minimum = halves[..., 0].copy(), None if scheme.symmetric else halves[..., 1].copy()  # (N, G), (N, G)
    return QuantizedMatrix(scheme, codes.reshape(len(blocks), GROUP * blocks.shape[1]), scale, minimum)
