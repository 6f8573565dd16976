"""The plan of a pass: the launches of all layers and of the head, for T rows of which R want logits.

    h = norm(x)                      one row in a tenth of a microsecond, by the thread that comes last
    qkv = h W                        a product: nearly all of the time, and all that waits for memory
    turn and append                  queries and keys are rotated, keys and values go to the cache
    attention                        each row over the cache
    x += mixed W                     a product
    h = norm(x); gate_up = h W       a product
    act(gate) · up
    x += gated W                     a product
    ...
    logits = norm(x[wanted]) W       the largest product; then the ends of each row

One plan serves decode, a batch, drafts and a whole prompt: T is the only difference, and the kernels of each product
choose how many rows they take at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyinfer.backends.cpu_kernels.attention import attention
from tinyinfer.backends.cpu_kernels.buffers import Buffers, Rows
from tinyinfer.backends.cpu_kernels.embed import embed
from tinyinfer.backends.cpu_kernels.ends import ends_of
from tinyinfer.backends.cpu_kernels.experts import Mixture, memory_of_choices
from tinyinfer.backends.cpu_kernels.gate import activate, gate
from tinyinfer.backends.cpu_kernels.kernel import Launch
from tinyinfer.backends.cpu_kernels.norms import full_qk_norm, norm, norm_add
from tinyinfer.backends.cpu_kernels.pass_data import PassData, padded_size
from tinyinfer.backends.cpu_kernels.products import product
from tinyinfer.backends.cpu_kernels.rows import cap, gather
from tinyinfer.backends.cpu_kernels.turn_append import turn_append
from tinyinfer.model.attention import GroupedQuery
from tinyinfer.model.layers import ParallelLayer
from tinyinfer.model.mlp import GatedMLP, PlainMLP
from tinyinfer.model.moe import MoE
from tinyinfer.model.transformer import Model
from tinyinfer.model.weights import FullQKNorm, Linear, NoNorm, Norm, RMSNorm


class Planner:
    """Writes the launches of a pass down, in order.

    tokens (T,), wanted (R,): whole numbers, filled in before each pass. turns: of each of the model's rotations the
    cosines and sines of the rows, (T, E) and (T, E).
    """

    def __init__(self, model: Model, rows: int, wanted: int, threads: int, data: PassData) -> None:
        c = model.config
        self.model, self.data = model, data
        self.buffers, self.head_buffers = Buffers(rows, threads), Buffers(wanted, threads)
        self.choices: Buffers | None = None  # of rows for each expert that a row chooses
        self.mixtures: list[Mixture] = []
        self.launches: list[Launch] = []
        self.ends_of_layers: list[int] = []  # after how many launches each layer is done
        self.tokens, self.wanted = np.zeros(rows, np.int64), np.zeros(wanted, np.int64)
        empty = rows, c.head_dim
        self.turns = [(np.zeros(empty, np.float32), np.zeros(empty, np.float32)) for _ in model.rotations]
        self.x = self.buffers.rows("x", c.hidden_size)
        self.launches += embed(model.embedding, self.tokens, data.positions, self.x)
        for number, layer in enumerate(model.layers):
            self.layer(number, layer)
            self.ends_of_layers.append(len(self.launches))
        self.logits, self.ends, self.ids = self.head()

    def layer(self, number: int, layer: Any) -> None:
        """Both changes of a layer."""
        mixed, o = self.mix(number, layer.mixer, layer.attention_norm), layer.mixer.o
        if isinstance(layer, ParallelLayer):  # the MLP reads the rows before attention has changed them
            h = self.normed(layer.mlp_norm, "h of the MLP")
            self.change(o, mixed, NoNorm(), layer.scale)
            self.mlp(layer.mlp, h, NoNorm(), layer.scale)
            return
        self.change(o, mixed, layer.post_attention_norm, layer.scale)
        self.mlp(layer.mlp, self.normed(layer.mlp_norm, "h"), layer.post_mlp_norm, layer.scale)

    def normed(self, by: Norm, name: str) -> Rows:
        """The rows after a norm, in a buffer of that name; the rows themselves where there is no norm."""
        if isinstance(by, NoNorm):
            return self.x
        h = self.buffers.rows(name, self.x.width)
        self.launches += norm(self.x, h, by)
        return h

    def product(self, x: Rows, linear: Linear, name: str) -> Rows:
        """A product in a buffer of that name."""
        y = self.buffers.rows(name, linear.weight.shape[0])
        self.launches += product(linear.weight, x, y, self.buffers, linear.bias)
        return y

    def change(self, linear: Linear, x: Rows, post: Norm, scale: float) -> None:
        """Adds scale · post(x W) to the rows."""
        if isinstance(post, NoNorm):
            self.launches += product(linear.weight, x, self.x, self.buffers, linear.bias, add=scale)
            return
        assert isinstance(post, RMSNorm)
        self.launches += norm_add(self.product(x, linear, "change"), self.x, post, scale)

    def mix(self, number: int, mixer: GroupedQuery, before: Norm) -> Rows:
        """What attention gives for the rows, before its last product."""
        heads, by = mixer.heads, mixer.qk_norm
        qkv = self.product(self.normed(before, "h"), mixer.qkv, "qkv")
        if isinstance(by, FullQKNorm):
            self.launches += full_qk_norm(qkv, by)
            by = NoNorm()
        q = self.buffers.rows("q", heads.queries * padded_size(heads.size))
        out = self.buffers.rows("mixed", heads.queries * heads.size)
        self.launches += turn_append(number, qkv, by, self.turns[mixer.rotation], heads, q, self.data)
        self.launches += attention(number, heads, q, out, self.data, self.buffers)
        return out

    def mlp(self, mlp: Any, h: Rows, post: Norm, scale: float) -> None:
        """Adds what the MLP makes of h."""
        if isinstance(mlp, MoE):
            self.mixture(mlp, h, post, scale)
            return
        if isinstance(mlp, GatedMLP):
            both = self.product(h, mlp.gate_up, "gate_up")
            gated = self.buffers.rows("gated", mlp.down.weight.shape[1])
            self.launches += gate(both, gated, mlp.activation)
        else:
            assert isinstance(mlp, PlainMLP)
            gated = self.product(h, mlp.up, "gated")
            self.launches += activate(gated, gated, mlp.activation)
        self.change(mlp.down, gated, post, scale)

    def mixture(self, mlp: MoE, h: Rows, post: Norm, scale: float) -> None:
        """Adds scale · post(what the mixture makes of h)."""
        self.choices = self.choices or memory_of_choices(len(h), mlp, self.buffers.threads)
        mixture = Mixture(mlp, h, self.buffers, self.choices)
        self.mixtures.append(mixture)
        if isinstance(post, NoNorm):
            self.launches += mixture.launches(self.x, scale)
            return
        assert isinstance(post, RMSNorm)
        change = self.buffers.rows("change", self.x.width)
        self.launches += [*mixture.launches(change, None), *norm_add(change, self.x, post, scale)]

    def head(self) -> tuple[Rows, np.ndarray, np.ndarray]:
        """Logits of the wanted rows, and the ends of each part of them."""
        model, buffers = self.model, self.head_buffers
        rows, logits = buffers.rows("wanted", self.x.width), buffers.rows("logits", model.head.weight.shape[0])
        self.launches += gather(self.x, rows, self.wanted)
        self.launches += norm(rows, rows, model.final_norm)
        if model.logit_scale != 1:
            self.launches += gather(rows, rows, np.arange(len(rows)), model.logit_scale)
        self.launches += product(model.head.weight, rows, logits, buffers, model.head.bias)
        self.launches += cap(logits, model.logit_cap)
        launches, ends, ids = ends_of(logits, buffers)
        self.launches += launches
        return logits, ends, ids
