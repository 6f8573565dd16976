"""`tinyinfer prune`: a model in, a folder out that holds fewer weights and loads like any other.

    tinyinfer prune --method wanda --sparsity 0.5 -o FOLDER      single weights; the matrices are sparse
    tinyinfer prune --drop-layers 3 --width 0.75 -o FOLDER       whole parts; a plain folder, for other programs, too

Pruning by text takes a minute and more at every start; a folder takes it once. What is written is what would be in
memory, so answers do not change by a bit.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from tinyinfer.cli.arguments import add_model_arguments, add_switches, engine_config
from tinyinfer.cli.console import notes, progress_bar, say
from tinyinfer.cli.quantize import open_source, recipe
from tinyinfer.pruning.switches import PRUNE_METHODS, WeightSwitches
from tinyinfer.units import amount

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyinfer.engine.config import EngineConfig
    from tinyinfer.llm import LLM
    from tinyinfer.loading.checkpoint import Checkpoint

RECIPE = tuple(one.name for one in fields(WeightSwitches))
SWITCHES = (*RECIPE, "dtype", "threads")


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tinyinfer prune` and its flags to the commands."""
    about = "write a model folder with fewer weights that loads like any other"
    parser = commands.add_parser("prune", help=about, description=about)
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="the folder to make")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary")
    parser.add_argument(
        "--method", dest="prune", choices=tuple(PRUNE_METHODS), default=argparse.SUPPRESS, help="the same as --prune"
    )
    add_model_arguments(parser)
    add_switches(parser, SWITCHES)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prunes a model and writes its folder. Raises ModelError and ValueError as loading and saving do."""
    from tinyinfer.loading.saving import check_target

    config = engine_config(args)
    if not config.prunes:
        ways = "--method, --drop-layers, --width, --keep-kv-heads or --keep-hidden"
        raise ValueError(f"without {ways} there is nothing to remove; add one of them")
    with notes(shown=not args.quiet):
        check_target(args.output)
    started = time.perf_counter()
    source = open_source(args)
    if is_plain(config):
        from tinyinfer.loading.plain_folder import check_family

        check_family(source.config, source)
    llm = args.opener(args.model, config, args.quiet)
    with progress_bar("writing", shown=not args.quiet) as show:
        size = write(args, llm, source, show)
    if not args.quiet:
        seconds = time.perf_counter() - started
        before = sum(tensor.nbytes for tensor in source.tensors.values())
        held = f"{amount(llm.model.nbytes, 'B')} in memory"
        say(f"{args.output}: {amount(size, 'B')}, {held} (source: {amount(before, 'B')}), {seconds:.1f} s")
    return 0


def is_plain(config: EngineConfig) -> bool:
    """Whether all matrices of what is written are floats with their zeros."""
    return config.prune == "off" and not config.quantizes


def write(args: argparse.Namespace, llm: LLM, source: Checkpoint, show: Callable[[int, int], None]) -> int:
    """Writes the folder: a plain one where all matrices are still floats with their zeros. Returns its bytes."""
    from tinyinfer.loading.saving import save_model

    config = engine_config(args)
    if is_plain(config):
        from tinyinfer.loading.plain_folder import save_plain

        return save_plain(args.output, llm.model, source, show)
    return save_model(args.output, llm.model, source, recipe(args, source, RECIPE), show)
