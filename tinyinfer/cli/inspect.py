"""`tinyinfer inspect`: what a model is and what it costs, counted, and how fast this machine could possibly run it.

Only the file's configuration is read, no weight: a model larger than memory can be inspected, too.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tinyinfer.cli.arguments import add_model_arguments, add_switches, switches
from tinyinfer.cli.console import show
from tinyinfer.cli.tables import table
from tinyinfer.engine.config import EngineConfig
from tinyinfer.model.config import ModelConfig
from tinyinfer.units import amount

if TYPE_CHECKING:
    from tinyinfer.ledger import Ledger
    from tinyinfer.loading.checkpoint import Checkpoint
    from tinyinfer.measure.roofline import Machine
    from tinyinfer.model.weights import QuantScheme
    from tinyinfer.quantization.recipe import Recipe

PROMPT = 512  # tokens of the prefill that is predicted
PARTS = ("embedding", "attention", "MLP", "norms", "head")


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds the command's parser."""
    about = "a model's size, its cost per token, and the speed that this machine allows"
    parser = commands.add_parser("inspect", help=about, description=about)
    parser.add_argument("--json", action="store_true", help="stdout holds one JSON object")
    add_model_arguments(parser)
    add_switches(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Inspects. Raises ModelError, ValueError, as loading does."""
    from tinyinfer.llm import context_length
    from tinyinfer.loading import load
    from tinyinfer.loading.hub import find
    from tinyinfer.measure.roofline import measure_machine

    engine = EngineConfig(**switches(args))
    checkpoint = load(find(args.model))
    context = context_length(checkpoint.config, engine.max_model_len)
    found = describe(args.model, checkpoint, engine, context, measure_machine(engine.threads))
    show((json.dumps(found) if args.json else as_text(found)) + "\n")
    return 0


def describe(name: str, checkpoint: Checkpoint, engine: EngineConfig, context: int, machine: Machine) -> dict[str, Any]:
    """All that is shown, as JSON has it. context: positions; bytes are those held in memory by these switches."""
    import numpy as np

    from tinyinfer.kv_cache.base import position_bytes
    from tinyinfer.loading.build import keeps_file_quantization
    from tinyinfer.quantization.recipe import kept_recipe, make_recipe
    from tinyinfer.switches import CACHES, DTYPES, resolve

    c, itemsize = checkpoint.config, np.dtype(resolve(DTYPES, engine.dtype)).itemsize
    kept = keeps_file_quantization(engine, checkpoint)
    recipe = kept_recipe(c, checkpoint.tensors) if kept else make_recipe(engine, c)
    remembers = resolve(CACHES, engine.kv_cache).can_chunk
    parameters, sizes = parameters_by_part(c), bytes_by_part(c, itemsize, recipe)
    kv_bytes = position_bytes(c.memory, engine.kv_bits, engine.block_size, engine.kv_group_size)
    return {
        "model": name,
        "path": checkpoint.path,
        "file_bytes": sum(tensor.nbytes for tensor in checkpoint.tensors.values()),
        "config": {key: value for key, value in asdict(c).items() if key not in ("rope", "windows")},
        "windows": sorted({window for window in c.windows if window}),
        "chat_template": checkpoint.tokenizer.chat_template is not None,
        "parameters": sum(parameters.values()),
        "parameters_per_token": sum(parameters.values()) - unused_experts(c),
        "parameters_by_part": parameters,
        "weight_bytes": sum(sizes.values()),
        "weight_bytes_by_part": sizes,
        "matrices": matrices(c, itemsize, recipe),
        "max_context": context,
        "kv_bytes_per_token": kv_bytes,
        "kv_bytes_at_max_context": kv_bytes * context if remembers else 0,
        "read_bandwidth": machine.read_bandwidth,
        "matrix_flops": machine.matrix_speed,
        "balance_flops_per_byte": machine.balance,
        "roofline": [bound(*step, machine) for step in steps(c, context, itemsize, remembers, recipe)],
        "engine": {"model": name, **asdict(engine)},
    }


# What the model is.


def part_of(name: str) -> str:
    """Which of PARTS a weight belongs to, by its canonical name."""
    if name in ("embedding", "positions"):
        return "embedding"
    if "norm" in name:
        return "norms"
    if name == "head":
        return "head"
    return "attention" if name.split(".")[2] in ("q", "k", "v", "o") else "MLP"


def parameters_by_part(c: ModelConfig) -> dict[str, int]:
    """Part -> numbers in it; a tied head has none of its own."""
    from tinyinfer.model.config import expected_tensors

    parts = dict.fromkeys(PARTS, 0)
    for name, shape in expected_tensors(c).items():
        parts[part_of(name)] += math.prod(shape)
    return parts


def bytes_by_part(c: ModelConfig, itemsize: int, recipe: Recipe) -> dict[str, int]:
    """Part -> bytes held in memory: matrices as the recipe has them or in `itemsize` bytes, the rest in float32."""
    from tinyinfer.measure.roofline import FLOAT, norm_weights
    from tinyinfer.model.config import expected_tensors, held_matrices

    parts = dict.fromkeys(PARTS, 0)
    for name, shape in expected_tensors(c).items():
        if len(shape) == 1 or name == "positions":
            parts[part_of(name)] += math.prod(shape) * FLOAT
    for matrix in held_matrices(c).values():
        parts[part_of(matrix.parts[0][0])] += recipe.nbytes(matrix, itemsize)
    return parts | {"norms": norm_weights(c) * FLOAT}  # one that heads share is held once for each


def matrices(c: ModelConfig, itemsize: int, recipe: Recipe) -> list[dict[str, Any]]:
    """Every matrix as it is held: its grid (None: floats), its bits per weight with all scales, and its bytes."""
    from tinyinfer.model.config import held_matrices

    found = []
    for matrix in held_matrices(c).values():
        grid, size = recipe.scheme(matrix.name), recipe.nbytes(matrix, itemsize)
        bits = 8 * size / matrix.numbers
        found.append({"name": matrix.name, "grid": grid and grid_fields(grid), "bits_per_weight": bits, "bytes": size})
    return found


def unused_experts(c: ModelConfig) -> int:
    """Parameters of the experts that a token does not use."""
    if c.experts is None:
        return 0
    unused = c.experts.num_experts - c.experts.experts_per_token
    return c.num_layers * unused * 3 * c.hidden_size * c.experts.expert_size


# What it costs.


def steps(
    c: ModelConfig, context: int, itemsize: int, remembers: bool, recipe: Recipe
) -> list[tuple[str, int, Ledger]]:
    """(what it is, tokens it advances by, what it counts) of a prefill and of the first and the last decode step.

    remembers: whether there is a KV cache; without one, a decode step is a prefill of everything.
    """
    from tinyinfer.measure.roofline import expected_step
    from tinyinfer.quantization.recipe import saved_bytes

    def cost(first: int, rows: int) -> Ledger:
        total = expected_step(c, first, rows, itemsize)
        total.weight_bytes -= saved_bytes(c, recipe, itemsize, rows, total.experts_read)
        return total

    def decode(position: int) -> tuple[str, int, Ledger]:
        return f"decode at position {position}", 1, cost(position, 1) if remembers else cost(0, position + 1)

    prompt = min(PROMPT, context)
    return [(f"prefill of {prompt}", prompt, cost(0, prompt)), decode(0), decode(context - 1)]


def bound(step: str, tokens: int, cost: Ledger, machine: Machine) -> dict[str, Any]:
    """What the roofline allows for a step."""
    from tinyinfer.measure.roofline import intensity, limit, predict_seconds

    seconds = predict_seconds(cost, machine)
    return {
        "step": step,
        "flops_per_token": cost.flops / tokens,
        "bytes_per_token": cost.bytes_moved / tokens,
        "flops_per_byte": intensity(cost),
        "limit": limit(cost, machine),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
    }


# How it is shown.


def as_text(found: dict[str, Any]) -> str:
    """The same for people."""
    sections = [heading(found), sizes_table(found), cache_line(found), roofline_table(found), reasons(found)]
    if any(matrix["grid"] for matrix in found["matrices"]):
        sections.insert(2, matrix_table(found["matrices"]))
    return "\n\n".join(sections)


def heading(found: dict[str, Any]) -> str:
    """What the model is, in a few lines."""
    c, windows = found["config"], found["windows"]
    heads = f"{c['num_heads']} query and {c['num_kv_heads']} key/value heads of {c['head_dim']}"
    lines = [
        f"{found['model']} ({found['path']})",
        f"  {c['architecture']}, {c['num_layers']} layers of width {c['hidden_size']}, {heads}, "
        f"vocabulary {c['vocab_size']}",
        f"  context {found['max_context']} positions, {amount(found['file_bytes'], 'B')} of weights in the file, "
        f"chat template: {'yes' if found['chat_template'] else 'no'}",
    ]
    if windows:
        lines.append(f"  some layers see only the last {' or '.join(map(str, windows))} positions")
    if c["experts"]:
        x, k = c["experts"]["num_experts"], c["experts"]["experts_per_token"]
        lines.append(f"  {k} of {x} experts a token, so {found['parameters_per_token']:,} parameters a token")
    return "\n".join(lines)


def sizes_table(found: dict[str, Any]) -> str:
    """Parameters and bytes by part."""
    numbers, sizes = found["parameters_by_part"], found["weight_bytes_by_part"]
    quantized = any(matrix["grid"] for matrix in found["matrices"])
    rows = [("", "parameters", "in memory" if quantized else found["engine"]["dtype"])]
    rows += [(part, f"{numbers[part]:,}", amount(sizes[part], "B")) for part in PARTS]
    if found["config"]["tied_head"]:
        rows[-1] = ("head", "the embedding again", "")
    rows.append(("all", f"{found['parameters']:,}", amount(found["weight_bytes"], "B")))
    return table(rows)


def matrix_table(found: list[dict[str, Any]]) -> str:
    """Bits and bytes of the matrices; one line for all layers that are alike."""
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for matrix in found:
        name = re.sub(r"^layers\.\d+\.", "layers.*.", matrix["name"])
        kinds.setdefault((name, grid_text(matrix["grid"])), []).append(matrix)
    rows = [("", "grid", "bits a weight", "bytes")]
    for (name, grid), alike in kinds.items():
        size, bits = amount(alike[0]["bytes"], "B"), f"{alike[0]['bits_per_weight']:.4g}"
        one = len(alike) == 1
        rows.append((alike[0]["name"] if one else name, grid, bits, size if one else f"{len(alike)} x {size}"))
    return table(rows)


def grid_fields(scheme: QuantScheme) -> dict[str, Any]:
    """How a matrix is rounded, for JSON."""
    return {
        "bits": scheme.bits, "group": scheme.group_size, "symmetric": scheme.symmetric, "whole": scheme.per_tensor,
    }  # fmt: skip


def grid_text(grid: dict[str, Any] | None) -> str:
    """A grid in words."""
    if grid is None:
        return "floats"
    group = f"g{grid['group']}" if grid["group"] else "tensor" if grid["whole"] else "channel"
    return f"int{grid['bits']} {group} {'symmetric' if grid['symmetric'] else 'asymmetric'}"


def cache_line(found: dict[str, Any]) -> str:
    """What the keys and values take."""
    each, full = found["kv_bytes_per_token"], found["kv_bytes_at_max_context"]
    kept = f"{amount(full, 'B')} for {found['max_context']} positions" if full else "and this switch keeps none"
    return f"keys and values: {amount(each, 'B')} a token, {kept}"


def roofline_table(found: dict[str, Any]) -> str:
    """What each step costs, and the most that the machine can do."""
    rows = [("", "FLOPs a token", "bytes a token", "FLOPs a byte", "limit", "at most")]
    rows += [
        (
            step["step"],
            amount(step["flops_per_token"], "FLOP"),
            amount(step["bytes_per_token"], "B"),
            f"{step['flops_per_byte']:.3g}",
            step["limit"],
            f"{step['tokens_per_second']:.4g} tok/s",
        )
        for step in found["roofline"]
    ]
    return table(rows)


def reasons(found: dict[str, Any]) -> str:
    """Why this limit and not the other."""
    balance = found["balance_flops_per_byte"]
    lines = [
        f"this machine reads {amount(found['read_bandwidth'], 'B/s')} and multiplies "
        f"{amount(found['matrix_flops'], 'FLOP/s')}: {balance:.3g} FLOPs in the time of a byte"
    ]
    for step in found["roofline"]:
        side, waits = ("more", "memory waits") if step["limit"] == "arithmetic" else ("fewer", "the processor waits")
        lines.append(f"  {step['step']} has {step['flops_per_byte']:.3g} for each byte, {side} than that: {waits}")
    return "\n".join(lines)
