"""`tinyinfer generate`: prompts in, text out as it comes, statistics on stderr; with --json, one line a prompt."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyinfer.cli.arguments import (
    add_model_arguments,
    add_sampling_arguments,
    add_switches,
    opened,
    sampling_params,
    typed_text,
)
from tinyinfer.cli.comparison import Generation
from tinyinfer.cli.console import Answers, is_terminal, notes, read_text, run_sequences, say, show_json, statistics
from tinyinfer.errors import DownloadError, ModelError, RequestError, placed
from tinyinfer.text.plain_text import plain

if TYPE_CHECKING:
    from tinyinfer.llm import LLM
    from tinyinfer.sequence import Sequence

Write = Callable[[dict[str, Any]], None]
DEFAULT_PROMPT = "What is gravity?"
DEFAULT_BEGINNING = "Once upon a time"  # for a model that answers nothing
JSON_HELP = (
    "stdout holds one JSON object a line, one line a prompt, in their order, when all are done. ledger, prompt_tps and "
    "generation_tps count the whole run, all its prompts together (the same in every line); times are each prompt's own"
)

VARIABLES = """'{"enable_thinking": false}'"""  # an example
THINKING_HELP = (
    "show a reasoning model's answer alone; its thinking is dimmed on a terminal, and goes to stderr (unless -q) when "
    "stdout is none"
)

SPECIAL_HELP = (
    "the name of a control token, such as <|im_start|>, is the token also in messages of users, tools and the system, "
    "where it is ordinary text otherwise (a prompt without a chat template always holds tokens)"
)


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tinyinfer generate` and its flags to the commands."""
    about = "continue or answer prompts"
    parser = commands.add_parser("generate", help=about, description=about)
    add = parser.add_argument
    add("text", nargs="?", type=typed_text, metavar="PROMPT", help="what to answer; - reads stdin")
    add("-p", "--prompt", action="append", type=typed_text, default=[], metavar="TEXT",
        help="the same (repeatable), after PROMPT")  # fmt: skip
    add("-f", "--file", action="append", default=[], metavar="FILE",
        help="a prompt from a file (repeatable), after the others; the last line's end is dropped")  # fmt: skip
    add("--use", action="append", default=[], metavar="DIR",
        help="answer through the code of an assignment's folder (`course start`), and compare with the engine's own; "
        "repeatable; exit status 1 where a token differs")  # fmt: skip
    add("--as-student", metavar="DIR", help=argparse.SUPPRESS)  # the process that --use starts
    add_conversation_arguments(parser)
    add("--raw", action="store_true", help="no chat template: the model continues the prompt itself")
    add("--json", action="store_true", help=JSON_HELP)
    add_model_arguments(parser)
    add_sampling_arguments(parser)
    add_switches(parser)
    parser.set_defaults(run=run)


def add_conversation_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that `generate` and `chat` share."""
    about = "instructions that come before the prompt"
    parser.add_argument("-sys", "--system-prompt", type=typed_text, metavar="TEXT", help=about)
    parser.add_argument(
        "--chat-template-kwargs", type=json_object, default={}, metavar="JSON",
        help=f"variables of the chat template, such as {VARIABLES}",
    )  # fmt: skip
    parser.add_argument("--parse-special", action="store_true", help=SPECIAL_HELP)
    parser.add_argument("--hide-thinking", action="store_true", help=THINKING_HELP)
    parser.add_argument("-q", "--quiet", action="store_true", help="no statistics, hints and progress bars")
    parser.add_argument("--trace", action="store_true", help="describe every step of the engine on stderr")


def json_object(text: str) -> dict[str, Any]:
    """A flag's value as a dictionary. Raises argparse.ArgumentTypeError when it is no JSON object."""
    try:
        value = json.loads(typed_text(text))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{shorten(text)!r} is no JSON object, such as {VARIABLES}")
    return value


