"""What a pass counts in the ledger: the same numbers as the reference, by formula and not operation by operation.

No Python runs between two kernels of a graph, so nothing can count there. But all that the reference
counts follows from the model and the batch: the weights are read once, a row has its FLOPs, and attention has its
pairs of queries and keys. A step that ran ahead is counted when the engine asks for it, never when it was launched.

One count differs, and rightly so: kernels read a paged cache in place, and copy nothing (kv_copied_bytes).
"""

from __future__ import annotations

from collections import Counter
from math import prod

import numpy as np

from tinyinfer.arrays import FLOAT
from tinyinfer.backends.kernels.covered import linears_of
from tinyinfer.ledger import Ledger
from tinyinfer.model.heads import Heads
from tinyinfer.model.transformer import Model
from tinyinfer.sequence import Batch


class Counts:
    """The counts of one model's passes; what does not depend on the batch is added up once."""

    def __init__(self, model: Model) -> None:
        head = model.head.weight.shape
        self.row_bytes = model.embedding.table.row_bytes
        self.pass_bytes = model.final_norm.nbytes + model.head.nbytes + sum(layer.nbytes for layer in model.layers)
        linears = [linear for layer in model.layers for linear in linears_of(layer)]
        self.row_flops = 2 * sum(prod(linear.weight.shape) for linear in linears)
        self.logits_flops = 2 * head[0] * head[1]
        all_heads: list[Heads] = [layer.mixer.heads for layer in model.layers]  # type: ignore[attr-defined]
        self.sinks_bytes = sum(heads.sinks.nbytes for heads in all_heads)
        self.kinds = Counter((heads.window, heads.queries, heads.keys, heads.size) for heads in all_heads)

    def count_products(self, batch: Batch, ledger: Ledger) -> None:
        """Counts embedding, norms and products; what `ops` counts itself where it computes them."""
        ledger.weight_bytes += len(batch) * self.row_bytes + self.pass_bytes - self.sinks_bytes
        ledger.flops += len(batch) * self.row_flops + len(batch.logit_rows) * self.logits_flops

    def count_attention(self, batch: Batch, ledger: Ledger) -> None:
        """Counts each layer's reads of the cache and its pairs of queries and keys, within its window."""
        ledger.weight_bytes += self.sinks_bytes
        ends = np.array([(span.first, span.first + span.rows) for span in batch.spans])  # (spans, 2)
        for (window, queries, keys, size), layers in self.kinds.items():
            seen = batch.positions + 1  # (T,)
            starts = np.zeros(len(ends), np.int64)  # (spans,): the oldest position that is read
            if window is not None:
                seen, starts = np.minimum(seen, window), np.maximum(0, ends[:, 0] - window + 1)
            flops = 4 * queries * size * int(seen.sum()) * layers
            ledger.attention_flops += flops
            ledger.flops += flops
            ledger.kv_read_bytes += 2 * keys * size * FLOAT * int((ends[:, 1] - starts).sum()) * layers
