"""The roofline by hand, of lesson 02: what a step costs by the configuration alone, and the judge of a student's lines.

The judge counts with numbers of layers, heads and widths that are all different, so that a letter taken for another one
shows. A wrong count that is one slip away from the right one is recognized, and the hint names the slip.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from tinyinfer.ledger import Ledger
from tinyinfer.lessons.exercise import Wrong
from tinyinfer.measure.roofline import Machine, expected_step, parse_machine, predict_seconds
from tinyinfer.model.config import ModelConfig, RopeConfig
from tinyinfer.units import show


def llama(L: int, D: int, F: int, H: int, K: int, E: int, V: int) -> ModelConfig:
    """A model of Llama's kind: L layers of width D, MLPs of width F, H query heads, K key/value heads of size E."""
    return ModelConfig(
        "llama", V, D, F, L, H, K, E, 8192, 1e-5, E**-0.5, (RopeConfig(),) * L, (None,) * L, tied_head=True
    )


SMOLLM2 = llama(L=30, D=576, F=1536, H=9, K=3, E=64, V=49152)
PRIMES = llama(L=5, D=17, F=29, H=10, K=5, E=7, V=101)  # no product of two sizes is another one
PAPER = parse_machine("37GB/s,200GFLOP/s")  # the machine of the predictions: two cores of README's benchmarks


def step_cost(c: ModelConfig, rows: int, machine: Machine) -> tuple[int, int, float]:
    """(FLOPs, bytes, seconds) of one step that computes the first `rows` positions of a sequence."""
    L, D, F, V = c.num_layers, c.hidden_size, c.intermediate_size, c.vocab_size
    H, K, E = c.num_heads, c.num_kv_heads, c.head_dim
    body = L * (D * (H + 2 * K) * E + H * E * D + 3 * D * F)
    pairs = rows * (rows + 1) // 2
    flops = 2 * rows * body + 4 * H * E * L * pairs + 2 * D * V
    weights = body + D * V + (2 * L + 1) * D + rows * D
    cache = 2 * (2 * L * K * E * rows)
    moved = 4 * (weights + cache)
    return flops, moved, max(flops / machine.matrix_speed, moved / machine.read_bandwidth)


@dataclass(frozen=True)
class Parts:
    """The parts of a step's cost, from which each slip is made: FLOPs, and bytes."""

    rows: int
    body_flops: int
    attention: int
    head_flops: int
    body_bytes: int
    head_bytes: int
    norms: int
    embedding: int
    cache: int  # written once and read once

    @property
    def flops(self) -> int:
        return self.body_flops + self.attention + self.head_flops

    @property
    def moved(self) -> int:
        return self.body_bytes + self.head_bytes + self.norms + self.embedding + self.cache


