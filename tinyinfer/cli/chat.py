"""`tinyinfer chat`: a conversation, line by line. Each answer is computed from the whole conversation so far.

The prefix cache keeps the keys and values of the conversation, so that a question costs only its own tokens. With
--prefix-cache off, or another --kv-cache than paged, the whole conversation is computed again each time.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tinyinfer.cli.arguments import (
    add_model_arguments,
    add_sampling_arguments,
    add_switches,
    opened,
    sampling_params,
    worded,
)
from tinyinfer.cli.console import Answers, is_terminal, notes, run_sequences, say, statistics
from tinyinfer.cli.generate import add_conversation_arguments, messages, note_unused, shows_thinking
from tinyinfer.errors import RequestError
from tinyinfer.text.plain_text import not_utf8, plain

if TYPE_CHECKING:
    from tinyinfer.llm import LLM
    from tinyinfer.sampling import SamplingParams
    from tinyinfer.sequence import Sequence

HELP = """\
/reset  forgets the conversation (not the system prompt)
/exit   ends, as Ctrl-D does
/help   shows this
Ctrl-C stops an answer and keeps what there is of it; at the prompt it ends the program."""


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tinyinfer chat` and its flags to the commands."""
    about = "talk with a model, line by line"
    more = "; /help lists what else it understands; a paged prefix cache keeps what was said, unless told otherwise"
    parser = commands.add_parser("chat", help=about, description=about + more)
    add_conversation_arguments(parser)
    add_model_arguments(parser)
    add_sampling_arguments(parser)
    add_switches(parser, kv_cache="paged", prefix_cache=None)  # None: on, if the cache has blocks
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Talks until the input ends. Exit status 0; Ctrl-C at the prompt raises KeyboardInterrupt."""
    if args.logprobs is not None:
        raise ValueError("--logprobs are shown only by generate --json")
    params = sampling_params(args)
    if args.prefix_cache is None:
        args.prefix_cache = args.kv_cache == "paged"
    llm = opened(args)
    if llm.tokenizer.chat_template is None:
        raise ValueError(f"{args.model} has no chat template, so it cannot chat; tinyinfer generate continues texts")
    conversation = Conversation(llm, args.system_prompt, params, args.chat_template_kwargs, args.parse_special)
    if not args.quiet:
        note_unused(llm, args.chat_template_kwargs)
    if is_terminal(sys.stdin):
        with suppress(ImportError):
            import readline  # noqa: F401 - input() then edits lines and remembers them
        if not args.quiet:
            say(f"{args.model}: /help lists the commands, Ctrl-D ends")
    while (line := read_line()) not in (None, "/exit"):
        if line == "/reset":
            conversation.reset()
        elif line.startswith("/"):
            say(HELP if line == "/help" else f"there is no {line.split()[0]}; /help lists what there is")
        elif line:
            converse(conversation, line, args)
    return 0


class Conversation:
    """The messages so far; the oldest exchanges are removed when the context is full."""

    def __init__(
        self,
        llm: LLM,
        system_prompt: str | None,
        params: SamplingParams,
        variables: dict[str, Any],
        parse_special: bool = False,
    ) -> None:
        self.llm, self.params, self.variables, self.parse_special = llm, params, variables, parse_special
        self.start = messages(system_prompt)
        self.reset()

    def reset(self) -> None:
        """Removes all messages but the system prompt."""
        self.messages = list(self.start)

    def ask(self, question: str) -> tuple[Sequence, int]:
        """The answer to be computed, and how many of the oldest exchanges were removed to leave room for it.

        Raises ValueError, and leaves the conversation as it was, when the question does not fit into the context even
        alone, or is no text.
        """
        before = list(self.messages)
        self.messages.append({"role": "user", "content": question})
        room = min(self.params.max_tokens or self.llm.max_model_len, self.llm.max_model_len // 4)
        forgotten = 0
        try:
            while True:
                tokens = self.llm.chat_prompt(self.messages, self.variables, self.parse_special)
                if len(tokens) + room <= self.llm.max_model_len or len(self.messages) < len(self.start) + 3:
                    return self.llm.sequences([tokens], self.params)[0], forgotten
                del self.messages[len(self.start) : len(self.start) + 2]
                forgotten += 1
        except ValueError:
            self.messages = before
            raise

    def answer(self, text: str, reasoning: str) -> None:
        """Adds an answer to the messages, also one that Ctrl-C cut short; its template knows what thinking to drop."""
        thinking = {"reasoning_content": reasoning} if reasoning else {}
        self.messages.append({"role": "assistant", "content": text, **thinking})


def converse(conversation: Conversation, question: str, args: argparse.Namespace) -> None:
    """Answers one question on stdout, with statistics on stderr."""
    try:
        with notes(shown=not args.quiet):
            seq, forgotten = conversation.ask(question)
    except ValueError as error:
        say(worded(error))
        return
    if forgotten:
        say(f"(the context is full: forgot the oldest {forgotten} of our exchanges; /reset forgets all)")
    answers = Answers([seq], [], shows_thinking(args), args.trace)
    try:
        if not run_sequences(conversation.llm, [seq], args.trace, answers.update):
            answers.interrupt()
    except RequestError as error:
        conversation.messages.pop()  # the question
        say(worded(error))
        return
    conversation.answer(seq.text.text, seq.text.reasoning)
    if not args.quiet:
        say(f"[{' | '.join(statistics([seq]))}]")


def read_line() -> str | None:
    """The next line, without spaces around it; None at the end. Raises ValueError when it is not text."""
    visible = is_terminal(sys.stdin) and is_terminal(sys.stdout)
    if is_terminal(sys.stdin) and not visible:
        say("> ", end="")  # stdout goes into a file or a pipe, where only answers belong
    try:
        return plain(input("> " if visible else "")).strip()
    except UnicodeDecodeError as error:
        raise not_utf8(error, "stdin") from None
    except EOFError:
        if is_terminal(sys.stdin):
            say("")
        return None
    except RuntimeError:  # stdin is closed
        return None
