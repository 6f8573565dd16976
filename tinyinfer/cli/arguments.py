"""Flags that several commands share, and what they become: SamplingParams, an EngineConfig, an LLM.

A flag is a field: its name, type, default, choices and help are read off the field (switches.py), so a new optimization
is on the command line as soon as there is a field for it. Nothing here imports NumPy before a model is opened, so
`--help` is instant.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import Field, asdict, fields
from typing import TYPE_CHECKING, Any, NoReturn

from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import Worded, one_line
from tinyinfer.sampling_params import SamplingParams

if TYPE_CHECKING:
    from tinyinfer.llm import LLM

Opener = Callable[[str, EngineConfig, bool], "LLM"]  # a model by its name, with these switches, and whether quietly
DEFAULT_MODEL = "smollm2-135m"


class UsageError(Exception):
    """The command line itself is wrong; the message is one line."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError instead of leaving, and takes no abbreviated flags."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Raises UsageError instead of leaving the process."""
        raise UsageError(f"{message}; see {self.prog} --help")


# Flags out of fields.


def add_fields(
    parser: argparse.ArgumentParser, title: str, cls: type, only: Collection[str] = (), **defaults: object
) -> None:
    """One flag for each field of a dataclass that is a switch, under a title; fields that are none, or not in `only`,
    just keep their defaults.

    defaults: those of this command where the field has another one.
    """
    group = parser.add_argument_group(title)
    for one in fields(cls):
        default = defaults.get(one.name, one.default)
        if not one.metadata or (only and one.name not in only):
            parser.set_defaults(**{one.name: default})
        else:
            group.add_argument(*flags_of(one), dest=one.name, **options_of(one, default))


def flags_of(one: Field[Any]) -> tuple[str, ...]:
    """The flags of a field: those that it names, and its own name unless one of them is long."""
    flags = one.metadata.get("flags", ())
    return flags if any(word.startswith("--") for word in flags) else (*flags, dashed(one.name))


def options_of(one: Field[Any], default: Any) -> dict[str, Any]:
    """What argparse has to know about a field: its default, help, choices, type and the name of its value."""
    about, kind = one.metadata, str(one.type).removesuffix(" | None")
    text = about["help"]
    if about["bare"]:
        return {"action": "store_true", "default": default, "help": text}
    if kind.startswith("tuple"):
        kind = "int" if "int" in kind else "str"
        several = {"action": "append", "default": list(default), "metavar": about["metavar"], "help": text}
        return several | {"type": {"int": int, "str": typed_text}[kind]}
    if default is not None and "(default" not in text:
        text += f" (default: {'on' if default is True else 'off' if default is False else '%(default)s'})"
    if about["choices"]:
        return {"type": _choice, "choices": about["choices"], "default": default, "help": text}
    convert, metavar = {"int": (int, "N"), "bool": (_on_off, "{off,on}"), "float": (float, "X")}.get(kind, (str, "X"))
    return {"type": convert, "metavar": metavar, "default": default, "help": text}


def typed_text(word: str) -> str:
    """A word of the command line that is text: UTF-8, as every text that comes in, whatever the locale says.

    Raises argparse.ArgumentTypeError for other bytes.
    """
    with suppress(UnicodeEncodeError):
        word.encode("utf-8")
        return word
    try:  # Python keeps bytes that the locale's encoding lacks as surrogates
        return os.fsencode(word).decode("utf-8")
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"{word[:60]!r} is not UTF-8 text; convert it to UTF-8 first") from None


def _choice(value: str) -> str | int:
    return int(value) if value.isdecimal() else value


def _on_off(value: str) -> bool:
    if value not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"{value!r} is neither 'on' nor 'off'")
    return value == "on"


def dashed(name: str) -> str:
    """The long flag of an argument that has no other: --kv-cache of kv_cache."""
    return "--" + name.replace("_", "-")


def flag(name: str) -> str:
    """The long flag of a field of EngineConfig or SamplingParams, or of any other argument."""
    flags = {one.name: flags_of(one) for cls in (EngineConfig, SamplingParams) for one in fields(cls)}
    return next(word for word in flags.get(name, (dashed(name),)) if word.startswith("--"))


def worded(error: Exception) -> str:
    """The error's sentence, with flags where it names fields."""
    return error.sentence(flag) if isinstance(error, Worded) else one_line(str(error))


