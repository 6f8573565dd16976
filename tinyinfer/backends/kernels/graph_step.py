"""The compiled forward pass: what the engine gets from `Ops.compile` when the kernels cover its model.

A decode step of few rows runs in a bucket (bucket.py), as a graph or, with gpu_decode=kernels, launch by launch, to
see what a graph is good for; and runs ahead (ahead.py). Every other pass runs as `transformer` with the kernels'
attention (prompt_pass.py). A step, read aloud:

    forward    count it; take the step that was foreseen, or tell the device the batch and launch its bucket
    sample     launch the steps behind it, and wait for its tokens: the one wait of the host in a step
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np

from tinyinfer.arrays import Array, Xp
from tinyinfer.backends.counts import Counts
from tinyinfer.backends.cupy_device import memory_errors
from tinyinfer.backends.kernels.ahead import MOST, Ahead, begin, left_to_host
from tinyinfer.backends.kernels.bucket import Bucket
from tinyinfer.backends.kernels.covered import for_tensor_cores, uncovered, weights_of
from tinyinfer.backends.kernels.launch import Kernels
from tinyinfer.backends.kernels.memory import Sizes
from tinyinfer.backends.kernels.persistent_plan import unpersistent
from tinyinfer.backends.kernels.prompt_pass import PromptPass
from tinyinfer.errors import note
from tinyinfer.ledger import Ledger
from tinyinfer.model.interfaces import HOST, Sampled
from tinyinfer.model.transformer import Model, transformer
from tinyinfer.sequence import Batch, Wanted

BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
NOT_COPIED = (
    "an LLM whose steps are graphs of a GPU cannot be pickled or copied; make another one, or choose gpu_decode=eager"
)
MOST_FLOATS = 64  # rows of float32 weights in a bucket: beyond, cuBLAS reads the weights once, and groups of 8 often


def compile_step(model: Model, cache: Any, ops: Any) -> GraphStep | None:
    """The compiled forward pass for a model and a cache; None, and a note that says why, where the kernels stop."""
    if reason := uncovered(model, cache):
        note(f"gpu_decode={ops.decode}: {reason}, so CuPy's operations compute each step one after another")
        return None
    packed = "kv_bits keeps keys and values packed" if cache.kernel_sizes else ""
    if ops.decode == "persistent" and (reason := packed or unpersistent(model)):
        note(f"gpu_decode=persistent: {reason}, so a step runs as a graph")
        return GraphStep(model, cache, ops, "graph")
    return GraphStep(model, cache, ops, ops.decode)


@lru_cache
def stream_of(xp: Xp) -> Any:
    """The stream on which the steps of all models and engines run; it and the default stream wait for each other.

    So the order of all work is the host's. Memory that one engine frees while its steps are queued may be another's at
    once (a draft model has an engine's own steps beside it): were the streams two, both would write there.
    """
    return xp.cuda.Stream()


class GraphStep:
    """A forward pass over any batch of one model, with one cache.

    way: how a step of few rows runs. "graph"; "kernels": launch by launch; "persistent": one row as one launch, more
    rows, or filters, as a graph.
    """

    def __init__(self, model: Model, cache: Any, ops: Any, way: str) -> None:
        xp, self.way, captured = ops.xp, way, way != "kernels"
        self.cache, self.ops, self.ledger, self.model = cache, ops, ops.ledger, model
        self.kernels, self.counts = Kernels(xp), Counts(model)
        self.processors = int(xp.cuda.Device().attributes["MultiProcessorCount"])
        spec, self.packed = cache.spec, tuple(cache.kernel_sizes.items())
        self.most_blocks = -(-spec.max_model_len // spec.block_size)
        floats = any(not for_tensor_cores(weight) for weight in weights_of(model))
        self.sizes = [rows for rows in BUCKETS if not floats or rows <= MOST_FLOATS]
        self.stream, self.capturing = stream_of(xp), xp.cuda.Stream(non_blocking=True) if captured else None
        self.prompts = PromptPass(model, ops.counting(Ledger()), self.kernels, self.most_blocks, self.processors)
        self.buckets: dict[int, Bucket] = {}
        self.ahead: Ahead | None = None
        self.depth = 0  # how many steps to run ahead
        self._newest: tuple[Batch, Bucket, int, np.ndarray] | None = None  # the step whose tokens are to be fetched

    def __reduce__(self) -> NoReturn:
        raise RuntimeError(NOT_COPIED)

    @memory_errors()
    def forward(self, batch: Batch) -> Array:  # (T,) -> (R, V)
        """The logits that the batch asks for.

        Of a step that was foreseen they are gone: the steps behind it have overwritten them, and only its tokens are
        left. Steps run ahead only where all tokens are chosen on the device, so nothing asks for them.
        """
        ahead, self.ahead, self._newest = self.ahead, None, None
        trusted = ahead is not None and ahead.continues(batch)
        self.depth = min(MOST, max(1, 2 * self.depth)) if trusted else 0
        if ahead is not None and trusted and ahead.foresees(batch, self.cache):
            bucket, (number, rows) = ahead.bucket, ahead.take(batch)
            self.ahead = ahead
        elif decodes(batch) and len(batch) <= self.sizes[-1]:
            bucket = self.bucket(len(batch))
            self.ahead = begin(batch, bucket, bucket.load(batch, self.cache))
            number, rows = bucket.launch(), np.asarray(batch.logit_rows)
        else:
            return self.prompt_pass(batch)
        self.count(batch)
        self._newest = batch, bucket, number, rows
        return bucket.logits(rows)

    def prompt_pass(self, batch: Batch) -> Array:  # (T,) -> (R, V)
        """A pass over any rows. No kernel attends with many rows to packed blocks: CuPy's operations do, and count."""
        if self.packed:
            return transformer(self.model, batch, self.cache, self.ops)
        logits = self.prompts.forward(batch, self.cache)  # (R, V)
        self.count(batch)
        return logits

    @memory_errors()
    def sample(self, logits: Array, wanted: Seq[Wanted]) -> Sampled:  # (R, V) ->
        """The tokens of the last forward pass; the steps behind it are launched before the host waits for them."""
        if self._newest is None or not wanted:  # no row of these logits is one of the newest step
            return self.ops.sample(logits, wanted)
        batch, bucket, number, rows = self._newest
        if self.ahead is not None:
            self.ahead.run(batch, self.cache, self.depth)
        tokens, low, high = bucket.tokens_and_ends(number, rows)
        if self.ahead is not None:
            self.ahead.learn(batch, tokens)
        host = [left_to_host(params) for params, *_ in wanted]
        return Sampled(np.where(host, HOST, tokens), low, high)

    def bucket(self, rows: int) -> Bucket:
        """The smallest bucket that holds so many rows."""
        size = next(size for size in self.sizes if size >= rows)
        if size not in self.buckets:
            sizes = Sizes(size, size, self.most_blocks, self.processors, self.packed)
            self.buckets[size] = Bucket(self.model, sizes, self.kernels, self.stream, self.capturing, self.way)
        return self.buckets[size]

    def count(self, batch: Batch) -> None:
        """Counts a pass as the reference does."""
        self.counts.count_products(batch, self.ledger)
        self.counts.count_attention(batch, self.ledger, self.cache)
        self.cache.record_written(batch, len(self.model.layers))


def decodes(batch: Batch) -> bool:
    """Whether every row's logits are wanted: decodes, drafts, the ends of cached prompts, and finished padding."""
    return all(span.wanted == span.rows or span.rows == 1 for span in batch.spans)
