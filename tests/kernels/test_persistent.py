"""One launch that stays gives the tokens, logits and cache of the single launches that it replaces, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from kernels.products import KernelWeight, make_weight, random_rows, shared_bytes
from kernels.shim import ShimModule

from tinyinfer.backends.kernels.source import kernel_source

D, F, H, K, E, V, L = 24, 28, 4, 2, 6, 37, 2
POSITIONS, BLOCK, SPLITS, STEPS, RING = 12, 4, 2, 3, 4
FACTORS = {"embedding": 1.5, "attention": 0.4, "score_cap": 0.0, "residual": 0.75, "logit_scale": 1.25,
           "logit_cap": 9.0}  # fmt: skip
PRELUDE = {"D": D, "F": F, "H": H, "K": K, "E": E, "V": V, "Z": 1, "T": 1, "R": 1, "EPS": 1e-5, "SLOTS": 2,
           "RING": RING, "MOST_BLOCKS": 3, "SPLITS": SPLITS, "ACTIVATION": 0}  # fmt: skip
f32, i32 = np.float32, np.int32


@dataclass
class Layer:
    """A layer's weights, (N, M) each, with norms and biases."""

    kind: str
    number: int
    window: int
    parts: dict[str, KernelWeight] = field(init=False)
    vectors: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        shapes = {"qkv": ((H + 2 * K) * E, D), "o": (D, H * E), "gate_up": (2 * F, D), "down": (D, F)}
        seed = 10 * self.number
        self.parts = {name: make_weight(self.kind, *shape, seed + i) for i, (name, shape) in enumerate(shapes.items())}
        sizes = {name: shape[0] for name, shape in shapes.items()} | {"attention_norm": D, "mlp_norm": D, "sinks": H}
        self.vectors = {name: random_rows(1, n, seed=seed + i)[0] for i, (name, n) in enumerate(sizes.items())}

    def linear(self, name: str) -> tuple[Any, ...]:
        """Three pointers and the bias."""
        return (*self.parts[name].pointers, self.vectors[name])


