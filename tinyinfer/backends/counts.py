"""What a pass counts in the ledger: the same numbers as the reference, by formula and not operation by operation.

No Python runs between two kernels of a plan, so nothing can count there. But all that the reference counts follows
from the model and the batch: the weights are read once, a row has its FLOPs, and attention has its pairs of queries and
keys. Only what a mixture of experts reads depends on the rows' choice (`count_experts`). A step that ran ahead is
counted when the engine asks for it, never when it was launched.

One count differs, and rightly so: kernels read a paged cache in place, and copy nothing (kv_copied_bytes).
"""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

import numpy as np

from tinyinfer.arrays import FLOAT
from tinyinfer.ledger import Ledger
from tinyinfer.model.heads import Heads
from tinyinfer.model.transformer import Model
from tinyinfer.model.visit import layer_matrices
from tinyinfer.model.weights import Embedding, Experts, Linear
from tinyinfer.sequence import Batch


class Counts:
    """The counts of one model's passes; what does not depend on the batch is added up once."""

    def __init__(self, model: Model) -> None:
        head = model.head.weight.shape
        self.row_bytes = row_bytes(model.embedding)
        held = [held for layer in model.layers for held in layer_matrices(layer).values()]
        chosen = sum(experts.nbytes for experts in held if isinstance(experts, Experts))  # read where rows choose them
        layers = sum(layer.nbytes for layer in model.layers) - chosen
        self.pass_bytes = model.final_norm.nbytes + model.head.nbytes + layers
        self.row_flops = 2 * sum(prod(linear.weight.shape) for linear in held if isinstance(linear, Linear))
        self.logits_flops = 2 * head[0] * head[1]
        all_heads: list[Heads] = [layer.mixer.heads for layer in model.layers]  # type: ignore[attr-defined]
        self.sinks_bytes = sum(heads.sinks.nbytes for heads in all_heads)
        self.kinds = Counter((heads.window, heads.queries, heads.keys, heads.size) for heads in all_heads)

    def count_products(self, batch: Batch, ledger: Ledger) -> None:
        """Counts embedding, norms and products; what `ops` counts itself where it computes them."""
        ledger.weight_bytes += len(batch) * self.row_bytes + self.pass_bytes - self.sinks_bytes
        ledger.flops += len(batch) * self.row_flops + len(batch.logit_rows) * self.logits_flops

    def count_pairs(self, batch: Batch, ledger: Ledger) -> None:
        """Counts each layer's pairs of queries and keys, within its window."""
        ledger.weight_bytes += self.sinks_bytes
        for (window, queries, _, size), layers in self.kinds.items():
            seen = batch.positions + 1 if window is None else np.minimum(batch.positions + 1, window)  # (T,)
            flops = 4 * queries * size * int(seen.sum()) * layers
            ledger.attention_flops += flops
            ledger.flops += flops

    def count_attention(self, batch: Batch, ledger: Ledger, cache: Any) -> None:
        """Counts what each layer's attention computes, and what it reads of the cache."""
        self.count_pairs(batch, ledger)
        if cache.kernel_sizes:
            self._count_packed(batch, ledger, cache)
            return
        ends = np.array([(span.first, span.first + span.rows) for span in batch.spans])  # (spans, 2)
        for (window, _, keys, size), layers in self.kinds.items():
            starts = 0 if window is None else np.maximum(0, ends[:, 0] - window + 1)  # the oldest position that is read
            ledger.kv_read_bytes += 2 * keys * size * FLOAT * int((ends[:, 1] - starts).sum()) * layers

    def _count_packed(self, batch: Batch, ledger: Ledger, cache: Any) -> None:
        for (window, _, keys, size), layers in self.kinds.items():
            for span in batch.spans:
                blocks, rows = cache.reads(span, window)
                layer_bytes = cache.storage(span.seq).layer_bytes[0]  # all layers are alike
                ledger.kv_read_bytes += (blocks * layer_bytes + 2 * keys * size * FLOAT * rows) * layers


def row_bytes(embedding: Embedding) -> int:
    """Bytes that a row reads of an embedding."""
    positions = embedding.positions
    return embedding.table.row_bytes + (0 if positions is None else FLOAT * positions.shape[1])


def count_experts(chosen: np.ndarray, gate_up: Experts, down: Experts, ledger: Ledger) -> None:  # (T, k) ->
    """Counts one layer's mixture: each expert that a row chose is read once, and multiplied with its rows."""
    experts, rows = np.unique(chosen, return_counts=True)  # (n,), (n,)
    for expert, count in zip(experts.tolist(), rows.tolist(), strict=True):
        for linear in (gate_up.linears[expert], down.linears[expert]):
            ledger.flops += 2 * count * prod(linear.weight.shape)
            ledger.weight_bytes += linear.nbytes
        ledger.expert_rows += count
        ledger.experts_read += 1
