"""An interrupt between any two lines of the engine: no block is lost, no answer is wrong, no caller waits for ever."""

from __future__ import annotations

import gc
import signal
from random import Random
from threading import Thread
from typing import Any

import pytest
from helpers import check_blocks, finish, make_engine, request
from interrupts import (
    CONFIG,
    KEPT,
    LONG,
    PREFIXES,
    SETTINGS,
    engine_of,
    leftovers,
    plain,
    signalled,
    tally,
    wait_for_rest,
)

from tinyinfer.engine.engine import Engine
from tinyinfer.engine.inbox import Run
from tinyinfer.engine.loop import EngineLoop
from tinyinfer.errors import RoomError
from tinyinfer.request import Request

SAMPLED = ["prefix cache, preempting", "candidates", "draft", "kv_bits 8, paged", "logits, small pool", "two runs",
           "run and requests", "MemoryError, engine's thread", "longrope", "branches"]  # fmt: skip
ALARMS = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no alarms")


@pytest.mark.parametrize("name", SAMPLED)
def test_an_interrupt_at_some_lines_leaves_nothing(name: str) -> None:
    """Every 613th line that runs, from another first one in each setting. Catches blocks that are lost for ever, a
    half-written token, requests of other callers that hang (`-m full` and benchmarks/interrupts.py try more lines)."""
    results = list(tally(name, every=613, first=31 * (1 + SAMPLED.index(name))))
    assert len(results) > 4
    assert not [result for result in results if not result.fine]


@pytest.mark.full
@pytest.mark.parametrize("name", SETTINGS)
def test_an_interrupt_at_many_lines_leaves_nothing(name: str) -> None:
    """Every 29th line, in every setting."""
    assert not [result for result in tally(name, every=29, first=1 + list(SETTINGS).index(name)) if not result.fine]


@ALARMS
@pytest.mark.full
@pytest.mark.parametrize("name", ["contiguous", "prefix cache", "chunked", "draft", "kv_bits 8, paged"])
def test_interrupts_at_random_moments_leave_nothing(name: str) -> None:
    """500 in one engine, up to three in a row: also in the repair, and inside of a line."""
    assert not [result for result in signalled(SETTINGS[name], 500, Random(1)) if not result.fine]


# The repair by itself


