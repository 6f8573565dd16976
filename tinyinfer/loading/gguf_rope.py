"""The rotation of each layer of a GGUF file.

Four ways of stretching wavelengths are in files: a factor for all ("linear"); divisors in the tensor rope_freqs, one
for each pair, which is how Llama 3's four numbers arrive; two such lists, for short and for long sequences (LongRoPE);
and yarn, whose amplitude llama.cpp computes from the factor, while a published model may say another one.

llama.cpp chooses LongRoPE's list by the length that memory was made for; here, as in transformers, the length of the
sequence decides. llama.cpp reads yarn's beta_fast and beta_slow for few architectures; here a file's count for all.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from tinyinfer.errors import ModelError
from tinyinfer.loading.gguf import GGUFFile
from tinyinfer.loading.gguf_families import Family
from tinyinfer.loading.json_fields import Fields
from tinyinfer.model.config import RopeConfig
from tinyinfer.units import show

FREQS, SHORT, LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
KINDS = ("none", "linear", "yarn", "longrope")
Ropes = tuple[RopeConfig | None, ...]


def read_ropes(
    f: Fields, p: str, family: Family, file: GGUFFile, windows: tuple[int | None, ...], head_dim: int
) -> Ropes:
    """The rotation of each layer, None for a layer without one. Raises ModelError for a rotation not supported."""
    if family.no_rope_step == 1:
        return (None,) * len(windows)
    rope = _rope(f, p, family, file, head_dim)
    local = rope
    if family.local_theta is not None:
        theta = f.number(p + "rope.freq_base_swa", family.local_theta or rope.theta)
        local = RopeConfig(theta, size=rope.size)
    step = family.no_rope_step or len(windows) + 1
    kinds = enumerate((local if window else rope for window in windows), 1)
    return tuple(kind if i % step else None for i, kind in kinds)


def _rope(f: Fields, p: str, family: Family, file: GGUFFile, head_dim: int) -> RopeConfig:
    """The rotation of layers without a window."""
    size = f.size(p + "rope.dimension_count", head_dim, most=head_dim if family.partial else 2**31 - 1)
    if size % 2 or (size != head_dim and not family.partial):
        f.refuse(p + "rope.dimension_count", f"is {size}, but only {head_dim}, the size of a head, is supported")
    rope = RopeConfig(f.number(p + "rope.freq_base", family.theta), size=size if size < head_dim else None)
    factors = SHORT in file.tensors or LONG in file.tensors
    # A file that does not say its type means a linear factor of 1; Phi-3's have LongRoPE's tensors and no type.
    kind = f.text(p + "rope.scaling.type", "longrope" if factors else "linear")
    factor = f.number(p + "rope.scaling.factor", f.number(p + "rope.scale_linear", 1.0))
    original = f.size(p + "rope.scaling.original_context_length", f.size(p + "context_length"))
    if kind not in KINDS:
        supported = ", ".join(KINDS)
        f.refuse(p + "rope.scaling.type", f"is {show(kind)}, which is not supported; supported are {supported}")
    if kind == "longrope":
        if factor != 1.0:
            f.refuse(p + "rope.scaling.factor", f"is {factor}, but LongRoPE has divisors instead; remove it")
        short, long = _divisors(file, SHORT, size), _divisors(file, LONG, size)
        return replace(
            rope, scaling="longrope", divisors=short, long_divisors=long, original_max_position=original,
            amplitude=f.number(p + "rope.scaling.attn_factor", 1.0),
        )  # fmt: skip
    if kind == "yarn":
        return replace(rope, original_max_position=original, **_yarn(f, p, family, rope.theta, factor))
    linear = kind == "linear" and factor != 1.0
    if family.pairs == "neighbours" and FREQS in file.tensors:
        stretch = np.float32(factor if linear else 1.0)
        divisors = np.asarray(_divisors(file, FREQS, size), np.float32) * stretch
        return replace(rope, divisors=tuple(divisors.tolist()))
    return replace(rope, scaling="linear", factor=factor) if linear else rope


def _yarn(f: Fields, p: str, family: Family, theta: float, factor: float) -> dict[str, Any]:
    """Yarn's settings. Raises ModelError for those with which its bounds cannot be computed."""
    if factor < 1:
        f.refuse(p + "rope.scaling.factor", f"is {factor}, but yarn stretches, by 1 or more; correct it")
    if theta <= 1:
        f.refuse(p + "rope.freq_base", f"is {theta}, but yarn needs a base above 1; correct it")
    fast, slow = f.number(p + "rope.scaling.yarn_beta_fast", 32.0), f.number(p + "rope.scaling.yarn_beta_slow", 1.0)
    if fast <= slow:
        f.refuse(p + "rope.scaling.yarn_beta_fast", f"is {fast}, not above yarn_beta_slow ({slow}); correct one")
    amplitude = f.number(p + "rope.scaling.yarn_attn_factor", 0.1 * math.log(factor) + 1)
    amplitude *= f.number(p + "rope.scaling.attn_factor", 1.0)
    bounds = {"beta_fast": fast, "beta_slow": slow, "truncate": family.truncate}
    return {"scaling": "yarn", "factor": factor, "amplitude": amplitude} | bounds


def _divisors(file: GGUFFile, name: str, size: int) -> tuple[float, ...]:
    """What each of RoPE's frequencies is divided by, of `size` numbers that are rotated."""
    tensor = file.tensors.get(name)
    if tensor is None:
        raise ModelError(f"{file.path}: tensor {name!r} is missing, which LongRoPE needs; convert the model again")
    if tensor.shape != (size // 2,):
        wrong = f"has shape {tensor.shape}, but {size} rotated numbers need ({size // 2},)"
        raise ModelError(f"{file.path}: tensor {name!r} {wrong}; convert the model again")
    divisors = tensor.numpy()
    if not (divisors > 0).all():
        raise ModelError(f"{file.path}: the file is damaged: {name!r} must be positive; download it again")
    return tuple(divisors.tolist())
