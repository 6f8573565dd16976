"""`tinyinfer download NAME`: fetch a model now rather than on first use, prove its bytes, and say where it lies."""

from __future__ import annotations

import argparse
import io
import sys
from typing import Any

from tinyinfer.cli.console import notes, show


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tinyinfer download` and its flags to the commands."""
    about = "fetch a known model, or owner/name or owner/name:Q4_K_M of the hub, prove its checksum and print its path"
    parser = commands.add_parser("download", help=about, description=about)
    parser.add_argument("name", nargs="?", metavar="NAME", help="what to fetch; without it, the known names are listed")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Downloads a model, or lists the known models."""
    from tinyinfer.loading.hub import KNOWN, SHIPPED, find, local_path

    if args.name is None:
        for name in SHIPPED:
            show(f"{name}  comes with tinyinfer\n")
        for name, model in sorted(KNOWN.items()):
            show(f"{name}  {model.title}, {model.license}, {model.weights.size / 1e6:.1f} MB\n")
        return 0
    with notes(shown=not args.quiet):
        path = local_path(args.name) or find(args.name, progress=False if args.quiet else None, verify=True)
    show_path(path)
    return 0


def show_path(path: str) -> None:
    """Writes a path to stdout; a program may read it, so bytes of it that are no text are written as they are."""
    if not path.isprintable() and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")
    show(path + "\n")