@dataclass
class Sequence:
    """The buffers of one sequence in slot 1, whose three blocks are scattered."""

    temperature: float
    kind: str

    def __post_init__(self) -> None:
        nan = lambda *shape: np.full(shape, np.nan, f32)  # noqa: E731
        self.x, self.q, self.out, self.h, self.logits = nan(1, D), nan(1, H, E), nan(1, H, E), nan(1, F), nan(1, V)
        self.partial, self.best = nan(H * SPLITS * (E + 2)), np.full(64, np.nan)
        self.cache = nan(L, 2, K, POSITIONS, E)
        self.pools, self.places = np.zeros((L, 2, 2), np.uint64), np.array([[0] * 5, [POSITIONS, BLOCK, 2, 0, 1]], i32)
        for layer in range(L):
            self.pools[layer, 1] = [self.cache[layer, j].ctypes.data for j in (0, 1)]
        self.tokens, self.positions, self.slots, self.sets = (np.array([n], i32) for n in (5, 3, 1, 0))
        self.cache[:, :, :, [8, 9, 10]] = random_rows(L, 2, K, 3, E, seed=8)  # positions 0, 1 and 2
        self.temperatures, self.seeds = np.array([self.temperature]), np.array([77], np.uint64)
        self.step, self.results = np.array([2], i32), np.full((RING, 1, 4), -1, i32)
        self.frequencies, self.amplitudes = (random_rows(1, E // 2, seed=n) ** 2 for n in (1, 2))
        self.counters, self.generation = np.zeros(K + 2, i32), np.array([7], i32)
        self.layers = [Layer(self.kind, n, (0, 3)[n]) for n in range(L)]
        self.table, self.head = make_weight("Dense<float16>", V, D, 90), make_weight("Packed<8, 0, true>", V, D, 91)
        self.norm = random_rows(1, D, seed=92)[0]

    def results_of_steps(self) -> list[np.ndarray]:
        """All that a later step or the host may read."""
        return [self.tokens, self.positions, self.step, self.results, self.logits, self.cache, self.counters, self.x]


def launched(s: Sequence) -> list[np.ndarray]:
    """STEPS steps of single launches, as a plan has them."""
    f = {name: f32(value) for name, value in FACTORS.items()}

    def launch(name: str, args: tuple[Any, ...], weight: str = "", inputs: int = 0) -> None:
        types = {"Weight": weight, "INPUTS": inputs} if weight else {}
        kernel = ShimModule(kernel_source(name, PRELUDE | types)).get_function(name)
        kernel((3,), (kernel.max_threads,), args, shared_bytes(1, inputs) if inputs else 0)

    for _ in range(STEPS):
        launch("embed", (s.tokens, *s.table.pointers, f["embedding"], s.x), s.table.kind)
        for i, layer in enumerate(s.layers):
            where = s.positions, s.slots, s.pools, s.places, i32(i)
            turned = s.positions, s.slots, s.sets, s.frequencies, s.amplitudes, s.pools, s.places, i32(i), s.q
            qkv = s.x, layer.vectors["attention_norm"], *layer.linear("qkv"), *turned
            launch("rms_qkv_rope_append", qkv, s.kind, D)
            scores = i32(layer.window), f["attention"], f["score_cap"], layer.vectors["sinks"]
            launch("attention_decode", (s.q, *where, *scores, s.partial, s.counters, s.out))
            launch("projection_residual", (s.out, *layer.linear("o"), s.x, f["residual"]), s.kind, H * E)
            gate_up = s.x, layer.vectors["mlp_norm"], *layer.linear("gate_up"), s.h
            launch("rms_gate_up", gate_up, s.kind, D)
            launch("projection_residual", (s.h, *layer.linear("down"), s.x, f["residual"]), s.kind, F)
        head = s.x, s.norm, *s.head.pointers, f["logit_scale"], f["logit_cap"], s.temperatures, s.seeds
        chosen = s.tokens, s.positions, s.best, s.counters, s.step, s.results, s.logits
        launch("rms_head_sample", (*head, *chosen), s.head.kind, D)
    return s.results_of_steps()


def addresses(s: Sequence) -> np.ndarray:
    """The table of the layers' addresses: 23 words a layer."""
    rows = []
    for layer in s.layers:
        attention = layer.vectors["attention_norm"], *layer.linear("qkv"), *layer.linear("o")
        mlp = layer.vectors["mlp_norm"], *layer.linear("gate_up"), *layer.linear("down")
        arrays = *attention, *mlp, layer.vectors["sinks"], s.sets, s.frequencies, s.amplitudes
        rows.append([*(0 if array is None else array.ctypes.data for array in arrays), layer.window])
    return np.array(rows, np.uint64)


def persisted(s: Sequence, steps: int, grid: int, seed: int, source: str = "") -> list[np.ndarray]:
    """The same steps, so many in one launch."""
    f, prelude = {name: f32(value) for name, value in FACTORS.items()}, PRELUDE | {
        "Weight": s.kind, "Table": s.table.kind, "Head": s.head.kind}  # fmt: skip
    kernel = ShimModule(source or kernel_source("persistent", prelude)).get_function("persistent")
    args = (
        addresses(s), i32(L), *s.table.pointers, f["embedding"], f["attention"], f["score_cap"], f["residual"], s.norm,
        *s.head.pointers, f["logit_scale"], f["logit_cap"], s.temperatures, s.seeds, s.tokens, s.positions, s.slots,
        s.pools, s.places, s.x, s.q, s.out, s.h, s.partial, s.best, s.counters, s.generation, s.step, s.results,
        s.logits, i32(steps),
    )  # fmt: skip
    for _ in range(STEPS // steps):
        kernel((grid,), (kernel.max_threads,), args, shared_bytes(1, max(D, F, H * E)), seed=seed)
    return s.results_of_steps()


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Bit by bit; what was not written is NaN in both."""
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.cuda
def test_steps_in_one_launch_are_the_single_launches():
    """Three drawn tokens without the host. Catches a barrier that lets a block through before the others have arrived,
    a stale token, and a layer's weights taken for another's."""
    expected = launched(Sequence(3.0, "Dense<bfloat16>"))
    assert len(set(expected[3][[2, 3, 0], 0, 0].tolist())) > 1, "the steps choose different tokens"
    assert np.isfinite(expected[4]).all()
    assert_same(persisted(Sequence(3.0, "Dense<bfloat16>"), STEPS, grid=3, seed=1), expected)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["Dense<float32>", "Packed<4, 32, false>"])
def test_any_grid_and_order_of_blocks_and_launches_that_follow_each_other(kind):
    """The largest logits. Catches a barrier's counter that is not back at 0 for the next launch."""
    expected = launched(Sequence(0.0, kind))
    for grid, steps, seed in ((1, 1, 0), (2, 3, 1), (5, 1, 2), (8, 3, 3)):
        assert_same(persisted(Sequence(0.0, kind), steps, grid, seed), expected)
