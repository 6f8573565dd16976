"""`tinyinfer eval`: the perplexity of a text, for one setting or for several side by side.

A setting is a name that stands for some switches: `int4-g64:gptq` is `--quantize int4 --group-size 64 --quantize-method
gptq`. What it saves (bytes) and what it costs (perplexity, distance from the float model) belong into one table.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyinfer.cli.arguments import add_model_arguments, add_switches, open_model
from tinyinfer.cli.console import ProgressBar, say, show
from tinyinfer.cli.eval_settings import FLOAT, SETTINGS, check_settings, each_setting
from tinyinfer.cli.tables import table
from tinyinfer.switches import QUANTIZE_METHODS
from tinyinfer.units import amount

if TYPE_CHECKING:
    from tinyinfer.llm import LLM
    from tinyinfer.measure.kl import Divergence
    from tinyinfer.measure.perplexity import Perplexity
    from tinyinfer.model.transformer import Model


@dataclass(frozen=True)
class Reference:
    """The model that the settings are compared with: its command line, itself and its JSON line."""

    args: argparse.Namespace
    llm: LLM
    record: dict[str, Any]


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds the command's parser."""
    about = "the perplexity of a text"
    parser = commands.add_parser("eval", help=about, description=about)
    add = parser.add_argument
    add("--text", required=True, metavar="FILE", help="the text, in UTF-8")
    add("--window", type=int, default=512, metavar="N",
        help="tokens scored together, each seeing those before it (default: %(default)s)")  # fmt: skip
    add("--max-tokens", type=int, metavar="N", help="only the first N tokens of the text (default: all)")
    add("--compare", metavar="SETTING,...",
        help=f"several settings in one table beside the float model, out of: {', '.join(SETTINGS)}; a quantized one "
        f"may name a group size and a method ({', '.join(QUANTIZE_METHODS)}), as int4-g64:gptq")  # fmt: skip
    add("--plot", metavar="FILE", help="draw perplexity over bits per weight into FILE (.png, .svg or .pdf)")
    add("--json", action="store_true", help="stdout holds one JSON object a line, one line a setting")
    add_model_arguments(parser)
    add_switches(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluates one setting after another; with --compare, the reference stays in memory beside it.

    What is done by then is shown also when a later setting fails or Ctrl-C comes.
    """
    check_arguments(args)
    settings = each_setting(args)
    text = read_text(args.text)
    records: list[dict[str, Any]] = []
    reference = None
    try:
        reference = open_reference(args, settings, text) if args.compare is not None else None
        for name, one in settings.items():
            records.append(evaluate(name, one, text, reference))
            if args.json:
                show(json.dumps(records[-1]) + "\n")
        if args.plot:
            from tinyinfer.cli.plots import draw_eval

            draw_eval(args.plot, args.model, records, reference.record if reference else None)
    finally:
        if not args.json and (reference or records):
            show((as_table(records, reference.record) if reference else as_text(records[0])) + "\n")
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Refuses what cannot work, before anything is loaded. Raises ValueError."""
    if args.window < 1:
        raise ValueError(f"--window {args.window} must be at least 1")
    if args.max_tokens is not None and args.max_tokens < 2:
        raise ValueError(f"--max-tokens {args.max_tokens} must be at least 2; the first token is not scored")
    if args.plot:
        from tinyinfer.cli.plots import check_plot

        check_plot(args.plot)


def read_text(path: str) -> str:
    """The whole file. Raises ValueError when it is not UTF-8 or empty, OSError."""
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}); convert it to UTF-8 first") from None
    if not text:
        raise ValueError(f"{path}: is empty; give a text of at least two tokens")
    return text


def tokenize(llm: LLM, text: str, args: argparse.Namespace) -> list[int]:
    """The tokens to score: of the whole text, without any that the tokenizer adds. Raises ValueError for too few."""
    if args.window > llm.max_model_len:
        raise ValueError(f"--window {args.window} is more than the context of {llm.max_model_len}; give a smaller one")
    tokens = llm.tokenizer.encode(text, add_special_tokens=False)[: args.max_tokens]
    if len(tokens) < 2:
        raise ValueError(f"{args.text}: only {len(tokens)} token, and the first is not scored; give a longer text")
    return tokens


def open_reference(args: argparse.Namespace, settings: dict[str, argparse.Namespace], text: str) -> Reference:
    """The float model, or what a folder that we quantized keeps, with the command line's other switches, evaluated.

    Raises ModelError, ValueError, before that, for a setting that cannot work with this model.
    """
    from tinyinfer.loading import load
    from tinyinfer.loading.hub import find

    checkpoint = load(find(args.model))
    check_settings(settings, checkpoint)
    name = "float32" if checkpoint.quantization is None else "keep"
    alone = argparse.Namespace(**vars(args) | FLOAT | ({"quantize": "keep"} if name == "keep" else {}))
    llm = open_model(alone)
    return Reference(alone, llm, describe(name, alone, llm, text, None))


