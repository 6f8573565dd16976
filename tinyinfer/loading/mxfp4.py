"""gpt-oss's experts as they are published: 32 inputs of an output as numbers of 4 bits and one power of two.

    NAME_blocks    (X, N, G, 16) U8    of each group of 32 inputs two numbers a byte, the first in the lower half
    NAME_scales    (X, N, G) U8        the group's power of two, plus 127

A number of 4 bits is a sign, two bits of exponent and one of fraction, so it is one of the 16 below (OCP Microscaling
Formats 1.0, section 5.3: FP4 E2M1, with scales E8M0). They are not evenly spaced, so that no QuantScheme holds them:
the numbers are read as floats, an expert at a time, and `quantize` rounds them like any other float.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tinyinfer.errors import ModelError
from tinyinfer.loading.safetensors import Stored
from tinyinfer.units import show

NUMBERS = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)
GROUP = 32
_PART = re.compile(r"(.*\.experts\.(?:gate_up|down)_proj)_(blocks|scales)")


def is_mxfp4(quantization: object) -> bool:
    """Whether a quantization_config says that the experts are stored so."""
    return isinstance(quantization, dict) and quantization.get("quant_method") == "mxfp4"


@dataclass(frozen=True)
class BlockedExperts(Stored):
    """Blocks and scales as the tensor of X experts, inputs first, that transformers makes of them."""

    blocks: Stored
    scales: Stored

    @property
    def nbytes(self) -> int:
        return self.blocks.nbytes + self.scales.nbytes

    def rows(self, start: int, stop: int) -> np.ndarray:
        blocks, scales = self.blocks.raw(start, stop), self.scales.raw(start, stop)
        numbers = NUMBERS[np.stack([blocks & 15, blocks >> 4], axis=-1)].reshape(*scales.shape, GROUP)  # (X, N, G, 32)
        with np.errstate(over="ignore", invalid="ignore"):  # to infinity or NaN, which LazyTensor refuses
            numbers *= np.ldexp(np.float32(1), scales[..., None].astype(np.int32) - 127)  # exact: a power of two
        return numbers.reshape(*scales.shape[:2], -1).swapaxes(1, 2)


def with_blocks(path: str, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors of a folder, in which each pair is one tensor, called as its blocks are; `path` is for messages.

    Raises ModelError for a pair of which one part is missing, or does not fit the other.
    """
    tensors: dict[str, Stored] = {}
    for name, tensor in stored.items():
        part = _PART.fullmatch(name)
        if part is None:
            tensors[name] = tensor
        else:
            pair = [stored.get(f"{part[1]}_{kind}") for kind in ("blocks", "scales")]
            tensors[f"{part[1]}_blocks"] = _blocked(path, part[1], *pair)
    return tensors


def _blocked(path: str, name: str, blocks: Stored | None, scales: Stored | None) -> BlockedExperts:
    """One pair as one tensor. Raises ModelError as `with_blocks` does."""
    if blocks is None or scales is None:
        missing = show(f"{name}_{'scales' if blocks else 'blocks'}")
        raise ModelError(f"{path}: tensor {missing} is missing beside its other half; download the folder again")
    fits = len(scales.shape) == 3 and blocks.shape == (*scales.shape, GROUP // 2)
    if not fits or {blocks.dtype, scales.dtype} != {"U8"}:
        wrong = f"are {blocks.dtype} of shape {blocks.shape} and {scales.dtype} of shape {scales.shape}"
        need = f"U8 of shapes (X, N, G, {GROUP // 2}) and (X, N, G)"
        raise ModelError(f"{path}: the blocks and scales of {show(name)} {wrong}, not {need}; download them again")
    count, outputs, groups = scales.shape
    return BlockedExperts(blocks.path, blocks.name, "F32", (count, groups * GROUP, outputs), 0, blocks, scales)
