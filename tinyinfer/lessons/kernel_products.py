"""All products of a token, of lesson 17: a model's int8 matrices, each with an input and room for its output.

A kernel is timed over the whole list, since a list as long as a model does not fit into a cache: each matrix has to
come from memory, as it does in decode. The rate is that of the format's own bytes, codes and float16 scales: what a
kernel moves besides is its own fault, and the same denominator makes kernels comparable.

`OwnProducts` puts a student's kernel into the library's engine, so that the real model ends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.backends.delegate import DelegatingOps
from tinyinfer.lessons.kernel_ladder import LANES
from tinyinfer.lessons.own_part import own_engine
from tinyinfer.llm import LLM
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.visit import matrices, weights
from tinyinfer.model.weights import Linear, QuantizedMatrix
from tinyinfer.sampling_params import SamplingParams

Kernel = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], object]  # codes, scale, x, y
Pack = Callable[[np.ndarray], np.ndarray]  # (N, n) -> (J, n, 64)
Key = TypeVar("Key")
PATIENCE = 1.5  # seconds of measuring, after which no round begins
LOWEST = -128  # the code of an output that is not there: the byte 0 of the library's unsigned codes


@dataclass(frozen=True)
class Product:
    """y = W x of one matrix of `outputs` outputs, in the order of a textbook or in blocks."""

    name: str  # the model's
    weight: object  # the library's, of which this is a copy
    outputs: int
    codes: np.ndarray  # (N, M), or (J, M, 64): int8
    scale: np.ndarray  # (N, G), or (J, G, 64)
    x: Any  # (M,) float32, or what a kernel of another kind takes
    y: np.ndarray  # (N,), or (J, 64): float32

    @property
    def result(self) -> np.ndarray:  # -> (N,)
        """The outputs without the padding of the last block."""
        return self.y.reshape(-1)[: self.outputs]


@dataclass(frozen=True)
class Products:
    """The products of a token, one after the other."""

    parts: tuple[Product, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the format: a code is one byte, a scale two."""
        return sum(part.outputs * (part.codes.shape[1] + 2 * part.scale.shape[1]) for part in self.parts)

    @property
    def held(self) -> int:
        """Bytes that a kernel has to read: of the arrays as they are."""
        return sum(part.codes.nbytes + part.scale.nbytes for part in self.parts)

    def run(self, kernel: Kernel) -> None:
        """Computes one product after the other."""
        for part in self.parts:
            kernel(part.codes, part.scale, part.x, part.y)

    def first(self, outputs: int) -> Products:
        """The first outputs of the first matrix alone, for a kernel that would need minutes for all."""
        one = self.parts[0]
        codes, scale, y = (array[:outputs] for array in (one.codes, one.scale, one.y))
        return Products((replace(one, outputs=len(y), codes=codes, scale=scale, y=y),))

    def named(self, name: str) -> Products:
        """The product of one matrix alone."""
        return Products(tuple(part for part in self.parts if part.name == name))

    def of_rows(self, count: int) -> Products:
        """The same matrices with so many rows of inputs, (T, M), and outputs (T, J, 64)."""
        random = np.random.default_rng(count)
        return Products(tuple(
            replace(one, x=random.standard_normal((count, *one.x.shape), dtype=np.float32),
                    y=np.empty((count, *one.y.shape), np.float32))
            for one in self.parts
        ))  # fmt: skip

    def furthest(self, other: Products) -> float:
        """The largest difference between the results of both, as a share of the largest result of its matrix."""
        pairs = zip(self.parts, other.parts, strict=True)
        return max(float(np.abs(a.result - b.result).max() / np.abs(b.result).max()) for a, b in pairs)


