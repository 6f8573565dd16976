"""Flags that several commands share, and what they become: SamplingParams, EngineConfig's switches, an LLM.

A switch is a field of EngineConfig and nothing else: its flag, type, default and choices are read off the field and the
registry, so a new optimization is on the command line as soon as it has its field. Nothing here imports NumPy before a
model is opened, so `--help` is instant.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Collection
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any, NoReturn

from tinyinfer.engine.config import SWITCHES, EngineConfig

if TYPE_CHECKING:
    from tinyinfer.llm import LLM
    from tinyinfer.sampling import SamplingParams

DEFAULT_MODEL = "smollm2-135m"

SHORT_FLAGS = {"max_model_len": "-c", "threads": "-t"}
QUANTIZATION_SWITCHES = (
    "quantize", "group_size", "symmetric", "quantize_method", "quantize_head", "quantize_rules", "calibration",
    "calibration_tokens",
)  # fmt: skip
SWITCH_HELP = {
    "kv_cache": "how keys and values of earlier tokens are kept",
    "block_size": "positions in a block of the paged cache, and of a quantized one",
    "num_blocks": "blocks of the paged cache (default: full contexts for all, within half of the memory)",
    "kv_bits": "bits of a number in the cache: keys by channel over a block, values by token in groups",
    "kv_group_size": "channels of a value that share a scale (default: 32, or what divides the head size)",
    "prefix_cache": "compute and keep once what prompts begin with alike; needs --kv-cache paged",
    "batching": "who shares a step",
    "batch_timeout": "seconds that the first of a dynamic batch waits for others",
    "max_num_seqs": "most sequences in a step",
    "max_num_batched_tokens": "most rows in a step; longer prompts are computed in chunks",
    "speculative": "how next tokens are guessed, to be verified together",
    "draft_model": "name, folder or file of the model that guesses, for --speculative draft",
    "draft_layers": "layers of the model that guess, for --speculative self (default: a third; all that are quantized)",
    "draft_quantize": "bits of the layers that guess, for --speculative self; --group-size and --symmetric hold for it",
    "num_draft_candidates": "different guesses verified side by side; needs --kv-cache paged",
    "num_draft_tokens": "most guesses in a step (default: 7 for prompt-lookup, else 4)",
    "max_model_len": "most tokens of prompt and answer together (default: the model's own); fewer save cache",
    "quantize": "bits of a weight in the body's matrices",
    "group_size": "inputs of an output that share a step; channel: all of them, tensor: all of a matrix",
    "symmetric": "whether zero stays zero, without a minimum per group (default: only at 8 bits)",
    "quantize_method": "how codes are chosen; gptq, awq and combined (both, on the grid of hqq) read some text for it",
    "quantize_head": "quantize embedding and head, too",
    "quantize_rules": "exceptions by name, the first that fits wins: 'layers.*.down int8 g64, layers.0.* off'",
    "calibration": "text file that a method may look at (default: prose that every Python has)",
    "calibration_tokens": "most tokens of that text",
    "dtype": "how weights that are floats are stored; arithmetic is float32",
    "backend": "what multiplies",
    "threads": "threads of a matrix product (default: all cores)",
}

SAMPLING: dict[str, tuple[list[str], dict[str, Any]]] = {  # field of SamplingParams -> flags, options of argparse
    "max_tokens": (
        ["-n", "--max-tokens"],
        {"type": int, "metavar": "N", "default": 256, "help": "longest answer in tokens (default: %(default)s)"},
    ),
    "temperature": (
        ["--temp", "--temperature"],
        {
            "type": float,
            "metavar": "X",
            "default": 0.0,
            "help": "0 takes the likeliest token, 1 draws as the model believes (default: %(default)s)",
        },
    ),
    "top_p": (
        ["--top-p"],
        {"type": float, "metavar": "X", "default": 1.0, "help": "draw from the likeliest of mass X (default: all)"},
    ),
    "top_k": (
        ["--top-k"],
        {"type": int, "metavar": "N", "default": 0, "help": "draw from the N likeliest tokens (default: all)"},
    ),
    "min_p": (
        ["--min-p"],
        {
            "type": float,
            "metavar": "X",
            "default": 0.0,
            "help": "draw from tokens at least X times as likely as the likeliest (default: all)",
        },
    ),
    "repetition_penalty": (
        ["--repeat-penalty"],
        {
            "type": float,
            "metavar": "X",
            "default": 1.0,
            "help": "above 1: makes tokens less likely that are there already, the prompt's too (default: off)",
        },
    ),
    "presence_penalty": (
        ["--presence-penalty"],
        {
            "type": float,
            "metavar": "X",
            "default": 0.0,
            "help": "taken off the logit of a token that was generated before (default: off)",
        },
    ),
    "frequency_penalty": (
        ["--frequency-penalty"],
        {
            "type": float,
            "metavar": "X",
            "default": 0.0,
            "help": "taken off the logit of a token for each time that it was generated (default: off)",
        },
    ),
    "seed": (
        ["-s", "--seed"],
        {"type": int, "metavar": "N", "help": "the same seed gives the same text (default: a random one)"},
    ),
    "stop": (
        ["--stop"],
        {"action": "append", "default": [], "metavar": "TEXT", "help": "end before this text (repeatable)"},
    ),
    "stop_token_ids": (
        ["--stop-token-ids"],
        {"action": "append", "type": int, "default": [], "metavar": "ID", "help": "end at this token (repeatable)"},
    ),
    "ignore_eos": (
        ["--ignore-eos"],
        {"action": "store_true", "help": "go on after the model's end token"},
    ),
    "logprobs": (
        ["--logprobs"],
        {"type": int, "metavar": "N", "help": "with --json: log-probabilities of each token and of the N best"},
    ),
}


class UsageError(Exception):
    """The command line itself is wrong; the message is one line."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError instead of leaving, and takes no abbreviated flags."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(f"{message}; see {self.prog} --help")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """-m/--model."""
    parser.add_argument(
        "-m", "--model", default=DEFAULT_MODEL, metavar="MODEL",
        help="a known name, a Hugging Face folder, a .gguf file, or owner/name on the hub (default: %(default)s)",
    )  # fmt: skip


