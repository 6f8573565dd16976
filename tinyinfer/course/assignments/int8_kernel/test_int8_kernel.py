"""Public tests of the assignment int8_kernel: `pytest` gives the points so far, `pytest -k reads` only one subject.

Numbers are small whole numbers and powers of two where a result must be exact: then float32 rounds nothing, and the
order of a sum does not matter. What is read is counted outside of your code: in `test_reads` Python runs your loops
without numba, on arrays whose numbers stay with the test.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from tinyinfer.course.compare import Failure, at_least, same_array, same_value
from tinyinfer.course.runner import ENDS
from tinyinfer.course.student import StudentError, hinting
from tinyinfer.ledger import Ledger

pytest_plugins = ["tinyinfer.course.pytest_plugin"]

LANES = 64
OLD = 1000.0  # what y holds before a product


# What is right, by the formulas of the README, and what usual mistakes give.


def in_lanes(rows):
    """The rows in blocks of 64, a block's columns first, one number at a time."""
    blocks = np.zeros((-(-len(rows) // LANES), rows.shape[1], LANES), rows.dtype)
    for n, row in enumerate(rows):
        blocks[n // LANES, :, n % LANES] = row
    return blocks


@dataclass
class Case:
    """A matrix with its inputs. x_scale: of inputs that are codes; None where the inputs are floats."""

    codes: np.ndarray  # (N, M) int8
    scale: np.ndarray  # (N, G) float32
    x: np.ndarray  # (M,) float32, or int8
    group: int
    x_scale: np.ndarray | None = None  # (G,)

    @property
    def name(self):
        return "multiply" if self.x_scale is None else "multiply_codes"

    @property
    def arrays(self):
        """The arguments before `group`, the matrix in lanes."""
        inputs = (self.x,) if self.x_scale is None else (self.x, self.x_scale)
        return in_lanes(self.codes), in_lanes(self.scale), *inputs

    def sums(self, codes=None, group=None):
        """The exact sum of code · x over each group, (N, G)."""
        codes, group = self.codes if codes is None else codes, group or self.group
        products = codes.astype(np.float64) * self.x
        parts = [products[:, i : i + group].sum(axis=1) for i in range(0, products.shape[1], group)]
        return np.stack(parts, axis=1)

    def total(self, sums, scale=None, x_scale=None):
        """y of such sums, in float32."""
        scale = self.scale if scale is None else scale
        own = 1 if self.x_scale is None else self.x_scale if x_scale is None else x_scale
        return (own * scale.astype(np.float64) * sums).sum(axis=1).astype(np.float32)

    @property
    def y(self):
        return self.total(self.sums())

    def bound(self):
        """How far float32 may be off, whatever the order of its sums: 2^-24 a step, of sums without their signs."""
        terms = Case(np.abs(self.codes), self.scale, np.abs(self.x), self.group, self.x_scale)
        return float((len(self.x) + 8) * 2.0**-24 * np.abs(terms.y).max())

    def usual(self):
        """What usual mistakes give."""
        sums, first = self.sums(), np.repeat(self.scale[:, :1], self.scale.shape[1], axis=1)
        own = self.x_scale
        so_far = np.cumsum(sums, axis=1)
        shorter = self.codes.shape[1] % self.group
        yield self.y + OLD, "y holds old numbers: write the results into it, and do not add to what is there"
        yield np.full_like(self.y, OLD), "the results are written into y, which the caller gives; nothing is returned"
        yield self.total(sums, np.ones_like(self.scale)), "each group's sum is multiplied with its scale"
        yield self.total(sums, first), "each group has a scale of its own: scale[j, g, n]"
        yield self.total(so_far), "a group's sum begins at 0: the sums of the groups before are still in it"
        yield self.total(sums[:, ::-1]), "the groups are in another order than their scales"
        yield self.total(self.sums(self.codes.view(np.uint8))), "codes are signed: as uint8, -1 would be 255"
        yield self.total(self.sums(np.roll(self.codes, 1, axis=0))), "each lane has the sum of another output"
        if own is not None:
            yield self.total(sums, x_scale=np.ones_like(own)), "the inputs are codes, too: x_scale[g] is missing"
            yield self.total(sums, x_scale=np.full_like(own, own[0])), "each group of inputs has a scale: x_scale[g]"
            wrapped = (sums.astype(np.int64).astype(np.int16)).astype(float)
            yield self.total(wrapped), "a sum of such products needs more than 16 bits: int32"
        if shorter and self.scale.shape[1] > 1:
            left = sums.copy()
            left[:, -1] = 0
            yield self.total(left), "the last group is shorter, but it is a group"
            joined = sums.copy()
            joined[:, -2] += joined[:, -1]
            kept = None if own is None else own[:-1]
            hint = "the last group, which is shorter, has a scale of its own"
            yield self.total(joined[:, :-1], self.scale[:, :-1], kept), hint


def small(rng, n, m, group, codes_of_x=False):
    """A case whose result float32 holds exactly: small whole numbers, scales that are powers of two."""
    groups = -(-m // group)
    codes = rng.integers(-127, 128, (n, m)).astype(np.int8)
    scale = 2.0 ** rng.integers(-3, 3, (n, groups)).astype(np.float32)
    x = rng.integers(-4, 5, m)
    x[x == 0] = 1
    if not codes_of_x:
        return Case(codes, scale, x.astype(np.float32), group)
    return Case(codes, scale, x.astype(np.int8), group, 2.0 ** rng.integers(-3, 3, groups).astype(np.float32))


BEYOND = "the last group may have fewer inputs, and the last block may have fewer outputs: stop at the end"


def check(student, case, atol=0.0):
    """Raises Failure unless the student's product of a case is right."""
    args = (*case.arrays, case.group, np.full(len(case.codes), OLD, np.float32))
    with hinting("IndexError", BEYOND):
        _, after = student.after(case.name, *args)
    same_array(after[-1], case.y, "y", atol=atol, usual=case.usual(), axes=("output",))


# Task 1: to_lanes


def test_to_lanes(student, part, rng):
    """Catches rows that stay rows, blocks that take every J-th row, and a last block that is not filled up."""
    for name, shape, dtype in (
        ("one block", (64, 5), np.int8), ("three blocks", (192, 64), np.int8), ("100 rows", (100, 3), np.float32),
    ):  # fmt: skip
        with part(name):
            rows = rng.integers(1, 100, shape).astype(dtype)
            right = in_lanes(rows)
            blocks = len(right)
            full = np.zeros((LANES * blocks, shape[1]), dtype)
            full[: len(rows)] = rows
            usual = [
                (full.reshape(blocks, LANES, -1), "in a block the columns come first: its axes are (column, lane)"),
                (full.reshape(blocks, -1, LANES), "a reshape moves no number: split the rows, then swap two axes"),
                (full.reshape(LANES, blocks, -1).transpose(1, 2, 0), "block 0 holds the rows 0 to 63, not every J-th"),
                (right[: len(rows) // LANES], "the last rows fill no block, but they need one: fill it up with zeros"),
            ]
            same_array(student.to_lanes(rows), right, "blocks", usual=usual, axes=("block", "column", "lane"))


# Task 2: weight_bytes


def test_weight_bytes(student):
    """Catches the zeros of the last block left out, scales of 2 bytes, and a last group that is not counted."""
    for n, m, group in ((64, 32, 32), (128, 64, 32), (100, 64, 32), (1, 70, 32), (576, 1536, 64)):
        padded, groups = -(-n // LANES) * LANES, -(-m // group)
        usual = [
            (n * (m + 4 * groups), "the zeros that fill the last block are read, too"),
            (n // LANES * LANES * (m + 4 * groups), "the last block is read, too: round up"),
            (padded * (m + 2 * groups), "a scale is a float32 here"),
            (padded * (m + 4 * (m // group)), "the last group may be shorter: round up"),
            (padded * m, "the scales are read, too"),
            (padded * (4 * m + 4 * groups), "a code is one byte"),
            (padded * (m + groups), "a scale is a float32 of 4 bytes"),
        ]
        same_value(student.weight_bytes(n, m, group), padded * (m + 4 * groups), f"weight_bytes({n}, {m}, {group})",
                   usual=usual)  # fmt: skip


# Task 3: multiply


def test_multiply(student, part, rng):
    """Catches one scale for all groups, codes without a sign, and sums that go on in the next group or block."""
    for name, n, m, group in (
        ("one group", 64, 8, 8), ("four groups", 64, 32, 8), ("a group of one input", 64, 3, 1), ("blocks", 192, 24, 8),
    ):  # fmt: skip
        with part(name):
            check(student, small(rng, n, m, group))


def test_the_last_group_and_the_last_block(student, part, rng):
    """Catches inputs beyond the end, a shorter group that is left out, and outputs that do not exist."""
    for name, n, m, group in (
        ("the last group has 3 of 8 inputs", 64, 19, 8), ("100 outputs", 100, 16, 8), ("5 outputs, 3 inputs", 5, 3, 8),
    ):  # fmt: skip
        with part(name):
            check(student, small(rng, n, m, group))


# Task 4: multiply_codes


def test_multiply_codes(student, part, rng):
    """Catches whole numbers that are added as floats or in 16 bits, and a scale of the inputs left out."""
    with part("groups"):
        check(student, small(rng, 128, 35, 8, codes_of_x=True))
    with part("sums beyond 16 bits"):
        case = small(rng, 64, 64, 32, codes_of_x=True)
        check(student, Case(np.abs(case.codes), case.scale, np.full(64, 127, np.int8), 32, case.x_scale))
    with part("sums beyond 24 bits"):  # float32 has 24: it would round on the way
        codes = rng.integers(100, 128, (64, 2001)).astype(np.int8)
        x = rng.integers(100, 128, 2001).astype(np.int8)
        case = Case(codes, np.full((64, 1), 0.5, np.float32), x, 2001, np.full(1, 2, np.float32))
        try:
            check(student, case)
        except Failure as failure:
            hint = "whole numbers are added as whole numbers, in int32: float32 has 24 bits"
            raise Failure(failure.sentence, failure.hint if "16 bits" in failure.hint else hint) from None


# Tasks 3 and 4: compiled, and what is read


REFUSED = ("TypingError", "TypeError")  # by a function that numba compiles at its call, or for given types


def test_compiled(student, part, rng):
    """Catches a function that Python itself runs: numba's would not take an array that only Python can read."""
    for case in (small(rng, 64, 4, 2), small(rng, 64, 4, 2, codes_of_x=True)):
        with part(case.name):
            check(student, case)
            lent = [student.lend(array) for array in (*case.arrays, np.zeros(64, np.float32))]
            before, kind = len(student.loans.accesses), ""
            try:
                getattr(student, case.name)(*lent[:-1], case.group, lent[-1])
            except ENDS:
                raise
            except StudentError as error:
                kind = error.kind
            numbers = sum(len(access.places) for access in student.loans.accesses[before:])
            if numbers or kind not in REFUSED:
                sentence = f"{case.name}: Python itself runs this function, and has used {numbers} numbers."
                raise Failure(sentence, "leave the line @njit above the function, and the loops in the function")


class Reads:
    """One product of whole blocks whose loops Python runs, on arrays that stay here: what was read and written."""

    def __init__(self, student, case):
        self.case, self.loans, first = case, student.loans, len(student.loans.accesses)
        blocks, scale, x, *own = case.arrays
        self.block = blocks[0].size
        lent = [student.lend(array) for array in (blocks, scale, np.full(len(case.codes), OLD, np.float32))]
        self.codes, self.scales, self.y = (one.number for one in lent)
        x = x if x.dtype == np.float32 else x.astype(np.int64)  # Python's int8 would overflow, and numba's does not
        student.interpreted(case.name, *lent[:2], x, *own, case.group, lent[2])
        self.accesses = self.loans.accesses[first:]
        usual = [*case.usual()]
        same_array(self.loans.arrays[self.y], case.y, "y without numba", usual=usual, axes=("output",))

    def places(self, number):
        """The places of all numbers that were read of an array, in the order of the reads."""
        read = [one.places for one in self.accesses if one.lent == number and not one.write]
        return np.concatenate([np.zeros(0, np.int64), *read])

    def check_codes(self):
        """Raises Failure unless each code was read once."""
        counts = np.bincount(self.places(self.codes), minlength=self.case.codes.size)
        at_least(int((counts > 0).sum()), self.case.codes.size, "codes that were read")
        read = int(counts.sum())
        usual = [(read, f"a code is read up to {counts.max()} times: as if it had {counts.max()} bytes")]
        same_value(read, self.case.codes.size, "reads of codes", usual=usual)

    def check_scales(self):
        """Raises Failure unless each scale was read once."""
        count, right = len(self.places(self.scales)), self.case.scale.size
        at_least(count, right, "reads of scales")
        hint = "a scale belongs to a whole group: multiply the group's sum with it, and not each code"
        usual = [(self.case.codes.size, hint), (2 * right, "keep a scale that you need twice in a variable")]
        same_value(count, right, "reads of scales", usual=usual)

    def check_order(self):
        """Raises Failure unless codes were read as they lie in memory: 64 of one line, then 64 of the next."""
        lines = self.places(self.codes) // LANES  # the 64 codes of an input are a line of memory
        count, right = int((np.diff(lines) != 0).sum()) + bool(len(lines)), self.case.codes.size // LANES
        at_least(count, right, "lines of memory that were read")
        strided = "each read lies 64 bytes behind the last: the loop over lanes belongs inside of the loop over inputs"
        usual = [(count, strided if count > 8 * right else "some lines of memory are read more than once")]
        same_value(count, right, "lines of memory that were read", usual=usual)
        if (np.diff(lines) < 0).any():
            raise Failure("the codes are read in another order than they lie in memory.",
                          "block by block, and in a block input by input")  # fmt: skip

    def check_blocks(self):
        """Raises Failure unless the results of a block are written before the codes of the next one are read."""
        written = np.zeros(len(self.case.codes), bool)
        for access in self.accesses:
            if access.lent == self.y and access.write:
                written[access.places] = True
            if access.lent == self.codes and not access.write and len(access.places):
                done = int(access.places.max()) // self.block * LANES
                if not written[:done].all():
                    sentence = f"codes of block {done // LANES} are read before results of earlier blocks are written."
                    raise Failure(sentence, "finish a block before the next: no copy of the matrix, no second pass")

    def bytes(self):
        """Bytes of weights that were read, by a ledger of the test's own."""
        ledger = Ledger()
        ledger.weight_bytes += len(self.places(self.codes)) + 4 * len(self.places(self.scales))
        return ledger.weight_bytes


def check_reads(student, part, case):
    """Four parts: what a product of a case reads, and in which order."""
    reads = cache(lambda: Reads(student, case))  # what it raises is raised again in each part
    with part("each code once"):
        reads().check_codes()
    with part("each scale once"):
        reads().check_scales()
    with part("in the order of memory"):
        reads().check_order()
    with part("block by block"):
        reads().check_blocks()


def test_reads(student, part, rng):
    """Catches codes read twice, a scale read for each code, memory read in strides, and a float copy of the matrix."""
    check_reads(student, part, small(rng, 128, 3, 2))
