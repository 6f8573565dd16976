"""`tinyinfer eval`: the perplexity of a text, for one setting or for several side by side.

A setting is a name for some switches: `int4-g64-a8:gptq` is `--quantize int4 --group-size 64 --activations int8
--quantize-method gptq` (measure/evaluate.py). What it saves (bytes) and what it costs (perplexity, distance from the
float model) belong into one table.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyinfer.cli.arguments import add_model_arguments, add_switches, engine_config, switches, verify
from tinyinfer.cli.console import progress_bar, say, show, show_json
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import ModelError, placed
from tinyinfer.measure.evaluate import SETTINGS, beginning_as, check_setting, float_config, switches_of
from tinyinfer.measure.tables import evaluation_table, evaluation_text
from tinyinfer.quantization.switches import QUANTIZE_METHODS
from tinyinfer.text.plain_text import decoded

if TYPE_CHECKING:
    from tinyinfer.llm import LLM


@dataclass(frozen=True)
class Reference:
    """The model that the settings are compared with: its switches, itself and its JSON line."""

    config: EngineConfig
    llm: LLM
    record: dict[str, Any]


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tinyinfer eval` and its flags to the commands."""
    about = "the perplexity of a text"
    parser = commands.add_parser("eval", help=about, description=about)
    add = parser.add_argument
    add("--text", required=True, metavar="FILE", help="the text, in UTF-8")
    add("--window", type=int, default=512, metavar="N",
        help="tokens scored together, each seeing those before it (default: %(default)s)")  # fmt: skip
    add("--max-tokens", type=int, metavar="N", help="only the first N tokens of the text (default: all)")
    add("--bos", choices=("on", "off"), default="on",
        help="whether the token that the tokenizer puts before a text, if any, stands before each window; off: "
        "calibration leaves it out, too (default: %(default)s)")  # fmt: skip
    add("--compare", metavar="SETTING,...",
        help=f"several settings in one table beside the float model, out of: {', '.join(SETTINGS)}; a quantized one "
        f"may name a group size, integer activations and a method ({', '.join(QUANTIZE_METHODS)}), as "
        "int4-g64-a8:gptq; pruned ones: wanda-0.5, sparsegpt-2:4+int4, drop3, width0.75+refit, kv-heads2"
        )  # fmt: skip
    add("--plot", metavar="FILE", help="draw perplexity over bits per weight into FILE (.png, .svg or .pdf)")
    add("--json", action="store_true", help="stdout holds one JSON object a line, one line a setting")
    add_model_arguments(parser)
    add_switches(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluates one setting after another; with --compare, the reference stays in memory beside each.

    The finished settings are shown also when a later one fails or Ctrl-C ends the run.
    """
    check_arguments(args)
    settings = each_setting(args)
    text = read_text(args.text)
    verify(args)
    records: list[dict[str, Any]] = []
    reference = None
    try:
        reference = open_reference(args, settings, text) if args.compare is not None else None
        for name, one in settings.items():
            records.append(evaluated(name, args, one, text, reference))
            if args.json:
                show_json(records[-1])
        if args.plot:
            from tinyinfer.measure.figures import draw_eval

            draw_eval(args.plot, args.model, records, reference.record if reference else None)
    finally:
        if not args.json and (reference or records):
            show((evaluation_table(records, reference.record) if reference else evaluation_text(records[0])) + "\n")
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Refuses what cannot work, before anything is loaded. Raises ValueError."""
    if args.window < 1:
        raise ValueError(f"--window {args.window} must be at least 1")
    if args.max_tokens is not None and args.max_tokens < 2:
        raise ValueError(f"--max-tokens {args.max_tokens} must be at least 2; the first token is not scored")
    if args.plot:
        from tinyinfer.measure.figures import check_plot

        check_plot(args.plot)


def read_text(path: str) -> str:
    """The whole file. Raises ValueError when it is not UTF-8 or empty, OSError."""
    text = decoded(Path(path).read_bytes(), path)
    if not text:
        raise ValueError(f"{path}: is empty; give a text of at least two tokens")
    return text


def each_setting(args: argparse.Namespace) -> dict[str, EngineConfig]:
    """Name -> switches of every setting to evaluate; without --compare only what the command line itself says.

    Raises ValueError for a setting that does not exist, that sets what a flag sets, too, or that cannot work.
    """
    if args.compare is None:
        return {"": beginning_as(engine_config(args), args.bos == "on")}
    names = [name.strip() for name in args.compare.split(",")]
    configs = {}
    for name, changed in [(name, switches_of(name, switches(args))) for name in names]:
        with naming(name):
            configs[name] = beginning_as(EngineConfig(**changed), args.bos == "on")
    return configs


@contextmanager
def naming(setting: str) -> Iterator[None]:
    """Names the setting in what is refused inside."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"--compare {setting}: {error}") from None
    except ValueError as error:
        raise placed(f"--compare {setting}", error) from None


def tokenize(llm: LLM, text: str, args: argparse.Namespace) -> tuple[list[int], list[int]]:
    """The tokens to score, which are the whole text's without any that the tokenizer adds, and its beginning tokens.

    Raises ValueError for too few tokens, and for a window that does not fit into the context.
    """
    if args.window > llm.max_model_len:
        raise ValueError(f"--window {args.window} is more than the context of {llm.max_model_len}; give a smaller one")
    beginning = llm.tokenizer.beginning if args.bos == "on" else []
    if args.window + len(beginning) > llm.max_model_len:
        raise ValueError(
            f"--window {args.window} with the beginning token before it is more than the context of "
            f"{llm.max_model_len}; give a smaller one, or --bos off"
        )
    tokens = llm.tokenizer.encode(text, add_special_tokens=False)[: args.max_tokens]
    if len(tokens) < 2:
        raise ValueError(f"{args.text}: only {len(tokens)} token, and the first is not scored; give a longer text")
    return tokens, beginning


def open_reference(args: argparse.Namespace, settings: dict[str, EngineConfig], text: str) -> Reference:
    """The float model, or what a folder that we quantized keeps, with the command line's other switches, evaluated.

    Raises ModelError, ValueError, before that, for a setting that cannot work with this model.
    """
    from tinyinfer.loading import load
    from tinyinfer.loading.hub import find

    checkpoint = load(find(args.model))
    for name, one in settings.items():
        with naming(name):
            check_setting(one, checkpoint)
    keep = checkpoint.quantization is not None
    config = float_config(switches(args), keep)
    llm = args.opener(args.model, config, False)
    return Reference(config, llm, record("keep" if keep else "float32", args, llm, text, llm))


def evaluated(
    name: str, args: argparse.Namespace, config: EngineConfig, text: str, reference: Reference | None
) -> dict[str, Any]:
    """The JSON line of a setting; the reference is not computed again when the setting is the same."""
    if reference and config == reference.config:
        return reference.record | {"setting": name}
    llm = args.opener(args.model, config, False)
    return record(name, args, llm, text, reference.llm if reference else None)


def record(name: str, args: argparse.Namespace, llm: LLM, text: str, reference: LLM | None) -> dict[str, Any]:
    """What the JSON line of a setting holds; a progress bar shows the perplexity so far, and so does Ctrl-C."""
    from tinyinfer.measure.evaluate import evaluate
    from tinyinfer.measure.perplexity import Perplexity

    tokens, beginning = tokenize(llm, text, args)
    last = Perplexity(0.0, 0)
    try:
        with progress_bar(f"perplexity {name}".strip()) as show:

            def on_window(so_far: Perplexity) -> None:
                nonlocal last
                last = so_far
                show(so_far.tokens, len(tokens) - 1, f"{so_far.perplexity:.4g}")

            figures = evaluate(llm, tokens, args.window, reference, beginning, on_window)
    except KeyboardInterrupt:
        if last.tokens:
            say(f"\nso far: perplexity {last.perplexity:.4f} over {last.tokens} tokens")
        raise
    setting = {"setting": name} if name else {}
    return setting | figures | {"engine": {"model": args.model, **asdict(llm.engine_config)}}
