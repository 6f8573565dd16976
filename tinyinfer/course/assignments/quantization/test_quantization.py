"""Public tests of the assignment quantization: `pytest` gives the points so far, `pytest -k pack` only one subject.

Most inputs are built backwards. A test chooses scales, minimums and codes, and puts the weights where these must be
found again, so that what is right is known before any code runs, and no rounding of float32 decides a test.
"""

from __future__ import annotations

import numpy as np

from tinyinfer.course.compare import Failure, equal, same_array, same_value
from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.quantization import rtn

pytest_plugins = ["tinyinfer.course.pytest_plugin"]

BITS = (2, 3, 4, 8)
HALF = 2.0**-11  # the largest relative error of a float16 that is not below its normal range
AXES = ("output", "group")


# What is right, by the formulas of the README, and what usual mistakes give.


def ends(w, size):
    """The smallest and the largest weight of each group of `size` inputs, in float64, (N, G) each."""
    groups = [w[:, i : i + size].astype(np.float64) for i in range(0, w.shape[1], size)]
    return tuple(np.stack([end(group, axis=1) for group in groups], axis=1) for end in (np.min, np.max))


def half(x):
    """Numbers as float16, within its range."""
    return np.clip(x, -65504, 65504).astype(np.float16)


def pair(result):
    """What `fit` returns: scales, and minimums or None. Raises Failure for anything else."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Failure(f"fit: the result is a {type(result).__name__}, not a pair.", "return scale, minimum")
    return result


def asymmetric(rng, n, groups, size, bits, far=1.0):
    """Weights (N, G·size), with the codes, scales and minimums that rounding must find. far: minimums, in scales.

    Two weights of each group are its ends; the others lie off their points of the grid by at most 0.45 scales.
    """
    highest = 2**bits - 1
    scale = rng.uniform(0.01, 0.05, (n, groups, 1)).astype(np.float16)
    low = (scale * rng.uniform(-far, far, (n, groups, 1))).astype(np.float32)
    minimum = low.astype(np.float16)
    codes = rng.integers(1, highest, (n, groups, size))
    w = minimum + scale.astype(np.float64) * (codes + rng.uniform(-0.45, 0.45, codes.shape))
    for i, j in np.ndindex(n, groups):
        first, last = rng.choice(size, 2, replace=False)
        codes[i, j, first], codes[i, j, last] = 0, highest
        w[i, j, first], w[i, j, last] = low[i, j, 0], float(minimum[i, j, 0]) + highest * float(scale[i, j, 0])
    flat = (n, groups * size)
    return w.reshape(flat).astype(np.float32), codes.reshape(flat).astype(np.int16), scale[..., 0], minimum[..., 0]


def symmetric(rng, n, groups, size, bits):
    """Weights (N, G·size) around zero, with codes and scales. In every second group the largest weight is negative."""
    highest = 2 ** (bits - 1) - 1
    scale = rng.uniform(0.01, 0.05, (n, groups, 1)).astype(np.float16)
    codes = rng.integers(-highest, highest + 1, (n, groups, size))
    off = rng.uniform(-0.45, 0.45, codes.shape)
    codes[..., 1] = highest - 1  # the other end of the group is nearer to zero
    codes[..., 0], off[..., 0] = highest, 0
    off = np.where(np.abs(codes) == highest, -np.sign(codes) * np.abs(off), off)
    sign = np.where(np.arange(groups) % 2, -1, 1)[:, None]  # (G, 1)
    w = scale.astype(np.float64) * (codes + off) * sign
    order = rng.permutation(size)
    w, codes = w[..., order], (codes * sign)[..., order]
    flat = (n, groups * size)
    return w.reshape(flat).astype(np.float32), codes.reshape(flat).astype(np.int16), scale[..., 0]


# Task 4: to_half


def test_numbers_in_half_precision(student):
    """Catches numbers beyond 65504 that become infinity, and with them every weight of the group."""
    x = np.array([[0.1, -0.1, 1 / 3, 65504], [65519, 65520, 3e38, -1e6], [2049, 2051, 6e-8, -1e-9]], np.float32)
    infinite = np.where(np.abs(x) >= 65520, np.copysign(np.inf, x), x).astype(np.float16)
    usual = [
        (infinite, "float16 ends at 65504, and what is larger becomes infinity: clip first"),
        (np.clip(x, -65504, 65504), "the numbers are stored in 2 bytes each: .astype(np.float16)"),
    ]
    same_array(student.to_half(x), half(x), "to_half", usual=usual, axes=AXES)


# Task 2: fit


def test_grid_of_each_group(student, part, rng):
    """Catches a scale along the wrong axis, of the whole matrix, or with 2^bits steps in place of 2^bits - 1."""
    for bits in BITS:
        with part(f"{bits} bits"):
            w, _, scale, minimum = asymmetric(rng, 24, 3, 8, bits)  # 24 outputs, 24 inputs: the wrong axis fits, too
            low, high = ends(w, 8)
            across = ends(w.T, 8)
            steps = 2**bits - 1
            usual = [
                (half((high - minimum) / (steps + 1)), "between 2^bits codes lie 2^bits - 1 steps"),
                (half((across[1] - half(across[0])) / steps), "a group is consecutive inputs of an output: axis 1"),
                (half((across[1] - half(across[0])) / steps).T, "a group is consecutive inputs of an output: axis 1"),
                (half(np.full_like(low, w.max() - w.min()) / steps), "each group has a range of its own"),
                (half(high / steps), "the range begins at the group's smallest weight, not at 0"),
                (half(np.maximum(high, -low) / (2 ** (bits - 1) - 1)), "this grid is not symmetric: it has a minimum"),
                (minimum, "scale and minimum have changed places: return scale, minimum"),
            ]
            found = pair(student.fit(w, QuantScheme(bits, 8, symmetric=False)))
            same_array(found[0], scale, "scale", usual=usual, axes=AXES)
            usual = [
                (half(across[0]), "a group is consecutive inputs of one output: axis 1"),
                (half(np.full_like(low, w.min())), "each group has a minimum of its own"),
                (half(np.minimum(low, 0)), "the minimum of a group may be above 0"),
                (np.rint(-low / scale), "w = scale · code + minimum: a minimum in float16, not a zero point"),
            ]
            same_array(found[1], minimum, "minimum", usual=usual, axes=AXES)


def test_symmetric_grid(student, part, rng):
    """Catches 2^(bits-1) in place of 2^(bits-1) - 1 (128 for 127), and groups whose largest weight is negative."""
    for bits in BITS:
        with part(f"{bits} bits"):
            w, _, scale = symmetric(rng, 16, 4, 8, bits)
            low, high = ends(w, 8)
            most = 2 ** (bits - 1) - 1
            usual = [
                (half(np.maximum(high, -low) / (most + 1)), "the largest code is 2^(bits-1) - 1: 127, not 128"),
                (half(high / most), "the weight that is farthest from 0 may be negative: compare high and -low"),
                (half((high - low) / (2**bits - 1)), "symmetric: the grid lies around 0"),
                (half(np.full_like(low, np.abs(w).max() / most)), "each group has a scale of its own"),
            ]
            found = pair(student.fit(w, QuantScheme(bits, 8, symmetric=True)))
            same_array(found[0], scale, "scale", usual=usual, axes=AXES)
            same_value(found[1], None, "minimum of a symmetric grid")


def test_scale_fits_the_stored_minimum(student, part, rng):
    """Catches a minimum that is rounded to float16 only after the scale was computed from it."""
    for bits in (4, 8):
        with part(f"{bits} bits"):
            w, _, scale, minimum = asymmetric(rng, 12, 6, 16, bits, far=800)
            low, high = ends(w, 16)
            steps = 2**bits - 1
            usual = [
                (half((high - low) / steps), "the scale belongs to the minimum that is kept: subtract the float16 one"),
                (half((half(high).astype(float) - minimum) / steps), "the largest weight itself is not rounded"),
            ]
            found = pair(student.fit(w, QuantScheme(bits, 16, symmetric=False)))
            same_array(found[1], minimum, "minimum", axes=AXES)
            same_array(found[0], scale, "scale", usual=usual, axes=AXES)


def test_last_group_is_shorter(student, part, rng):
    """Catches a last group that is dropped, joined to the one before it, or filled up with zeros."""
    for inputs, size in ((43, 16), (70, 32), (5, 64)):
        with part(f"{inputs} inputs in groups of {size}"):
            w = (rng.integers(64, 129, (6, inputs)) / 64).astype(np.float32)  # from 1 to 2: zeros would be noticed
            w[:, inputs // size * size :] /= 8  # and so would be another group
            scheme = QuantScheme(4, size, symmetric=False)
            scale, minimum = rtn.fit(w, scheme)
            padded = np.pad(w, ((0, 0), (0, -inputs % size)))
            whole = inputs // size * size or inputs
            joined = np.minimum.reduceat(w, np.arange(0, whole, size), axis=1)
            usual = [
                (half(ends(padded, size)[0]), "the inputs that the last group lacks are not weights of 0"),
                (half(ends(w[:, :whole], size)[0]), "the last group is left out: it is shorter, but it is a group"),
                (half(joined), "the last group, which is shorter, has joined the one before it"),
            ]
            found = pair(student.fit(w, scheme))
            same_array(found[1], minimum, "minimum", usual=usual, axes=AXES)
            same_array(found[0], scale, "scale", rtol=2 * HALF, axes=AXES)  # one float16 further: a quotient near a tie


def test_one_scale_for_an_output_or_a_matrix(student, part, rng):
    """Catches group_size=None that is not one group for an output, and per_tensor that is ignored."""
    w = (rng.normal(0, 0.1, (6, 6)) * (1 + np.arange(6))[:, None]).astype(np.float32)
    for kind, per_tensor in (("per channel", False), ("per tensor", True)):
        with part(kind):
            for symmetric_codes in (False, True):
                scheme = QuantScheme(8, None, symmetric_codes, per_tensor=per_tensor)
                scale, minimum = rtn.fit(w, scheme)
                each, _ = rtn.fit(w, QuantScheme(8, None, symmetric_codes))
                columns, _ = rtn.fit(w.T.copy(), QuantScheme(8, None, symmetric_codes))
                usual = [
                    (scale[:1], "the result has one scale for each output and group, also if all are equal: (N, G)"),
                    (scale[0, 0], "the result has one scale for each output and group, also if all are equal: (N, G)"),
                    (columns, "an output is a row of w: axis 1 is the inputs"),
                    (each, "per_tensor: every group gets the range of the whole matrix"),
                    (np.full_like(each, each.max()), "group_size=None: all inputs of one output are a group"),
                ]
                found = pair(student.fit(w, scheme))
                same_array(found[0], scale, f"scale {kind}", rtol=2 * HALF, usual=usual, axes=AXES)
                if minimum is not None:
                    same_array(found[1], minimum, f"minimum {kind}", axes=AXES)


# Task 3: to_codes


def test_nearest_codes(student, part, rng):
    """Catches codes that are cut off in place of rounded, and a minimum that is not subtracted."""
    with part("with minimum"):
        w, codes, scale, minimum = asymmetric(rng, 9, 4, 32, 4, far=4)
        exact = (w - np.repeat(minimum.astype(np.float64), 32, 1)) / np.repeat(scale.astype(np.float64), 32, 1)
        plain = np.clip(np.rint(w / np.repeat(scale.astype(np.float64), 32, 1)), 0, 15)
        usual = [
            (np.clip(np.floor(exact), 0, 15), "the nearest code, not the one below: np.rint"),
            (np.clip(np.ceil(exact), 0, 15), "the nearest code, not the one above: np.rint"),
            (plain, "code 0 stands for the minimum: subtract the minimum first"),
            (codes - 8, "these codes run from 0 to 2^bits - 1, not around 0"),
        ]
        found = student.to_codes(w, scale, minimum, QuantScheme(4, 32, symmetric=False))
        same_array(found, codes, "codes", usual=usual, axes=("output", "input"))
    with part("symmetric"):
        w, codes, scale = symmetric(rng, 9, 4, 32, 4)
        exact = w / np.repeat(scale.astype(np.float64), 32, 1)
        usual = [
            (np.trunc(exact), "the nearest code, not the one nearer to 0: np.rint"),
            (np.floor(exact), "the nearest code, not the one below: np.rint"),
            (np.clip(codes, 0, None), "symmetric codes may be negative"),
            (np.clip(codes + 8, 0, 15), "symmetric codes lie around 0"),
            (codes.astype(np.uint8), "negative codes need a signed type: int16"),
        ]
        found = student.to_codes(w, scale, None, QuantScheme(4, 32, symmetric=True))
        same_array(found, codes, "codes", usual=usual, axes=("output", "input"))


def test_codes_stay_on_the_grid(student, part, rng):
    """Catches codes beyond the grid's ends, as a scale that was rounded down gives: packed, they would wrap around."""
    for bits in BITS:
        with part(f"{bits} bits"):
            scale = np.full((4, 1), 0.25, np.float16)
            for symmetric_codes in (True, False):
                scheme = QuantScheme(bits, None, symmetric_codes)
                wide = rng.uniform(scheme.lowest - 9, scheme.highest + 9, (4, 32))
                wide[:, :4] = scheme.lowest - 1, scheme.lowest, scheme.highest, scheme.highest + 1
                wide = np.rint(wide)
                minimum = None if symmetric_codes else np.full((4, 1), -0.5, np.float16)
                w = (wide / 4 - (0 if symmetric_codes else 0.5)).astype(np.float32)
                codes = np.clip(wide, scheme.lowest, scheme.highest)
                usual = [
                    (rtn.round_to_nearest(w, scheme).codes, "the grid is given: round to it, and fit no other"),
                    (wide, f"clip the codes: the grid has {2**bits} points, {scheme.lowest} to {scheme.highest}"),
                    (np.clip(wide, -scheme.highest, scheme.highest), "the smallest symmetric code is -2^(bits-1)"),
                    (np.clip(wide, scheme.lowest, scheme.highest + 1), "2^bits codes are 0 to 2^bits - 1"),
                    ((wide - scheme.lowest) % 2**bits + scheme.lowest, "codes beyond the ends wrap around: clip them"),
                ]
                found = student.to_codes(w, scale, minimum, scheme)
                same_array(found, codes.astype(np.int16), "codes", usual=usual, axes=("output", "input"))


