"""Lesson 21: speeds of the engine at several batch sizes in simulated time, and the pictures of cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from tinyinfer.llm import LLM
from tinyinfer.measure.break_even import Region
from tinyinfer.measure.cost import HOURS, Price, Service, Speed, Tokens, cost_per_million
from tinyinfer.sampling_params import SamplingParams

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROMPT, ANSWER = 16, 6  # tokens of a request


def speed_at(llm: LLM, together: int) -> Speed:
    """What an engine does with so many requests at a time, on its own clock. The prompts are one step together."""
    rng = np.random.default_rng(together)
    prompts = rng.integers(100, 250, (together, PROMPT)).tolist()
    outputs = llm.generate(prompts, SamplingParams(max_tokens=ANSWER, ignore_eos=True))
    first = max(out.metrics.ttft_s or 0.0 for out in outputs)
    each = max(out.metrics.tpot_s or 0.0 for out in outputs)
    return Speed(together * PROMPT / first, together / each, first, each, name=str(together))


def full(price: Price, speed: Speed, tokens: Tokens) -> tuple[float, float]:
    """The money for a million input and a million output tokens of a machine that is busy all day."""
    service = Service(price, speed, tokens)
    each = cost_per_million(service, HOURS * service.capacity)
    assert each[0] is not None
    assert each[1] is not None
    return each[0], each[1]


def draw_frontier(ax: Axes, speeds: Iterable[Speed], costs: Iterable[float]) -> None:
    """Throughput over latency, a point for each batch size, with the cost of a million output tokens beside it."""
    speeds = list(speeds)
    waits, paces = [1e3 * (one.tpot_s or 0.0) for one in speeds], [one.output_tps for one in speeds]
    ax.plot(waits, paces, "o-", color="tab:blue")
    for one, wait, pace, cost in zip(speeds, waits, paces, costs, strict=True):
        ax.annotate(f"{one.name} at a time: {cost:.2f}", (wait, pace), xytext=(7, -12), textcoords="offset points")
    ax.set_xlim(0, 1.45 * max(waits))
    ax.set_ylim(0, 1.12 * max(paces))
    ax.set_xlabel("time for each output token (simulated ms)")
    ax.set_ylabel("output tokens a simulated second")
    ax.set_title("Latency, throughput, and the cost of a million output tokens")


def draw_break_even(ax: Axes, cost: Callable[[float], float], each: float, region: Region) -> None:
    """A day's money over its requests: the API's line, the machines' staircase, and the region of the crossings."""
    requests = np.linspace(0, 1.6 * region.last, 2000)
    ax.plot(requests, each * requests, label="API", color="tab:orange")
    ax.plot(requests, [cost(float(one)) for one in requests], label="own machines", color="tab:blue")
    ax.axvspan(region.first, region.last, color="0.9", label="one more machine decides")
    ax.set_xlabel("requests a day")
    ax.set_ylabel("USD a day")
    ax.set_title("The break-even is a region")
    ax.legend(loc="upper left")
