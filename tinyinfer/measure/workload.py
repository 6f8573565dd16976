"""Workloads: requests that arrive over time, to be replayed under any setting; from a file, or drawn by a seed.

A file holds one request a line, as JSON (JSONL):

    {"prompt": "Once upon a time", "max_tokens": 64}
    {"prompt_token_ids": [1, 2, 3], "max_tokens": 8, "arrival": 0.5}
    {"prompt_tokens": 272, "shared_prefix": 256, "prefix_group": "system", "max_tokens": 16}

The last one is `prompt_tokens` fixed random ids, the first `shared_prefix` of which are those of every other line of
its `prefix_group`. `arrival` is in seconds after the beginning (default 0). End tokens are ignored, so that every
setting does the same work.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn
from zlib import crc32

import numpy as np

from tinyinfer.text.plain_text import decoded

READY = Path(__file__).parent / "workloads"  # the package's own workloads, named without folder and ending
SEED = 0  # of random prompts
LONGEST = 2**31 - 1  # tokens; no context comes near it
OWN, SHARED = 0, 1  # random streams of a prompt's own ids and of a prefix


@dataclass(frozen=True)
class Request:
    """One request. prompt: text or token ids; None: `random_tokens` ids, the first `shared` of them its group's.

    where: the request's name in messages.
    """

    max_tokens: int
    prompt: str | tuple[int, ...] | None = None
    random_tokens: int = 0
    shared: int = 0
    group: str = ""
    arrival: float = 0.0
    where: str = "the request"


def prompts(requests: list[Request], vocab_size: int) -> list[str | list[int]]:
    """The prompt of each request, the same ones every time."""
    given: list[str | list[int]] = []
    for i, request in enumerate(requests):
        if isinstance(request.prompt, str):
            given.append(request.prompt)
        elif request.prompt is not None:
            given.append(list(request.prompt))
        else:
            prefix = random_ids((SHARED, crc32(request.group.encode())), request.shared, vocab_size)
            given.append(prefix + random_ids((OWN, i), request.random_tokens - request.shared, vocab_size))
    return given


def random_ids(key: tuple[int, int], n: int, vocab_size: int) -> list[int]:
    """The first n ids of a stream, so that a shorter prefix of the same group begins alike."""
    return np.random.default_rng((SEED, *key)).integers(0, vocab_size, n).tolist()


# From a file.


def read_workload(name: str) -> list[Request]:
    """The requests of a file, or of a workload that comes with the package. Raises ValueError that names the line."""
    path = find_workload(name)
    requests = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            where = f"{name}:{number}"
            requests.append(parse_request(where, decoded(line, where)))
    if not requests:
        raise ValueError(f"{name} holds no request; write one JSON object a line, such as {EXAMPLE}")
    return requests


def find_workload(name: str) -> Path:
    """The file of that name, else the package's. Raises ValueError."""
    ready = sorted(path.stem for path in READY.glob("*.jsonl"))
    path = READY / f"{name}.jsonl" if name in ready and not Path(name).is_file() else Path(name)
    if not path.is_file():
        raise ValueError(f"there is no workload {name!r}; give a JSONL file, 'synthetic', or one of {', '.join(ready)}")
    return path


EXAMPLE = '{"prompt_tokens": 100, "max_tokens": 20}'
PROMPTS = ("prompt", "prompt_token_ids", "prompt_tokens")
KEYS = (*PROMPTS, "shared_prefix", "prefix_group", "arrival", "max_tokens")


def parse_request(where: str, line: str) -> Request:
    """One line of a file. Raises ValueError, which begins with `where`, says what is wrong and what would be right."""

    def refuse(why: str) -> NoReturn:
        raise ValueError(f"{where}: {why}")

    entry = parse_json(line, refuse)
    for key in entry:
        if key not in KEYS:
            near = get_close_matches(key, KEYS, n=1)
            refuse(f"unknown key {key!r}" + (f" (did you mean {near[0]!r}?)" if near else "") + f"; known: {known()}")
    if sum(key in entry for key in PROMPTS) != 1:
        refuse(f"give exactly one of {', '.join(PROMPTS)}, as in {EXAMPLE}")
    if "max_tokens" not in entry:
        refuse("max_tokens is missing: say how many tokens to generate")
    for key, (right, what) in CHECKS.items():
        if key in entry and not right(entry[key]):
            refuse(f"{key} must be {what}, not {json.dumps(entry[key])[:40]}")
    refuse_extremes(entry, refuse)
    random, shared = entry.get("prompt_tokens", 0), entry.get("shared_prefix", 0)
    if ("shared_prefix" in entry or "prefix_group" in entry) and not random:
        refuse("shared_prefix and prefix_group are of random prompts; give prompt_tokens instead of a prompt")
    if shared > random:
        refuse(f"shared_prefix {shared} is longer than the prompt's {random} tokens; make it smaller")
    ids = tuple(entry["prompt_token_ids"]) if "prompt_token_ids" in entry else None
    return Request(entry["max_tokens"], entry.get("prompt", ids), random, shared, entry.get("prefix_group", ""),
                   float(entry.get("arrival", 0.0)), where)  # fmt: skip