def test_scale_of_zero(student, part):
    """Catches a division by a scale of 0: of a group of equal weights, or with a range too small for float16."""
    w = np.array([[0.25, 0.25, 1e-9, 0, 1, 3], [0, -1e-9, -0.5, -0.5, -1, 2]], np.float32)
    for symmetric_codes in (False, True):
        with part("symmetric" if symmetric_codes else "with minimum"):
            scheme = QuantScheme(4, 2, symmetric_codes)
            scale = np.array([[0, 0, 0.5], [0, 0, 0.5]], np.float16)
            minimum = None if symmetric_codes else np.array([[0.25, 0, 1], [0, -0.5, -1]], np.float16)
            codes = np.zeros((2, 6), np.int16)
            codes[:, 4:] = [[2, 6], [-2, 4]] if symmetric_codes else [[0, 4], [0, 6]]
            with np.errstate(all="ignore"):
                x = w - np.repeat(0 * scale if minimum is None else minimum, 2, axis=1)
                divided = np.rint(x / np.repeat(scale, 2, axis=1))
            hint = "where the scale is 0, the code is 0: divide only elsewhere (np.divide has `where` and `out`)"
            clipped = np.clip(divided, scheme.lowest, scheme.highest)
            usual = [(np.nan_to_num(clipped), hint)]  # 0/0 made a whole number is 0 on most machines
            found = student.to_codes(w, scale, minimum, scheme)
            same_array(found, codes, "codes", usual=usual, axes=("output", "input"))


