"""What the kernels cover: models, weights and caches as data, and a sentence for each that the reference computes.

The kernels are written for the commonest kind of layer: RMSNorm, attention, a gated MLP, one after the other. Whatever
is missing here still runs with backend=cupy, by CuPy's operations one at a time, and the user is told why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from tinyinfer.model.attention import GroupedQuery
from tinyinfer.model.layers import SerialLayer
from tinyinfer.model.mlp import GatedMLP
from tinyinfer.model.transformer import Model
from tinyinfer.model.weights import Linear, NoNorm, RMSNorm, Weight

# A layer's parts in the order of the computation: (how to find one, the classes that the kernels know, the sentence).
Part = tuple[Callable[[Any], Any], tuple[type, ...], str]
LAYER: tuple[Part, ...] = (
    (lambda layer: layer, (SerialLayer,), "attention and MLP of a layer read the same rows"),
    (lambda layer: layer.mixer, (GroupedQuery,), "a layer mixes rows by something else than attention"),
    (lambda layer: layer.mlp, (GatedMLP,), "a layer has a mixture of experts or an MLP without a gate"),
    (lambda layer: layer.mixer.qk_norm, (NoNorm, RMSNorm), "one norm goes over all heads of a row together"),
    (lambda layer: layer.attention_norm, (RMSNorm,), "no RMSNorm stands before attention"),
    (lambda layer: layer.mlp_norm, (RMSNorm,), "no RMSNorm stands before the MLP"),
    (lambda layer: layer.post_attention_norm, (NoNorm, RMSNorm), "another norm than RMSNorm follows attention"),
    (lambda layer: layer.post_mlp_norm, (NoNorm, RMSNorm), "another norm than RMSNorm follows the MLP"),
)
MOST_QUERIES, WIDE = 16, 128  # query heads of so many numbers that may share a key head (attention_decode)
MOST_SCALES = 6144  # of a head's values in a packed block (pack_block)
WEIGHTS = {
    "W8A8": "quantize=w8a8 rounds the inputs of products, too",
    "PackedRowsA8": "activations=int8 rounds the inputs of products, too",
    "Packed": "the weights are packed for a CPU",
    "Stacked": "the file has tensors in different types that they read as one matrix",
}
BITS = (2, 3, 4, 8)  # of a code in weights.cuh
FLOATS = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}  # dtype -> the type in common.cuh


def uncovered(model: Model, cache: Any) -> str:
    """Why the kernels cannot compute this model with this cache, as one clause; "" when they can."""
    return next(filter(None, chain(of_the_cache(cache), of_the_model(model))), "")


def of_the_cache(cache: Any) -> Iterator[str]:
    """What is wrong with a cache: kernels write keys and values in place."""
    if not cache.can_chunk:
        yield "kv_cache=none keeps no keys and values for them to read"
    sizes = cache.kernel_sizes
    if sizes and sizes["BLOCK"] * (max(rows.value_size for rows in cache.spec.memory) // sizes["GROUP"]) > MOST_SCALES:
        yield f"block_size={sizes['BLOCK']} gives a packed block more scales than a block's shared memory holds"


def of_the_model(model: Model) -> Iterator[str]:
    """What is wrong with a model: its layers' parts, its norms, its types of weights."""
    if model.embedding.positions is not None:
        yield "its positions are learned vectors"
    c = model.config
    shared = c.num_heads // c.num_kv_heads
    if shared > (MOST_QUERIES if c.head_dim <= WIDE else MOST_QUERIES // 2) or c.head_dim > 2 * WIDE:
        yield f"{shared} query heads of {c.head_dim} numbers share a key head, more than a block's registers hold"
    for layer in model.layers:
        yield next((sentence for part, known, sentence in LAYER if not isinstance(part(layer), known)), "")
    if not isinstance(model.final_norm, RMSNorm):
        yield "its last norm is no RMSNorm"
    yield from (of_a_weight(weight) for weight in weights_of(model))


def weights_of(model: Model) -> Iterator[Weight]:
    """All matrices that the kernels multiply or look up."""
    yield from (model.embedding.table, model.head.weight)
    for layer in model.layers:
        yield from (linear.weight for linear in linears_of(layer))


def linears_of(layer: Any) -> tuple[Linear, Linear, Linear, Linear]:
    """The four products of a layer that is covered, in the order of the computation."""
    return layer.mixer.qkv, layer.mixer.o, layer.mlp.gate_up, layer.mlp.down


def of_a_weight(weight: Weight) -> str:
    """What is wrong with a matrix; "" when a kernel can read it."""
    kind = type(weight).__name__
    if kind == "Dense" and weight.array.dtype.name not in FLOATS:  # type: ignore[attr-defined]
        return f"weights of type {weight.array.dtype} are no type of the kernels"  # type: ignore[attr-defined]
    scheme = weight.scheme
    if kind == "PackedRows" and scheme and (scheme.nested or scheme.bits not in BITS):
        scales = " with nested scales" if scheme.nested else ""
        return f"codes of {scheme.bits} bits{scales} are no type of the kernels"
    return WEIGHTS.get(kind, "" if kind in ("Dense", "PackedRows") else f"they cannot read weights of type {kind}")


def weight_type(weight: Weight) -> str:
    """The type in weights.cuh with which a kernel reads a weight."""
    scheme = weight.scheme
    if scheme is None:
        return f"Dense<{FLOATS[weight.array.dtype.name]}>"  # type: ignore[attr-defined]
    return f"Packed<{scheme.bits}, {scheme.group_size or 0}, {str(scheme.symmetric).lower()}>"


def for_tensor_cores(weight: Weight) -> bool:
    """Whether small_batch_product can multiply it: half precision or packed codes, no float32."""
    return weight_type(weight) != "Dense<float32>"
