"""The plan of a decode step: the list of its launches, five phases a layer, for T rows of one bucket.

    q, keys, values     norm, product, rotation; keys and values go to the cache     rms_qkv_rope_append
    attention           each row over the cache                                      attention_decode
    x += o(attention)   product                                                      projection_residual
    h = act(gate) · up  norm, product, gate                                          rms_gate_up
    x += down(h)        product                                                      projection_residual

Each phase needs all of the phase before it, and the end of a launch is the barrier between them. So what one phase
needs is in one kernel: a norm costs less when every block computes it again than when a launch of its own does. A norm
that cannot go along (of each head, or after a sub-layer) is a launch more. At the end stand the head and the choice of
the next token.

Up to 8 rows a product waits for its weights, and each weight is multiplied with all rows as it comes. Above that,
tensor cores do it (small_batch_product). Float32 weights have no such cores: their rows go through in groups of 8,
which reads the weights once for each group, and is still cheaper than the launches of a pass that is not captured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyinfer.arrays import FLOAT, Array
from tinyinfer.backends.kernels.covered import for_tensor_cores, weight_type
from tinyinfer.backends.kernels.launch import NULL, Cost, Launch, Plan, threads_of
from tinyinfer.backends.kernels.memory import Memory
from tinyinfer.backends.kernels.source import Constant
from tinyinfer.model.heads import Heads, NoCap, NoSinks, SoftCap
from tinyinfer.model.transformer import Model
from tinyinfer.model.weights import Linear, NoNorm, Norm

GROUP = 8  # rows that a product takes without tensor cores
STORE, ADD, GATE = range(3)  # what small_batch_product does with its sums (EPILOGUE)
STAGED = 16384  # floats of activations that a product holds in shared memory at most (product.cuh)


def decode_plan(model: Model, memory: Memory, filters: bool = False) -> Plan:
    """The launches of a step over the rows of a bucket. filters: whether top-k, top-p or min-p is to be heeded."""
    p = Planner(model, memory)
    p.embed()
    layers: Any = model.layers  # of the only kind that is covered, and so are their parts
    for i, layer in enumerate(layers):
        p.queries_keys_values(i, layer)
        p.attention(i, layer)
        p.add_product(layer.mixer.o, memory.mixed, layer.post_attention_norm, layer.scale)
        p.gate_up(layer)
        p.add_product(layer.mlp.down, memory.h, layer.post_mlp_norm, layer.scale)
    p.head_and_sample(filters)
    return Plan(memory.rows, tuple(p.launches))


@dataclass
class Planner:
    """Writes launches down, in order."""

    model: Model
    memory: Memory
    launches: list[Launch] = field(default_factory=list)

    # The phases.

    def embed(self) -> None:
        """x = factor · table[token]."""
        m, table = self.memory, self.model.embedding.table
        args = (m.row["tokens"], *pointers(table), np.float32(self.model.embedding.scale), m.x)
        cost = Cost(m.rows * table.row_bytes, m.x.nbytes)
        self.launch("embed", args, m.rows * -(-m.x.shape[1] // 256), cost, {"Weight": weight_type(table)})

    def queries_keys_values(self, i: int, layer: Any) -> None:
        """q, turned; keys and values to the cache."""
        m, mixer, row = self.memory, layer.mixer, self.memory.row
        rotation = self.model.rotations[mixer.rotation]
        turned = (row["positions"], row["slots"], row["sets"], rotation.frequencies, rotation.amplitudes)
        where = (*turned, row["pools"], row["places"], np.int32(i), m.q)
        if isinstance(mixer.qk_norm, NoNorm) and m.rows <= GROUP and not m.sizes.packed:
            args: tuple[Any, ...] = (m.x, layer.attention_norm.weight, *linear_pointers(mixer.qkv), *where)
            self.product("rms_qkv_rope_append", mixer.qkv, args, m.q.nbytes)
            return
        self.store(m.x, layer.attention_norm, mixer.qkv, m.qkv)
        norm = mixer.qk_norm
        weight, eps = (NULL, 0.0) if isinstance(norm, NoNorm) else (norm.weight, norm.eps)
        heads = m.rows * (mixer.heads.queries + 2 * mixer.heads.keys)
        args, cost = (m.qkv, weight, np.float32(eps), *where), Cost(m.qkv.nbytes, m.qkv.nbytes)
        if not m.sizes.packed:
            self.launch("qk_norm_rope_append", args, -(-heads // 4), cost)
            return
        self.launch("append_float_rows", args, -(-heads // 4), cost)
        full = (row["positions"], row["slots"], row["pools"], row["places"], np.int32(i))
        self.launch("pack_block", full, 2 * m.rows * mixer.heads.keys, Cost())

    def attention(self, i: int, layer: Any) -> None:
        """Each row over the keys and values of its sequence, its own included."""
        m, heads = self.memory, layer.mixer.heads
        args = (m.q, *attention_args(m.row, i, heads), m.partial, m.counters, m.mixed)
        width = dict(m.sizes.packed).get("BITS", 8 * FLOAT) / 8  # bytes of a number, scales left out
        both, flops = int(2 * heads.keys * heads.size * width), 4 * heads.queries * heads.size
        cost = Cost(m.q.nbytes, m.mixed.nbytes, 0, m.rows * both, m.rows * flops)
        kernel = "attention_decode_packed" if m.sizes.packed else "attention_decode"
        self.launch(kernel, args, m.rows * heads.keys * m.splits, cost)

    def add_product(self, linear: Linear, h: Array, norm: Norm, factor: float) -> None:
        """x += factor · norm(linear(h))."""
        m = self.memory
        if not isinstance(norm, NoNorm):
            self.store(h, NoNorm(), linear, m.change)
            cost = Cost(m.x.nbytes + m.change.nbytes, m.x.nbytes)
            self.launch("norm_add", (m.x, m.change, norm.weight, np.float32(factor)), m.rows, cost)  # type: ignore[union-attr]
        elif self.on_tensor_cores(linear):
            self.tensor_product(h, NoNorm(), linear, m.x, ADD, factor)
        else:
            for rows in self.groups():
                args = (h[rows], *linear_pointers(linear), m.x[rows], np.float32(factor))
                self.product("projection_residual", linear, args, m.x[rows].nbytes)

    def gate_up(self, layer: Any) -> None:
        """h = act(gate) · up, gate and up from the normed rows."""
        m, linear = self.memory, layer.mlp.gate_up
        if self.on_tensor_cores(linear):
            self.tensor_product(m.x, layer.mlp_norm, linear, m.h, GATE)
            return
        for rows in self.groups():
            args = (m.x[rows], layer.mlp_norm.weight, *linear_pointers(linear), m.h[rows])
            self.product("rms_gate_up", linear, args, m.h[rows].nbytes)

    def head_and_sample(self, filters: bool) -> None:
        """The logits and the next tokens, which the next step will find."""
        m, row, model = self.memory, self.memory.row, self.model
        cap = limit_of(model.logit_cap)
        scale, after = np.float32(model.logit_scale), (row["tokens"], row["positions"])
        drawn = (row["temperatures"], row["seeds"])
        if m.rows <= GROUP and not filters:
            head = (m.x, norm_pointer(model.final_norm), *pointers(model.head.weight), scale, cap)
            args: tuple[Any, ...] = (*head, *drawn, *after, m.best, m.chosen, row["step"], m.results, m.logits)
            self.product("rms_head_sample", model.head, args, m.logits.nbytes)
            return
        self.store(m.x, model.final_norm, model.head, m.logits)
        if scale != 1 or cap:
            cost = Cost(m.logits.nbytes, m.logits.nbytes, m.logits.size)
            self.launch("cap_logits", (m.logits, scale, cap), -(-m.logits.size // 256), cost)
        kept = (row["top_k"], row["top_p"], row["min_p"])
        args = (m.logits, *drawn, *kept, *after, row["step"], m.results, m.chosen)
        self.launch("sample", args, m.rows, Cost(m.logits.nbytes, 0))

    # Products.

    def store(self, x: Array, norm: Norm, linear: Linear, y: Array) -> None:
        """Writes down y = linear(norm(x))."""
        if self.on_tensor_cores(linear):
            self.tensor_product(x, norm, linear, y, STORE)
            return
        for rows in self.groups():
            args = (x[rows], norm_pointer(norm), *linear_pointers(linear), y[rows])
            self.product("rms_product", linear, args, y[rows].nbytes)

    def on_tensor_cores(self, linear: Linear) -> bool:
        """Whether tensor cores compute a product: of more than a group of rows, in a type that they have."""
        return self.memory.rows > GROUP and for_tensor_cores(linear.weight)

    def groups(self) -> list[slice]:
        """The rows of a bucket, 8 at a time."""
        return [slice(start, min(start + GROUP, self.memory.rows)) for start in range(0, self.memory.rows, GROUP)]

    def tensor_product(
        self, x: Array, norm: Norm, linear: Linear, y: Array, epilogue: int, factor: float = 1.0
    ) -> None:
        """A product of many rows, and what follows it."""
        args = (x, norm_pointer(norm), *linear_pointers(linear), y, np.float32(factor))
        cost = product_cost(linear, len(x), y.nbytes)
        constants = of_linear(linear) | {"T": self.memory.rows, "EPILOGUE": epilogue}
        self.launch("small_batch_product", args, 2 * self.memory.sizes.processors, cost, constants)

    def product(self, name: str, linear: Linear, args: tuple[Any, ...], written: int) -> None:
        """A product of a few rows."""
        outputs, inputs = linear.weight.shape
        rows = min(self.memory.rows, GROUP)
        shared = FLOAT * min(rows * -(-inputs // 8) * 8, STAGED)
        grid = min(2 * self.memory.sizes.processors, outputs)
        cost = product_cost(linear, rows, written)
        self.launch(name, args, grid, cost, of_linear(linear) | {"T": rows}, shared)

    def launch(
        self, name: str, args: tuple[Any, ...], grid: int, cost: Cost, constants: Any = None, shared: int = 0
    ) -> None:
        """Writes a launch down."""
        both = self.memory.constants | (constants or {})
        self.launches.append(Launch(name, both, grid, threads_of(name), args, shared, cost))


def pointers(weight: Any) -> tuple[Any, Any, Any]:
    """The three pointers of a weight matrix (N, M): its numbers or codes, its scales, its minimums."""
    if weight.scheme is None:
        return weight.array.T, NULL, NULL  # Dense holds inputs first, as a view of (N, M) rows
    return weight.codes, weight.scale, NULL if weight.minimum is None else weight.minimum


def linear_pointers(linear: Linear) -> tuple[Any, ...]:
    """The four pointers of a linear layer: codes, scale, minimum, bias."""
    return (*pointers(linear.weight), NULL if linear.bias is None else linear.bias)


def norm_pointer(norm: Norm) -> Any:
    """The weight of an RMSNorm; a null pointer for none."""
    return NULL if isinstance(norm, NoNorm) else norm.weight  # type: ignore[union-attr]


def of_linear(linear: Linear) -> dict[str, Constant]:
    """The constants of a product with this linear layer."""
    outputs, inputs = linear.weight.shape
    return {"OUTPUTS": outputs, "INPUTS": inputs, "Weight": weight_type(linear.weight)}


def product_cost(linear: Linear, rows: int, written: int) -> Cost:
    """The cost of a product of so many rows."""
    outputs, inputs = linear.weight.shape
    return Cost(linear.nbytes + rows * inputs * FLOAT, written, 2 * rows * outputs * inputs)


def attention_args(row: dict[str, Array], layer: int, heads: Heads) -> tuple[Any, ...]:
    """The arguments that say over what a layer's rows attend, and how."""
    numbers = np.int32(layer), np.int32(heads.window or 0), np.float32(heads.scale), limit_of(heads.cap)
    return (row["positions"], row["slots"], row["pools"], row["places"], *numbers, sinks_pointer(heads))


def sinks_pointer(heads: Heads) -> Any:
    """The scores of the attention sinks; a null pointer for none."""
    return NULL if isinstance(heads.sinks, NoSinks) else heads.sinks.scores


def limit_of(cap: SoftCap | NoCap) -> np.float32:
    """The limit of a cap, as kernels are told it; 0 for none."""
    return np.float32(0 if isinstance(cap, NoCap) else cap.limit)
