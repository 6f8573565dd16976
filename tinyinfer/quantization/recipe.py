"""Which matrix is rounded how: rules by name, of which the first that fits wins.

    "head int8, layers.0.* int8 g64, layers.*.down int4 g32, layers.*.qkv off"

Layers are not equally sensitive, and a model of mixed bits can be better than an even one of the same size; rules make
that a matter of trying. Names are those of the matrices as they are held, fused: layers.3.qkv, .o, .gate_up (.up where
there is no gate), .down, .router; of a shared expert .shared_gate_up, .shared_down, .shared_router; embedding and head,
or only head where the two are one matrix. Routers are small and decide much: they stay floats unless a rule names them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Protocol

from tinyinfer.backends.packed import LANES
from tinyinfer.backends.packing import packed_size
from tinyinfer.errors import SwitchError
from tinyinfer.model.config import HeldMatrix, ModelConfig, held_matrices
from tinyinfer.model.quantized_matrix import W8A8_SCHEME, QuantScheme
from tinyinfer.model.weights import MASK
from tinyinfer.quantization.switches import GROUP_SIZES, GROUPWISE, QuantizationSwitches

START_BYTES = 8  # of where an output's weights begin, under a mask
BITS = {"int8": 8, "int4": 4, "int3": 3, "int2": 2}
RULE = re.compile(r"(?P<name>\S+)\s+(?P<kind>off|int8|int4|int3|int2)(\s+g(?P<group>\d+|channel|tensor))?")


@dataclass(frozen=True)
class Recipe:
    """(pattern, scheme) pairs; a scheme of None leaves a matrix as it is.

    mixed: the schemes of the tensors of each matrix whose file has rounded them differently (backends/stacked.py).
    sparse: the layout of each matrix whose zeros a file does not keep, and how many weights it has then.
    """

    rules: tuple[tuple[str, QuantScheme | None], ...]
    mixed: Mapping[str, tuple[QuantScheme | None, ...]] = field(default_factory=dict)
    sparse: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    def scheme(self, name: str) -> QuantScheme | None:
        """The scheme of the matrix of that name: the first rule's that fits; without any, None."""
        return next((scheme for pattern, scheme in self.rules if fnmatchcase(name, pattern)), None)

    def nbytes(self, matrix: HeldMatrix, itemsize: int) -> int:
        """Bytes of a matrix in memory: floats, or blocks of 64 outputs of codes, scales and (asymmetric) minimums."""
        if matrix.name in self.sparse:
            return sparse_bytes(matrix, self.scheme(matrix.name), *self.sparse[matrix.name], itemsize)
        parts = self.parts(matrix)
        return matrix.count * sum(packed_bytes(part[1], matrix.inputs, part[2], itemsize) for part in parts)

    def parts(self, matrix: HeldMatrix) -> list[tuple[str, int, QuantScheme | None]]:
        """(name, outputs, scheme) of each weight: of the matrix, or of its tensors where it is mixed."""
        if matrix.name not in self.mixed:
            return [(matrix.name, matrix.outputs, self.scheme(matrix.name))]
        return [(*part, scheme) for part, scheme in zip(matrix.parts, self.mixed[matrix.name], strict=True)]


