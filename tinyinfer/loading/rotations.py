"""Rotary positions as data: from a RopeConfig to frequencies and amplitudes (Rotation), one way of stretching each.

A pair of numbers that turns by frequency f repeats after 2π / f positions, its wavelength. A model that was trained on
short texts has never seen a long wavelength turn once; a longer text is read well when no pair turns further than in
training. Dividing all frequencies (linear) does so and blurs near positions; the other ways divide only the long
wavelengths, and differ in where they begin.
"""

from __future__ import annotations

import math

import numpy as np

from tinyinfer.model.config import RopeConfig
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.weights import Rotation


def build_rotation(rope: RopeConfig | None, head_dim: int, ops: Ops, sets: int = 1) -> Rotation:
    """The rotation of one kind of layer: one set, or with long_divisors two.

    sets: how many the model's other layers have. A row names its set once, for all layers, so a single one is repeated.
    Pairs that are not rotated have frequency 0 and amplitude 1: all of them without rotary positions, those from
    rope.size / 2 on with partial ones. The pairs of a head are (i, i + E/2).
    """
    rotated = np.empty((1, 0), np.float32) if rope is None else frequencies(rope, rope.size or head_dim)  # (Z, pairs)
    rotated = np.repeat(rotated, max(1, sets // len(rotated)), axis=0)  # (Z, pairs)
    still = head_dim // 2 - rotated.shape[1]
    f = np.pad(rotated, ((0, 0), (0, still)))  # (Z, E/2)
    amplitudes = np.pad(
        np.full_like(rotated, 1 if rope is None else rope.amplitude), ((0, 0), (0, still)), constant_values=1
    )
    return Rotation(ops.take_array(f), ops.take_array(amplitudes))


def frequencies(rope: RopeConfig, size: int) -> np.ndarray:  # -> (Z, pairs)
    """Radians per position of each pair among `size` numbers: theta^(-2i/size), stretched as the scaling says.

    (Su et al. 2021, section 3.3.)
    """
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)  # (pairs,)
    f = np.float32(1) / np.float32(rope.theta) ** exponents  # (pairs,)
    if rope.divisors is not None:
        return f / np.array([divisors for divisors in (rope.divisors, rope.long_divisors) if divisors], np.float32)
    if rope.scaling == "linear":
        f = f / np.float32(rope.factor)
    elif rope.scaling == "llama3":
        f = llama3_frequencies(f, rope)
    elif rope.scaling == "yarn":
        f = yarn_frequencies(f, rope, size)
    return f[None]


def llama3_frequencies(f: np.ndarray, rope: RopeConfig) -> np.ndarray:  # (pairs,) -> (pairs,)
    """Long wavelengths divided by factor, short ones kept, between them a blend (Llama 3.1's model card)."""
    turns = rope.original_max_position * f / np.float32(2 * math.pi)  # (pairs,): full turns in the original context
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)  # (pairs,)
    blend = np.clip(blend, 0, 1)  # 0: a long wavelength, divided; 1: a short one, kept
    return ((1 - blend) * f / np.float32(rope.factor) + blend * f).astype(np.float32)


def yarn_frequencies(f: np.ndarray, rope: RopeConfig, size: int) -> np.ndarray:  # (pairs,) -> (pairs,)
    """As llama3_frequencies, with a blend that is linear in the number of the pair (Peng et al. 2023, section 3.2)."""
    first, last = (yarn_pair(turns, rope, size) for turns in (rope.beta_fast, rope.beta_slow))
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    width = last - first or 0.001  # a blend of no width: a step
    divided = np.clip(
        (np.arange(size // 2, dtype=np.float32) - np.float32(first)) / np.float32(width), 0, 1
    )  # (pairs,)
    return (f / np.float32(rope.factor) * divided + f * (1 - divided)).astype(np.float32)


def yarn_pair(turns: float, rope: RopeConfig, size: int) -> float:
    """The number of the pair, as a fraction, that turns so often within the original context."""
    return size * math.log(rope.original_max_position / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))
