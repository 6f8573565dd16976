"""`tinyinfer inspect`: what a model is and what it costs, and how fast this machine could possibly run it."""

from __future__ import annotations

import argparse
from typing import Any

from tinyinfer.cli.arguments import add_model_arguments, add_switches, engine_config, verify
from tinyinfer.cli.console import notes, show, show_json


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tinyinfer inspect` and its flags to the commands."""
    about = "a model's size, its cost per token, and the speed that this machine allows"
    parser = commands.add_parser("inspect", help=about, description=about)
    parser.add_argument("--json", action="store_true", help="stdout holds one JSON object")
    add_model_arguments(parser)
    add_switches(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints what a model costs and what this machine allows. Raises ModelError and ValueError as loading does."""
    from tinyinfer.backends.switches import make_ops
    from tinyinfer.engine.engine import context_length
    from tinyinfer.ledger import Ledger
    from tinyinfer.loading import load
    from tinyinfer.loading.hub import find
    from tinyinfer.measure.inspect import describe
    from tinyinfer.measure.roofline import machine_of
    from tinyinfer.measure.tables import model_text

    engine = engine_config(args)
    verify(args)
    with notes():
        machine = machine_of(make_ops(engine, Ledger()), engine.threads)
        checkpoint = load(find(args.model))
    context = context_length(checkpoint.config, engine.max_model_len)
    model = describe(args.model, checkpoint, engine, context, machine)
    show_json(model) if args.json else show(model_text(model) + "\n")
    return 0
