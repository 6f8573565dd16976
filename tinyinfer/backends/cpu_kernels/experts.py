"""A mixture of experts in a plan: rows are sorted by their experts, and each expert multiplies its own.

    route           each row's k experts and their weights
    sort            the T·k choices (a row and one of its experts) in the order of experts, and groups of them
    gather          a row for each choice, in that order
    gate_up, gate   a product and the nonlinearity, for the rows of all choices
    down            a product
    combine         each row's change: the weighted sum of what its experts made of it

Which weights a product reads, only the pass itself decides, and a plan's addresses stay. So the plan holds the
arguments of the product with every expert; an item copies those of its group's expert, moves the addresses of rows to
the group's first, and calls the kernel that would have been launched. Thus every type of weight has experts.

Formulas: moe.route, ReferenceOps.experts. Roofline: the product's; an expert is read once for up to 64 rows, and not at
all where no row chose it. Wins: a pass with a mixture is one plan like any other. Loses: a few kilobytes are copied for
each choice, and a plan takes the longer to write down the more experts there are.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from tinyinfer.backends.cpu_kernels import digit_product, integer_product
from tinyinfer.backends.cpu_kernels.atomics import call_kernel
from tinyinfer.backends.cpu_kernels.buffers import Buffers, Rows
from tinyinfer.backends.cpu_kernels.functions import exp, sigmoid
from tinyinfer.backends.cpu_kernels.gate import gate
from tinyinfer.backends.cpu_kernels.kernel import Launch, kernel
from tinyinfer.backends.cpu_kernels.plan import Addresses
from tinyinfer.backends.cpu_kernels.products import builder_of_codes, product, rows_as_bytes
from tinyinfer.backends.cpu_kernels.rows import gather
from tinyinfer.backends.cpu_kernels.scalars import (
    as_float,
    bits_of,
    float_at,
    int_at,
    quotient,
    remainder,
    set_float,
    set_int,
)
from tinyinfer.backends.cpu_kernels.stacked_product import stacked_product
from tinyinfer.backends.cpu_kernels.three_bytes import DIGITS
from tinyinfer.backends.cpu_kernels.vectors import first_of, fma, load, splat, store
from tinyinfer.backends.lanes import PackedLanes
from tinyinfer.backends.stacked import Stacked
from tinyinfer.model.moe import MoE, SharedMoE
from tinyinfer.model.weights import Experts, Weight

FLOAT, WORD, VECTOR = 4, 8, 64  # bytes of a number, of a whole number, and of a vector
MOST = integer_product.MOST_ROWS  # rows of a group
FEW = 16  # rows of a pass up to which a row gets the same bits in any company
HEAD, ROOM = 8, 64  # where the moved addresses begin in a launch's arguments; words of a thread's own arguments
EXPERT, FIRST, COUNT, PER_GROUP = 0, 8, 16, 24  # bytes: where what stands in a group
TAKEN = np.float32(-1)  # in place of a probability


@njit(forceinline=True)
def softmax(logits, p, count):
    """p = softmax(logits), of `count` numbers; NaN everywhere where one of them is."""
    high, total = float_at(logits), np.float32(0)
    for i in range(count):
        value = float_at(logits + FLOAT * i)
        if value > high or value != value:
            high = value
    for i in range(0, count, 16):
        store(p + FLOAT * i, exp(load(logits + FLOAT * i) - splat(high)))
    for i in range(count):
        total += float_at(p + FLOAT * i)
    for i in range(count):
        set_float(p + FLOAT * i, float_at(p + FLOAT * i) / total)


@njit(forceinline=True)
def take_best(p, count):
    """The index of the largest number, of equal ones the first; the next call finds another."""
    best, high = -1, np.float32(0)
    for i in range(count):
        value = float_at(p + FLOAT * i)
        if value != TAKEN and (best < 0 or value > high):
            best, high = i, value
    set_float(p + FLOAT * best, TAKEN)
    return best, high


@kernel
def route(a, item, thread):
    """A row's k experts, best first, and their weights.

    a: logits, stride, X, k, chosen (T, k), weights (T, k), whether these are renormalized, a row for each thread.
    """
    count, k, p = a[2], a[3], a[7] + FLOAT * a[1] * thread
    softmax(a[0] + FLOAT * a[1] * item, p, count)
    chosen, weights, total = a[4] + WORD * k * item, a[5] + FLOAT * k * item, np.float32(0)
    for n in range(k):
        expert, weight = take_best(p, count)
        set_int(chosen + WORD * n, expert)
        set_float(weights + FLOAT * n, weight)
        total += weight
    if a[6]:
        for n in range(k):
            set_float(weights + FLOAT * n, float_at(weights + FLOAT * n) / total)


@kernel
def sort_choices(a, item, thread):
    """Sorts choices by expert.

    a: chosen, how many choices, k, X, the row of each sorted choice, the place of each choice when sorted, groups, how
    many there is room for, X words.
    """
    chosen, count, k, following = a[0], a[1], a[2], a[8]
    for e in range(a[3]):
        set_int(following + WORD * e, 0)
    for n in range(count):
        at = following + WORD * int_at(chosen + WORD * n)
        set_int(at, int_at(at) + 1)
    start, group = 0, a[6]
    for e in range(a[3]):
        size = int_at(following + WORD * e)
        set_int(following + WORD * e, start)
        for first in range(0, size, MOST):
            set_int(group + EXPERT, e)
            set_int(group + FIRST, start + first)
            set_int(group + COUNT, min(MOST, size - first))
            group += PER_GROUP
        start += size
    while group < a[6] + PER_GROUP * a[7]:
        set_int(group + COUNT, 0)
        group += PER_GROUP
    for n in range(count):
        at = following + WORD * int_at(chosen + WORD * n)
        place = int_at(at)
        set_int(at, place + 1)
        set_int(a[4] + WORD * place, quotient(n, k))
        set_int(a[5] + WORD * n, place)


@kernel
def expert_product(a, item, thread):
    """One item of the product of a group's expert with the group's rows.

    a: groups, the kernel, its items for a group, arguments of each thread, how many arguments it has, which of them say
    the rows and the rows of an item, how many are addresses of rows; these, each with the bytes from a row to the next;
    the arguments for every expert.
    """
    group, part, own = a[0] + PER_GROUP * quotient(item, a[2]), remainder(item, a[2]), a[3] + WORD * ROOM * thread
    first, count = int_at(group + FIRST), int_at(group + COUNT)
    if count == 0:
        return
    start = HEAD + 2 * a[7] + a[4] * int_at(group + EXPERT)
    for i in range(a[4]):
        set_int(own + WORD * i, a[start + i])
    for i in range(HEAD, HEAD + 2 * a[7], 2):
        at = own + WORD * a[i]
        set_int(at, int_at(at) + a[i + 1] * first)
    set_int(own + WORD * a[5], count)
    set_int(own + WORD * a[6], count)
    call_kernel(a[1], own, part, thread)


@kernel
def combine(a, item, thread):
    """y = Σ weight · what an expert made of the row, or y += factor · Σ.

    a: rows of choices, their stride, places, weights, k, y, its stride, vectors, factor, whether it adds; rows of the
    shared expert or 0, their stride, logits of its weight, their stride; numbers of a row.
    """
    k, y = a[4], a[5] + FLOAT * a[6] * item
    places, weights, factor = a[2] + WORD * k * item, a[3] + FLOAT * k * item, splat(as_float(a[8]))
    shared, share = a[10] + FLOAT * a[11] * item, np.float32(0)
    if a[10]:
        share = first_of(sigmoid(splat(float_at(a[12] + FLOAT * a[13] * item))))
    for at in range(0, VECTOR * a[7], VECTOR):
        total = splat(np.float32(0))
        for n in range(k):
            row = a[0] + FLOAT * a[1] * int_at(places + WORD * n)
            total = fma(load(row + at), splat(float_at(weights + FLOAT * n)), total)
        if a[10]:
            total = fma(load(shared + at), splat(share), total)
        store(y + at, fma(total, factor, load(y + at)) if a[9] else total)
    for i in range(a[14], 16 * a[7]):  # a weight that is NaN has made it NaN
        set_float(y + FLOAT * i, np.float32(0))


Multiply = Callable[..., list[Launch]]


def product_for(rows: int) -> Multiply:
    """The builder of products for experts that are chosen by about so many rows each."""

    def multiply(
        weight: Weight, x: Rows, y: Rows, buffers: Buffers, bias: np.ndarray | None = None, add: float | None = None
    ) -> list[Launch]:
        if isinstance(weight, Stacked):
            return stacked_product(multiply, weight, x, y, buffers, bias, add)
        if type(weight) is PackedLanes:
            return builder_of_codes(weight, rows, rows_as_bytes(weight.scheme.bits))(weight, x, y, buffers, bias, add)
        return product(weight, x, y, buffers, bias, add)

    return multiply


class Mixture:
    """The launches of one layer's mixture for T rows, and the choice that a pass has made. choices: T·k rows' memory.

    chosen: (T, k) whole numbers, which the ledger is told of after the pass.
    """

    def __init__(self, mlp: MoE, h: Rows, buffers: Buffers, choices: Buffers) -> None:
        self.mlp, self.h, self.buffers, self.choices = mlp, h, buffers, choices
        self.rows, self.k, self.count = len(h), mlp.config.experts_per_token, mlp.config.num_experts
        total = self.rows * self.k
        self.chosen = np.zeros((self.rows, self.k), np.int64)
        self.weights = buffers.array("weights of experts", (self.rows, self.k))
        self.order, self.places = (buffers.array(name, (total,), np.int64) for name in ("rows sorted", "places"))
        self.groups = buffers.array("groups", (min(total, self.count + total // MOST), 3), np.int64)
        self.multiply = product_for(1 if self.rows <= FEW else max(1, total // self.count))

    def launches(self, y: Rows, add: float | None) -> list[Launch]:
        """y = what the mixture makes of h, or y += add · that."""
        mlp, choices, routed = self.mlp, self.choices, self.routed()
        x, out = choices.rows("x", self.h.width), choices.rows("out", y.width)
        gated = choices.rows("gated", mlp.down.linears[0].weight.shape[1])
        both = choices.rows("both", 2 * gated.width)
        several = self.products(mlp.gate_up, x, both)
        several += gate(both, gated, mlp.activation)
        several += self.products(mlp.down, gated, out)
        shared, launches = self.shared(y)
        last = Launch(combine, (
            out.array, out.stride, self.places, self.weights, self.k, y.array, y.stride, y.stride // 16,
            bits_of(add or 0.0), add is not None, *shared, y.width,
        ), self.rows)  # fmt: skip
        rows = Rows(x.array[: self.rows * self.k], x.width)
        return [*routed, *gather(self.h, rows, self.order), *several, *launches, last]

    def routed(self) -> list[Launch]:
        """The launches that choose, and that sort the choices."""
        router, threads = self.mlp.router, self.buffers.threads
        logits = self.buffers.rows("router", self.count)
        memory = self.buffers.array("probabilities", (threads, logits.stride))
        by_row = Launch(route, (
            logits.array, logits.stride, self.count, self.k, self.chosen, self.weights, self.mlp.config.renormalize,
            memory,
        ), self.rows)  # fmt: skip
        following = self.buffers.array("following", (self.count,), np.int64)
        sort = Launch(sort_choices, (
            self.chosen, self.chosen.size, self.k, self.count, self.order, self.places, self.groups, len(self.groups),
            following,
        ), 1)  # fmt: skip
        return [*product(router.weight, self.h, logits, self.buffers, router.bias), by_row, sort]

    def products(self, experts: Experts, x: Rows, y: Rows) -> list[Launch]:
        """y = x Wᵀ + bias, each group of rows by its own expert."""
        each = [self.multiply(linear.weight, x, y, self.choices, linear.bias) for linear in experts.linears]
        return [self.chosen_among(launches) for launches in zip(*each, strict=True)]

    def chosen_among(self, launches: tuple[Launch, ...]) -> Launch:
        """One launch for all groups. What is the same for every expert (rounding of rows) stays a launch of all."""
        one, as_number = launches[0], Addresses().as_number
        numbers = [[as_number(value) for value in launch.arguments] for launch in launches]
        if all(some == numbers[0] for some in numbers):
            return one
        assert len({launch.kernel for launch in launches}) == 1, "the experts of a layer are of one type"
        assert isinstance(one.items, int)
        rows, rows_of_item, steps = row_arguments(one)
        blocks = one.items // -(-numbers[0][rows] // numbers[0][rows_of_item])
        memory = self.buffers.array("arguments", (self.buffers.threads, ROOM), np.int64)
        head = self.groups, one.kernel.address, blocks, memory, len(one.arguments), rows, rows_of_item, len(steps)
        moved = [number for step in steps.items() for number in step]
        every = [value for launch in launches for value in launch.arguments]
        return Launch(expert_product, (*head, *moved, *every), blocks * len(self.groups))

    def shared(self, y: Rows) -> tuple[tuple[int | np.ndarray, ...], list[Launch]]:
        """What `combine` must know of the expert that every row uses, and the launches that compute it."""
        mlp, buffers = self.mlp, self.buffers
        if not isinstance(mlp, SharedMoE):
            return (0, 0, 0, 0), []
        both = buffers.rows("shared gate_up", mlp.shared_gate_up.weight.shape[0])
        gated = buffers.rows("shared gated", both.width // 2)
        out, weight = buffers.rows("shared", y.width), buffers.rows("shared weight", 1)
        launches = product(mlp.shared_router.weight, self.h, weight, buffers, mlp.shared_router.bias)
        launches += product(mlp.shared_gate_up.weight, self.h, both, buffers, mlp.shared_gate_up.bias)
        launches += gate(both, gated, mlp.activation)
        launches += product(mlp.shared_down.weight, gated, out, buffers, mlp.shared_down.bias)
        return (out.array, out.stride, weight.array, weight.stride), launches


def row_arguments(launch: Launch) -> tuple[int, int, dict[int, Any]]:
    """Which arguments of a product say how many rows, and how many an item has; which are addresses of rows, and the
    bytes from a row to the next there.
    """
    a, p = launch.arguments, integer_product
    if launch.kernel in p.KERNELS.values():
        steps = {p.X: a[p.X_STRIDE], p.X_SCALES: a[p.X_APART], p.X_SUMS: a[p.X_APART], p.Y: a[p.Y_STRIDE]}
        return p.ROWS, p.ROWS_OF_ITEM, steps
    if launch.kernel in digit_product.KERNELS.values():  # beside digits, their scales and the sums of inputs
        apart: Any = FLOAT * a[19]
        return 7, 8, {0: DIGITS * a[1], 2: a[3], 22: apart, 23: apart}
    return 7, 8, {0: a[1], 2: a[3]}  # outputs.py


def memory_of_choices(rows: int, mlp: MoE, threads: int) -> Buffers:
    """Memory for the rows of all choices; and one row of zeros, as kernels of four rows may read one behind three."""
    return Buffers(rows * mlp.config.experts_per_token + 1, threads)
