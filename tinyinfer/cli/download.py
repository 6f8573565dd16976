"""`tinyinfer download NAME`: fetch a model now rather than on first use, and say where it lies."""

from __future__ import annotations

import argparse
from typing import Any

from tinyinfer.cli.console import show


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tinyinfer download` and its flags to the commands."""
    about = "fetch a known model, or owner/name or owner/name:Q4_K_M of the hub, and print its path"
    parser = commands.add_parser("download", help=about, description=about)
    parser.add_argument("name", nargs="?", metavar="NAME", help="what to fetch; without it, the known names are listed")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Downloads a model, or lists the known models."""
    from tinyinfer.loading.hub import KNOWN, find

    if args.name is None:
        for name, model in sorted(KNOWN.items()):
            show(f"{name}  {model.title}, {model.license}, {model.weights.size / 1e6:.1f} MB\n")
        return 0
    show(find(args.name, progress=False if args.quiet else None) + "\n")
    return 0