# The flags that commands share.


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds -m/--model, with the default model."""
    parser.add_argument(
        "-m", "--model", default=DEFAULT_MODEL, metavar="MODEL",
        help="a known name, a Hugging Face folder, a .gguf file, or on the hub owner/name, owner/name:Q4_K_M or "
        "owner/name/FILE.gguf (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--verify", action="store_true",
        help="first prove the model's files by their checksums, about a second for a GB; a damaged download is fetched "
        "again; a folder or file of your own needs a SHA256SUMS beside it, as tinyinfer quantize writes one",
    )  # fmt: skip


def add_switches(parser: argparse.ArgumentParser, only: Collection[str] = (), **defaults: object) -> None:
    """Adds a flag for each field of EngineConfig, or for those in `only`."""
    add_fields(parser, "engine switches", EngineConfig, only, **defaults)


def switches(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_switches` took from the command line: EngineConfig's keyword arguments."""
    return {one.name: getattr(args, one.name) for one in fields(EngineConfig)}


def engine_config(args: argparse.Namespace) -> EngineConfig:
    """The switches of the command line. Raises SwitchError for what cannot work."""
    return EngineConfig(**switches(args))


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for each field of SamplingParams."""
    add_fields(parser, "sampling", SamplingParams)


def sampling_params(args: argparse.Namespace) -> SamplingParams:
    """Builds the SamplingParams from the flags of `add_sampling_arguments`. Raises SwitchError for a wrong value."""
    return SamplingParams(**{one.name: getattr(args, one.name) for one in fields(SamplingParams)})


# The model.


def open_model(name: str, config: EngineConfig, quiet: bool = False) -> LLM:
    """The model of that name with these switches; unless it has to be quiet, notes and a progress bar are shown.

    Raises ModelError, ValueError, as LLM does.
    """
    from tinyinfer.backends.compiling import compiling
    from tinyinfer.cli.console import notes, progress_bar
    from tinyinfer.llm import LLM
    from tinyinfer.loading.hub import find

    path = find(name, progress=False if quiet else None)
    work = ["loading", *["pruning"] * config.prunes, *["quantizing"] * config.quantizes]
    doing = " and ".join((", ".join(work[:-1]), work[-1])) if work[1:] else work[0]
    title = f"{doing} {os.path.basename(os.path.normpath(name))[:40]}"
    with notes(shown=not quiet), progress_bar(title, shown=not quiet) as show, compiling.told(told(show, quiet)):
        return LLM(path, on_load=show, **asdict(config))


def told(show: Callable[..., None], quiet: bool) -> Callable[[int, int], None]:
    """What `compiling.told` calls while kernels are compiled: the bar of a terminal; elsewhere a line, once."""
    from tinyinfer.cli.console import is_terminal, say

    shown = quiet or is_terminal(sys.stderr)

    def tell(done: int, total: int) -> None:
        nonlocal shown
        show(done, total, "compiling kernels")
        if not shown:
            say("tinyinfer: compiling kernels for this CPU, once; some seconds")
        shown = True

    return tell


def verify(args: argparse.Namespace) -> None:
    """With --verify, proves the files of the model, and of the draft model. Raises ModelError for damaged ones."""
    from tinyinfer.cli.console import notes
    from tinyinfer.loading.hub import find

    quiet = getattr(args, "quiet", False)
    for name in (args.model, engine_config(args).second_model) if args.verify else ():
        if name is not None:
            with notes(shown=not quiet):
                find(name, progress=False if quiet else None, verify=True)


def opened(args: argparse.Namespace) -> LLM:
    """The model of the command line, opened by `args.opener`; a bad switch is refused before a download."""
    config = engine_config(args)
    verify(args)
    return args.opener(args.model, config, getattr(args, "quiet", False))
