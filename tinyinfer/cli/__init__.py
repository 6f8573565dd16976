"""The command line: `tinyinfer COMMAND`. How do words become switches, and figures become lines?

Parsing and printing are here, what computes is elsewhere (llm.py, measure/). Files in reading order:

    arguments.py       flags out of the fields of EngineConfig and SamplingParams
    place.py           which process this is of several, and which of them says what all would say
    console.py         stdout and stderr: answers, progress, statistics
    signals.py         SIGTERM and SIGHUP, which end a command after its clean-up
    generate.py        prompts in, text out
    comparison.py      two runs of the same prompts, token by token and count by count
    use.py             generate with students' code, beside the engine's own
    as_student.py      the process that runs students' code
    chat.py            a conversation that keeps its cache
    serve.py           a model over HTTP
    download.py        fetch a known model
    inspect.py         what a model is and what it costs
    eval.py            the perplexity of a text, for one setting or several
    quantize.py        a model in, a quantized folder out
    prune.py           a model in, a folder with fewer weights out
    synthesize.py      text that a model writes, for a student to learn from
    distill.py         a teacher, a student and a text in, the trained student's folder out
    bench.py           the speed, beside what the roofline predicts
    bench_workload.py  the flags of requests that arrive over time
    bench_serve.py     how long clients wait for a server
    bench_loads.py     its requests, when each is due, and what a sweep places
    bench_cluster.py   the frontier of a model's splits among GPUs, on paper
    cost.py            what a million tokens cost on own machines, beside an API
    cost_machine.py    how fast the machine is, and what would change it
    cost_questions.py  ten questions that end in a recommendation
    launch.py          a command in several processes: ranks by mpiexec, replicas one by one or by Ray
    course.py          the assignments, listed and started
    course_grade.py    a submission in, its report out
    notebook_pages.py  a lesson executed by a kernel, and rendered
    notebooks.py       the lessons, listed or written as pages
    course_all.py      a whole class graded: its flags, progress and statistics
    course_package.py  a zip file for a system that grades

A command's module is imported only when it is asked for, and NumPy only when a model is opened, so `--help` is instant.
A command offers `register(commands)`, which adds its parser, and `run(args)`, which does the work and returns the exit
status: 0; 1 where `generate --use` finds another token; 2 for a user's mistake, told in one line on stderr; 130 after
Ctrl-C; 129 and 143 after SIGHUP and SIGTERM; 141 (128 + SIGPIPE, what a shell reports of other tools) when the reader
of the output has left. A traceback is a bug of ours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from tinyinfer import __version__
from tinyinfer.cli import console
from tinyinfer.cli.arguments import Opener, Parser, UsageError, open_model, worded
from tinyinfer.cli.signals import ending_signals
from tinyinfer.course.errors import CourseError
from tinyinfer.errors import ModelError, RequestError

COMMANDS = (
    *("generate", "chat", "download", "inspect", "eval", "quantize", "prune"),
    *("synthesize", "distill", "bench", "bench serve", "cost", "serve", "launch", "course", "notebooks"),
)

WRITERS = ("quantize", "prune", "synthesize", "distill")  # commands that write files, and nothing to stdout


def main(argv: Sequence[str] | None = None, opener: Opener = open_model) -> int:
    """Runs a command line (by default the process's own) and returns its exit status. opener: opens its models."""
    console.prepare()
    try:
        status = _guarded(argv, opener)
        console.show("")  # flushes now: an error of the flush at exit could not be caught
        return status
    except BrokenPipeError:
        console.discard_output()
        return 141
    except OSError as error:  # stdout's disk is full
        console.discard_output()
        return console.fail(console.describe(error))


def _guarded(argv: Sequence[str] | None, opener: Opener) -> int:
    """The exit status of a command line, mistakes, Ctrl-C and other signals included."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        if sys.stdout is None and not (words and words[0] in WRITERS):
            raise UsageError("stdout is closed; send it to a file, a pipe or a terminal")
        args = parse(words, opener)
        with ending_signals():
            return int(args.run(args))
    except SystemExit as leave:  # --help, --version, SIGTERM
        return int(leave.code or 0)
    except KeyboardInterrupt:
        console.interrupted()
        return 130
    except (UsageError, ModelError, CourseError) as error:
        return console.fail(str(error))
    except (ValueError, RequestError) as error:
        return console.fail(worded(error))
    except OSError as error:
        if error.filename is None:
            raise  # of stdout, which main gives up
        return console.fail(console.describe(error))
    except MemoryError as error:  # of weights, or of what a step computes
        cure = "try --quantize int8, a smaller --max-num-batched-tokens or a smaller model"
        return console.fail(f"not enough memory ({error}); {cure}" if str(error) else f"not enough memory; {cure}")


def parse(words: Sequence[str], opener: Opener = open_model) -> argparse.Namespace:
    """The command line as a namespace: `run` is its command, `opener` what opens a model. Raises UsageError."""
    if " ".join(words[:2]) in COMMANDS:  # one command of two words
        words = [" ".join(words[:2]), *words[2:]]
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        near, known = _nearest(words[0], COMMANDS), ", ".join(COMMANDS)
        raise UsageError(f"there is no command {words[0]!r}{near}; the commands are {known}")
    parser = Parser(prog="tinyinfer", description="An LLM inference engine to learn from.")
    parser.add_argument("-V", "--version", action="version", version=f"tinyinfer {__version__}")
    parser.set_defaults(run=lambda args: _short_help(parser))
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for name in words[:1] if words and words[0] in COMMANDS else COMMANDS:
        import_module(f"tinyinfer.cli.{name.replace(' ', '_')}").register(commands)
    args, unknown = parser.parse_known_args(words)
    if unknown:
        _refuse(commands.choices.get(args.command, parser), unknown[0])
    args.opener, args.given = opener, given(commands.choices.get(args.command, parser), words)
    return args


def given(parser: argparse.ArgumentParser, words: Sequence[str]) -> frozenset[str]:
    """The names of the arguments whose flags are among the words: given, be it with their defaults as values."""
    known = {flag: action.dest for action in parser._actions for flag in action.option_strings}
    names = [known.get(word.partition("=")[0]) or known.get(word[:2]) for word in words]  # -n3, or -n and then 3
    return frozenset(name for name in names if name)


def _refuse(parser: argparse.ArgumentParser, word: str) -> None:
    """Raises UsageError for a word that the command does not understand."""
    if not word.startswith("-"):
        parser.error(f"unexpected argument {word!r}: put text of several words in quotes")
    name = word.split("=")[0]
    known = [option for action in parser._actions for option in action.option_strings]
    parser.error(f"there is no flag {name!r}{_nearest(name, known)}")


def _nearest(word: str, known: Sequence[str]) -> str:
    near = [name for name in known if name.startswith(word)] or get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _short_help(parser: argparse.ArgumentParser) -> int:
    console.say(parser.format_help().rstrip())
    return 2
