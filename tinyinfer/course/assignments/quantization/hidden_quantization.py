"""Hidden tests of the assignment quantization: every scheme at once, extreme weights, given grids, counted bytes."""

from __future__ import annotations

from itertools import product

import numpy as np

from tinyinfer.backends import packing
from tinyinfer.course.compare import Failure, at_least, same_array, same_value
from tinyinfer.model.quantized_matrix import QuantScheme, expand
from tinyinfer.quantization import rtn

BITS = (2, 3, 4, 8)
ULP = 2.0**-10  # a float16 and its neighbour differ by at most this part: a quotient near the middle of two
AXES = ("output", "input")


def check_codes(mine, w, scale, minimum, scheme):
    """Raises Failure unless each code is the nearest; where two are as near in float32, either is right."""
    right = rtn.to_codes(w, scale, minimum, scheme)
    wide = expand(scale, scheme, w.shape[1]).astype(np.float64)
    low = 0 if minimum is None else expand(minimum, scheme, w.shape[1]).astype(np.float64)
    exact = np.divide(w - low, wide, out=np.zeros_like(wide), where=wide != 0)
    slack = np.divide(2.0**-22 * (np.abs(w) + np.abs(low)), wide, out=np.zeros_like(wide), where=wide != 0)
    tie = np.abs(np.abs(exact - np.floor(exact)) - 0.5) <= slack
    if isinstance(mine, np.ndarray) and mine.shape == right.shape and mine.dtype == right.dtype:
        near = np.abs(mine - np.clip(exact, scheme.lowest, scheme.highest)) <= 0.5 + slack
        mine = np.where(tie & near, right, mine)
    same_array(mine, right, "codes", axes=AXES)


def check_matrix(mine, w, scheme):
    """Raises Failure unless the matrix has the engine's scales and minimums, and the nearest codes on its own grid."""
    for name in ("codes", "scale", "minimum"):
        if not hasattr(mine, name):
            raise Failure(f"round_to_nearest: the result is {type(mine).__name__}.", "return a QuantizedMatrix")
    scale, minimum = rtn.fit(w, scheme)
    same_array(mine.scale, scale, "scale", rtol=ULP, atol=2.0**-24, axes=("output", "group"))
    if minimum is None:
        same_value(mine.minimum, None, "minimum of a symmetric grid")
    else:
        same_array(mine.minimum, minimum, "minimum", axes=("output", "group"))
    check_codes(mine.codes, w, mine.scale, minimum, scheme)


def test_every_scheme(student, part, rng):
    """Catches what only one of bits, group, symmetry and range breaks: all of them together, at odd sizes."""
    for bits in BITS:
        with part(f"{bits} bits"):
            for size, symmetric, per_tensor in product((None, 5, 32, 64), (True, False), (True, False)):
                scheme = QuantScheme(bits, size, symmetric, per_tensor)
                for inputs in (int(rng.integers(1, 140)), 65):  # 65: one weight is the last group
                    shape = int(rng.integers(1, 8)), inputs
                    w = rng.normal(rng.choice([0, 3]), 10.0 ** rng.integers(-3, 2), shape).astype(np.float32)
                    w[0, -1] = -127.9 * 2.0**-24  # a scale that float16 holds with one bit
                    check_matrix(student.round_to_nearest(w, scheme), w, scheme)


def test_extreme_weights(student, part):
    """Catches infinity, NaN and a division by zero at weights that are huge, tiny, equal, or -0."""
    rows = {
        "huge": [[7e4, -1e6, 3e7, 1e9, 5, -6e8, 3e8, 2e38], [-3e38, 3e38, 0, 1, 1e5, 2e5, 3e5, 4e5]],
        "tiny": [[1e-9, -1e-9, 3e-8, 0, 1e-12, 2e-12, -5e-7, 4e-7], [1e-38, 0, -1e-38, 0, 1e-7, 1e-7, 2e-7, 3e-7]],
        "equal": [[0.1] * 4 + [-0.1] * 4, [3.0] * 4 + [1e-9] * 4],
        "zeros": [[0.0, -0.0, -0.0, 0.0] * 2, [-0.0] * 4 + [0.0, -0.0, 1.0, -1.0]],
    }
    for name, values in rows.items():
        with part(name):
            w = np.array(values, np.float32)
            for bits, symmetric, per_tensor in product(BITS, (True, False), (True, False)):
                scheme = QuantScheme(bits, 4, symmetric, per_tensor)
                check_matrix(student.round_to_nearest(w, scheme), w, scheme)