def test_a_repair_that_is_interrupted_is_done_by_the_next_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C twice. Catches bookkeeping that is half counted, and believed."""
    engine = make_engine(CONFIG, **PREFIXES)
    run = engine.run([request(LONG, 4), request([1, 2], 4)])
    next(run)

    pool: Any = engine.cache

    def interrupted(*_: object) -> None:
        pool.blocks.free.pop()  # as if Ctrl-C came between two lines of `allocate`
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "forward", interrupted)
        patch.setattr(engine.scheduler.prefixes, "rebuild", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(run)
    seq = request(LONG, 5)
    assert finish(engine, seq) == [plain(LONG, 5, SETTINGS["prefix cache"])]
    prefixes: Any = engine.scheduler.prefixes
    check_blocks(engine, prefixes)
    assert not engine.scheduler.busy


def test_a_repair_keeps_what_was_computed_and_the_others_go_on() -> None:
    """The prefixes of committed steps stay, and those of the step that failed go. Catches a repair that empties all."""
    engine = make_engine(CONFIG, **PREFIXES)
    finish(engine, request(LONG, 1))
    kept = engine.scheduler.prefixes.evictable
    seq = request([*LONG, 9, 9, 9], 4)
    engine.add(seq, 0.0)
    engine.scheduler.next_batch(0.0)
    assert engine.scheduler.prefixes.evictable < kept
    engine.scheduler.repair()
    assert engine.scheduler.prefixes.evictable == kept == len(LONG) // 4
    assert (engine.scheduler.waiting, engine.scheduler.running) == ([seq], [])
    assert finish(engine, seq) == [plain(seq.prompt, 4, SETTINGS["prefix cache"])]
    assert seq.progress.cached_tokens == 16


@pytest.mark.parametrize("name", ["contiguous", "none", "paged", "kv_bits 8", "kv_bits 8, paged", "draft"])
def test_a_cache_that_is_cleared_keeps_nothing_of_a_sequence(name: str) -> None:
    """Catches float rows or arrays that a sequence finds again under its id, from before the interrupt."""
    setting = SETTINGS[name]
    engine = engine_of(setting)
    next(run := engine.run([request(LONG, 4), request([7, 8, 7, 8, 7, 8, 7], 5)]))
    next(run)
    caches: list[Any] = [engine.cache, *([engine.drafter.cache] if setting.second else [])]
    for cache in caches:
        assert any(getattr(cache, kept, None) for kept in KEPT)
        cache.clear()
        assert not [kept for kept in KEPT if getattr(cache, kept, None)]
        assert cache.held_bytes == 0


def test_a_half_written_token_is_written_once() -> None:
    """Ctrl-C behind the text of a token. Catches a text that has the token twice when it is computed again."""
    engine = make_engine(CONFIG, **PREFIXES)
    a, b = request([1, 2, 3], 4, stop=["2 2 2 2 2"]), request([4, 5], 4)
    for seq in (a, b):
        engine.add(seq, 0.0)
    engine.step()
    push = a.text.push

    def interrupted(token: int) -> bool:
        push(token)
        raise KeyboardInterrupt

    a.text.push = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    while engine.scheduler.busy:
        engine.step()
    for seq in (a, b):
        tokens = plain(seq.prompt, 4, SETTINGS["prefix cache"])
        assert (seq.new_tokens, seq.text.text) == (tokens, "".join(f"{token} " for token in tokens))
        assert len(seq.timing.times) == 4


def test_a_pool_without_a_free_block_says_so() -> None:
    """Were blocks lost, the error would name them. Catches an IndexError of NumPy in their place."""
    engine = make_engine(CONFIG, kv_cache="paged", block_size=4, num_blocks=6)
    blocks: Any = engine.cache
    blocks.blocks.free.clear()
    with pytest.raises(RoomError, match="all 6 blocks of the cache are taken; raise num_blocks"):
        finish(engine, request([1, 2, 3], 2))


# Callers


def loop_and_request() -> tuple[EngineLoop, Request]:
    """A loop, and a request of another caller that is not yet submitted."""
    loop = EngineLoop(make_engine(CONFIG, **PREFIXES))
    return loop, Request(request([1, 2, 3], 3), loop)


def answered(loop: EngineLoop, one: Request) -> None:
    """The request gets its tokens, and nothing is left."""
    assert one.result(timeout=20).token_ids == plain([1, 2, 3], 3, SETTINGS["prefix cache"])
    wait_for_rest(loop.check_open().inbox)
    assert leftovers(loop.engine, loop) == (0, [])


def test_a_run_whose_reader_is_gone_drives_no_more() -> None:
    """As if Ctrl-C came twice while the reader left. Catches an engine that waits for it for ever."""
    loop, one = loop_and_request()
    inbox, sequences = loop.check_open().inbox, [request([5, 6], 9)]
    steps = loop.steps(sequences)
    next(steps)
    [run] = inbox.runs
    loop._finish = lambda turns, run: None  # type: ignore[method-assign]
    steps.close()
    inbox.driver, inbox.driving = run, -1
    loop.submit([one])
    answered(loop, one)
    assert sequences[0].progress.finish_reason == "abort"


def test_nobody_drives_while_a_forgotten_reader_leaves() -> None:
    """Python takes the reader for gone before it leaves. Catches a second driver in the middle of that, whose requests
    end with a KeyError."""
    loop, one = loop_and_request()
    turns, drivers = loop.check_open(), []
    finish_run, submit = turns.finish, Thread(target=loop.submit, args=([one],))

    def beside_another(run: Run) -> None:
        if not drivers:
            submit.start()
            submit.join(0.3)
            drivers.append(turns.inbox.driver)
        finish_run(run)

    turns.finish = beside_another  # type: ignore[method-assign]
    steps = loop.steps([request([5, 6], 9)])
    next(steps)
    del steps
    submit.join(20)
    assert [type(driver) for driver in drivers] == [Run]
    answered(loop, one)


def test_a_thread_that_has_died_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a caller waits. Catches a wait for a thread that an error has ended."""
    loop, one = loop_and_request()
    inbox = loop.check_open().inbox
    dead = Thread(target=lambda: None)
    dead.start()
    dead.join()
    monkeypatch.setattr("tinyinfer.engine.inbox.TICK", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(inbox, "ensure_driver", lambda: None)
        loop.submit([one])
    inbox.driver = dead
    answered(loop, one)


def test_an_interrupted_action_is_done_by_the_next_driver() -> None:
    """Another caller's request was being queued when Ctrl-C hit the driver. Catches a request that is never computed.
    """
    loop, one = loop_and_request()
    turns, add, calls = loop.check_open(), loop.engine.add, []

    def interrupted(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 1:
            raise KeyboardInterrupt
        add(*args)

    loop.engine.add = interrupted  # type: ignore[method-assign]
    turns.inbox.take(busy := Run([], watch=False))
    steps = loop.steps([request([5, 6], 4)])
    loop.submit([one])
    turns.inbox.driver = None
    del busy
    with pytest.raises(KeyboardInterrupt):
        list(steps)
    answered(loop, one)


def test_a_request_that_is_over_is_told_so_after_an_interrupt() -> None:
    """Ctrl-C between two clients that are told. Catches the second one, taken out of the inbox and never told."""
    loop, one = loop_and_request()
    turns = loop.check_open()
    end, calls = one.end, []

    def interrupted(error: BaseException | None = None) -> None:
        calls.append(error)
        if len(calls) == 1:
            raise KeyboardInterrupt
        end(error)

    one.end = interrupted  # type: ignore[method-assign]
    loop.submit([one])
    answered(loop, one)
    assert len(calls) == 2
    assert not turns.inbox.busy


def test_a_request_that_failed_is_told_its_error_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the sequence of another caller's request, which has no room, is dropped. Catches a request that ends
    with "abort" and without a word."""
    loop, one = loop_and_request()
    inbox, error = loop.check_open().inbox, RoomError("no room", "", one.id)
    forward, free, calls = loop.engine.forward, loop.engine.scheduler._free, []

    def failing(batch: Any) -> Any:
        if any(span.seq is one.seq for span in batch.spans):
            raise error
        return forward(batch)

    def interrupted(seq: Any) -> None:
        calls.append(seq)
        if len(calls) == 1:
            raise KeyboardInterrupt
        free(seq)

    loop.engine.forward = failing  # type: ignore[method-assign]
    loop.engine.scheduler._free = interrupted  # type: ignore[method-assign]
    monkeypatch.setattr(inbox, "retired", True)  # so that no thread takes the turns
    loop.submit([one])
    with pytest.raises(KeyboardInterrupt):
        list(loop.steps([request([5, 6], 6)]))
    assert calls[0] is one.seq
    list(loop.steps([request([5, 6], 2)]))
    monkeypatch.setattr(inbox, "retired", False)
    with pytest.raises(RoomError) as caught:
        one.result(timeout=20)
    assert caught.value is error
    assert leftovers(loop.engine, loop) == (0, [])


def test_ctrl_c_in_a_callback_is_the_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller of `steps` takes another caller's turn, on the thread that Ctrl-C hits. Catches a Ctrl-C that only
    ends the other one's request."""
    loop, one = loop_and_request()
    inbox, calls = loop.check_open().inbox, []

    def called(request: Request) -> None:
        calls.append(request)
        if len(calls) == 2:
            raise KeyboardInterrupt

    one._on_progress = called
    monkeypatch.setattr(inbox, "retired", True)  # so that no thread takes the turns
    loop.submit([one])
    with pytest.raises(KeyboardInterrupt):
        list(loop.steps([request([5, 6], 6)]))
    monkeypatch.setattr(inbox, "retired", False)
    answered(loop, one)


# Growth


def contents(root: Any) -> int:
    """How many items all containers hold that can be reached from an object, without those of classes and modules."""
    seen: dict[int, Any] = {}
    stack, items = [root], 0
    while stack:
        one = stack.pop()
        if id(one) in seen or isinstance(one, type) or type(one).__name__ in ("module", "function", "method"):
            continue
        seen[id(one)] = one
        items += len(one) if isinstance(one, (list, dict, set, frozenset)) else 0
        stack += gc.get_referents(one)
    return items


def serve(engine: Engine, loop: EngineLoop, rng: Random, count: int) -> int:
    """Requests of every kind, then what is kept."""
    for i in range(count):
        prompt = [rng.randrange(3) for _ in range(rng.randrange(4, 14))]
        if i % 3 == 0:
            finish(engine, request(prompt, 3, temperature=1.0, seed=i))
        elif i % 3 == 1:
            steps = loop.steps([request(prompt, 4), request(prompt[:3], 1)])
            next(steps)
            steps.close()
        else:
            scored = request(prompt, 1)
            engine.logits(scored, 0, 99)
            engine.abort(scored)
    return contents((engine, loop))


@pytest.mark.parametrize("name", ["prefix cache, preempting", "candidates", "kv_bits 8"])
def test_no_bookkeeping_grows_with_requests(name: str) -> None:
    """Catches an entry for each request, as the prefix cache's heap had (vLLM's issues 28726 and 44237)."""
    engine, rng = make_engine(CONFIG, **SETTINGS[name].switches), Random(0)
    loop = EngineLoop(engine)
    before = serve(engine, loop, rng, 60)
    print(before, serve(engine, loop, rng, 60), serve(engine, loop, rng, 60))
    assert serve(engine, loop, rng, 90) <= before + 25
