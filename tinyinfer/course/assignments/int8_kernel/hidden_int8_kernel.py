"""Hidden tests of the assignment int8_kernel: every shape, the reads of the second kernel, the sizes of a model."""

from __future__ import annotations

import numpy as np

from tinyinfer.course.assignments.int8_kernel.test_int8_kernel import OLD, Case, Reads, check, check_reads, small
from tinyinfer.course.compare import Failure, equal, same_array, same_value


def test_other_shapes(student, part, rng):
    """Catches what only one combination of outputs, inputs and group breaks."""
    for codes_of_x in (False, True):
        with part("multiply_codes" if codes_of_x else "multiply"):
            for n in (1, 63, 64, 65, int(rng.integers(130, 200))):
                for m, group in ((1, 1), (1, 32), (31, 32), (32, 32), (33, 32), (int(rng.integers(40, 90)), 7)):
                    check(student, small(rng, n, m, group, codes_of_x))


def test_reads_of_codes(student, part, rng):
    """Catches a second kernel that reads more, or in another order, than the first."""
    n, m, group = 64 * int(rng.integers(2, 4)), int(rng.integers(3, 5)), 2
    check_reads(student, part, small(rng, n, m, group, codes_of_x=True))


def test_the_ledger(student, part, rng):
    """Catches a formula that is not what the loops read: a byte for each code, four for each scale."""
    for codes_of_x in (False, True):
        with part("multiply_codes" if codes_of_x else "multiply"):
            n, m, group = 64 * int(rng.integers(1, 3)), int(rng.integers(3, 6)), int(rng.integers(2, 4))
            read = Reads(student, small(rng, n, m, group, codes_of_x)).bytes()
            usual = [(read, "the formula is right, but the loops read something twice, or leave something out")]
            same_value(read, n * (m + 4 * -(-m // group)), "bytes that the ledger counts", usual=usual)
            same_value(student.weight_bytes(n, m, group), read, f"weight_bytes({n}, {m}, {group})")


def test_a_layer(student, part, rng):
    """Catches a layout that the student's own kernel does not understand, and too little precision at real sizes."""
    n, m, group = int(rng.integers(500, 700)), int(rng.integers(1500, 1600)), int(rng.choice([32, 64, 128]))
    codes = rng.integers(-127, 128, (n, m)).astype(np.int8)
    scale = rng.uniform(0.001, 0.01, (n, -(-m // group))).astype(np.float32)
    x = rng.normal(size=m).astype(np.float32)
    own = rng.uniform(0.01, 0.02, scale.shape[1]).astype(np.float32)
    x_codes = rng.integers(-127, 128, m).astype(np.int8)
    for case in (Case(codes, scale, x, group), Case(codes, scale, x_codes, group, own)):
        with part(case.name):
            blocks, scales = student.to_lanes(codes), student.to_lanes(scale)
            rest = case.arrays[2:]
            _, after = student.after(case.name, blocks, scales, *rest, group, np.full(n, OLD, np.float32))
            same_array(after[-1], case.y, "y", atol=case.bound(), usual=case.usual(), axes=("output",))


def test_inputs_stay_as_they_are(student, part, rng):
    """Catches codes, scales and inputs that are changed in place: the next token needs them again."""
    rows = rng.integers(-127, 128, (70, 5)).astype(np.int8)
    calls = [("to_lanes", (rows,))]
    for case in (small(rng, 70, 9, 4), small(rng, 70, 9, 4, codes_of_x=True)):
        calls.append((case.name, (*case.arrays, case.group, np.full(70, OLD, np.float32))))
    for name, args in calls:
        with part(name):
            result, after = student.after(name, *args)
            if name == "to_lanes" and result is None:
                raise Failure("to_lanes: the result is None.", "end the function with return")
            kept = args if name == "to_lanes" else args[:-1]
            for old, new in zip(kept, after, strict=False):
                if isinstance(old, np.ndarray) and not equal(new, old):
                    raise Failure(f"{name}: an argument is changed by the call.", "the next token needs it again")