def parts_of(c: ModelConfig, rows: int) -> Parts:
    """The parts of what the ledger counts for the first `rows` positions."""
    d, e, heads = c.hidden_size, c.head_dim, c.num_heads
    body = c.num_layers * d * ((heads + 2 * c.num_kv_heads) * e + heads * e + 3 * c.intermediate_size)
    return Parts(
        rows=rows,
        body_flops=2 * rows * body,
        attention=4 * heads * e * c.num_layers * (rows * (rows + 1) // 2),
        head_flops=2 * d * c.vocab_size,
        body_bytes=4 * body,
        head_bytes=4 * d * c.vocab_size,
        norms=4 * (2 * c.num_layers + 1) * d,
        embedding=4 * rows * d,
        cache=2 * 4 * 2 * c.num_layers * c.num_kv_heads * e * rows,
    )


Slip = tuple[Callable[[Parts, ModelConfig], int], str]  # a wrong count, and what is behind it

FLOP_SLIPS: tuple[Slip, ...] = (
    (lambda p, c: p.flops + (p.rows - 1) * p.head_flops,
     "the head is asked for the logits of the last row only, so its product has one row"),
    (lambda p, c: p.body_flops + p.head_flops + 2 * p.attention * p.rows // (p.rows + 1),
     "a row sees itself and the rows before it, not the later ones: sum up 1 + 2 + 3 + ... over the rows"),
    (lambda p, c: p.flops // 2, "a number of a matrix is multiplied and added: two FLOPs for each row"),
    (lambda p, c: p.flops - p.head_flops, "the head is a matrix, too: D inputs, V outputs, one row"),
    (lambda p, c: p.body_flops + p.head_flops, "attention is missing: 4·H·E FLOPs a layer for each pair"),
    (lambda p, c: p.body_flops + p.head_flops + p.attention // c.num_layers,
     "attention runs in every layer, so its FLOPs are counted L times"),
    (lambda p, c: p.body_flops // p.rows + p.attention + p.head_flops,
     "a weight is read once for all rows, but each row is multiplied with it: FLOPs grow with the rows"),
    (lambda p, c: p.flops - 2 * p.rows * c.num_layers * c.hidden_size * c.intermediate_size,
     "this MLP has three matrices of D·F numbers: gate, up and down"),
)  # fmt: skip
BYTE_SLIPS: tuple[Slip, ...] = (
    (lambda p, c: p.moved + (p.rows - 1) * (p.body_bytes + p.head_bytes),
     "a step reads each matrix once, whatever the number of its rows: that is why batches pay"),
    (lambda p, c: p.moved + (p.rows - 1) * p.body_bytes,
     "a step reads each matrix once, whatever the number of its rows: that is why batches pay"),
    (lambda p, c: p.moved // 4, "these are numbers, not bytes: a float32 takes four bytes"),
    (lambda p, c: p.moved - p.cache, "keys and values are missing: 2·L·K·E numbers a row, written once and read once"),
    (lambda p, c: p.moved - p.cache // 2, "keys and values move twice: a step writes them, and attention reads them"),
    (lambda p, c: p.moved - p.cache + p.cache * c.num_heads // c.num_kv_heads,
     "only K heads have keys and values; the H query heads share them"),
    (lambda p, c: p.moved - p.norms, "the norms are missing: two a layer and a last one, of D numbers each"),
    (lambda p, c: p.moved - p.embedding, "the embedding is missing: a row of D numbers for each token of the step"),
    (lambda p, c: p.moved - p.head_bytes, "the head is read, too: D·V numbers, once"),
    (lambda p, c: p.moved - p.embedding + p.head_bytes,
     "of the embedding a step reads only the rows of its tokens, not the whole table"),
)  # fmt: skip


def judge_step_cost(answer: Any) -> Wrong | None:
    """Compares with the ledger's counts on two models, then the seconds on three machines."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", "keep the line `def step_cost(c, rows, machine):`")
    for c in (PRIMES, SMOLLM2):
        for rows in (7, 1, 128):
            for machine in (PAPER, Machine(1e9, 1e15), Machine(1e15, 1e9)):  # each of the two limits binds
                if wrong := _judged(answer(c, rows, machine), c, rows, machine):
                    return wrong
    return None


def _judged(given: object, c: ModelConfig, rows: int, machine: Machine) -> Wrong | None:
    if not isinstance(given, tuple | list | np.ndarray) or len(given) != 3:
        hint = "end with `return flops, moved, seconds`"
        return Wrong(f"The function gives {show(given)}, not three numbers.", hint)
    expected, parts = expected_step(c, 0, rows), parts_of(c, rows)
    if wrong := _slipped("FLOPs", given[0], expected.flops, FLOP_SLIPS, parts, c):
        return wrong
    if wrong := _slipped("bytes", given[1], expected.bytes_moved, BYTE_SLIPS, parts, c):
        return wrong
    return _judged_seconds(given[2], expected, machine)


def _slipped(
    what: str, given: object, truth: int, slips: tuple[Slip, ...], parts: Parts, c: ModelConfig
) -> Wrong | None:
    if given == truth:
        return None
    hint = next((why for wrong, why in slips if given == wrong(parts, c)), _by_parts(what, parts))
    sizes = f"a model of {c.num_layers} layers with D = {c.hidden_size} and H = {c.num_heads}"
    model = "SmolLM2" if c is SMOLLM2 else sizes
    return Wrong(f"For {parts.rows} rows of {model} the ledger counts {truth} {what}, and you {show(given)}.", hint)


def _by_parts(what: str, p: Parts) -> str:
    """The ledger's count in its parts: the student compares each with the same part of the own count."""
    flops = {"matrices of the layers": p.body_flops, "attention": p.attention, "head": p.head_flops}
    moved = {"matrices of the layers": p.body_bytes, "head": p.head_bytes, "norms": p.norms,
             "embedding's rows": p.embedding, "keys and values": p.cache}  # fmt: skip
    counts = ", ".join(f"{name} {count}" for name, count in (flops if what == "FLOPs" else moved).items())
    return f"print your {what} part by part, and find the part that differs: {counts}"


def _judged_seconds(given: object, expected: Ledger, machine: Machine) -> Wrong | None:
    arithmetic, reading = expected.flops / machine.matrix_speed, expected.bytes_moved / machine.read_bandwidth
    if isinstance(given, Real) and math.isclose(given, max(arithmetic, reading), rel_tol=1e-12):
        return None
    hints = (
        (arithmetic + reading, "a processor computes while it reads, so the slower of the two decides: not the sum"),
        (min(arithmetic, reading), "both have to be done, so the slower of the two decides"),
        (predict_seconds(expected, PAPER), "that is another machine's time: use the `machine` that the function gets"),
        (1e3 * max(arithmetic, reading), "give back seconds, not milliseconds"),
    )
    close = (why for wrong, why in hints if isinstance(given, Real) and math.isclose(given, wrong, rel_tol=1e-12))
    hint = next(close, "FLOPs over matrix speed, bytes over read bandwidth")
    return Wrong(f"FLOPs and bytes are right, but a step never takes {show(given)} seconds.", hint)