def run(args: argparse.Namespace) -> int:
    """Generates. Exit status 0, or 130 after Ctrl-C. Raises ValueError for flags that do not fit together."""
    if args.as_student is not None:
        from tinyinfer.cli.as_student import serve

        return serve(Path(args.as_student), args.opener, generate)
    prompts = read_prompts(args)
    if args.raw and args.system_prompt is not None:
        raise ValueError("--system-prompt needs the chat template that --raw leaves out; write it into the prompt")
    if args.raw and args.chat_template_kwargs:
        raise ValueError("--chat-template-kwargs are for the chat template that --raw leaves out; omit one of them")
    if args.logprobs is not None and not args.json:
        raise ValueError("--logprobs are shown only with --json; add it")
    if args.use:
        from tinyinfer.cli.use import run as run_students

        return run_students(args, prompts, generate)
    return generate(args, prompts).status


def generate(
    args: argparse.Namespace, prompts: list[str], write: Write = show_json, silent: Callable[[int], None] | None = None
) -> Generation:
    """Opens the model and answers the prompts.

    write: takes the lines of --json. silent: no answer is shown; told after each step how many tokens there are.
    """
    from tinyinfer.loading.hub import STORY_TELLER

    params = sampling_params(args)
    llm, args = opened_or(STORY_TELLER, args, quiet=silent is not None)
    usual = DEFAULT_BEGINNING if os.path.basename(llm.path) == STORY_TELLER else DEFAULT_PROMPT
    sequences = llm.sequences([tokenize(llm, prompt, args) for prompt in prompts or [usual]], params)
    if not args.quiet:
        note_unused(llm, args.chat_template_kwargs)
    if not prompts and not args.quiet:
        say(f'No prompt, so here is one: "{usual}" Give your own: tinyinfer generate "..."')
    try:
        if silent is not None:
            finished = run_silently(llm, sequences, silent)
        else:
            finished = (
                write_json(llm, sequences, args, write) if args.json else write_text(llm, sequences, prompts, args)
            )
    except RequestError as error:
        places = [f"prompt {i} of {len(prompts)}" for i, seq in enumerate(sequences, 1) if seq.id == error.request_id]
        raise (placed(places[0], error) if len(prompts) > 1 and places else error) from None
    if not args.quiet:
        say("\n".join(statistics(sequences)))
    return Generation(llm, args.model, sequences, finished)


def opened_or(story_teller: str, args: argparse.Namespace, quiet: bool) -> tuple[LLM, argparse.Namespace]:
    """The model of the command line, and the arguments that name it.

    Where no model was asked for and the default one cannot be downloaded, the story-teller takes its place, and unless
    `quiet` one line says so. Raises DownloadError where a model was asked for, or a switch that it cannot have.
    """
    try:
        return opened(args), args
    except DownloadError as error:
        other = argparse.Namespace(**vars(args) | {"model": story_teller})
        if "model" in args.given:
            raise
        try:
            llm = opened(other)
        except (ModelError, ValueError):
            raise error from None
        if not quiet:
            say(f"{error}; so {story_teller} continues your text, a toy that comes along")
        return llm, other


def run_silently(llm: LLM, sequences: list[Sequence], told: Callable[[int], None]) -> bool:
    """Computes the sequences and tells after each step how many tokens there are; False when Ctrl-C ended it."""

    def update() -> bool:
        told(sum(len(seq.new_tokens) for seq in sequences))
        return False

    return run_sequences(llm, sequences, False, update)


def read_prompts(args: argparse.Namespace) -> list[str]:
    """The prompts of the command line, in the order of its help. Raises ValueError, OSError for a file without text."""
    given = [args.text] * (args.text is not None) + args.prompt
    if [*given, *args.file].count("-") > 1:
        raise ValueError("- (stdin) is given twice, but can be read only once")
    prompts = [read_text("-") if text == "-" else plain(text) for text in given]
    prompts += [read_text(path) for path in args.file]
    if "" in prompts:
        raise ValueError("a prompt is empty; give some text")
    return prompts