def test_grids_that_are_given(student, part, rng):
    """Catches to_codes that fits a grid of its own: hqq.py calls it with better scales and minimums."""
    for symmetric in (False, True):
        with part("symmetric" if symmetric else "with minimum"):
            for bits, shape in [*((bits, (6, 61)) for bits in BITS), (4, (3, rtn.WEIGHT_TILE + 9))]:
                scheme = QuantScheme(bits, 16, symmetric)
                w = rng.normal(0, 1, shape).astype(np.float32)
                scale, minimum = rtn.fit(w, scheme)
                scale = (scale * rng.uniform(0.5, 0.9, scale.shape)).astype(np.float16)
                if minimum is not None:
                    minimum = (minimum + 0.3).astype(np.float16)
                check_codes(student.to_codes(w, scale, minimum, scheme), w, scale, minimum, scheme)


def test_bytes_of_a_matrix(student, part, rng):
    """Catches codes, scales or minimums kept in more bytes than the formula says: counted as they come back.

    Bytes of N outputs, M inputs, G groups: N·⌈M·bits/8⌉ for the codes (3 bits: ⌈M/4⌉ + ⌈M/8⌉), 2·N·G each for scales
    and minimums. What so few bytes hold must be all: the codes come back from them.
    """
    for bits in BITS:
        with part(f"{bits} bits"):
            n, inputs, size = int(rng.integers(3, 9)), 8 * int(rng.integers(9, 17)) + 5, 32
            w = rng.normal(0, 1, (n, inputs)).astype(np.float32)
            right = rtn.round_to_nearest(w, QuantScheme(bits, size, symmetric=False))
            codes = right.codes.astype(np.uint8)
            row = -(-inputs // 4) - (-inputs // 8) if bits == 3 else -(-inputs * bits // 8)
            student.fit(w, right.scheme)
            packed = student.pack(codes, bits, np)
            held = sum(student.traffic.received_bytes.pop(name) for name in ("fit", "pack"))
            at_least(held, n * inputs * bits / 8 + right.scale.nbytes + right.minimum.nbytes, "bytes of the matrix")
            grids = n * -(-inputs // size)
            usual = [
                (n * row + 2 * 4 * grids, "scales and minimums are kept in float16, 2 bytes each"),
                (n * inputs + 2 * 2 * grids, "the codes still take a byte each"),
            ]
            same_value(held, n * row + 2 * 2 * grids, "bytes of the matrix", usual=usual)
            same_value(student.packed_size(inputs, bits), row, "packed_size")
            same_array(student.unpack(packed, bits, inputs, np), codes, "codes, packed and unpacked", axes=AXES)


def test_inputs_stay_as_they_are(student, part, rng):
    """Catches weights, codes and packed bytes that are changed in place: the engine reads them again."""
    w = rng.normal(2, 1, (4, 40)).astype(np.float32)
    w[0, :3] = 1e6, -1e6, -0.0
    scheme = QuantScheme(4, 16, symmetric=False)
    scale, minimum = rtn.fit(w, scheme)
    codes = rtn.to_codes(w, scale, minimum, scheme).astype(np.uint8)
    calls = [("to_half", (w,), rtn.to_half(w)), ("fit", (w, scheme), None), ("round_to_nearest", (w, scheme), None)]
    calls += [("to_codes", (w, scale, minimum, scheme), rtn.to_codes(w, scale, minimum, scheme))]
    for bits in (3, 4):
        part_codes = codes & np.uint8(2**bits - 1)
        packed = packing.pack(part_codes, bits, np)
        calls += [("pack", (part_codes, bits, np), packed), ("unpack", (packed, bits, 40, np), part_codes)]
    for name, args, right in calls:
        with part(name if name not in ("pack", "unpack") else f"{name}, {args[1]} bits"):
            result, after = student.after(name, *args)
            if right is not None:
                same_array(result, right, name)
            elif result is None:
                raise Failure(f"{name}: the result is None.", "end the function with return")
            for old, new in zip(args, after, strict=True):
                if isinstance(old, np.ndarray):
                    hint = "an operator such as -= or out= writes into the caller's array: make a new one"
                    if not np.array_equal(old, new):
                        raise Failure(f"{name}: an argument is another one after the call.", hint)
