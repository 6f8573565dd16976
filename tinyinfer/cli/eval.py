"""`tinyinfer eval`: the perplexity of a text, for one setting or for several side by side.

A setting is a name that stands for some switches. What it saves (bytes) and what it costs (perplexity) belong into one
table.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyinfer.cli.arguments import add_model_arguments, add_switches, flag, open_model
from tinyinfer.cli.console import ProgressBar, say, show
from tinyinfer.cli.tables import amount, table
from tinyinfer.config import EngineConfig
from tinyinfer.registry import DTYPES, KV_BITS

if TYPE_CHECKING:
    from tinyinfer.llm import LLM
    from tinyinfer.perplexity import Perplexity

SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"dtype": name} for name in DTYPES},
    **{f"kv{bits}": {"kv_bits": bits} for bits in KV_BITS if bits != "off"},
}


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds the command's parser."""
    about = "the perplexity of a text"
    parser = commands.add_parser("eval", help=about, description=about)
    add = parser.add_argument
    add("--text", required=True, metavar="FILE", help="the text, in UTF-8")
    add("--window", type=int, default=512, metavar="N",
        help="tokens scored together, each seeing those before it (default: %(default)s)")  # fmt: skip
    add("--max-tokens", type=int, metavar="N", help="only the first N tokens of the text (default: all)")
    add("--compare", metavar="SETTING,...", help=f"several settings in one table, out of: {', '.join(SETTINGS)}")
    add("--plot", metavar="FILE", help="draw perplexity over bytes of weights into FILE (.png, .svg or .pdf)")
    add("--json", action="store_true", help="stdout holds one JSON object a line, one line a setting")
    add_model_arguments(parser)
    add_switches(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluates one setting after another; only one model is in memory at a time."""
    check_arguments(args)
    settings = each_setting(args)
    text = read_text(args.text)
    records = []
    for name, one in settings.items():
        records.append(evaluate(name, one, text))
        if args.json:
            show(json.dumps(records[-1]) + "\n")
    if args.plot:
        from tinyinfer.cli.plots import draw_eval

        draw_eval(args.plot, args.model, records)
    if not args.json:
        show((as_table(records) if args.compare else as_text(records[0])) + "\n")
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


def each_setting(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """Name -> command line of every setting to evaluate; without --compare only what the command line itself says.

    Raises ValueError for a setting that does not exist, or that sets what a flag sets, too.
    """
    if args.compare is None:
        return {"": args}
    found = {}
    for name in args.compare.split(","):
        if name not in SETTINGS:
            raise ValueError(f"--compare: there is no setting {name!r}; the settings are {', '.join(SETTINGS)}")
        for switch in SETTINGS[name]:
            if getattr(args, switch) != getattr(EngineConfig(), switch):
                raise ValueError(f"--compare {name} sets {flag(switch)} itself; leave {flag(switch)} out")
        found[name] = argparse.Namespace(**vars(args) | SETTINGS[name])
    return found


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


def evaluate(name: str, args: argparse.Namespace, text: str) -> dict[str, Any]:
    """What the JSON line of a setting holds."""
    llm = open_model(args)
    tokens = tokenize(llm, text, args)
    started = time.perf_counter()
    found = score(llm, tokens, args.window, name)
    return ({"setting": name} if name else {}) | {
        "perplexity": found.perplexity,
        "nll": found.nll,
        "tokens": found.tokens,
        "window": args.window,
        "weight_bytes": llm.model.nbytes,
        "seconds": time.perf_counter() - started,
        "ledger": llm.ledger.as_dict(),
        "engine": {"model": args.model, **asdict(llm.engine_config)},
    }


def score(llm: LLM, tokens: list[int], window: int, name: str) -> Perplexity:
    """The perplexity, with a progress bar that shows it growing; after Ctrl-C what there was is told."""
    from tinyinfer.perplexity import Perplexity, perplexities

    found = Perplexity(0.0, 0)
    try:
        with ProgressBar(f"perplexity {name}".strip()) as bar:
            for found in perplexities(llm, tokens, window):
                bar.show(found.tokens, len(tokens) - 1, f"  {found.perplexity:.4g}")
    except KeyboardInterrupt:
        if found.tokens:
            say(f"\nso far: perplexity {found.perplexity:.4f} over {found.tokens} tokens")
        raise
    return found


def as_text(record: dict[str, Any]) -> str:
    """One setting for people."""
    return (
        f"perplexity {record['perplexity']:.4f} (mean NLL {record['nll']:.5f}) over {record['tokens']} tokens "
        f"in windows of {record['window']}, {amount(record['weight_bytes'], 'B')} of weights, {record['seconds']:.1f} s"
    )


def as_table(records: list[dict[str, Any]]) -> str:
    """Several settings for people, each beside the first."""
    first = records[0]
    rows = [("", "perplexity", "change", "weights", "ratio", "seconds")]
    for record in records:
        change = record["perplexity"] / first["perplexity"] - 1
        ratio = record["weight_bytes"] / first["weight_bytes"]
        rows.append((record["setting"], f"{record['perplexity']:.4f}", f"{change:+.3%}",
                     amount(record["weight_bytes"], "B"), f"{ratio:.3f}", f"{record['seconds']:.1f}"))  # fmt: skip
    return f"{table(rows)}\n\n{first['tokens']} tokens scored in windows of {first['window']}"
