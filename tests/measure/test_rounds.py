"""Rounds of a benchmark: a whole run without a command line, shared weights, and what a round finds in the cache."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cli_helpers import short
from rounds import MACHINE, rounds_of

from tinyinfer import LLM, measure
from tinyinfer.engine.config import EngineConfig
from tinyinfer.measure import bench
from tinyinfer.measure.phases import record
from tinyinfer.measure.roofline import parse_machine
from tinyinfer.measure.tables import bench_text
from tinyinfer.measure.workload import Request, parse_lengths, synthetic

__all__ = ["short"]  # fixture


def opened(model: str, config: EngineConfig) -> LLM:
    """How a notebook opens a model."""
    return LLM(model, **asdict(config))


def test_a_benchmark_needs_no_command_line(short):
    """A notebook's whole run: requests, rounds, the record of each setting and its table; a callback shows progress."""
    requests = synthetic(3, parse_lengths("5"), parse_lengths("4"))
    plans = {name: bench.Plan(short, EngineConfig(kv_cache=name), requests) for name in ("contiguous", "none")}
    seen: list[tuple[str, int, int]] = []

    @contextmanager
    def progress(title):
        yield lambda done, total: seen.append((title, done, total))

    settings = bench.open_settings(plans, opened)
    rounds, finished = bench.run_rounds(settings, 2, progress=progress)
    assert finished
    assert [len(mine) for mine in rounds] == [2, 2]
    assert seen[-1] == ("none: round 2 of 2", 12, 12)
    lines = [record(one, mine, {"workload": "mine"}, phases=False) for one, mine in zip(settings, rounds, strict=True)]
    assert [line["generated_tokens"] for line in lines] == [12, 12]
    assert lines[0]["ledger"]["tokens_computed"] == 3 * (5 + 3)
    assert bench.compare_outputs(*rounds) == "identical"
    table = bench_text(lines[0] | {"outputs": "identical"}, lines)
    assert table.startswith(f"{short}: mine workload of 3 requests, median of 2 rounds\n")
    assert table.splitlines()[2].split() == ["contiguous", "none"]
    line = record(settings[0], rounds[0], {"prompt_tokens": 5, "generated_tokens": 4, "batch": 3}, MACHINE)
    assert "prefill, tok/s" in bench_text(line, [line])


def test_nothing_that_measures_knows_the_command_line():
    """Catches a measurement that only a command can start."""
    for path in Path(measure.__file__).parent.glob("*.py"):
        code = path.read_text(encoding="utf-8")
        assert not [word for word in ("argparse", "tinyinfer.cli") if word in code], path


def test_a_round_does_not_find_the_prompts_of_the_one_before(golden_folder):
    """Catches a prefix cache that makes every round but the first one free; within a round it is what is measured."""
    llm = LLM(str(golden_folder("llama")), kv_cache="paged", prefix_cache=True, block_size=4)
    for _ in range(2):
        done = rounds_of(llm, [5] * 9, [5] * 9)
        assert [seq.progress.cached_tokens for seq in done.sequences] == [0, 8]
        assert done.ledger.tokens_computed == 9 + 1 + 2 * 2


def test_no_time_is_lost_between_steps(golden_folder):
    """The durations of the steps add up to all the time from the first step's beginning to the last one's end."""
    ticks = iter(range(10**6))
    llm = LLM(str(golden_folder("llama")), clock=lambda: float(next(ticks)))
    begun = next(ticks)
    done = rounds_of(llm, [5, 6, 7], new=4)
    assert sum(done.seconds) == done.steps[-1].times[2] - (begun + 1)


def test_settings_that_serve_otherwise_share_the_weights(short):
    """Catches a second copy of the model in memory for every setting, and one copy for two models."""
    machine = parse_machine("1MB/s,1MFLOP/s")
    switches: dict[str, dict[str, Any]] = {"one": {}, "paged": {"kv_cache": "paged"}, "half": {"dtype": "float16"}}
    plans = {name: bench.Plan(short, EngineConfig(**own), [Request(3, (1, 2))]) for name, own in switches.items()}
    one, paged, half = bench.open_settings(plans, opened, machine)
    assert one.llm.model is paged.llm.model
    assert one.llm.engine.cache is not paged.llm.engine.cache
    assert one.llm.engine.clock is paged.llm.engine.clock
    assert half.llm.model is not one.llm.model
    assert half.llm.engine.clock.ledger is half.llm.ledger


def test_settings_with_the_same_draft_model_share_it_too(short):
    """Catches a draft model that is opened again, and one that is lost on the way to the second engine."""
    asked = {"speculative": "draft", "draft_model": short}
    switches: dict[str, dict[str, Any]] = {"one": asked, "paged": asked | {"kv_cache": "paged"}, "none": {}}
    plans = {name: bench.Plan(short, EngineConfig(**own), [Request(3, (1, 2))]) for name, own in switches.items()}
    one, paged, none = bench.open_settings(plans, opened)
    assert paged.llm.model is one.llm.model
    assert paged.llm.engine.drafter.model is one.llm.engine.drafter.model
    assert paged.llm.engine.drafter is not one.llm.engine.drafter
    assert none.llm.model is not one.llm.model


def test_where_outputs_differ_is_told():
    """Catches "identical" for outputs of different lengths' common part only when a token differs within it."""

    def done(*outputs: list[int], prompt: int = 1) -> bench.Round:
        sequences: list[Any] = [type("S", (), {"prompt": [prompt], "new_tokens": output}) for output in outputs]
        nothing: Any = None
        return bench.Round(0.0, sequences, [], nothing)

    same = done([1, 2], [3, 4, 5])
    assert bench.compare_outputs([same], [same]) == "identical"
    other = done([1, 2], [3, 9, 5])
    assert bench.compare_outputs([same], [other]) == "request 2 differs from its token 2 on (4 and 9)"
    assert bench.compare_outputs([same], [done([1, 2], [3, 4, 5], prompt=2)]) is None
    assert bench.compare_outputs([same], [done([1, 2])]) is None
