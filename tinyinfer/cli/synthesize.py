"""`tinyinfer synthesize`: text that a model writes, as lines of JSON, for a student to learn from.

    tinyinfer synthesize -n 1000000 -o FILE                              questions of all kinds, and the answers
    tinyinfer synthesize -n 1000000 -o FILE --prompts stories -m MODEL   stories for small children
    tinyinfer synthesize -n 1000000 -o FILE --prompts PROMPTS            a file's lines, in turn

Each line has "prompt" (rendered by the chat template), "text", "tokens" and "finished". After Ctrl-C or a reboot the
same command goes on where it was. Fast: --backend cupy --max-num-seqs 256 on a GPU, --backend numba on a CPU.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tinyinfer.cli.arguments import (
    add_fields,
    add_model_arguments,
    add_switches,
    engine_config,
    opened,
    sampling_params,
)
from tinyinfer.cli.console import progress_bar, say
from tinyinfer.sampling_params import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyinfer.distillation.documents import Totals

DRAWING = ("temperature", "top_p", "top_k", "min_p", "seed")
EACH = 0.1  # seconds between two drawings of the progress bar


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `tinyinfer synthesize` and its flags to the commands."""
    about = "write text with a model, for a student to learn from"
    parser = commands.add_parser("synthesize", help=about, description=about)
    add = parser.add_argument
    add("-n", "--tokens", type=int, required=True, metavar="TOKENS", help="how many tokens the answers have together")
    add("-o", "--output", required=True, metavar="FILE", help="the file to make: one line of JSON a document")
    add("--prompts", default="questions", metavar="questions|stories|FILE",
        help="made from word lists, or the lines of a file (default: %(default)s)")  # fmt: skip
    add("-q", "--quiet", action="store_true", help="no progress and no summary")
    add_model_arguments(parser)
    add_fields(parser, "sampling", SamplingParams, DRAWING, temperature=0.8, seed=0)
    add("--max-tokens", type=int, default=SamplingParams.max_tokens, metavar="N",
        help="longest answer in tokens (default: %(default)s)")  # fmt: skip
    add_switches(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the file. Raises ValueError for what cannot be made, ModelError for a full disk; 130 after Ctrl-C."""
    if args.tokens < 1:
        raise ValueError(f"-n {args.tokens}: ask for at least one token")
    if args.max_tokens < 1:
        raise ValueError(f"--max-tokens {args.max_tokens}: an answer has at least one token")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: give 0 or more; the same seed makes the same file")
    params = sampling_params(args)
    engine_config(args)

    from tinyinfer.distillation.documents import write_documents
    from tinyinfer.distillation.part_file import check_place
    from tinyinfer.distillation.prompts import prompt_source

    target, source = Path(args.output), prompt_source(args.prompts, args.seed)
    check_place(target)
    llm, report = opened(args), Report(target, args.tokens)
    try:
        with progress_bar(f"writing {target.name[:40]}", shown=not args.quiet) as show:
            write_documents(llm, target, source, args.tokens, params, seed=args.seed,
                            on_document=report.document, on_step=partial(report.step, show))  # fmt: skip
    except KeyboardInterrupt:
        if not args.quiet:
            say(f"{report.part}; the same command goes on there")
        raise
    if not args.quiet:
        say(report.whole)
    return 0


class Report:
    """Counts what is written, for the progress bar and for the closing line."""

    def __init__(self, target: Path, wanted: int) -> None:
        self.target, self.wanted = target, wanted
        self.begun, self.shown = time.perf_counter(), -EACH
        self.generated = 0  # tokens in this run, also those of answers that have not ended
        self.before: Totals | None = None  # what was there at the beginning
        self.totals: Totals | None = None

    def document(self, totals: Totals) -> None:
        """Called with what is there at the beginning, and after each document."""
        self.before, self.totals = self.before or totals, totals

    def step(self, show: Callable[..., None], generated: int) -> None:
        """Called after each step of the engine; draws the bar some times a second."""
        self.generated += generated
        seconds = time.perf_counter() - self.begun
        if seconds >= self.shown + EACH and self.before is not None:
            self.shown = seconds
            done = min(self.wanted, self.before.tokens + self.generated)
            show(done, self.wanted, f"{self.generated / seconds:.0f} tokens per second")

    @property
    def part(self) -> str:
        """What an interrupted run leaves, as a sentence."""
        if self.totals is None:
            return f"{self.target}: nothing is written yet"
        return f"{self.target}.part: {self.totals.documents} documents, {self.totals.tokens} tokens"

    @property
    def whole(self) -> str:
        """The closing line. Its pace counts the tokens that are in the file, and that this run wrote."""
        assert self.totals is not None
        assert self.before is not None
        seconds, new = time.perf_counter() - self.begun, self.totals.tokens - self.before.tokens
        there = f" ({self.before.documents} of them were there)" if self.before.documents else ""
        counts = f"{self.totals.documents} documents{there}, {self.totals.tokens} tokens"
        return f"{self.target}: {counts}, {seconds:.1f} s, {new / seconds:.0f} tokens per second"
