"""A folder that `tinyinfer quantize` or `prune` wrote: a model whose matrices are codes, or sparse, or both.

    config.json          as on the hub, and a `quantization_config` that says how each matrix is kept
    model.safetensors    NAME.codes (rows, bytes) U8; the scales, NAME.d (rows, groups) F16, and the minimums, NAME.m
                         the same; nested ones as NAME.d (rows, steps) F16 and NAME.d.codes (rows, groups) I8;
                         floats under NAME; sparse matrices as sparse_tensors.py says
    tokenizer.json ...   as on the hub

Names are the canonical ones of checkpoint.py, for every family. A row's codes are packed as packing.py does it, from 0
on. Rows are read when they are asked for and become the packed types of the backend without having been floats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinyinfer.backends.packing import packed_size, unpack
from tinyinfer.loading.checkpoint import LazyTensor
from tinyinfer.loading.json_fields import Fields
from tinyinfer.loading.safetensors import Stored
from tinyinfer.loading.sparse_tensors import sparse_tensor, take_part
from tinyinfer.model.config import ModelConfig, expected_tensors
from tinyinfer.model.quantized_matrix import W8A8_SCHEME, Nested, QuantizedMatrix, QuantScheme
from tinyinfer.model.weights import MASK, TWO_OF_FOUR
from tinyinfer.units import show

VERSION = 1
BITS = (2, 3, 4, 5, 6, 8)


@dataclass(frozen=True)
class Form:
    """How a file keeps a matrix. scheme: of its codes; None: floats. sparse: its layout; None: zeros are kept."""

    scheme: QuantScheme | None
    sparse: str | None


def read_forms(where: str, quantization: dict[str, Any], config: ModelConfig) -> dict[str, Form]:
    """Canonical name -> Form of every matrix that is quantized, or sparse.

    Raises ModelError, naming `where` and the field, for anything that is missing, wrong or not known.
    """
    f = Fields(f"{where}, quantization_config", quantization)
    if f.size("version") != VERSION:
        f.refuse("version", f"is {show(f.get('version'))}, and only {VERSION} is known; update tinyinfer")
    f.text("method")
    table = f.get("grids")
    if not isinstance(table, dict) or not table:
        f.refuse("grids", f"is {show(table)}, but must say how each matrix is rounded; quantize the model again")
    f.refuse_unread(("quant_method", "recipe"), {})  # where it came from: changes no number
    shapes = expected_tensors(config)  # once: patterns and layers are as many as the file likes
    forms: dict[str, Form] = {}
    for pattern, entry in table.items():
        form = _form(f.table(f"grids, {show(pattern)}", entry))
        scheme = form.scheme
        names = _matching(pattern, config.num_layers, shapes)
        if not names or not forms.keys().isdisjoint(names):
            why = "which is there under another name, too" if names else "which no matrix of this model is called"
            f.refuse("grids", f"names {show(pattern)}, {why}; quantize the model again")
        if scheme and scheme.integer_inputs and any(len(shapes[name]) > 2 for name in names):
            f.refuse("grids", f"gives {show(pattern)} activation_bits, which experts cannot have; quantize it again")
        if scheme and scheme.nested and any(scheme.groups(shapes[name][-1]) % scheme.nested for name in names):
            wrong = f"gives {show(pattern)} scales for {scheme.nested} groups together, which leave a rest"
            f.refuse("grids", f"{wrong}; quantize it again")
        if form.sparse == TWO_OF_FOUR and any(shapes[name][-1] % 4 for name in names):
            f.refuse("grids", f"gives {show(pattern)} 2:4, which does not divide its inputs; prune it again")
        forms |= dict.fromkeys(names, form)
    return forms


def _form(f: Fields) -> Form:
    """Reads the Form of one matrix. Raises ModelError for a field that is wrong."""
    sparse = f.get("sparse")
    if sparse not in (None, MASK, TWO_OF_FOUR):
        f.refuse("sparse", f"is {show(sparse)}, but must be {MASK} or {TWO_OF_FOUR}; prune the model again")
    if sparse is not None and f.get("bits") is None:
        f.refuse_unread((), {})
        return Form(None, sparse)
    scheme = _scheme(f)
    if sparse is not None and (not scheme.symmetric or scheme.nested or scheme.integer_inputs):
        f.refuse("sparse", "goes with symmetric codes of one scale a group only; prune the model again")
    return Form(scheme, sparse)


def _scheme(f: Fields) -> QuantScheme:
    """Reads the QuantScheme of one matrix. Raises ModelError for a field that is wrong."""
    bits, group = f.size("bits"), f.optional_size("group", most=1 << 24)
    symmetric, whole = f.flag("symmetric", False), f.flag("whole", False)
    if bits not in BITS:
        f.refuse("bits", f"is {bits}, but must be one of {', '.join(map(str, BITS))}; quantize the model again")
    integer_inputs = f.optional_size("activation_bits") is not None
    scheme = QuantScheme(bits, group, symmetric, whole, integer_inputs, f.optional_size("nested", most=1 << 24))
    if integer_inputs and (scheme != W8A8_SCHEME or f.size("activation_bits") != W8A8_SCHEME.bits):
        f.refuse("activation_bits", "goes with 8 symmetric bits and no groups only; quantize the model again")
    f.refuse_unread((), {})
    return scheme


def _matching(pattern: str, layers: int, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """The names of the matrices that a pattern means: a name, or a name with * for the layers that have it."""
    if pattern.startswith("layers.*."):
        names = [f"layers.{i}.{pattern.removeprefix('layers.*.')}" for i in range(layers)]
    else:
        names = [pattern]
    names = [name for name in names if name in shapes]  # a mixture's names are missing in its dense layers
    small = [name for name in names if len(shapes[name]) == 1 or name == "positions" or name.endswith(".bias")]
    return [] if small else names


def quantized_tensors(
    path: str, config: ModelConfig, forms: dict[str, Form], stored: dict[str, Stored]
) -> dict[str, LazyTensor]:
    """The tensors of a folder of ours by canonical name; `path` is for messages.

    Raises ModelError, naming file and tensor, for codes or scales that are missing or of another shape or type.
    """
    left, tensors = dict(stored), {}
    for name, shape in expected_tensors(config).items():
        form = forms.get(name)
        if form and form.sparse:
            tensors[name] = sparse_tensor(path, name, shape, form.scheme, form.sparse, left)
        elif form and form.scheme:
            tensors[name] = matrix_tensor(path, name, shape, form.scheme, left)
        elif name in left:
            left[name].check_float()
            tensors[name] = left.pop(name).lazy()
    for name, tensor in left.items():  # has no place: check_tensors refuses it under its own name
        tensors[name if name not in tensors else f"{name} again"] = tensor.lazy()
    return tensors


def matrix_tensor(
    path: str, name: str, shape: tuple[int, ...], scheme: QuantScheme, stored: dict[str, Stored],
    cure: str = "quantize",
) -> LazyTensor:  # fmt: skip
    """A matrix, or a stack of experts' (X, N, M), from its two or three tensors, which are taken out of `stored`.

    cure: what to do again with the model of which one is broken.
    """
    rows, inputs = math.prod(shape[:-1]), shape[-1]
    packed, *scales = (
        take_part(path, f"{name}.{suffix}", dtype, (rows, columns), stored, cure)
        for suffix, dtype, columns in saved_arrays(scheme, inputs)
    )

    def codes(start: int, stop: int) -> QuantizedMatrix:
        codes = unpack(packed.raw(start, stop), scheme.bits, inputs, np).astype(np.int16)  # (stop - start, M)
        codes += np.int16(scheme.lowest)
        raw = [part.raw(start, stop) for part in scales]
        scale, *minimum = map(Nested, raw[::2], raw[1::2]) if scheme.nested else raw  # (stop - start, G) each
        return QuantizedMatrix(scheme, codes, scale, minimum[0] if minimum else None)

    def read(start: int, stop: int) -> np.ndarray:  # -> (stop - start, ...)
        each = rows // shape[0] if shape[0] else 0
        return codes(start * each, stop * each).dequantize().reshape(stop - start, *shape[1:])

    nbytes = sum(part.nbytes for part in (packed, *scales))
    return replace(packed.lazy(), name=name, shape=shape, nbytes=nbytes, read=read, codes=codes)


def saved_arrays(scheme: QuantScheme, inputs: int) -> list[tuple[str, str, int]]:
    """Suffix, type and columns of the arrays that a matrix with so many inputs is saved as."""
    groups, arrays = scheme.groups(inputs), [("codes", "U8", packed_size(inputs, scheme.bits))]
    for suffix in ["d"] if scheme.symmetric else ["d", "m"]:  # ggml's names of scale and minimum
        if scheme.nested:
            arrays += [(suffix, "F16", groups // scheme.nested), (f"{suffix}.codes", "I8", groups)]
        else:
            arrays += [(suffix, "F16", groups)]
    return arrays