def packed_bytes(outputs: int, inputs: int, scheme: QuantScheme | None, itemsize: int) -> int:
    """Bytes of one matrix in memory; a scheme of None: of floats of `itemsize` bytes."""
    if scheme is None:
        return outputs * inputs * itemsize
    block = 1 if scheme.integer_inputs else LANES  # w8a8 pads nothing
    return -(-outputs // block) * block * (inputs * scheme.bits + 8 * scheme.scale_bytes(inputs)) // 8


def sparse_bytes(matrix: HeldMatrix, scheme: QuantScheme | None, layout: str, kept: int, itemsize: int) -> int:
    """Bytes of a sparse matrix in memory, of all experts together (backends/sparse.py)."""
    outputs = matrix.count * matrix.outputs
    places = outputs * packed_size(matrix.inputs, 1) + (START_BYTES * (outputs + matrix.count) if layout == MASK else 0)
    if scheme is None:
        return places + kept * itemsize
    return places + kept * scheme.bits // 8 + outputs * scheme.scale_bytes(matrix.inputs)


def make_recipe(c: QuantizationSwitches, model: ModelConfig) -> Recipe:
    """The rules of quantize_rules, before those that quantize_head and quantize mean.

    Raises ValueError for a rule that is not understood, cannot work or fits no matrix of the model, and for a method
    that reads text for layers that the rules leave as they are.
    """
    given = tuple(parse_rule(rule, c) for rule in (c.quantize_rules or "").split(",") if rule.strip())
    names = list(held_matrices(model))
    for pattern, _ in given:
        if not any(fnmatchcase(name, pattern) for name in names):
            ours = dict.fromkeys(re.sub(r"^layers\.\d+\.", "layers.*.", name) for name in names)
            listed = ", ".join(sorted(ours, key=lambda name: not name.startswith("layers.")))
            reason, cure = "{field}: no matrix is called {pattern!r}", "this model's are {names}"
            raise SwitchError("quantize_rules", c.quantize_rules, reason, cure, pattern=pattern, names=listed)
    body = W8A8_SCHEME if c.quantize == "w8a8" else make_scheme(c.quantize, c.group_size, c.symmetric)
    head = make_scheme(c.quantize_head, c.group_size, c.symmetric)
    recipe = Recipe((*given, ("layers.*router", None), ("layers.*", body), ("*", head)))
    if c.calibrated and not any(recipe.scheme(name) for name in names if name.startswith("layers.")):
        what = "{quantize}=w8a8" if c.quantize == "w8a8" else f"{{quantize_method}}={c.quantize_method}"
        reason = f"{{field}} leave every layer as it is, and {what} is only for layers"
        raise SwitchError("quantize_rules", c.quantize_rules, reason, f"change the rules, or leave {what} out")
    return recipe


def parse_rule(rule: str, c: QuantizationSwitches) -> tuple[str, QuantScheme | None]:
    """One "name kind [gGROUP]". Raises ValueError when it is not understood, or the method cannot do it."""
    parts = RULE.fullmatch(rule.strip())
    group: int | str = (parts and parts["group"]) or c.group_size
    group = int(group) if str(group).isdecimal() else group
    if parts is None or group not in GROUP_SIZES:
        sizes = ", ".join(f"g{size}" for size in GROUP_SIZES)
        cure = f"write a name, then off, int8, int4, int3 or int2, then the group size if it is another one ({sizes})"
        raise SwitchError("quantize_rules", rule.strip(), "{field}: {value!r} is not understood", cure)
    scheme = make_scheme(parts["kind"], group, c.symmetric)
    if scheme and scheme.per_tensor and c.quantize_method in GROUPWISE:
        reason = f"{{field}}: {{value!r}} has one scale for a whole matrix, but {{quantize_method}}={c.quantize_method}"
        cure = "choose another group size, or {quantize_method}=rtn, gptq or awq"
        raise SwitchError("quantize_rules", rule.strip(), f"{reason} fits one to each group", cure)
    return parts["name"], scheme


def make_scheme(kind: str, group: int | str, symmetric: bool | None) -> QuantScheme | None:
    """The scheme of int8 ... int2; None for "off" and "keep". Without another wish, symmetric only at 8 bits."""
    if kind not in BITS:
        return None
    size = group if isinstance(group, int) else None
    balanced = BITS[kind] == 8 if symmetric is None else symmetric
    return QuantScheme(BITS[kind], size, balanced, per_tensor=group == "tensor")


def saved_bytes(c: ModelConfig, recipe: Recipe, itemsize: int, rows: int, experts_read: int) -> int:
    """How many bytes fewer a step of `rows` rows reads than one with weights of `itemsize` bytes.

    experts_read: experts whose weights are read, over all layers.
    """
    saved, table = 0, "head" if c.tied_head else "embedding"
    mixtures = sum(c.mixture(i) is not None for i in range(c.num_layers))
    for matrix in held_matrices(c).values():
        less = matrix.numbers * itemsize - recipe.nbytes(matrix, itemsize)
        if matrix.name != "embedding":
            saved += less * experts_read // (matrix.count * mixtures) if matrix.count > 1 else less
    scheme = recipe.scheme(table)
    if scheme is not None:
        row = packed_size(c.hidden_size, scheme.bits) + scheme.scale_bytes(c.hidden_size)
        saved += rows * (c.hidden_size * itemsize - row)
    return saved


class Stored(Protocol):
    """A tensor in a file, as far as its rounding goes."""

    @property
    def scheme(self) -> QuantScheme | None:
        """The QuantScheme in which the file stores the tensor; None for floats."""

    @property
    def sparse(self) -> str | None:
        """The layout of a tensor whose zeros the file does not keep; None for any other."""

    @property
    def kept(self) -> int:
        """How many weights a sparse tensor has in the file."""


def kept_recipe(c: ModelConfig, tensors: Mapping[str, Stored]) -> Recipe:
    """What quantize=keep makes of a file: the schemes of its tensors."""
    schemes = {name: tuple(tensors[part].scheme for part, _ in held.parts) for name, held in held_matrices(c).items()}
    mixed = {name: each for name, each in schemes.items() if len(set(each)) > 1}
    rules = tuple((name, each[0]) for name, each in schemes.items() if name not in mixed)
    sparse = {name: [tensors[part] for part, _ in held.parts] for name, held in held_matrices(c).items()}
    layouts = {name: (parts[0].sparse, sum(part.kept for part in parts)) for name, parts in sparse.items()}
    return Recipe(rules, mixed, {name: (layout, kept) for name, (layout, kept) in layouts.items() if layout})