def add_switches(parser: argparse.ArgumentParser, only: Collection[str] = (), **others: object) -> None:
    """One flag for each field of EngineConfig, or for those in `only`, while the others keep their defaults.

    others: defaults of this command where EngineConfig has another one.
    """
    group = parser.add_argument_group("engine switches")
    for field in fields(EngineConfig):
        if only and field.name not in only:
            parser.set_defaults(**{field.name: field.default})
            continue
        names = [SHORT_FLAGS[field.name]] if field.name in SHORT_FLAGS else []
        default = others.get(field.name, field.default)
        options = _switch_options(field, default)
        group.add_argument(*names, flag(field.name), dest=field.name, default=default, **options)


def _switch_options(field: Field[Any], default: object) -> dict[str, Any]:
    text = SWITCH_HELP.get(field.name, field.name.replace("_", " "))
    if default is not None:
        shown = "on" if default is True else "off" if default is False else "%(default)s"
        text += f" (default: {shown})"
    if field.name in SWITCHES:
        return {"type": _choice, "choices": list(SWITCHES[field.name]), "help": text}
    kind = str(field.type).removesuffix(" | None")
    if kind == "bool":
        return {"type": _on_off, "metavar": "{off,on}", "help": text}
    return {"type": {"int": int, "float": float}.get(kind, str), "metavar": {"int": "N"}.get(kind, "X"), "help": text}


def _choice(value: str) -> str | int:
    return int(value) if value.isdecimal() else value


def _on_off(value: str) -> bool:
    if value not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"{value!r} is neither 'on' nor 'off'")
    return value == "on"


def switches(args: argparse.Namespace) -> dict[str, Any]:
    """The switches that `add_switches` took from the command line: EngineConfig's keyword arguments."""
    return {field.name: getattr(args, field.name) for field in fields(EngineConfig)}


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag for each field of SamplingParams; the defaults are the same, which a test checks."""
    group = parser.add_argument_group("sampling")
    for name, (flags, options) in SAMPLING.items():
        group.add_argument(*flags, dest=name, **options)


def sampling_params(args: argparse.Namespace) -> SamplingParams:
    """What `add_sampling_arguments` took from the command line. Raises ValueError for a value out of range."""
    from tinyinfer.sampling import SamplingParams

    return SamplingParams(**{name: getattr(args, name) for name in SAMPLING})


def open_model(args: argparse.Namespace) -> LLM:
    """The model with the switches of the command line; a terminal shows a progress bar unless -q was given.

    Raises ModelError, ValueError, as LLM does.
    """
    c = EngineConfig(**switches(args))  # a bad switch is said before a download
    from tinyinfer.cli.console import ProgressBar
    from tinyinfer.llm import LLM
    from tinyinfer.loading.hub import find

    quiet = getattr(args, "quiet", False)
    path = find(args.model, progress=False if quiet else None)
    doing = "loading and quantizing" if c.quantizes else "loading"
    with ProgressBar(f"{doing} {os.path.basename(os.path.normpath(args.model))[:40]}", shown=not quiet) as bar:
        return LLM(path, on_load=bar.show, **switches(args))


def flag(name: str) -> str:
    """The flag of a field of EngineConfig or SamplingParams."""
    flags = SAMPLING[name][0] if name in SAMPLING else []
    return next((word for word in flags if word.startswith("--")), "--" + name.replace("_", "-"))


def in_flags(message: str) -> str:
    """A message about fields (`top_p=0.0 must be ...`) as one about flags (`--top-p=0.0 must be ...`).

    A field's name is taken for one at the message's start, before "=", or when no English word looks like it.
    """
    for name in [*(field.name for field in fields(EngineConfig)), *SAMPLING]:
        word = rf"(?<![\w-]){name}(?!\w)"
        pattern = word if "_" in name else rf"^{name}\b|{word}(?==)"
        message = re.sub(pattern, flag(name), message)
    return message