# Task 1: round_to_nearest


def test_weights_come_back(student, part, rng):
    """Catches an error above half a scale: codes that belong to other scales than those that are kept.

    Bound: the nearest point is at most scale/2 away. Storing the scale in float16 moves the last point by at most
    2^-11 · highest < 1/8 scales, less than scale/2. Storing the minimum moves the first one by 2^-11 · |minimum|.
    """
    for bits in BITS:
        with part(f"{bits} bits"):
            for size, symmetric_codes, shift in ((32, False, 0.0), (24, True, 0.0), (None, False, 30.0)):
                w = (rng.normal(0, 0.1, (7, 83)) + shift).astype(np.float32)
                scheme = QuantScheme(bits, size, symmetric_codes)
                codes, scale, minimum = matrix_parts(student.round_to_nearest(w, scheme), w, scheme)
                wide, low = (np.repeat(x.astype(np.float64), size or 83, axis=1)[:, :83] for x in (scale, minimum))
                away = np.abs(wide * codes + low - w)
                first = np.where(codes == scheme.lowest, HALF * np.abs(low), 0)
                bound = np.maximum(wide / 2, first) + 2.0**-22 * (np.abs(w) + np.abs(low))
                if (away > bound).any():
                    i, j = np.argwhere(away > bound)[0]
                    raise Failure(
                        f"the weight of output {i}, input {j} comes back {away[i, j] / wide[i, j]:.3g} scales away.",
                        "at most half a scale is right: codes belong to the scale and minimum that are kept",
                    )