def evaluate(name: str, args: argparse.Namespace, text: str, reference: Reference | None) -> dict[str, Any]:
    """What the JSON line of a setting holds; the reference is not computed again when the setting is the same."""
    if reference and args == reference.args:
        return reference.record | {"setting": name}
    return describe(name, args, open_model(args), text, reference)


def describe(
    name: str, args: argparse.Namespace, llm: LLM, text: str, reference: Reference | None
) -> dict[str, Any]:
    """The figures of one setting."""
    tokens = tokenize(llm, text, args)
    started = time.perf_counter()
    found, distance = score(llm, tokens, args.window, name, reference)
    return ({"setting": name} if name else {}) | {
        "perplexity": found.perplexity,
        "nll": found.nll,
        **distance,
        "tokens": found.tokens,
        "window": args.window,
        "weight_bytes": llm.model.nbytes,
        "bits_per_weight": bits_per_weight(llm.model),
        "seconds": time.perf_counter() - started,
        "ledger": llm.ledger.as_dict(),
        "engine": {"model": args.model, **asdict(llm.engine_config)},
    }


def score(
    llm: LLM, tokens: list[int], window: int, name: str, reference: Reference | None
) -> tuple[Perplexity, dict[str, float]]:
    """The perplexity and the distance from the reference, with a progress bar that shows the first one growing.

    Without a reference the distance is 0: of the float model from itself. After Ctrl-C what there was is told.
    """
    from tinyinfer.measure.kl import Divergence, divergences
    from tinyinfer.measure.perplexity import Perplexity, perplexities

    none = Divergence(kl=0.0, agreement=1.0)
    steps: Iterator[tuple[Perplexity, Divergence]]
    if reference is None:
        steps = ((found, none) for found in perplexities(llm, tokens, window))
    else:
        steps = divergences(llm, reference.llm, tokens, window)
    last = Perplexity(0.0, 0), none
    try:
        with ProgressBar(f"perplexity {name}".strip()) as bar:
            for last in steps:
                bar.show(last[0].tokens, len(tokens) - 1, f"  {last[0].perplexity:.4g}")
    except KeyboardInterrupt:
        if last[0].tokens:
            say(f"\nso far: perplexity {last[0].perplexity:.4f} over {last[0].tokens} tokens")
        raise
    return last[0], {"kl_divergence": last[1].kl, "top1_agreement": last[1].agreement} if name else {}


def bits_per_weight(model: Model) -> float:
    """Bits that a weight of the layers' matrices takes, scales included; embedding and head are not counted."""
    from tinyinfer.model.visit import matrices, weights

    held = [weight for name, part in matrices(model) if name.startswith("layers.") for weight in weights(part)]
    return 8 * sum(w.nbytes for w in held) / sum(math.prod(w.shape) for w in held)


def as_text(record: dict[str, Any]) -> str:
    """One setting for people."""
    return (
        f"perplexity {record['perplexity']:.4f} (mean NLL {record['nll']:.5f}) over {record['tokens']} tokens "
        f"in windows of {record['window']}, {amount(record['weight_bytes'], 'B')} of weights, {record['seconds']:.1f} s"
    )


def as_table(records: list[dict[str, Any]], reference: dict[str, Any]) -> str:
    """Several settings for people, each beside the reference."""
    rows = [("", "perplexity", "change", "KL", "top-1", "bits", "weights", "ratio", "seconds")]
    for record in (records if reference["setting"] in [r["setting"] for r in records] else [reference, *records]):
        change = record["perplexity"] / reference["perplexity"] - 1
        ratio = record["weight_bytes"] / reference["weight_bytes"]
        rows.append((record["setting"], f"{record['perplexity']:.4f}", f"{change:+.3%}",
                     f"{record['kl_divergence']:.4f}", f"{record['top1_agreement']:.2%}",
                     f"{record['bits_per_weight']:.3g}", amount(record["weight_bytes"], "B"), f"{ratio:.3f}",
                     f"{record['seconds']:.1f}"))  # fmt: skip
    return f"{table(rows)}\n\n{explanation(reference)}"


def explanation(reference: dict[str, Any]) -> str:
    """What the columns mean."""
    other = "the float model" if reference["setting"] == "float32" else "the quantized model as it is"
    return (
        f"{reference['tokens']} tokens scored in windows of {reference['window']}. change, KL divergence (nats a token)"
        f" and top-1 agreement: against {other};\nbits: a weight of the layers' matrices, scales included; "
        "weights: the whole model in memory"
    )
