"""What several callers cost one: `python benchmarks/submit.py [-m MODEL] [-b 4]`, the time between two steps.

The same prompts are run in four ways, which take turns: by a caller who alone owns the engine (`Engine.run`), by one
who steps the engine of an LLM (`LLM.run`), by one who waits for the engine's thread, and by one who reads what each
step brings. Printed are medians over all rounds: of a decode step, of the time from the end of a step to the beginning
of the next one (what a way adds to a step), and of the time until the first step begins.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from tinyinfer import LLM, SamplingParams
from tinyinfer.engine.trace import StepTrace
from tinyinfer.sequence import Sequence

PROMPT = [5, 6, 7, 8] * 4


def ways(llm: LLM, batch: int, params: SamplingParams) -> dict[str, Callable[[], None]]:
    """Name -> what runs the prompts to their end in that way."""

    def stepped(run: Callable[[list[Sequence]], Iterator[StepTrace]]) -> None:
        for _ in run(llm.sequences([PROMPT] * batch, params)):
            continue

    def read() -> None:
        for request in [llm.submit(PROMPT, params) for _ in range(batch)]:
            for _ in request:
                continue

    def waited() -> None:
        for request in [llm.submit(PROMPT, params) for _ in range(batch)]:
            request.result()

    return {
        "Engine.run": lambda: stepped(llm.engine.run),
        "LLM.run": lambda: stepped(llm.run),
        "submit, waiting": waited,
        "submit, reading": read,
    }


class Stopwatch:
    """Wraps the step of an engine; begins and ends: of each step, in seconds."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self.step = step
        self.begins: list[float] = []
        self.ends: list[float] = []

    def __call__(self, watch: bool = False) -> Any:
        self.begins.append(time.perf_counter())
        try:
            return self.step(watch)
        finally:
            self.ends.append(time.perf_counter())

    def measure(self, work: Callable[[], object]) -> tuple[float, float, float]:
        """Medians over the decode steps of `work`: a step, and the gap to the next; and the time to the first one."""
        self.begins, self.ends = [], []
        start = time.perf_counter()
        work()
        steps = [end - begin for begin, end in zip(self.begins[1:], self.ends[1:], strict=True)]
        gaps = [begin - end for begin, end in zip(self.begins[1:], self.ends, strict=False)]
        return statistics.median(steps), statistics.median(gaps), self.begins[0] - start


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("-b", "--batch", type=int, default=1, help="prompts at once")
    parser.add_argument("-g", "--tokens", type=int, default=64, help="tokens of each answer")
    parser.add_argument("-t", "--threads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    llm = LLM(args.model, threads=args.threads, max_model_len=args.tokens + len(PROMPT))
    watch = Stopwatch(llm.engine.step)
    llm.engine.step = watch  # type: ignore[method-assign]
    each = ways(llm, args.batch, SamplingParams(max_tokens=args.tokens, ignore_eos=True))
    for work in each.values():
        work()
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in each}
    for _ in range(args.rounds):
        for name, work in each.items():
            found[name].append(watch.measure(work))
    title = f"{args.model}, {args.batch} at once"
    print(f"{title:32}{'step':>16}{'between steps':>18}{'first step':>18}")
    for name, times in found.items():
        step, gap, first = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"  {name:30}{step * 1e3:13.3f} ms{gap * 1e6:15.1f} us{first * 1e6:15.1f} us")


if __name__ == "__main__":
    main()