def matrix_parts(matrix, w, scheme):
    """Codes, scales and minimums (0 for none) of a QuantizedMatrix. Raises Failure for grids that are not fit's."""
    if not all(hasattr(matrix, name) for name in ("codes", "scale", "minimum")):
        raise Failure(f"round_to_nearest: the result is a {type(matrix).__name__}.", "return a QuantizedMatrix")
    scale, minimum = rtn.fit(w, scheme)
    usual = [(scale.astype(np.float32), "scales are kept in float16, 2 bytes each")]
    same_array(matrix.scale, scale, "scale", rtol=2 * HALF, usual=usual, axes=AXES)
    if minimum is None:
        same_value(matrix.minimum, None, "minimum of a symmetric grid")
    else:
        same_array(matrix.minimum, minimum, "minimum", axes=AXES)
    right = rtn.to_codes(w, matrix.scale, minimum, scheme)
    same_array(matrix.codes, right, "codes", atol=1, axes=("output", "input"))  # two points may be as near
    same_array(matrix.codes, np.clip(matrix.codes, scheme.lowest, scheme.highest), "codes", axes=("output", "input"))
    return matrix.codes, matrix.scale, np.zeros_like(scale) if minimum is None else minimum


# Tasks 5 to 7: packed_size, pack, unpack


