"""`bench serve`: the loads. What a set of requests is made of, when each of them is due, and what a sweep places."""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tinyinfer.cli.arguments import UsageError
from tinyinfer.cli.console import say

if TYPE_CHECKING:
    from tinyinfer.measure.serving_client import Target
    from tinyinfer.measure.serving_requests import Ask, Source

FROM_FILES = ("sharegpt", "timed_trace", "custom")


def loads(
    args: argparse.Namespace, target: Target, records: list[dict[str, Any]]
) -> Iterator[tuple[str, argparse.Namespace, list[Ask]]]:
    """The name, the arguments and the requests of each load. records: what those before it gave.

    A sweep finds first what one request at a time and all at once give, and then places rates between the two. Each of
    its loads has other prompts: the same ones would be found in the server's prefix cache.
    """
    source = source_of(target)
    counts = [max(4, args.num_prompts // 8), *[args.num_prompts] * ((args.sweep or 1) - 1)]
    if not args.sweep:
        yield "", args, timed(args, asks_of(args, source))
        return

    lines = different(args, source, sum(counts)) if args.dataset_name in FROM_FILES else []

    def of(n: int, **changed: Any) -> tuple[argparse.Namespace, list[Ask]]:
        own = argparse.Namespace(**vars(args) | {"seed": args.seed + n, "num_prompts": counts[n], **changed})
        first = sum(counts[:n])
        return own, timed(own, lines[first : first + counts[n]] or asks_of(own, source))

    yield "one at a time", *of(0, max_concurrency=1)
    yield "all at once", *of(1)
    low, high = (record["request_throughput"] for record in records)
    if not (low and high):
        say("tinyinfer: no request of a load was answered, so there are no rates between the two ends")
        return
    for n in range(1, args.sweep - 1):
        rate = low + (high - low) * n / (args.sweep - 1)
        yield f"{rate:.3g}/s", *of(n + 1, request_rate=rate)


def different(args: argparse.Namespace, source: Source, count: int) -> list[Ask]:
    """So many requests of a file, no two alike, for all loads of a sweep. Raises UsageError where it holds fewer."""
    asks = asks_of(argparse.Namespace(**vars(args) | {"num_prompts": count}), source)
    if (found := len({str(ask.prompt) for ask in asks})) < count:
        raise UsageError(f"--sweep {args.sweep} of {args.num_prompts} requests takes {count} different prompts, and "
                         f"{args.dataset_path} holds {found}; add prompts, or lower --num-prompts")  # fmt: skip
    return asks


def timed(args: argparse.Namespace, asks: list[Ask]) -> list[Ask]:
    """The requests, each due at its time."""
    from tinyinfer.measure.serving_requests import Ask, Ramp, arrivals

    if args.dataset_name == "timed_trace":
        return asks
    ramp = None
    if args.ramp_up_strategy:
        ramp = Ramp(args.ramp_up_strategy, args.ramp_up_start_rps, args.ramp_up_end_rps)
    due = arrivals(len(asks), args.request_rate, args.burstiness, random.Random(f"{args.seed} arrivals"), ramp)
    return [Ask(ask.prompt, ask.output_tokens, at) for ask, at in zip(asks, due, strict=True)]


def source_of(target: Target) -> Source:
    """What prompts are made of: the server's token ids, or words."""
    from tinyinfer.measure.serving_client import NO_ANSWER, NO_SHAPE, ask_json
    from tinyinfer.measure.serving_requests import Source

    def tokenize(text: str) -> list[int]:
        body = {"model": target.model, "prompt": text, "add_special_tokens": False}
        return list(asyncio.run(ask_json(target, "/tokenize", body))["tokens"])

    try:
        return Source(tokenize, as_ids=not target.endpoint.endswith("/chat/completions"))
    except (*NO_ANSWER, *NO_SHAPE):
        say("tinyinfer: the server does not tokenize, so prompts are words, and their lengths count words")
        return Source(None)


def asks_of(args: argparse.Namespace, source: Source) -> list[Ask]:
    """The requests, all due at once but those of a trace. Raises SwitchError."""
    from tinyinfer.measure import serving_requests as kinds

    rng, n, a = random.Random(args.seed), args.num_prompts, args
    if a.dataset_name == "random":
        lengths = kinds.Lengths(a.random_input_len, a.random_output_len, a.random_range_ratio, a.random_prefix_len)
        return kinds.random_asks(source, n, lengths, rng)
    if a.dataset_name == "prefix_repetition":
        sizes = a.prefix_repetition_prefix_len, a.prefix_repetition_suffix_len, a.prefix_repetition_output_len
        return kinds.repeated_prefixes(source, n, a.prefix_repetition_num_prefixes, *sizes, rng)
    if a.dataset_name == "sharegpt":
        return kinds.sharegpt(source, a.dataset_path, n, a.sharegpt_output_len, rng)
    if a.dataset_name == "custom":
        return kinds.custom(a.dataset_path, n, a.custom_output_len)
    return kinds.timed_trace(source, a.dataset_path, n, a.seed)