def tokenize(llm: LLM, prompt: str, args: argparse.Namespace) -> list[int]:
    """A prompt's token ids: as a conversation when the model has a chat template and --raw does not forbid it.

    Raises ValueError for a system prompt without a chat template, ModelError for a template that fails.
    """
    if args.raw or llm.tokenizer.chat_template is None:
        if args.system_prompt is not None:
            raise ValueError("this model has no chat template for a --system-prompt; write it into the prompt")
        if args.chat_template_kwargs:
            raise ValueError("this model has no chat template for --chat-template-kwargs; leave them out")
        return llm.tokenizer.encode(prompt)
    try:
        conversation = [*messages(args.system_prompt), {"role": "user", "content": prompt}]
        with notes(shown=not args.quiet):
            return llm.chat_prompt(conversation, args.chat_template_kwargs, args.parse_special)
    except ModelError as error:
        raise ModelError(f"{error} (--raw)") from error


def messages(system_prompt: str | None) -> list[dict[str, str]]:
    """A conversation before its first question."""
    return [] if system_prompt is None else [{"role": "system", "content": plain(system_prompt)}]


def note_unused(llm: LLM, variables: dict[str, Any]) -> None:
    """Says on stderr which variables the chat template has no use for: perhaps they are misspelt."""
    for name in llm.tokenizer.unused_variables(variables) if variables else ():
        say(f"the chat template has no variable {name!r}, so it changes nothing")


def shows_thinking(args: argparse.Namespace) -> bool:
    """Whether thinking is shown: -q leaves stderr empty, where it goes when stdout is no terminal."""
    return not args.hide_thinking and (not args.quiet or is_terminal(sys.stdout))


def write_text(llm: LLM, sequences: list[Sequence], prompts: list[str], args: argparse.Namespace) -> bool:
    """Answers on stdout as they come; False when Ctrl-C ended them."""
    titles = [f"prompt {i} of {len(prompts)}: {shorten(prompt)}" for i, prompt in enumerate(prompts, 1)]
    answers = Answers(sequences, titles, shows_thinking(args), args.trace)
    finished = False
    try:
        finished = run_sequences(llm, sequences, args.trace, answers.update)
    finally:
        if not finished:  # Ctrl-C, or an error
            answers.interrupt()
    return finished


def shorten(text: str, width: int = 60) -> str:
    """A text in at most `width` characters of one line."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def write_json(llm: LLM, sequences: list[Sequence], args: argparse.Namespace, write: Write) -> bool:
    """JSON lines to `write` when all sequences have ended, also with an error; False when Ctrl-C ended them."""
    from tinyinfer.engine.metrics import run_metrics

    failure = None
    try:
        finished = run_sequences(llm, sequences, args.trace, lambda: False)
    except RequestError as error:
        failure = error
    together = run_metrics(sequences, [])
    paces = {"prompt_tps": together.prompt_tps, "generation_tps": together.generation_tps}
    for seq in sequences:
        write(record(llm, seq, args.model, paces))
    if failure:
        raise failure
    return finished


def record(llm: LLM, seq: Sequence, model: str, paces: dict[str, float | None]) -> dict[str, Any]:
    """What the JSON line of a sequence holds. paces: those of all sequences together."""
    out = llm.output(seq)
    line = {
        "text": out.text,
        "reasoning": out.reasoning,
        "prompt_token_ids": out.prompt_token_ids,
        "token_ids": out.token_ids,
        "finish_reason": out.finish_reason,
        **asdict(out.metrics),
        **paces,
        "ledger": llm.ledger.as_dict(),
        "engine": {"model": model, **asdict(llm.engine_config)},
    }
    return line if out.logprobs is None else line | {"logprobs": [asdict(logprob) for logprob in out.logprobs]}
