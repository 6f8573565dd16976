"""`tinyinfer quantize`: a model in, a folder out that holds it in a few bits a weight and loads like any other.

Quantizing at every start costs seconds by rounding and minutes by methods that read text; a folder costs them once.
What is written is what would be in memory, so answers do not change by a bit.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from tinyinfer.cli.arguments import add_model_arguments, add_switches, engine_config, verify
from tinyinfer.cli.console import notes, progress_bar, say
from tinyinfer.quantization.switches import QuantizationSwitches
from tinyinfer.units import amount

if TYPE_CHECKING:
    from tinyinfer.loading.checkpoint import Checkpoint

RECIPE = tuple(one.name for one in fields(QuantizationSwitches))
SWITCHES = (*RECIPE, "dtype", "backend", "threads")


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tinyinfer quantize` and its flags to the commands."""
    about = "write a quantized model folder that loads like any other"
    parser = commands.add_parser("quantize", help=about, description=about)
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="the folder to make")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary")
    add_model_arguments(parser)
    add_switches(parser, SWITCHES, quantize="int4")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Quantizes a model and writes its folder. Raises ModelError and ValueError as loading and saving do."""
    from tinyinfer.loading.saving import check_target, save_model

    config = engine_config(args)
    if (args.quantize, args.quantize_head, args.quantize_rules) == ("off", "off", None):
        raise ValueError("--quantize off leaves nothing to do; choose int8, int4, int3, int2, w8a8 or keep")
    with notes(shown=not args.quiet):
        check_target(args.output)
    started = time.perf_counter()
    source = open_source(args)
    llm = args.opener(args.model, config, args.quiet)
    with progress_bar("writing", shown=not args.quiet) as show:
        size = save_model(args.output, llm.model, source, recipe(args, source), show)
    if not args.quiet:
        before = sum(tensor.nbytes for tensor in source.tensors.values())
        held, seconds = amount(llm.model.nbytes, "B"), time.perf_counter() - started
        say(f"{args.output}: {amount(size, 'B')}, {held} in memory (source: {amount(before, 'B')}), {seconds:.1f} s")
    return 0


def open_source(args: argparse.Namespace) -> Checkpoint:
    """What is to be changed. Raises ValueError when that was done before."""
    from tinyinfer.loading import load
    from tinyinfer.loading.build import AGAIN
    from tinyinfer.loading.hub import find

    verify(args)
    with notes(shown=False):  # the model itself, opened next, tells them
        source = load(find(args.model, progress=False if args.quiet else None))
    if source.quantization is not None:
        raise ValueError(
            f"{source.path}: is {source.change} already, and {AGAIN[source.change]} twice loses twice; take the model "
            "that it was made from"
        )
    return source


def recipe(args: argparse.Namespace, source: Checkpoint, names: tuple[str, ...] = RECIPE) -> dict[str, Any]:
    """What the quantization_config tells people: the switches; nothing of it is needed to load the folder.

    calibration_bos: whether windows began with a beginning token; left out where no text was read.
    """
    given = {name: getattr(args, name) for name in names}
    if args.calibration is not None:
        given["calibration"] = os.path.basename(args.calibration)
    began = args.calibration_bos and bool(source.tokenizer.beginning)
    given["calibration_bos"] = began if engine_config(args).reads_text else None
    method = args.quantize if args.quantize in ("keep", "w8a8") else args.quantize_method
    method = method if args.prune == "off" else args.prune
    return {"method": method, "recipe": {k: v for k, v in given.items() if v is not None}}