def in_turn(works: Mapping[Key, tuple[Products, Kernel]], rounds: int = 5) -> dict[Key, float]:
    """The seconds of each kernel over its products: the fastest of some rounds, in which all take turns.

    Other load can only slow a round down; and in turn it slows all of them down, so that ratios stay. On a machine that
    needs long there are fewer rounds, at least one.
    """
    times, ends = dict.fromkeys(works, float("inf")), perf_counter() + PATIENCE
    for done in range(rounds):
        if done and perf_counter() > ends:
            break
        for key, (rows, kernel) in works.items():
            begun = perf_counter()
            rows.run(kernel)
            times[key] = min(times[key], perf_counter() - begun)
    return times


def products(llm: LLM) -> Products:
    """The products of a model whose matrices are int8 with one scale a group, as a textbook lays them out."""
    random, parts = np.random.default_rng(17), []
    for name, weight in ((name, weight) for name, held in matrices(llm.model) for weight in weights(held)):
        matrix = weight.matrix()
        assert isinstance(matrix, QuantizedMatrix)
        codes, scale = matrix.codes.astype(np.int8), matrix.scale.astype(np.float32)  # (N, M), (N, G)
        outputs, inputs = codes.shape
        x = random.standard_normal(inputs, dtype=np.float32)
        parts.append(Product(name, weight, outputs, codes, scale, x, np.empty(outputs, np.float32)))
    return Products(tuple(parts))


def packed(rows: Products, pack: Pack) -> Products:
    """The same products with codes and scales in blocks; the last block is filled up with scales of zero."""
    parts = []
    for part in rows.parts:
        codes, scale = pack(filled(part.codes, LOWEST)), pack(filled(part.scale, 0))  # (J, M, 64), (J, G, 64)
        parts.append(replace(part, codes=codes, scale=scale, y=np.empty((len(codes), LANES), np.float32)))
    return Products(tuple(parts))


def filled(array: np.ndarray, value: int) -> np.ndarray:  # (N, n) -> (filled, n)
    """The rows of n numbers, and rows of `value` up to a whole number of blocks."""
    missing = -len(array) % LANES
    return np.pad(array, ((0, missing), (0, 0)), constant_values=value) if missing else array


def halved(blocks: Products) -> Products:
    """The same products with each scale as the 16 bits of its float16, in uint16: numba knows no float16."""
    return Products(tuple(replace(one, scale=one.scale.astype(np.float16).view(np.uint16)) for one in blocks.parts))


class OwnProducts(DelegatingOps):
    """The library's operations, but a student's kernel multiplies single rows with these matrices, held in blocks."""

    def __init__(self, inner: Ops, kernel: Kernel, blocks: Iterable[Product]) -> None:
        super().__init__(inner)
        self.kernel, self.blocks = kernel, {id(part.weight): part for part in blocks}

    def linear(self, x: Array, linear: Linear) -> Array:  # (T, M) -> (T, N)
        own: Any = self.blocks.get(id(linear.weight))
        if len(x) != 1 or own is None:
            return self.inner.linear(x, linear)
        self.ledger.flops += 2 * x.shape[1] * own.outputs
        self.ledger.weight_bytes += own.codes.nbytes + own.scale.nbytes
        y = np.empty_like(own.y)  # (J, 64)
        self.kernel(own.codes, own.scale, x[0], y)
        out = y.reshape(1, -1)[:, : own.outputs]  # (1, N)
        return out if linear.bias is None else out + linear.bias


@dataclass(frozen=True)
class Decoded:
    """What an engine wrote, and the fastest of its decode steps: bytes of weights read, seconds."""

    tokens: list[int]
    text: str
    weight_bytes: int
    seconds: float


def decoded(llm: LLM, prompt: str, count: int, ops: Ops | None = None) -> Decoded:
    """The `count` likeliest tokens after a prompt, by these operations; None: the library's own."""
    [seq] = llm.sequences([prompt], SamplingParams(max_tokens=count, ignore_eos=True))
    steps = list(own_engine(llm, ops=ops).run([seq]))[1:]
    done, fastest = llm.output(seq), min(steps, key=lambda step: step.seconds)
    return Decoded(done.token_ids, done.text, fastest.ledger.weight_bytes, fastest.seconds)
