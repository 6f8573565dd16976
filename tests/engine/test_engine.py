"""The engine: steps, what a step reports, ending early, and that nothing is shared, widened or repeated in silence."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import Any

import mutants
import numpy as np
import pytest
import watched_numpy
from golden import FAMILIES, load_golden
from helpers import COMPARED, INSTALLED, TOLERANCE, finish, golden_distance, make_engine, remade, request, small_config

import tinyinfer
from tinyinfer import LLM, SamplingParams
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.switches import BACKENDS
from tinyinfer.engine.engine import Engine
from tinyinfer.engine.metrics import request_metrics
from tinyinfer.ledger import Ledger
from tinyinfer.loading import load
from tinyinfer.model.config import MoEConfig
from tinyinfer.model.transformer import transformer
from tinyinfer.switches import resolve

PACKAGE = str(Path(tinyinfer.__file__).parent)
LLAMA = small_config(qkv_bias=True, windows=(5, None))
GPT2 = small_config(norm="layer", gated=False, learned_positions=True, rope=(None, None), vocab_size=23)
OLMOE = small_config(qk_norm="full", experts=MoEConfig(5, 2, 12), num_layers=3)


def watch(look: Callable[[FrameType, str, Any], None], work: Callable[[], Any]) -> Any:
    """Runs `work` while `look` sees every call and return within the package, also in threads that `work` starts."""

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            look(frame, event, arg)

    sys.setprofile(profile)
    threading.setprofile(profile)
    try:
        return work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


# Nothing shared


def test_two_engines_in_one_process_do_not_know_of_each_other():
    """Different models, caches and contexts, stepped in turn; catches any state outside the engine."""

    def sequences() -> list:
        return [request(range(3, 20), 9), request(range(2, 13), 14, temperature=0.9, seed=4)]

    alone = [finish(make_engine(config), *sequences()) for config in (LLAMA, GPT2)]
    left, right = make_engine(LLAMA), make_engine(GPT2, kv_cache="none", max_model_len=40)
    requests = sequences(), sequences()
    runs = [left.run(requests[0]), right.run(requests[1])]
    while runs:
        runs = [run for run in runs if next(run, None) is not None]
    assert [[seq.new_tokens for seq in both] for both in requests] == alone
    assert left.ledger is not right.ledger
    assert left.ledger.weight_bytes != right.ledger.weight_bytes


@pytest.mark.parametrize("backends", COMPARED)
def test_engines_with_other_backends_and_threads_take_turns(backends):
    """Every backend, and NumPy with one thread and with two, stepped in turn: each emits what it emits alone.

    Catches a number of threads or a table of products that the engine made last leaves to the others.
    """

    def engines() -> list[Engine]:
        ops = [resolve(BACKENDS, name)(Ledger(), threads=1) for name in backends]
        return [make_engine(LLAMA, ops=one) for one in (*ops, NumpyOps(Ledger(), threads=2))]

    def sequences() -> list:
        return [request(range(3, 20), 9), request(range(2, 13), 14, temperature=0.9, seed=4)]

    alone = [finish(engine, *sequences()) for engine in engines()]
    together = engines()
    requests = [sequences() for _ in together]
    runs = [engine.run(both) for engine, both in zip(together, requests, strict=True)]
    while runs:
        runs = [run for run in runs if next(run, None) is not None]
    assert [[seq.new_tokens for seq in both] for both in requests] == alone
    assert all(found == alone[0] for found in alone)
    assert all(engine.ledger == together[0].ledger for engine in together)


def test_two_runs_on_one_engine_take_turns():
    """A stream that is read slowly while another prompt is answered; each gets what it gets alone."""
    alone = [finish(make_engine(LLAMA), request(prompt))[0] for prompt in ([1, 2, 3], [4, 5])]
    engine = make_engine(LLAMA)
    a, b = request([1, 2, 3]), request([4, 5])
    slow = engine.run([a])
    next(slow)
    finish(engine, b)
    for _ in slow:
        continue
    assert [a.new_tokens, b.new_tokens] == alone


def test_a_seeded_draw_does_not_depend_on_who_runs_beside_it():
    """One random stream per request; a generator shared by all would make texts depend on the traffic."""

    def drawn() -> Any:
        return request(range(5), 8, temperature=1.0, seed=11)

    [alone] = finish(make_engine(LLAMA), drawn())
    *_, beside = finish(make_engine(LLAMA), request(range(9), temperature=1.0, seed=3), request([7]), drawn())
    assert beside == alone


# Ending early


@pytest.mark.parametrize("steps", [0, 1, 3, 7])
def test_leaving_a_run_gives_the_cache_back(steps):
    """At the start, in mid-sequence, between two sequences: what is unfinished is aborted, what is done stays done."""
    engine = make_engine(LLAMA, max_num_seqs=1)
    a, b = request(range(6), 4), request(range(8), 4)
    run = engine.run([a, b])
    for _ in range(steps):
        next(run)
    run.close()
    assert engine.cache.held_bytes == 0
    assert not engine.scheduler.busy
    if steps:
        assert [seq.progress.finish_reason for seq in (a, b)] == ["length" if steps > 4 else "abort", "abort"]
        assert len(a.new_tokens) + len(b.new_tokens) == steps
    c, again = request(range(6), 4), request(range(6), 4)
    assert finish(engine, c) == finish(make_engine(LLAMA), again), "and the engine goes on as if it were new"


def test_a_step_that_fails_leaves_a_usable_engine():
    """The error is shown, the sequence is gone, its cache is free and the next answer is right."""

    class Broken(Engine):
        def forward(self, batch):
            logits = super().forward(batch)
            if self.ledger.steps == 3:
                raise MemoryError("no room")
            return logits

    engine = remade(make_engine(LLAMA), Broken)
    a = request(range(6), 9)
    with pytest.raises(MemoryError):
        finish(engine, a)
    assert (a.progress.finish_reason, engine.cache.held_bytes) == ("abort", 0)
    assert finish(engine, request(range(6))) == finish(make_engine(LLAMA), request(range(6)))


@pytest.mark.parametrize("steps", [2, 3])
def test_text_held_back_is_shown_when_a_sequence_ends(steps):
    """What might have become a stop string and did not: at the last token (3 steps) and on abort (2)."""
    tokens = finish(make_engine(LLAMA), request(range(6), 3))[0][:steps]
    seq = request(range(6), 3, stop=[f"{tokens[-1]} never"])
    run = make_engine(LLAMA).run([seq])
    for _ in range(steps):
        next(run)
    run.close()
    assert seq.progress.finish_reason == ("length" if steps == 3 else "abort")
    assert seq.text.text == "".join(f"{token} " for token in tokens)


# What a step reports


SWITCHES: list[tuple[dict[str, Any], int]] = [
    ({"max_num_seqs": 1}, 10),
    ({"max_num_seqs": 1, "kv_cache": "none"}, 10),
    ({"kv_cache": "none"}, 5),
    ({"max_num_batched_tokens": 5}, 6),  # 5 rows of the first prompt, then 4 and the other prompt
    ({"kv_cache": "paged", "block_size": 4, "num_blocks": 4, "prefix_cache": True}, 6),  # b makes way for a
]


@pytest.mark.parametrize(("switches", "steps"), SWITCHES)
def test_ledgers_of_the_steps_add_up_to_the_total(switches, steps):
    """Nothing is counted outside a step, or twice; not even by preemption, which the last of these comes to."""
    engine = make_engine(OLMOE, **switches)
    traces = list(engine.run([request(range(9)), request([1])]))
    for counter in fields(Ledger):
        total = sum(getattr(trace.ledger, counter.name) for trace in traces)
        assert total == getattr(engine.ledger, counter.name), counter.name
    assert engine.ledger.steps == len(traces) == steps
    assert engine.ledger.preemptions == ("num_blocks" in switches)


def test_cache_bytes_of_a_trace_are_those_after_the_step():
    """Held while a sequence runs: prompt and answer, 9 positions, or the context of 32 that was asked for; the unused
    part shrinks by a position a step.
    """
    for switches, held in (({}, 9), ({"max_model_len": 32}, 32)):
        traces = list(make_engine(LLAMA, **switches).run([request(range(6), 3)]))
        position = 2 * 2 * 2 * 6 * 4  # keys and values, layers, key heads, head size, bytes
        assert [trace.cache_bytes for trace in traces] == [held * position, held * position, 0]
        assert [trace.wasted_bytes for trace in traces] == [(held - 6) * position, (held - 7) * position, 0]


def test_metrics_on_a_simulated_clock_are_exact():
    """A step costs 1/4 s and 1/16 s a row. b waits for a: TTFT counts from its arrival, its speed from its start."""
    now = [100.0]

    class Timed(Engine):
        def forward(self, batch):
            now[0] += 1 / 4 + len(batch) / 16
            return super().forward(batch)

    engine = remade(make_engine(LLAMA, max_num_seqs=1), Timed, lambda: now[0])
    a, b, one = request(range(12), 3), request(range(4), 5), request([1, 2], 1)
    finish(engine, a, b, one)
    prefill_a, prefill_b, decode = 1.0, 0.5, 0.3125
    first, second, third = (request_metrics(seq) for seq in (a, b, one))
    end_a = prefill_a + 2 * decode
    assert (first.ttft_s, first.tpot_s, first.e2e_s) == (prefill_a, decode, end_a)
    assert (second.ttft_s, second.tpot_s) == (end_a + prefill_b, decode)
    assert (first.prompt_tps, second.prompt_tps) == (12 / prefill_a, 4 / prefill_b)
    assert (first.generation_tps, second.generation_tps) == (1 / decode, 1 / decode)
    assert (second.e2e_s, second.arrival_s) == (end_a + prefill_b + 4 * decode, 100.0)
    assert (third.tpot_s, third.generation_tps, third.generated_tokens) == (None, None, 1)
    assert (first.prompt_tokens, first.generated_tokens, first.cached_tokens) == (12, 3, 0)
    assert sys.platform == "win32" or first.peak_memory_bytes > 10_000_000, "bytes, and not pages or kilobytes"


IDLE: list[dict[str, Any]] = [
    {}, {"kv_cache": "none"}, {"batching": "static"}, {"speculative": "self", "draft_layers": 1},
    {"kv_cache": "paged", "prefix_cache": True, "speculative": "prompt-lookup", "num_draft_candidates": 3},
]  # fmt: skip


@pytest.mark.parametrize("watch", [False, True])
@pytest.mark.parametrize("switches", IDLE, ids=str)
def test_a_step_of_an_idle_engine_computes_nothing_and_says_so(switches, watch):
    """With no sequence at all, and with one that arrives later. Catches a forward pass over no rows, which cannot
    look up the tokens of an empty float array, and a step that is counted."""
    engine, later = make_engine(LLAMA, **switches), request(range(6), 3, delay=5.0)
    traces = [engine.step(watch)]
    later.arrive(0.0)
    engine.scheduler.add(later)
    traces.append(engine.step(watch))
    assert engine.ledger == Ledger()
    assert engine.cache.held_bytes == 0
    for trace in traces:
        assert (len(trace.batch), trace.turns, trace.choices, trace.joined, trace.left) == (0, (), [], (), ())
        assert str(trace).startswith("idle step, no sequence was ready to run: 0.0 ms, 0 FLOP, ")
        assert "\n" not in str(trace)
        assert "<b>idle step, no sequence was ready to run</b>" in trace._repr_html_()  # type: ignore[attr-defined]
    assert engine.forward(traces[0].batch).shape == (0, LLAMA.vocab_size)
    engine.abort(later)
    assert finish(engine, request(range(6), 3)) == finish(make_engine(LLAMA), request(range(6), 3))


@pytest.mark.parametrize("speculative", ["off", "self"])
def test_a_step_that_the_backend_compiled_replaces_the_transformer(speculative):
    """It is asked for once, with the engine's own model, cache and rows with drafts, and computes every batch.

    Catches a compiled step that is never called, one that is compiled in each step, and rows that are not counted."""
    asked, computed = [], []

    class Compiling(NumpyOps):
        def compile(self, model, cache, rows=1):
            asked.append((model, cache, rows))

            class Step:
                sample = self.sample

                def forward(step, batch):
                    computed.append(len(batch))
                    return transformer(model, batch, cache, self)

            return Step()

    plain = make_engine(LLAMA, speculative=speculative)
    ops = Compiling(plain.ledger)
    engine = Engine(plain.model, ops, plain.cache, plain.scheduler, plain.drafter, plain.clock)
    assert finish(engine, request(range(6), 5)) == finish(make_engine(LLAMA), request(range(6), 5))
    assert asked == [(engine.model, engine.cache, 1 + plain.drafter.most)]
    assert sum(computed) == engine.ledger.tokens_computed
    assert len(computed) == engine.ledger.steps


# Nothing repeated, widened or growing in silence


@pytest.mark.parametrize("config", [LLAMA, GPT2, OLMOE], ids=["llama", "gpt2", "olmoe"])
def test_without_a_cache_the_same_tokens_cost_every_position_again(config):
    """n + (n+1) + ... rows instead of n + 1 + 1 + ..., and the ledger says so; the text is the same."""
    n, new = 9, 8
    cached, plain = make_engine(config), make_engine(config, kv_cache="none")
    assert finish(cached, request(range(n), new)) == finish(plain, request(range(n), new))
    assert cached.ledger.tokens_computed == n + new - 1
    assert (cached.ledger.tokens_recomputed, plain.ledger.tokens_reused) == (0, 0)
    assert cached.ledger.tokens_reused == sum(n + i for i in range(new - 1))
    assert plain.ledger.tokens_computed == sum(n + i for i in range(new))
    assert plain.ledger.tokens_recomputed == sum(n + i for i in range(new - 1))


def floats_in(work: Callable[[], Any]) -> tuple[set[str], set[str]]:
    """Where functions of the package hold arrays of more than 4 bytes a float, and of less; sampling is left out."""
    wide, narrow = set(), set()

    def look(frame: FrameType, event: str, arg: Any) -> None:
        if event == "return" and not frame.f_code.co_filename.endswith("sampling.py"):
            for key, value in [*frame.f_locals.items(), ("its result", arg)]:
                for array in value if isinstance(value, tuple) else (value,):
                    if isinstance(array, np.ndarray | np.generic) and array.dtype.kind in "fc":
                        (wide if array.itemsize > 4 else narrow).add(f"{frame.f_code.co_qualname}: {key}")

    watch(look, work)
    return wide, narrow


@pytest.mark.parametrize("kv_cache", ["contiguous", "none"])
@pytest.mark.parametrize("name", FAMILIES)
def test_no_array_is_silently_float64(name, kv_cache, golden_folder):
    """Every array that any function of the package holds while loading and running; only sampling works in float64."""

    def work() -> None:
        llm = LLM(str(golden_folder(name)), kv_cache=kv_cache)
        llm.generate(load_golden(name).prompt, SamplingParams(max_tokens=3, ignore_eos=True))

    wide, narrow = floats_in(work)
    assert not wide
    assert {"attend_tile: s", "transformer: its result", "NumpyOps.rope: cos"} <= narrow, "nothing was looked at"


@pytest.mark.parametrize("switches", [{}, {"quantize": "int8"}, {"quantize": "int4", "kv_bits": 4},
                                      {"quantize": "int3", "quantize_head": "int8"}, {"dtype": "bfloat16"},
                                      {"quantize": "w8a8", "calibration_tokens": 128}], ids=str)  # fmt: skip
@pytest.mark.parametrize("backend", INSTALLED)
def test_no_array_of_a_rounded_model_is_silently_float64(backend, switches, golden_folder):
    """While it runs, on every backend. Catches a product of whole numbers with a scale: int32 · float32 is float64."""
    llm = LLM(str(golden_folder("qwen3")), backend=backend, **switches)
    prompt, params = load_golden("qwen3").prompt, SamplingParams(max_tokens=3, ignore_eos=True)
    wide, narrow = floats_in(lambda: llm.generate(prompt, params))
    assert not wide
    assert {"transformer: its result", "ReferenceOps.linear: y"} <= narrow, "nothing was looked at"


@pytest.mark.parametrize("name", FAMILIES)
def test_no_temporary_is_silently_float64(name, golden_folder, tmp_path):
    """The same for what an expression computes on the way, by a copy of the backend on a NumPy that is watched."""
    changed = {}
    for file in ("backends.numpy_ops", "backends.reference"):
        source = mutants.path_of(file).read_text(encoding="utf-8")
        changed[file] = source.replace("import numpy as np\n", "from watched_numpy import watched as np\n")
    golden, checkpoint = load_golden(name), load(golden_folder(name))
    watched_numpy.wide.clear()
    watched_numpy.seen.clear()
    with mutants.planted(tmp_path, changed) as package:
        assert golden_distance(package, checkpoint, golden.tokens, golden.logits) < TOLERANCE
    assert not watched_numpy.wide
    bend = "copysign" if checkpoint.config.activation == "gelu" else "tanh"
    assert {"matmul", "sqrt", bend, "exp", "multiply", "maximum"} <= set(watched_numpy.seen), "not all is watched"


def calls(work: Callable[[], Any]) -> int:
    """How many calls `work` makes, of Python functions of the package and of anything they call in C."""
    count = [0]

    def look(frame: FrameType, event: str, arg: Any) -> None:
        count[0] += event in ("call", "c_call")

    gc.disable()  # an engine that is gone leaves a call to the next collection
    try:
        watch(look, work)
    finally:
        gc.enable()
    return count[0]


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_a_decode_step_makes_the_same_calls_at_every_position(config):
    """Catches loops over earlier tokens, positions or blocks: quadratic in the whole, invisible in a short test."""
    engine = make_engine(config)
    seq = request(range(3), 59)
    run = engine.run([seq])
    next(run)
    counts = [calls(lambda: next(run)) for _ in range(57)]
    assert len(seq.tokens) == 61
    assert len(set(counts)) == 1
    assert counts[0] > 50


def test_a_prefill_makes_the_same_calls_whatever_its_length():
    """Rows are computed together; catches a loop over rows anywhere in the model."""
    counts = []
    for n in (4, 60):
        engine = make_engine(small_config())
        engine.scheduler.add(request(np.arange(n) % 31, 2))
        counts.append(calls(engine.step))
    assert counts[0] == counts[1] > 50


def test_a_step_that_shows_text_costs_the_same_early_and_late(golden_folder):
    """Text is decoded token by token; catches decoding all tokens again for every piece."""
    llm = LLM(str(golden_folder("llama")))
    params = SamplingParams(max_tokens=100, ignore_eos=True, stop=["never"])
    steps = llm.run(llm.sequences([[0, 5, 9]], params))
    counts = [calls(lambda: next(steps)) for _ in range(80)]
    assert max(counts[40:]) <= 1.2 * max(counts[:40])