def parse_json(line: str, refuse: Callable[[str], NoReturn]) -> dict[str, Any]:
    """The JSON object of a line."""
    entry: Any = None
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        refuse(f"not JSON ({error.msg}, column {error.colno}); write one object a line, such as {EXAMPLE}")
    except (ValueError, RecursionError):  # of the interpreter: too many digits, too many brackets
        refuse(f"a number is too long or brackets are too deep to be read; write one object a line, such as {EXAMPLE}")
    if not isinstance(entry, dict):
        refuse(f"a request is a JSON object, such as {EXAMPLE}")
    return entry


def refuse_extremes(entry: dict[str, Any], refuse: Callable[[str], NoReturn]) -> None:
    """Refuses what is of the right type and still no length, moment or text."""
    for key in ("prompt_tokens", "max_tokens"):
        if entry.get(key, 0) > LONGEST:
            refuse(f"{key} is more than {LONGEST}, which no context holds; make it smaller")
    for key in ("prompt", "prefix_group"):
        if any("\ud800" <= letter <= "\udfff" for letter in entry.get(key, "")):
            refuse(f"{key} holds half of a character, \\ud800 to \\udfff; write the whole character")


def known() -> str:
    """The keys that a line may have, for a message."""
    return ", ".join(KEYS)


def is_count(value: object, least: int = 1) -> bool:
    """Whether the value is a whole number of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_moment(value: object) -> bool:
    """Whether the value is a finite number of seconds, at least 0."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "prompt": (lambda value: isinstance(value, str) and value != "", "a text that is not empty"),
    "prompt_token_ids": (
        lambda value: isinstance(value, list) and bool(value) and all(is_count(token, 0) for token in value),
        "a list of token ids, at least one",
    ),
    "prompt_tokens": (is_count, "a whole number of at least 1"),
    "shared_prefix": (lambda value: is_count(value, 0), "a whole number of at least 0"),
    "prefix_group": (lambda value: isinstance(value, str), "a text"),
    "arrival": (is_moment, "a number of seconds of at least 0"),
    "max_tokens": (is_count, "a whole number of at least 1"),
}


# Drawn by a seed.


@dataclass(frozen=True)
class Lengths:
    """A distribution of lengths, in tokens: all the same, uniform from low to high, or lognormal."""

    kind: str
    a: float  # the length; the lowest; the median
    b: float = 0.0  # the highest; the sigma of the logarithm

    def draw(self, n: int, rng: np.random.Generator) -> list[int]:
        """n lengths of at least 1."""
        if self.kind == "fixed":
            return [int(self.a)] * n
        if self.kind == "uniform":
            return rng.integers(int(self.a), int(self.b) + 1, n).tolist()
        return [max(1, round(x)) for x in self.a * np.exp(self.b * rng.standard_normal(n))]


def parse_lengths(text: str, flag: str = "lengths") -> Lengths:
    """Of "100", "uniform:16-128" or "lognormal:48,0.8" (median, sigma). Raises ValueError, which names `flag`."""
    kind, _, rest = text.partition(":")
    try:
        if not rest:
            lengths = Lengths("fixed", int(kind))
        elif kind == "uniform":
            low, _, high = rest.partition("-")
            lengths = Lengths(kind, int(low), int(high))
        else:
            median, _, sigma = rest.partition(",")
            lengths = Lengths(kind, float(median), float(sigma))
    except ValueError:
        lengths = Lengths("", 0)
    ends = lengths.kind != "uniform" or lengths.a <= lengths.b
    if lengths.kind not in ("fixed", "uniform", "lognormal") or not ends or not is_length(lengths):
        raise ValueError(f"{flag} {text!r} is no distribution of lengths of at least 1; write 100, uniform:16-128 "
                         "(lowest and highest) or lognormal:48,0.8 (median and sigma)")  # fmt: skip
    return lengths


def is_length(lengths: Lengths) -> bool:
    """Whether all lengths that may be drawn are finite, and the first number is at least 1."""
    return 1 <= lengths.a < math.inf and 0 <= lengths.b < math.inf


def synthetic(
    n: int, prompt: Lengths, output: Lengths, rate: float | None = None, shared: int = 0, seed: int = 0
) -> list[Request]:
    """n requests; each prompt is `shared` tokens common to all and as many own ones as `prompt` says.

    rate: arrivals a second, at random moments (Poisson: exponential gaps); None: all at once. The same seed draws the
    same lengths whatever the rate.
    """
    rng = np.random.default_rng(seed)
    own, new = prompt.draw(n, rng), output.draw(n, rng)
    waits = np.cumsum(rng.standard_exponential(n)) / rate if rate else np.zeros(n)
    rows = zip(own, new, waits.tolist(), strict=True)
    return [
        Request(length, None, shared + size, shared, "shared", arrival, f"request {i}")
        for i, (size, length, arrival) in enumerate(rows, 1)
    ]
