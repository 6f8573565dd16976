"""`tinyinfer distill`: a student learns from a teacher, and becomes a folder that loads like any other.

    tinyinfer distill --student PRUNED_FOLDER --text FILE -o FOLDER      a pruned model is brought back
    tinyinfer distill --student config.json --text FILE -o FOLDER        a small model learns from nothing

A checkpoint stands beside the folder until it is written, so the same command goes on after a kill.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyinfer.cli.arguments import DEFAULT_MODEL, add_fields, add_switches, engine_config
from tinyinfer.cli.console import notes, progress_bar, say
from tinyinfer.distillation.switches import TrainingSwitches
from tinyinfer.errors import ModelError, SwitchError, TrainingError
from tinyinfer.measure.perplexity import Perplexity
from tinyinfer.units import amount

if TYPE_CHECKING:
    from tinyinfer.distillation.distill import Run
    from tinyinfer.distillation.training import Training

TRAINING = ("numpy", "reference", "cupy")  # the backends whose weights are plain arrays
TESTED = 16_384  # tokens of --test
RECENT = 20  # steps whose mean loss is shown


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tinyinfer distill` and its flags to the commands."""
    about = "train a smaller model on what a larger one says"
    parser = commands.add_parser("distill", help=about, description=about)
    add = parser.add_argument
    add("--teacher", default=DEFAULT_MODEL, metavar="MODEL", help="the model to learn from (default: %(default)s)")
    add("--student", required=True, metavar="MODEL", help="a smaller model, or a config.json for one of random weights")
    add("--text", required=True, metavar="FILE", help="what both read: .jsonl of `synthesize`, or plain text")
    add("-o", "--output", required=True, metavar="FOLDER", help="the folder to make")
    add("--test", metavar="FILE", help="a text on whose first 16,384 tokens the student is tested now and then; "
        "without it, one of 64 documents of --text is kept for that")  # fmt: skip
    add("--log", metavar="FILE", help="write the losses into FILE, a line of JSON for each step and each test")
    add("--plot", metavar="FILE", help="draw the loss over tokens into FILE (.png, .svg or .pdf)")
    add("-q", "--quiet", action="store_true", help="no progress and no summary")
    add_fields(parser, "training", TrainingSwitches)
    add_switches(parser, ("backend", "threads"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains a student and writes its folder. Raises ModelError and ValueError as loading and training do."""
    from tinyinfer.measure.figures import check_plot, draw_training

    if args.plot:
        check_plot(args.plot)
    if args.log:
        check_log(args.log, args.text, args.test)
    started = time.perf_counter()
    with notes(shown=not args.quiet):
        work = opened(args)
    with progress_bar("what the teacher says", shown=not args.quiet) as show:
        training = work.begin(show)
    before = training.place.tokens
    if before and not args.quiet:
        say(f"{work.checkpoint}: goes on after {before} tokens")
    begun = time.perf_counter()
    with progress_bar("training", shown=not args.quiet) as show:

        def on_step(training: Training) -> None:
            show(*step_line(training, before, time.perf_counter() - begun))
            if training.optimizer.steps % training.switches.save_every == 0:
                write_log(args.log, training)

        try:
            work.train(training, on_step)
        except TrainingError:
            write_log(args.log, training)
            raise
        except KeyboardInterrupt:
            if work.checkpoint.exists() and not args.quiet:
                say(f"{work.checkpoint}: the same command goes on from there")
            raise
    write_log(args.log, training)
    if args.plot:
        draw_training(args.plot, Path(args.output).name, training.place)
    with progress_bar("writing", shown=not args.quiet) as show:
        size = work.write(training, show)
    if not args.quiet:
        found = training.place.tests or training.place.losses
        (_, first), (_, last) = found[0], found[-1]
        what = f"perplexity {Perplexity(first, 1).perplexity:.4g} -> {Perplexity(last, 1).perplexity:.4g}"
        what = what if training.place.tests else f"loss {first:.4g} -> {last:.4g}"
        seconds, tokens = time.perf_counter() - started, training.place.tokens
        say(f"{args.output}: {amount(size, 'B')}, {tokens} tokens read, {what}, {seconds:.1f} s")
    return 0


def opened(args: argparse.Namespace) -> Run:
    """The run that the arguments describe, everything looked at before any work."""
    from tinyinfer.backends.switches import make_ops
    from tinyinfer.distillation.distill import Run
    from tinyinfer.distillation.student import open_student
    from tinyinfer.distillation.texts import read_documents, read_windows
    from tinyinfer.ledger import Ledger
    from tinyinfer.loading import load
    from tinyinfer.loading.hub import find
    from tinyinfer.loading.saving import check_target

    s = TrainingSwitches(**{one.name: getattr(args, one.name) for one in fields(TrainingSwitches)})
    config = engine_config(args)
    if config.backend not in TRAINING:
        reason, cure = "{field}={value} has no gradients", f"choose one of {', '.join(TRAINING)}"
        raise SwitchError("backend", config.backend, reason, cure)
    check_target(args.output)
    teacher = load(find(args.teacher, progress=False if args.quiet else None))
    student = open_student(args.student, teacher, s.seed, compared=s.asks_teacher)
    own = teacher.tokenizer.first_difference(student.tokenizer) is not None
    end = student.tokenizer.end_token_ids[:1]
    documents = read_documents(args.text, student.tokenizer, s.window, answers=own, end=end)
    tested = read_windows(args.test, student.tokenizer, s.window, TESTED, answers=own) if args.test else None
    return Run(Path(args.output), s, teacher, student, documents, tested, make_ops(config, Ledger()))


def step_line(training: Training, before: int, seconds: float) -> tuple[int, int, str]:
    """How much is done, how much there is, and the loss, the speed and the time left."""
    done, total = training.place.tokens, training.switches.tokens
    speed = (done - before) / max(seconds, 1e-9)
    left = max(0, total - done) / max(speed, 1e-9)
    mean = statistics.fmean(loss for _, loss in training.place.losses[-RECENT:])
    return min(done, total), total, f"loss {mean:.4f}, {speed:.0f} tokens/s, {left / 60:.0f} min left"


def check_log(path: str, *inputs: str | None) -> None:
    """Raises ModelError where a file cannot be written: before hours of training, and not after them."""
    from tinyinfer.loading.whole import try_place

    if Path(path).is_dir() or path in inputs:
        what = "is a folder" if Path(path).is_dir() else "is a text that is read"
        raise ModelError(f"{path}: {what}; give the log the name of a file of its own")
    try:
        try_place(Path(path))
    except OSError as error:
        raise ModelError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None


def write_log(path: str | None, training: Training) -> None:
    """A line of JSON for each step and each test. Raises ModelError where the file cannot be written."""
    if path is None:
        return
    from tinyinfer.loading.whole import whole

    rows: list[dict[str, float]] = [{"tokens": n, "loss": loss} for n, loss in training.place.losses]
    for n, loss in training.place.tests:
        rows.append({"tokens": n, "test": loss, "perplexity": Perplexity(loss, 1).perplexity})
    try:
        with whole(Path(path)) as part:
            part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None
