"""Which matrix gets which grid: rules by name, of which the first that fits wins.

    "head int8, layers.0.* int8 g64, layers.*.down int4 g32, layers.*.qkv off"

Layers are not equally sensitive, and a model of mixed bits can be better than an even one of the same size; rules make
that a matter of trying. Names are those of the matrices as they are held, fused: layers.3.qkv, .o, .gate_up (.up where
there is no gate), .down, .router; embedding and head, or only head where the two are one matrix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tinyinfer.backends.packed import GRID as W8A8_GRID
from tinyinfer.backends.packed import LANES
from tinyinfer.backends.packing import packed_size
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import SwitchError
from tinyinfer.model.config import ModelConfig, expected_tensors
from tinyinfer.model.weights import Grid
from tinyinfer.quantization.switches import GROUP_SIZES, GROUPWISE

BITS = {"int8": 8, "int4": 4, "int3": 3, "int2": 2}
RULE = re.compile(r"(?P<name>\S+)\s+(?P<kind>off|int8|int4|int3|int2)(\s+g(?P<group>\d+|channel|tensor))?")


@dataclass(frozen=True)
class Recipe:
    """(pattern, grid) pairs; a grid of None leaves a matrix as it is.

    w8a8: whether the inputs of the layers are rounded, too: of those whose grid is W8A8_GRID itself, while a rule that
    says int8 gchannel has an equal one of its own and leaves the inputs as they are.
    """

    rules: tuple[tuple[str, Grid | None], ...]
    w8a8: bool = False

    def grid(self, name: str) -> Grid | None:
        """The grid of the matrix of that name: the first rule's that fits; without any, None."""
        return next((grid for pattern, grid in self.rules if fnmatchcase(name, pattern)), None)

    def nbytes(self, matrix: HeldMatrix, itemsize: int) -> int:
        """Bytes of a matrix in memory: floats, or blocks of 64 outputs of codes, steps and (asymmetric) minimums."""
        grid = self.grid(matrix.name)
        if grid is None:
            return matrix.numbers * itemsize
        block = 1 if self.w8a8 and grid is W8A8_GRID else LANES  # w8a8 fills nothing up
        scales = groups_of(matrix.inputs, grid) * 2 * (1 if grid.symmetric else 2)
        return matrix.count * -(-matrix.outputs // block) * block * (matrix.inputs * grid.bits + 8 * scales) // 8


def make_recipe(c: EngineConfig, model: ModelConfig) -> Recipe:
    """The rules of quantize_rules, before those that quantize_head and quantize stand for.

    Raises ValueError for a rule that is not understood, cannot work or fits no matrix of the model, and for a method
    that reads text for layers that the rules leave as they are.
    """
    given = tuple(parse_rule(rule, c) for rule in (c.quantize_rules or "").split(",") if rule.strip())
    names = [matrix.name for matrix in held_matrices(model)]
    for pattern, _ in given:
        if not any(fnmatchcase(name, pattern) for name in names):
            layer = [name.replace("layers.0.", "layers.*.") for name in names if name.startswith("layers.0.")]
            others = [name for name in names if not name.startswith("layers.")]
            reason, cure = "{field}: no matrix is called {pattern!r}", "this model's are {names}"
            ours = ", ".join(layer + others)
            raise SwitchError("quantize_rules", c.quantize_rules, reason, cure, pattern=pattern, names=ours)
    body = W8A8_GRID if c.quantize == "w8a8" else make_grid(c.quantize, c.group_size, c.symmetric)
    head = make_grid(c.quantize_head, c.group_size, c.symmetric)
    recipe = Recipe((*given, ("layers.*.router", None), ("layers.*", body), ("*", head)), c.quantize == "w8a8")
    if c.calibrated and not any(recipe.grid(name) for name in names if name.startswith("layers.")):
        what = "{quantize}=w8a8" if recipe.w8a8 else f"{{quantize_method}}={c.quantize_method}"
        reason = f"{{field}} leave every layer as it is, and {what} is only for layers"
        raise SwitchError("quantize_rules", c.quantize_rules, reason, f"change the rules, or leave {what} out")
    return recipe


def parse_rule(rule: str, c: EngineConfig) -> tuple[str, Grid | None]:
    """One "name kind [gGROUP]". Raises ValueError when it is not understood, or the method cannot do it."""
    parts = RULE.fullmatch(rule.strip())
    group: int | str = (parts and parts["group"]) or c.group_size
    group = int(group) if str(group).isdecimal() else group
    if parts is None or group not in GROUP_SIZES:
        sizes = ", ".join(f"g{size}" for size in GROUP_SIZES)
        cure = f"write a name, then off, int8, int4, int3 or int2, then the group size if it is another one ({sizes})"
        raise SwitchError("quantize_rules", rule.strip(), "{field}: {value!r} is not understood", cure)
    grid = make_grid(parts["kind"], group, c.symmetric)
    if grid and grid.whole and c.quantize_method in GROUPWISE:
        reason = f"{{field}}: {{value!r}} has one step for a whole matrix, but {{quantize_method}}={c.quantize_method}"
        cure = "choose another group size, or {quantize_method}=rtn, gptq or awq"
        raise SwitchError("quantize_rules", rule.strip(), f"{reason} fits one to each group", cure)
    return parts["name"], grid


def make_grid(kind: str, group: int | str, symmetric: bool | None) -> Grid | None:
    """The grid of int8 ... int2; None for "off" and "keep". Without another wish, symmetric only at 8 bits."""
    if kind not in BITS:
        return None
    size = group if isinstance(group, int) else None
    return Grid(BITS[kind], size, BITS[kind] == 8 if symmetric is None else symmetric, whole=group == "tensor")


# What a recipe makes of a model, without reading a weight.


@dataclass(frozen=True)
class HeldMatrix:
    """A matrix as it will be held: experts are `count` equal ones of N outputs and M inputs.

    parts: the canonical names of what was joined.
    """

    name: str
    count: int
    outputs: int
    inputs: int
    parts: tuple[str, ...]

    @property
    def numbers(self) -> int:
        """Weights in it."""
        return self.count * self.outputs * self.inputs


def held_matrices(c: ModelConfig) -> list[HeldMatrix]:
    """Every matrix of a model that may be quantized, fused as assemble.py fuses it."""
    fused = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up"} | ({"up": "gate_up"} if c.gated else {})
    found: dict[str, HeldMatrix] = {}
    for name, shape in expected_tensors(c).items():
        if len(shape) == 1 or name == "positions":
            continue
        *layer, last = name.split(".")
        held = ".".join([*layer, "head" if c.tied_head and last == "embedding" else fused.get(last, last)])
        outputs, parts = (found[held].outputs, found[held].parts) if held in found else (0, ())
        count = shape[0] if len(shape) == 3 else 1
        found[held] = HeldMatrix(held, count, outputs + shape[-2], shape[-1], (*parts, name))
    return list(found.values())


def saved_bytes(c: ModelConfig, recipe: Recipe, itemsize: int, rows: int, experts_read: int) -> int:
    """How many bytes fewer a step of `rows` rows reads than one with weights of `itemsize` bytes.

    experts_read: experts whose weights are read, over all layers.
    """
    saved, table = 0, "head" if c.tied_head else "embedding"
    for matrix in held_matrices(c):
        less = matrix.numbers * itemsize - recipe.nbytes(matrix, itemsize)
        if matrix.name != "embedding":
            saved += less * experts_read // (matrix.count * c.num_layers) if matrix.count > 1 else less
    grid = recipe.grid(table)
    if grid is not None:
        scales = 2 * groups_of(c.hidden_size, grid) * (1 if grid.symmetric else 2)
        saved += rows * (c.hidden_size * itemsize - packed_size(c.hidden_size, grid.bits) - scales)
    return saved


def groups_of(inputs: int, grid: Grid) -> int:
    """Groups in a row of so many inputs."""
    return -(-inputs // (grid.group or inputs))
