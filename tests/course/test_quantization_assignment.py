"""The tests of the assignment quantization are fair: a right solution passes that computes in another way than ours."""

from __future__ import annotations

import numpy as np
import pytest
from planted_bugs import functions_of

from tinyinfer.course.assignment import assignment
from tinyinfer.course.cut import solution
from tinyinfer.course.runner import run_test
from tinyinfer.course.student import LocalStudent

A = assignment("quantization")
OTHER = '''
import numpy as np
from tinyinfer.model.quantized_matrix import QuantizedMatrix

def to_half(x):
    out = []
    for value in np.ravel(x):
        out.append(np.float16(min(max(float(value), -65504.0), 65504.0)))
    return np.array(out, np.float16).reshape(np.shape(x))

def fit(w, scheme):
    size = scheme.group_size or w.shape[1]
    groups = [w[:, i : i + size].astype(float) for i in range(0, w.shape[1], size)]
    if scheme.per_tensor:
        groups = [np.broadcast_to(w.astype(float).ravel(), (len(w), w.size))] * len(groups)
    if scheme.symmetric:
        return to_half(np.stack([abs(g).max(1) for g in groups], 1) * (1 / scheme.highest)), None
    minimum = to_half(np.stack([g.min(1) for g in groups], 1))
    largest = np.stack([g.max(1) for g in groups], 1)
    return to_half((largest - minimum) * (1 / scheme.highest)), minimum

def to_codes(w, scale, minimum, scheme):
    size = scheme.group_size or w.shape[1]
    scale = np.kron(scale.astype(float), np.ones(size))[:, : w.shape[1]]
    if minimum is not None:
        w = w - np.kron(minimum.astype(float), np.ones(size))[:, : w.shape[1]]
    exact = np.where(scale == 0, 0, w / np.where(scale == 0, 1, scale))
    return np.floor(np.clip(exact, scheme.lowest, scheme.highest) + 0.5).astype(np.int16)

def round_to_nearest(w, scheme):
    scale, minimum = fit(w, scheme)
    return QuantizedMatrix(scheme, to_codes(w, scale, minimum, scheme), scale, minimum)

def packed_size(count, bits):
    return (count + 3) // 4 + (count + 7) // 8 if bits == 3 else (count * bits + 7) // 8

def pack(codes, bits, xp):
    if bits == 3:
        return np.concatenate([pack(codes % 4, 2, xp), pack(codes // 4, 1, xp)], -1)
    size = packed_size(codes.shape[-1], bits)
    out = np.zeros((*codes.shape[:-1], size), int)
    for i in range(codes.shape[-1]):
        out[..., i % size] += codes[..., i].astype(int) * 2 ** (bits * (i // size))
    return out.astype(np.uint8)

def unpack(packed, bits, count, xp):
    if bits == 3:
        split = packed_size(count, 2)
        return unpack(packed[..., :split], 2, count, xp) + 4 * unpack(packed[..., split:], 1, count, xp)
    size, packed = packed.shape[-1], packed.astype(int)
    places = [packed[..., i % size] // 2 ** (bits * (i // size)) % 2**bits for i in range(count)]
    return np.stack(places, -1).astype(np.uint8)
'''


@pytest.mark.parametrize("text", [OTHER, solution(A)], ids=["loops in float64", "ours"])
def test_right_solutions_get_full_marks_with_any_seed(text, tmp_path):
    """Catches a test that asks for our arithmetic: float32, reduceat, which of two nearest codes is taken."""
    (tmp_path / A.file).write_text(text, encoding="utf-8")
    functions = functions_of(A)
    for seed in range(2):
        for test in A.tests:
            student = LocalStudent(A, tmp_path / A.file)
            outcome = run_test(functions[test.name], student, test.parts, np.random.default_rng(seed))
            assert outcome.passed == test.parts, (test.name, seed, outcome.faults)
            assert not outcome.faults