def bytes_of(codes, bits):
    """The packed bytes of one run of codes, by the formula of the README, one byte at a time."""
    if bits == 3:
        return bytes_of([c & 3 for c in codes], 2) + bytes_of([c >> 2 for c in codes], 1)
    each, size = 8 // bits, -(-len(codes) * bits // 8)
    filled = [*codes, *[0] * (each * size - len(codes))]
    return [sum(filled[c + i * size] << i * bits for i in range(each)) for c in range(size)]


def packed_right(codes, bits):
    """bytes_of along the last axis."""
    rows = codes.reshape(-1, codes.shape[-1]).tolist()
    return np.array([bytes_of(row, bits) for row in rows], np.uint8).reshape(*codes.shape[:-1], -1)


def neighbours(codes, bits, first_low=True):
    """The usual mistake: codes that are neighbours share a byte."""
    each = 8 // bits
    filled = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % each)])
    shifts = np.arange(each)[:: 1 if first_low else -1] * bits
    return (filled.reshape(*codes.shape[:-1], -1, each).astype(int) << shifts).sum(axis=-1).astype(np.uint8)


def test_packed_size(student):
    """Catches bytes that are rounded down, codes counted as whole bytes, and 3 bits padded to 4."""
    counts = (0, 1, 2, 3, 4, 5, 8, 9, 31, 32, 33, 576, 1000)
    for bits in BITS:
        mistakes = [
            (lambda n, bits: n, "a code takes its bits, not a byte"),
            (lambda n, bits: n * 4, "these are the bytes of floats"),
            (lambda n, bits: n * bits / 8, "bytes are whole: an int"),
            (lambda n, bits: n * bits // 8, "the last byte may be filled in part: round up"),
            (lambda n, bits: -(-n // (8 // bits)), "3 bits are packed as 2 bits and 1 bit, not as 4"),
            (lambda n, bits: -(-n * bits // 8), "the two low bits and the high bits are packed apart: round up each"),
        ]
        found = [student.packed_size(count, bits) for count in counts]
        fitting = [hint for f, hint in mistakes if equal(found, [f(count, bits) for count in counts])]
        for count, size in zip(counts, found, strict=True):
            right = len(bytes_of([0] * count, bits))
            same_value(size, right, f"packed_size({count}, {bits})", usual=[(size, hint) for hint in fitting])


def usual_bytes(codes, bits):
    """The bytes that usual mistakes give."""
    if bits == 3:
        high_first = [packed_right(codes >> 1, 2), packed_right(codes & 1, 1)]
        right = packed_right(codes, 3)
        return [
            (np.concatenate(high_first, axis=-1), "first the two LOW bits of all codes, then the high bits"),
            (np.roll(right, -(-codes.shape[-1] // 8), -1), "first the two low bits of all codes, then the high bits"),
            (neighbours(codes, 4), "3 bits are packed as 2 bits and 1 bit, not as 4"),
        ]
    kept = 8 - bits
    return [
        (neighbours(codes, bits), "byte c holds the codes c, c + C, c + 2·C ..., not neighbours"),
        (neighbours(codes, bits, False), "byte c holds the codes c, c + C, c + 2·C ..., not neighbours"),
        (packed_right(codes, bits) >> kept << kept, "the codes of a byte overwrite each other: add their bits by |"),
        (codes, "the codes still take a byte each"),
    ]


def test_pack(student, part, rng):
    """Catches neighbours in one byte, the first code in the high bits, codes that overwrite each other."""
    for bits in BITS:
        with part(f"{bits} bits"):
            for shape in ((1,), (5,), (3, 32), (2, 3, 13)):
                codes = rng.integers(0, 2**bits, shape).astype(np.uint8)
                codes[..., -1] = 2**bits - 1
                found = student.pack(codes, bits, np)
                same_array(found, packed_right(codes, bits), f"packed bytes of {shape}", usual=usual_bytes(codes, bits))


def test_unpack(student, part, rng):
    """Catches bits of other codes that are not masked off, and the zeros that fill the last bytes."""
    for bits in BITS:
        with part(f"{bits} bits"):
            for shape in ((1,), (5,), (3, 32), (2, 3, 13)):
                codes = rng.integers(0, 2**bits, shape).astype(np.uint8)
                packed = packed_right(codes, bits)
                each = 1 if bits == 3 else 8 // bits
                planes = np.concatenate([packed >> (i * bits) for i in range(each)], axis=-1)
                usual = [
                    (planes & (2**bits - 1), f"only the first {shape[-1]} codes: the rest fills up the last bytes"),
                    (planes[..., : shape[-1]], "the bits above belong to other codes: mask them off"),
                ]
                found = student.unpack(packed, bits, shape[-1], np)
                same_array(found, codes, f"{shape[-1]} codes of {bits} bits", usual=usual)
