"""A machine's speeds out of what `bench` has written: one for each load, from which an objective takes the cheapest.

    bench --json                    prefill and decode were run apart, each has its own speed
    bench --workload ... --json     all requests together; their time is divided as prompts and answers took it
    bench serve --save-result       all requests together; their time is divided as clients waited for it
    bench --cluster ... --json      predicted, for each split of the frontier; a machine is a replica, of tp x pp GPUs

Of a load as a whole it is known how many requests a second it was, not which part of the time was prefill. So the time
is divided by a share, and the speed of each phase is its tokens over its share of the time: the load itself costs what
it was measured to cost, whatever the share; only other mixtures of input and output depend on it.

Wins: no figure is typed by hand. Loses: a load that leaves the machine idle (a low rate) looks like a slow machine.
"""

from __future__ import annotations

import math
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

from tinyinfer.errors import ModelError, SwitchError
from tinyinfer.loading.json_fields import parse_object
from tinyinfer.measure.cost import Speed

Line = dict[str, Any]
WROTE = "give what `bench --json` or `bench serve --save-result` wrote"
# The least and the most of predicted over published tokens a second: python benchmarks/published_throughput.py
ON_PAPER = (0.85, 1.96)


def read_lines(path: str) -> list[Line]:
    """The JSON objects of a file: one, or one a line. Raises ValueError or ModelError, which name file and place."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: there is no such file; write one by `bench --json` or `bench serve --save-result`")
    text = Path(path).read_bytes().removeprefix(BOM_UTF8)
    try:
        return [parse_object(text, path, cure=WROTE)]
    except ModelError:
        if b"\n{" not in text.strip():
            raise
    lines = enumerate(text.split(b"\n"))  # the line ends before a line keep its number in a message
    return [parse_object(b"\n" * before + line, path, cure=WROTE) for before, line in lines if line.strip()]


def speeds_of(line: Line, where: str, percentile: int = 50) -> list[Speed]:
    """The speeds in an object. percentile: of the latencies, 50, 90 or 99. Raises ValueError, which says `where`."""
    if "frontier" in line:
        return [of_split(one, where) for one in listed(line, "frontier", where)]
    if "sweep" in line:
        return [speed for one in listed(line, "sweep", where) for speed in speeds_of(one, where, percentile)]
    if "total_input_tokens" in line:
        if failed := line.get("failed"):
            raise ValueError(f"{where}: {failed} requests of the load failed, which cost time and have no tokens; "
                             "measure a load that is answered")  # fmt: skip
        return [of_clients(line, where, percentile)]
    if "workload" in line:
        return [of_workload(line, where, percentile)]
    if "generation_tps" in line:
        paces = positive(line, "prompt_tps", where), positive(line, "generation_tps", where)
        return [speed_of(line, paces, where, percentile, f"{line.get('batch', 1)} at a time")]
    raise ValueError(f"{where}: holds no speeds; {WROTE}")


def listed(line: Line, name: str, where: str) -> list[Line]:
    """A list of objects, at least one. Raises ValueError for anything else."""
    value = line[name]
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"{where}: {name} is {str(value)[:40]}, and must be a list of loads; measure again")
    return value


def positive(line: Line, name: str, where: str) -> float:
    """A number above 0. Raises ValueError for anything else."""
    value = line.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"{where}: {name} is {value!r}, and must be a number above 0; measure again")
    return float(value)


def latency(line: Line, name: str, where: str, percentile: int) -> float | None:
    """Seconds of a percentile, of `bench` or of vLLM's names; None of a load that has none. Raises SwitchError."""
    names = {f"{name}_p{percentile}_s": 1.0, f"p{percentile}_{name}_ms": 1e-3}
    names |= {f"median_{name}_ms": 1e-3} if percentile == 50 else {}
    for key, factor in names.items():
        if key in line:
            return None if line[key] is None else factor * positive(line, key, where)
    reason = "{field} {value}: {where} has no such percentile of {name}"
    raise SwitchError("percentile", percentile, reason, "take 50, or measure with it", where=where, name=name)


def speed_of(line: Line, paces: tuple[float, float], where: str, percentile: int, name: str) -> Speed:
    """The speed of a measured load: tokens a second of its two phases, and the waits that the line has."""
    ttft_s, tpot_s = (latency(line, one, where, percentile) for one in ("ttft", "tpot"))
    return Speed(*paces, ttft_s, tpot_s, 1, name)


def divided(seconds: float, share: float, tokens: tuple[float, float]) -> tuple[float, float]:
    """Tokens a second of prefill and decode, where prefill has this share of the seconds.

    Ten seconds, a fifth of them prefill:

    >>> divided(10, 0.2, (1000, 400))
    (500.0, 50.0)
    """
    return tokens[0] / (seconds * share), tokens[1] / (seconds * (1 - share))


def of_clients(line: Line, where: str, percentile: int) -> Speed:
    """The speed of a load on a server; the wait in a queue counts as prefill.

    Input that a prefix cache had was not computed, and does not count. A server that does not say how much it was
    (total_cached_tokens is null or missing) has all of it counted as computed.
    """
    ttft, whole = (positive(line, f"mean_{name}_ms", where) for name in ("ttft", "e2el"))
    read, cached = positive(line, "total_input_tokens", where), line.get("total_cached_tokens") or 0
    if not isinstance(cached, int) or not 0 <= cached < read:
        raise ValueError(f"{where}: total_cached_tokens is {cached!r}, and must be less than the {read:g} of input; "
                         "measure again")  # fmt: skip
    tokens = read - cached, positive(line, "total_output_tokens", where)
    share = min(0.99, ttft / whole)
    paces = divided(positive(line, "duration", where), share, tokens)
    return speed_of(line, paces, where, percentile, str(line.get("load") or line.get("experiment") or "as served"))


def of_workload(line: Line, where: str, percentile: int) -> Speed:
    """The speed of a replayed workload."""
    tokens = positive(line, "computed_prompt_tokens", where), positive(line, "generated_tokens", where)
    prefill, decode = (n / positive(line, f"{kind}_tps", where)
                       for n, kind in zip(tokens, ("prompt", "generation"), strict=True))  # fmt: skip
    paces = divided(positive(line, "seconds", where), prefill / (prefill + decode), tokens)
    return speed_of(line, paces, where, percentile, str(line.get("setting", "a workload")))


def of_split(one: Line, where: str) -> Speed:
    """The speed of a replica of a split on paper; its sequences are all alike, so it has no percentiles."""
    tp, pp, dp = (int(positive(one, f"{kind}_parallel_size", where)) for kind in ("tensor", "pipeline", "data"))
    return Speed(
        input_tps=positive(one, "prompt_tps", where) / dp,
        output_tps=positive(one, "generation_tps", where) / dp,
        ttft_s=positive(one, "ttft_s", where),
        tpot_s=positive(one, "tpot_s", where),
        units=tp * pp,
        name=f"TP {tp} x PP {pp}, {positive(one, 'sequences', where) / dp:.4g} at a time",
        on_paper=True,
    )
