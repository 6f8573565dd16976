"""`tinyinfer cost --questions`: ten questions, asked on a terminal or answered by a flag or a file.

What they weigh is measure/api_or_own.py; this file asks and shows.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tinyinfer.cli.arguments import UsageError, dashed
from tinyinfer.cli.console import is_terminal, say, show, show_json
from tinyinfer.measure.api_or_own import QUESTIONS, Question, recommend, recommendation_text

OWN_FLAGS = {"questions", "answers", "json"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the questionnaire."""
    add = parser.add_argument_group("the other side of the decision").add_argument
    add("--questions", action="store_true", help="ten questions that end in a recommendation, instead of a cost")
    add("--answers", metavar="FILE",
        help="answers of --questions: a JSON file, or name=answer,name=answer (default: the terminal's)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Asks, and shows the recommendation. Exit status 0. Raises UsageError beside flags of a cost."""
    if others := sorted(set(args.given) - OWN_FLAGS):
        cure = f"leave out {dashed(others[0])}, or run cost without --questions first"
        raise UsageError(f"--questions computes no cost; {cure}")
    words = given(args.answers) if args.answers is not None else asked()
    found = recommend(words)
    show_json({"answers": words, **asdict(found)}) if args.json else show(recommendation_text(found) + "\n")
    return 0


def given(text: str) -> dict[str, Any]:
    """The answers of the flag or of its file. Raises UsageError for what is neither, and for two to one."""
    if "=" not in text:
        if not Path(text).is_file():
            cure = "give a JSON file, or data=yes,control=no and so on"
            raise UsageError(f"--answers {text}: there is no such file; {cure}")
        from tinyinfer.loading.json_fields import typed_fields

        return typed_fields(Path(text)).values
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, word = (side.strip() for side in part.partition("=")[::2])
        if name in found:
            raise UsageError(f"--answers: {name} is answered twice; leave one of them out")
        found[name] = word
    return found


def asked() -> dict[str, str]:
    """The answers of the terminal. Raises UsageError where there is none."""
    if not is_terminal(sys.stdin):
        names = ", ".join(f"{one.name} ({choices(one, '/')})" for one in QUESTIONS)
        raise UsageError(f"--questions asks on a terminal, and stdin is none; give --answers for {names}")
    return {one.name: ask(one, f"{i} of {len(QUESTIONS)}") for i, one in enumerate(QUESTIONS, 1)}


def ask(question: Question, place: str) -> str:
    """One answer, asked until it is one of those that there are. Raises UsageError at the end of stdin."""
    say(f"\n{place}, {question.name}: {question.text}")
    for answer in question.answers:
        say(f"  {answer.word:10} {answer.reason}")
    while True:
        say(f"{choices(question, ' / ')} > ", end="")
        line = sys.stdin.readline()
        if not line:
            raise UsageError(f"--questions: {question.name} was not answered, as stdin ended; answer all ten")
        if question.answer(line.strip()) is not None:
            return line.strip()


def choices(question: Question, between: str) -> str:
    """What may be answered, in a line; a number may be another one, too."""
    return between.join([*(answer.word for answer in question.answers), *["any number"] * bool(question.graded)])
