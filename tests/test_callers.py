"""Several callers of one LLM: each gets its sequential answer, and none feels that another leaves, fails or is slow."""

from __future__ import annotations

import asyncio
import copy
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
from callers import LONG, Gate, check_rest, engine_threads

from tinyinfer import LLM, Delta, Request, SamplingParams
from tinyinfer.engine.config import EngineConfig

Folder = Callable[[str], Path]
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
PAGED: dict[str, Any] = {"kv_cache": "paged", "block_size": 4}
WARNS = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12 warns of threads beside a fork


def ended(code: str, folder: Path) -> tuple[int, str, str]:
    """The exit status, stdout and stderr of a Python program that is given a model's folder."""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=LONG)
    return done.returncode, done.stdout, done.stderr


def greedy(n: int = 20, **more: Any) -> SamplingParams:
    return SamplingParams(max_tokens=n, ignore_eos=True, **more)


@pytest.fixture
def opened(golden_folder: Folder) -> Callable[..., LLM]:
    """A function that opens the golden llama with switches."""
    return lambda **switches: LLM(str(golden_folder("llama")), **switches)


@pytest.fixture
def llm(opened: Callable[..., LLM]) -> LLM:
    return opened(**PAGED)


# Turn by turn, on one thread


def test_a_call_inside_a_stream_changes_neither(llm: LLM) -> None:
    """The outer text is compared, too. Catches text of the stream that a step of the inner call brought and no one
    showed."""
    outer, inner = (llm.generate(text, greedy(n))[0].text for text, n in (("Once upon a time", 20), ("Hello", 30)))
    pieces, inside = [], []
    for piece in llm.stream("Once upon a time", greedy(20)):
        pieces.append(piece)
        inside.append(llm.generate("Hello", greedy(30))[0].text)
    assert "".join(pieces) == outer
    assert set(inside) == {inner}
    check_rest(llm)


@pytest.mark.parametrize("switches", [PAGED, {}, {"kv_cache": "none"}, {"batching": "static"}], ids=str)
def test_streams_that_are_read_in_turn_are_whole(opened: Callable[..., LLM], switches: dict[str, Any]) -> None:
    """Five of them, piece by piece. Catches pieces of one stream lost in the steps that another one asked for."""
    llm, prompts = opened(**switches), [f"Number {i}" for i in range(5)]
    wanted = [llm.generate(prompt, greedy(15 + i))[0].text for i, prompt in enumerate(prompts)]
    streams = {i: llm.stream(prompt, greedy(15 + i)) for i, prompt in enumerate(prompts)}
    found = [""] * 5
    while streams:
        for i, stream in list(streams.items()):
            piece = next(stream, None)
            found[i] += piece or ""
            if piece is None:
                del streams[i]
    assert found == wanted
    check_rest(llm)


def test_steps_with_a_call_between_them_show_every_step(llm: LLM) -> None:
    """Catches the traces of steps that the inner call's thread took: the outer loop saw 1 step of 20."""
    wanted = llm.generate("Outer", greedy(20))[0].token_ids
    [seq] = llm.sequences("Outer", greedy(20))
    tokens = []
    for trace in llm.run([seq]):
        tokens += [token for turn in trace.turns if turn.id == seq.id for token in turn.tokens]
        llm.generate("Inner", greedy(3))
    assert tokens == wanted == seq.new_tokens
    check_rest(llm)


def test_steps_of_one_caller_are_the_same_in_every_run(llm: LLM) -> None:
    """Alone, a caller of `steps` computes on its own thread, one step for each `next`: nothing runs ahead."""
    prompts, params = ["One", "Two two", "Three"], [greedy(3), greedy(5), greedy(4)]
    runs = []
    for _ in range(2):
        before, seen = llm.ledger.copy(), []
        for n, trace in enumerate(llm.steps(prompts, params), 1):
            seen.append([(turn.phase, turn.first, turn.rows, turn.tokens) for turn in trace.turns])
            assert (llm.ledger - before).steps == n
            assert not engine_threads()
        runs.append(seen)
    assert runs[0] == runs[1]
    assert len(runs[0]) == 5


def test_a_run_that_is_interrupted_before_it_begins_leaves_nothing(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between leaving the sequences and the first turn. Catches sequences that a later caller's steps compute.
    """

    def interrupted(*parts: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(llm._loop, "_next", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(llm.steps("Hello", greedy(50)))
    monkeypatch.undo()
    [other] = llm.generate("Other", greedy(2))
    check_rest(llm)
    assert llm.ledger.tokens_computed == len(other.prompt_token_ids) + 1


def test_a_run_that_is_interrupted_at_its_end_lets_others_go_on(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while its sequences are dropped. Catches a run that drives for ever, and every later request waits."""

    def interrupted(*parts: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(llm._loop.check_open(), "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(llm.steps("Hello", greedy(3)))
    monkeypatch.undo()
    assert llm.submit("Other", greedy(3)).result(LONG).finish_reason == "length"


def test_a_run_goes_on_by_itself_when_the_engines_thread_rests(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reader waits for the thread of another caller, which then ends. Catches a reader that is not woken."""
    monkeypatch.setattr("tinyinfer.engine.loop.TICK", 1e6)
    inbox, gate = llm._loop.check_open().inbox, Gate(llm)
    rest = inbox.rest
    monkeypatch.setattr(inbox, "rest", lambda driver: (sleep(0.05), rest(driver)))  # the reader waits again by then
    request = llm.submit("Hello", greedy(2))
    gate.wait()
    [seq] = llm.sequences("Other", greedy(9))
    reader = threading.Thread(target=list, args=(llm.run([seq]),), daemon=True)
    reader.start()
    gate.open()
    reader.join(LONG)
    assert (seq.progress.finish_reason, request.result(LONG).finish_reason) == ("length", "length")
    check_rest(llm)


def test_a_run_that_nobody_reads_holds_no_more_and_no_more(llm: LLM) -> None:
    """Its own steps, and nothing for the requests after them. Catches a queue that grows with every later request."""
    steps = llm.steps("Hello", greedy(4))
    next(steps)
    waiting = []
    for _ in range(4):
        llm.generate("Other", greedy(5))
        while threads := engine_threads():
            threads[0].join(LONG)
        [run] = llm._loop.check_open().inbox.runs
        waiting.append(run.traces.qsize())
    assert waiting == [waiting[0]] * 4
    assert len(list(steps)) == 3
    check_rest(llm)


def test_a_request_goes_on_when_a_caller_of_steps_pauses(llm: LLM) -> None:
    """It comes in the middle of a step that the caller computes, who asks for no other. Catches one that waits for it.
    """
    gate, run = Gate(llm), llm.steps("Hello", greedy(9))
    reader = threading.Thread(target=next, args=(run,))
    reader.start()
    gate.wait()
    request = llm.submit("Other", greedy(9))
    gate.open()
    assert request.result(LONG).finish_reason == "length"
    reader.join(LONG)
    assert len(list(run)) == 8
    check_rest(llm)


# Threads

CALLERS: dict[str, dict[str, Any]] = {
    "default": {},
    "prefixes, few blocks": {**PAGED, "prefix_cache": True, "num_blocks": 24, "max_num_batched_tokens": 16},
    "drafts": {**PAGED, "prefix_cache": True, "speculative": "prompt-lookup"},
    "static": {**PAGED, "batching": "static", "max_num_seqs": 3},
    "dynamic": {"batching": "dynamic", "max_num_seqs": 3, "batch_timeout": 0.001},
}


def in_every_way(llm: LLM, i: int) -> tuple[Any, ...]:
    """The answers to a caller's prompt by each method."""
    prompt, params = f"Question {i % 5}: what is {i}?", greedy(6 + i % 9, logprobs=0)
    out = llm.generate([prompt, "Again"], params)
    deltas = list(llm.submit(prompt, params))
    tokens = [token for delta in deltas for token in delta.token_ids]
    text = "".join(llm.stream(prompt, params))
    chat = llm.chat([{"role": "user", "content": prompt}], params)
    [seq] = llm.sequences([[1, 2, i]], params)
    traced = [token for trace in llm.run([seq]) for turn in trace.turns if turn.id == seq.id for token in turn.tokens]
    assert traced == seq.new_tokens
    return [one.token_ids for one in out], tokens, text, chat.text, traced


@pytest.mark.parametrize("name", CALLERS)
def test_threads_get_their_sequential_answers(opened: Callable[..., LLM], name: str) -> None:
    """Catches state that threads share without a lock: errors, and texts of another caller without any error."""
    llm, n = opened(**CALLERS[name]), 12
    tokens = list(range(3, 40))
    wanted = [in_every_way(llm, i) for i in range(n)]
    scores = llm.score(tokens)
    with ThreadPoolExecutor(6) as pool:
        scored = [pool.submit(llm.score, tokens) for _ in range(4)]
        found = list(pool.map(lambda i: in_every_way(llm, i), range(n)))
    assert found == wanted
    for one in scored:
        np.testing.assert_allclose(one.result(), scores, atol=1e-5)
    check_rest(llm)


def test_requests_of_several_threads_share_steps(llm: LLM) -> None:
    """Three that come while the first one's prompt is computed join its second step. Catches callers that wait in line.
    """
    gate, before = Gate(llm), llm.ledger.copy()
    first = llm.submit("One", greedy(20))
    gate.wait()
    with ThreadPoolExecutor(3) as pool:
        others = list(pool.map(lambda text: llm.submit(text, greedy(19)), ["Two", "Three", "Four"]))
    gate.open()
    assert [len(one.result(LONG).token_ids) for one in (first, *others)] == [20, 19, 19, 19]
    assert (llm.ledger - before).steps == 20
    check_rest(llm)


@pytest.mark.parametrize("prompt", [20, 30], ids=["it grows into the room", "it needs the room at once"])
def test_scoring_gives_way_to_requests_and_goes_on(opened: Callable[..., LLM], prompt: int, monkeypatch: Any) -> None:
    """Scores of 40 tokens, 10 at a time, hold half of a small cache when a request needs nearly all of it.

    Catches a request that is refused, and rows that are given twice or wrongly when they were computed again."""
    monkeypatch.setattr("tinyinfer.llm.SCORE_ROWS", 10)
    llm, tokens = opened(**PAGED, num_blocks=12), [(7 * i) % 90 + 5 for i in range(40)]
    wanted, text = llm.logits(tokens), llm.generate([tokens[:prompt]], greedy(45 - prompt))[0].text
    rows = llm.logits_by_rows(tokens)
    found = [next(rows), next(rows)]
    assert llm.generate([tokens[:prompt]], greedy(45 - prompt))[0].text == text
    found += rows
    assert [start for start, _ in found] == [0, 10, 20, 30]
    np.testing.assert_allclose(np.concatenate([logits for _, logits in found]), wanted, atol=1e-4)
    check_rest(llm)


def test_two_scorings_that_do_not_fit_together_take_turns(opened: Callable[..., LLM], monkeypatch: Any) -> None:
    """Read in turn, 10 of 40 tokens at a time. Catches one that is refused because the other one holds the room."""
    monkeypatch.setattr("tinyinfer.llm.SCORE_ROWS", 10)
    llm, texts = opened(**PAGED, num_blocks=12), [[(k * i) % 90 + 5 for i in range(40)] for k in (7, 11)]
    wanted = [llm.logits(text) for text in texts]
    both = zip(*(llm.logits_by_rows(text) for text in texts), strict=True)
    for found, expected in zip(zip(*both, strict=True), wanted, strict=True):
        np.testing.assert_allclose(np.concatenate([logits for _, logits in found]), expected, atol=1e-4)
    check_rest(llm)


def test_models_over_the_same_weights_count_every_step(opened: Callable[..., LLM]) -> None:
    """Two engines of two threads share a ledger, and their steps take turns. Catches counts that are lost, or that one
    step takes for its own, when both add at once."""
    one = opened()
    other = one.with_engine(EngineConfig(max_num_seqs=2))
    begun = threading.Event(), threading.Event()
    overlaps = [begun[1].wait, begun[0].wait]
    for i, llm in enumerate((one, other)):
        forward = llm.engine.forward

        def slow(batch: Any, i: int = i, forward: Any = forward) -> Any:
            begun[i].set()
            if i in racing:
                racing.remove(i)
                assert not overlaps[i](0.2), "both compute at once"
            logits = forward(batch)
            begun[i].clear()
            return logits

        llm.engine.forward = slow  # type: ignore[method-assign]
    racing: list[int] = []
    before = one.ledger.copy()
    wanted = [llm.generate("Hello there", greedy(60))[0].token_ids for llm in (one, other)]
    alone, before = one.ledger - before, one.ledger.copy()
    racing += [0, 1]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda llm: llm.generate("Hello there", greedy(60))[0].token_ids, (one, other)))
    assert found == wanted
    assert (one.ledger - before).as_dict() == alone.as_dict()
    check_rest(one, other)


def test_an_engine_that_waits_for_an_arrival_hears_its_callers(llm: LLM) -> None:
    """A request is due in an hour. One from another thread runs before it, and it can be cancelled."""
    [late] = llm.sequences("Late", greedy(3))
    late.delay_by(3600.0)
    request = Request(late, llm._loop)
    llm._loop.submit([request])
    with pytest.raises(TimeoutError, match=rf"^request {late.id} has not ended within 0.01 seconds; it goes on$"):
        request.result(0.01)
    assert llm.submit("Now", greedy(3)).result(LONG).finish_reason == "length"
    assert next(llm.steps("Now, too", greedy(3))).turns
    assert request.cancel()
    assert request.result(LONG).finish_reason == "abort"
    check_rest(llm)


# A request


def together(llm: LLM, prompts: list[str], params: list[SamplingParams]) -> list[Request]:
    """Requests that come in the same moment, as those of one `generate` do."""
    requests = [Request(seq, llm._loop) for seq in llm.sequences(prompts, params)]
    llm._loop.submit(requests)
    return requests


def joined(deltas: list[Delta]) -> tuple[str, list[int], list[Any], list[str | None]]:
    """The deltas' texts, tokens and log-probabilities as one each, and how each of them ended."""
    tokens = [token for delta in deltas for token in delta.token_ids]
    logprobs = [one for delta in deltas for one in delta.logprobs or []]
    return "".join(delta.text for delta in deltas), tokens, logprobs, [delta.finish_reason for delta in deltas]


def test_deltas_join_to_the_output(llm: LLM) -> None:
    """A reader that keeps up, and one that comes at the end: nothing lost, nothing twice, the reason in the last."""
    [wanted] = llm.generate("Hello", greedy(9, logprobs=2))
    request = llm.submit("Hello", greedy(9, logprobs=2))
    assert isinstance(request, Request)
    *parts, reasons = joined(list(request))
    assert parts == [wanted.text, wanted.token_ids, wanted.logprobs]
    assert reasons == [None] * (len(reasons) - 1) + ["length"]
    [late] = request
    assert joined([late])[:3] == tuple(parts)
    assert (late.reasoning, late.finish_reason, request.finish_reason) == ("", "length", "length")
    assert llm.submit("Hello", greedy(2)).result().logprobs is None
    assert [delta.logprobs for delta in llm.submit("Hello", greedy(1))] == [None]


def test_a_slow_reader_gets_one_larger_piece(llm: LLM) -> None:
    """The engine waits for no reader. Catches a delta for each step kept in a queue."""
    gate = Gate(llm)
    request = llm.submit("Hello", greedy(9))
    reader = iter(request)
    gate.wait()
    gate.let()
    first = next(reader)
    gate.let(4)
    second = next(reader)
    assert (len(first.token_ids), len(second.token_ids)) == (1, 4)
    gate.open()
    assert len(request.result(LONG).token_ids) == 9


@pytest.mark.parametrize("steps", [0, 1, 4, 8])
def test_a_cancelled_request_ends_within_a_step(llm: LLM, steps: int) -> None:
    """In its prompt, later, and in its last step; a second `cancel` does nothing. Catches a step computed for nothing.
    """
    wanted = llm.generate("Hello there", greedy(9))[0]
    before, gate = llm.ledger.copy(), Gate(llm)
    request, other = together(llm, ["Hello there", "Other"], [greedy(9)] * 2)
    gate.wait()
    gate.let(steps)
    assert request.finish_reason is None
    assert [request.cancel(), request.cancel()] == [True, False]
    gate.open()
    out = request.result(LONG)
    assert out.finish_reason == request.finish_reason == "abort"
    assert out.token_ids == wanted.token_ids[: steps + 1]  # the step that ran brought one more
    assert wanted.text.startswith(out.text)
    assert joined(list(request))[1:] == (out.token_ids, [], ["abort"])
    assert other.result(LONG).finish_reason == "length"
    assert not other.cancel()
    assert (llm.ledger - before).steps == 9
    check_rest(llm)


def test_a_stream_that_is_left_gives_its_blocks_back_within_a_step(llm: LLM) -> None:
    """`break` in a loop over LLM.stream; else every impatient reader costs a whole context."""
    gate = Gate(llm)
    stream = llm.stream("Hello", greedy(50))
    reader = threading.Thread(target=next, args=(stream,))
    reader.start()
    gate.wait()
    gate.let(3)
    reader.join(LONG)
    assert llm.engine.cache.blocks_in_use
    stream.close()
    gate.open()
    check_rest(llm)
    assert llm.ledger.steps == 4
    assert llm.engine.cache.blocks_in_use == 0


def test_what_a_callback_raises_ends_its_own_request_only(llm: LLM) -> None:
    """In its second step, or at its end. Catches an engine that dies with one caller's mistake."""
    wanted = llm.generate("Hello", greedy(9))[0]

    def broken(request: Request) -> None:
        if request.finish_reason or len(seen) == 2:
            raise SystemExit("of no use")
        seen.append(request.poll())

    for tokens in (9, 2):
        seen: list[Any] = []
        bad, good = llm.submit("Bad", greedy(tokens), broken), llm.submit("Hello", greedy(9))
        for read in (bad.result, lambda bad=bad: list(bad)):
            with pytest.raises(RuntimeError, match=rf"^on_progress of request {bad.id} raised SystemExit: ") as caught:
                read()
            assert isinstance(caught.value.__cause__, SystemExit)
        assert good.result(LONG).text == wanted.text
        assert not bad.cancel()
    check_rest(llm)


def test_a_callback_sees_every_step_and_the_end(llm: LLM) -> None:
    """`poll` gives what is new without waiting. Catches an end that is not told, as of a cancelled request."""
    seen: list[Delta | None] = []
    out = llm.submit("Hello", greedy(5), lambda request: seen.append(request.poll())).result()
    assert joined([delta for delta in seen if delta])[:2] == (out.text, out.token_ids)
    assert [delta.finish_reason for delta in seen if delta] == [None] * 4 + ["length"]
    gate, seen = Gate(llm), []
    request = llm.submit("Hello", greedy(5), lambda request: seen.append(request.poll()))
    gate.wait()
    request.cancel()
    gate.open()
    assert request.result(LONG).finish_reason == "abort"
    assert [delta.finish_reason for delta in seen if delta][-1] == "abort"
    assert request.poll() is None


def test_a_callback_may_submit_and_may_not_wait(llm: LLM) -> None:
    """The thread that it runs on is the one it would wait for. Catches a deadlock."""
    told: list[str] = []
    more: list[Request] = []

    def waiting(request: Request) -> None:
        more.append(llm.submit("More", greedy(2)))
        calls = [
            lambda: llm.generate("Hello"), lambda: next(llm.stream("Hello")), lambda: llm.logits([1]),
            lambda: next(llm.steps("Hello")), request.result, lambda: list(more[0]),
        ]  # fmt: skip
        for call in calls:
            try:
                call()
            except RuntimeError as error:
                told.append(str(error))

    llm.submit("Hello", greedy(1), waiting).result(LONG)
    assert len(told) == 6
    assert set(told) == {
        "a call inside on_progress would wait for the engine's thread, on which on_progress runs; submit the prompt "
        "there and wait for it in another thread"
    }
    more[0].cancel()
    check_rest(llm)


# asyncio


def test_tasks_share_the_engine_and_a_cancelled_one_leaves(llm: LLM) -> None:
    """Catches an event loop that stands still while the engine computes, and a task whose request goes on."""
    texts = ["One", "Two", "Three"]
    wanted = [llm.generate(text, greedy(12))[0].text for text in texts]
    gate, before = Gate(llm), llm.ledger.copy()

    async def read(text: str) -> str:
        return "".join([piece async for piece in llm.astream(text, greedy(12))])

    async def deltas() -> list[Delta]:
        return [delta async for delta in llm.submit("One", greedy(12))]

    async def all_of_them() -> tuple[list[str], list[Delta]]:
        gone = asyncio.create_task(read("Gone"))
        others = [asyncio.create_task(read(text)) for text in texts]
        whole = asyncio.create_task(deltas())
        while not gate.arrived.acquire(blocking=False):
            await asyncio.sleep(0)  # the event loop turns while the step waits
        for _ in range(5):
            await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        gate.open()
        return [await task for task in others], await whole

    found, whole = asyncio.run(all_of_them())
    assert found == wanted
    assert joined(whole)[0] == wanted[0]
    assert (llm.ledger - before).steps <= 14
    check_rest(llm)


def test_an_event_loop_that_ends_takes_its_requests_along(llm: LLM) -> None:
    """`break` in `async for`, and then asyncio.run returns. Catches an engine that fails at a closed event loop."""

    async def impatient() -> None:
        async for delta in llm.submit("Hello", greedy(100)):
            assert delta.token_ids
            break

    asyncio.run(impatient())
    check_rest(llm)
    gate, loop = Gate(llm), asyncio.new_event_loop()
    first, other = together(llm, ["Hello", "Other"], [greedy(9)] * 2)
    reader = aiter(first)
    gate.wait()
    gate.let()
    assert loop.run_until_complete(anext(reader)).token_ids
    loop.close()  # without a word to the reader
    gate.open()
    assert other.result(LONG).finish_reason == first.result(LONG).finish_reason == "length"
    check_rest(llm)


# fork


def answers(llm: LLM, i: int) -> list[int]:
    return llm.generate(f"Question number {i}: what is it?", greedy(40))[0].token_ids


@FORKS
@WARNS
@pytest.mark.parametrize(
    "switches", [PAGED, {}, {"kv_bits": 8}, {"kv_cache": "none"}, {**PAGED, "prefix_cache": True}], ids=str
)
def test_workers_that_are_forked_after_an_answer_give_the_parents_answers(
    opened: Callable[..., LLM], switches: dict[str, Any]
) -> None:
    """Three of them, while the parent goes on. Catches keys and values in memory that all processes write."""
    llm = opened(**switches)
    wanted = [answers(llm, i) for i in range(4)]
    llm.score([1, 2, 3])
    with multiprocessing.get_context("fork").Pool(3, keep, (llm,)) as pool:
        jobs = [pool.apply_async(kept_answers, (i,)) for _ in range(3) for i in range(4)]
        mine = [answers(llm, i) for i in range(4)]
        assert [job.get(LONG) for job in jobs] == 3 * wanted
    assert mine == wanted
    check_rest(llm)


def keep(llm: LLM) -> None:
    """Runs in a forked worker: the model comes with the memory, and is not sent."""
    kept_answers.llm = llm  # type: ignore[attr-defined]


def kept_answers(i: int) -> list[int]:
    return answers(kept_answers.llm, i)  # type: ignore[attr-defined]


@FORKS
@WARNS
def test_a_fork_with_requests_in_flight_is_refused(llm: LLM) -> None:
    """In each way of asking, and the parent is not disturbed. Catches a child that waits for its parent's thread."""
    wanted, gate = answers(llm, 1), Gate(llm)
    request = llm.submit("Question number 1: what is it?", greedy(40))
    reader = iter(request)
    gate.wait()
    receiver, sender = multiprocessing.get_context("fork").Pipe()
    child = multiprocessing.get_context("fork").Process(target=ask_in_child, args=(llm, request, reader, sender))
    child.start()
    assert receiver.poll(LONG)
    sentence = (
        "this process was forked while the LLM had requests in flight; fork before the first request or after the end "
        "of the last one, or make an LLM in the new process"
    )
    assert receiver.recv() == [f"RuntimeError {sentence}"] * 5
    child.join(LONG)
    assert child.exitcode == 0
    gate.open()
    assert request.result(LONG).token_ids == wanted
    check_rest(llm)


@FORKS
@WARNS
def test_threads_of_a_forked_process_may_begin_at_once(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread is overtaken by another one's first request. Catches one that takes that request for its parent's."""
    loop = llm._loop
    loop.check_open()
    monkeypatch.setattr("tinyinfer.engine.loop.os.getpid", lambda: -1)  # as in a child
    other, turns = loop.check_open(), loop._turns

    class Late(dict[int, Any]):
        def get(self, pid: int, *default: Any) -> Any:
            return None if len(turns) == 2 else super().get(pid, *default)

    loop._turns = turns = Late(turns)
    other.inbox.borrowed.add(llm.sequences("Hello")[0])
    assert loop.check_open() is other


def ask_in_child(llm: LLM, request: Request, reader: Any, sender: Any) -> None:
    """Runs in a forked process: sends what each way of asking raises."""
    told = []
    calls: list[Callable[[], Any]] = [
        lambda: llm.generate("Hello"), lambda: llm.submit("Hello"), request.result, lambda: next(reader),
        lambda: llm.score([1, 2]),
    ]  # fmt: skip
    for call in calls:
        try:
            call()
        except Exception as error:
            told.append(f"{type(error).__name__} {error}")
    reader.close()
    llm.close()
    sender.send(told)


# Failing


def test_a_step_that_fails_ends_the_requests_that_came_with_it(llm: LLM) -> None:
    """The second request's first step fails; the first one is computed again. Catches a failure that ends all."""
    wanted = llm.generate("Hello", greedy(9))[0]
    gate, forward, errors = Gate(llm), llm.engine.forward, [MemoryError("no room")]

    def failing(batch: Any) -> Any:
        if len(batch.spans) > 1 and errors:
            raise errors.pop()
        return forward(batch)

    llm.engine.forward = failing  # type: ignore[method-assign]
    first = llm.submit("Hello", greedy(9))
    gate.wait()
    gate.let(3)
    second = llm.submit("Second", greedy(9))
    gate.open()
    with pytest.raises(MemoryError, match="no room"):
        second.result(LONG)
    assert first.result(LONG).token_ids == wanted.token_ids
    check_rest(llm)


def test_a_model_that_always_fails_ends_each_request_with_the_error(llm: LLM) -> None:
    """Also for a caller that steps by itself. Catches a request that is tried for ever."""

    def failing(batch: Any) -> Any:
        raise FloatingPointError("not finite")

    forward, llm.engine.forward = llm.engine.forward, failing  # type: ignore[method-assign]
    requests = [llm.submit(text, greedy(9)) for text in ("One", "Two")]
    calls: list[Callable[[], Any]] = [
        *(one.result for one in requests), lambda: llm.generate(["a", "b"]), lambda: list(llm.steps("Hello")),
        lambda: llm.logits([1, 2]),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(FloatingPointError, match="not finite"):
            call()
    check_rest(llm)
    llm.engine.forward = forward  # type: ignore[method-assign]
    assert llm.generate("Hello", greedy(3))[0].finish_reason == "length"


def test_a_request_that_cannot_be_queued_ends_alone(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory for the queue itself. Catches a request that waits for ever, and the error given to one that runs."""
    add, big = llm.engine.add, llm.tokenizer.encode("Too big")

    def failing(seq: Any, now: float) -> None:
        if seq.prompt == big:
            raise MemoryError("no room")
        add(seq, now)

    monkeypatch.setattr(llm.engine, "add", failing)
    gate, first = Gate(llm), llm.submit("One", greedy(9))
    gate.wait()
    second = llm.submit("Too big", greedy(9))
    gate.open()
    calls: list[Callable[[], Any]] = [lambda: second.result(LONG), lambda: list(llm.steps("Too big"))]
    for call in calls:
        with pytest.raises(MemoryError, match="no room"):
            call()
    assert first.result(LONG).finish_reason == "length"
    check_rest(llm)


def test_a_request_without_room_lets_no_other_wait(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first in the queue cannot be admitted although nothing runs. Catches an engine that turns for ever."""
    missing, big = llm.engine.cache.missing, llm.tokenizer.encode("Too big")
    monkeypatch.setattr(llm.engine.cache, "missing", lambda seq, n: 10**6 if seq.prompt == big else missing(seq, n))
    gate = Gate(llm)
    requests = [llm.submit(text, greedy(4)) for text in ("One", "Too big", "Two")]
    gate.open()
    sentence = f"a prompt and its answer of up to {len(big) + 4} positions need .* of KV cache"
    with pytest.raises(MemoryError, match=sentence):
        requests[1].result(LONG)
    assert [requests[i].result(LONG).finish_reason for i in (0, 2)] == ["length"] * 2
    with pytest.raises(MemoryError, match=sentence):
        list(llm.steps("Too big", greedy(4)))
    check_rest(llm)


def test_a_request_that_can_never_fit_ends_at_once(llm: LLM) -> None:
    """Behind others that wait. Its sequence was made for a larger cache; a prompt as such is refused before."""
    small = llm.with_engine(EngineConfig(**PAGED, num_blocks=4, max_num_seqs=1))
    gate = Gate(small)
    others = [small.submit([5, 6, 7], greedy(8)) for _ in range(2)]
    gate.wait()
    [seq] = llm.sequences([[5] * 20], greedy(4))
    request = Request(seq, small._loop)
    small._loop.submit([request])
    gate.let()
    sentence = "23 positions do not fit into a cache of 16; raise max_model_len or num_blocks"
    with pytest.raises(ValueError, match=sentence):
        request.result(LONG)
    assert [one.finish_reason for one in others] == [None, None]
    gate.open()
    with pytest.raises(ValueError, match=sentence):
        next(small.run(llm.sequences([[5] * 20], greedy(4))))
    assert [one.result(LONG).finish_reason for one in others] == ["length"] * 2
    check_rest(small)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs a signal for the main thread")
def test_ctrl_c_leaves_at_once_and_the_others_go_on(llm: LLM) -> None:
    """While a step is running. Catches a caller that waits for the step, and bookkeeping that is cut in two."""
    wanted, gate = llm.generate("Other", greedy(9))[0], Gate(llm)
    other = llm.submit("Other", greedy(9))
    gate.wait()
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["One", "Two"], greedy(50))
    gate.open()
    assert other.result(LONG).text == wanted.text
    check_rest(llm)
    assert llm.ledger.steps <= 9 + 10


# The end


def test_closing_ends_open_requests_and_refuses_new_ones(llm: LLM) -> None:
    """Twice, too. Catches a thread that goes on, a reader that waits for ever, and a call that seems to work."""
    gate = Gate(llm)
    requests = [llm.submit(text, greedy(50)) for text in ("One", "Two")]
    steps = llm.steps("Three", greedy(50))
    gate.wait()
    closing = threading.Thread(target=llm.close)
    closing.start()
    gate.open()
    assert [one.result(LONG).finish_reason for one in requests] == ["abort"] * 2
    closing.join(LONG)
    llm.close()
    check_rest(llm)
    calls: list[Callable[[], Any]] = [
        lambda: llm.generate("Hello"), lambda: llm.submit("Hello"), lambda: next(llm.stream("Hello")),
        lambda: llm.chat([{"role": "user", "content": "Hi"}]), lambda: next(llm.steps("Hello")), lambda: next(steps),
        lambda: llm.logits([1, 2]), lambda: llm.score([1, 2]), lambda: next(llm.logits_by_rows([1, 2])),
        lambda: asyncio.run(anext(llm.astream("Hello"))), lambda: llm.with_engine(EngineConfig()),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(RuntimeError, match=r"^this LLM is closed; make a new one$"):
            call()
    assert requests[0].result().finish_reason == "abort"


def test_a_block_closes_its_llm(opened: Callable[..., LLM]) -> None:
    """Idle, and with a run of steps in the middle, which ends as if it were cancelled."""
    with opened() as llm:
        assert llm.generate("Hello", greedy(2))[0].finish_reason == "length"
        [seq] = llm.sequences("Hello", greedy(50))
        steps = llm.run([seq])
        next(steps)
    assert list(steps) == []
    assert seq.progress.finish_reason == "abort"
    with pytest.raises(RuntimeError, match="closed"):
        llm.generate("Hello")
    check_rest(llm)


def test_a_callback_may_close(llm: LLM) -> None:
    """On the engine's own thread, which cannot wait for itself."""
    out = llm.submit("Hello", greedy(50), lambda request: llm.close()).result(LONG)
    assert (out.finish_reason, len(out.token_ids)) == ("abort", 1)
    check_rest(llm)


def test_an_llm_that_is_deleted_leaves_nothing(opened: Callable[..., LLM]) -> None:
    """Catches a thread or a list that keeps the weights."""
    llm = opened()
    llm.generate("Hello", greedy(3))
    request = llm.submit("Hello", greedy(3))
    engine = weakref.ref(llm.engine)
    del llm
    assert request.result(LONG).finish_reason == "length"
    del request
    while threads := engine_threads():
        threads[0].join(LONG)
    gc.collect()
    assert engine() is None


@pytest.mark.parametrize("use", ["generate", "steps", "score"])
def test_an_llm_that_is_deleted_gives_its_memory_back_at_once(opened: Callable[..., LLM], use: str) -> None:
    """Without the garbage collector, which may come late. Catches a cycle that keeps weights and cache."""
    llm = opened(**PAGED)
    prompt: Any = [1, 2, 3] if use == "score" else "Hello"
    list(getattr(llm, use)(prompt))
    check_rest(llm)
    engine, model = weakref.ref(llm.engine), weakref.ref(llm.model)
    gc.collect()
    gc.disable()
    try:
        del llm
        assert (engine(), model()) == (None, None)
    finally:
        gc.enable()


def test_a_scoring_ends_when_its_llm_is_closed(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two of its pieces. Catches an engine thread that is started after the end."""
    monkeypatch.setattr("tinyinfer.llm.SCORE_ROWS", 2)
    rows = llm.logits_by_rows([1, 2, 3, 4, 5])
    next(rows)
    llm.close()
    with pytest.raises(RuntimeError, match=r"^this LLM is closed; make a new one$"):
        next(rows)
    check_rest(llm)


@pytest.mark.parametrize(
    "iterator",
    [
        "llm._loop.logits(llm.sequences([[5] * 50])[0], 2)", "llm.steps('Hi', params)", "llm.stream('Hi', params)",
        "iter(llm.submit('Hi'))",
    ],
)  # fmt: skip
def test_a_program_may_end_in_the_middle_of_an_iteration(golden_folder: Folder, iterator: str) -> None:
    """Catches an iterator that starts a thread when Python is ending: Python 3.11 waits for that thread for ever."""
    code = (
        "import sys; from tinyinfer import LLM, SamplingParams\n"
        "llm, params = LLM(sys.argv[1]), SamplingParams(max_tokens=200, ignore_eos=True)\n"
        f"iterator = {iterator}; next(iterator)"
    )
    assert ended(code, golden_folder("llama")) == (0, "", "")


def test_the_garbage_collector_may_come_while_the_engines_thread_begins(golden_folder: Folder) -> None:
    """It ends a forgotten run there. Catches a thread that waits for its starter, who waits for the thread."""
    code = (
        "import gc, sys, threading; from types import SimpleNamespace; from tinyinfer import LLM, SamplingParams\n"
        "llm, begin = LLM(sys.argv[1], kv_cache='paged'), threading.Thread._bootstrap_inner\n"
        "def collect_and_begin(thread): gc.collect(); begin(thread)\n"
        "threading.Thread._bootstrap_inner = collect_and_begin; gc.disable()\n"
        "forgotten = SimpleNamespace(steps=llm.steps('Hello', SamplingParams(max_tokens=30, ignore_eos=True)))\n"
        "next(forgotten.steps); forgotten.itself = forgotten; del forgotten\n"
        "print(llm.generate('Other', SamplingParams(max_tokens=3, ignore_eos=True))[0].finish_reason)\n"
        "llm.close(); print(llm.engine.scheduler.busy, llm.engine.cache.held_bytes)"
    )
    assert ended(code, golden_folder("llama")) == (0, "length\nFalse 0\n", "")


def test_a_program_may_end_with_a_request_in_flight(golden_folder: Folder) -> None:
    """At once, without a word. Catches a thread that a program waits for, and one that computes while Python ends."""
    code = (
        "import atexit, sys; atexit.register(lambda: print(r.finish_reason))\n"
        "from tinyinfer import LLM, SamplingParams; llm = LLM(sys.argv[1])\n"
        "def slow(request): import time; time.sleep(0.01)\n"
        "for _ in range(3): r = llm.submit('Hi', SamplingParams(max_tokens=10**6, ignore_eos=True), slow)\n"
        "while not r.poll(): pass\n"
        "print('done')"
    )
    assert ended(code, golden_folder("llama")) == (0, "done\nabort\n", "")


def test_a_program_may_end_in_the_middle_of_iterations(golden_folder: Folder) -> None:
    """Of steps, of logits, and of a stream. Catches a thread that is started for them when Python cannot start any."""
    code = (
        "import sys; from tinyinfer import LLM; llm = LLM(sys.argv[1], kv_cache='paged'); import tinyinfer.llm as m\n"
        "m.SCORE_ROWS = 2; each = llm.logits_by_rows([5] * 9), llm.steps('Hi'), llm.stream('Hi')\n"
        "[next(one) for one in each]; print('done')"
    )
    assert ended(code, golden_folder("llama")) == (0, "done\n", "")


def test_a_copy_shares_the_engine_and_a_pickle_has_its_own(llm: LLM) -> None:
    """Catches two loops that step one engine, and locks or modules in what is pickled."""
    wanted = llm.generate("Hello", greedy(9))[0].text
    other, twin = pickle.loads(pickle.dumps(llm)), copy.copy(llm)
    assert twin.engine is llm.engine
    assert other.engine is not llm.engine
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(lambda one: one.generate("Hello", greedy(9))[0].text, [llm, other, twin] * 4)) == {wanted}
    stream = llm.stream("Hello", greedy(100))
    next(stream)
    with pytest.raises(RuntimeError, match="requests in flight cannot be copied; wait for them or cancel them"):
        pickle.dumps(llm)
    stream.close()
    check_rest(llm, other)


def test_a_model_of_codes_is_pickled_like_any_other(opened: Callable[..., LLM]) -> None:
    """Catches an array module in what is pickled: packed weights know theirs."""
    llm = opened(quantize="int4")
    wanted = llm.generate("Hello", greedy(9))[0].text
    assert pickle.loads(pickle.dumps(llm)).generate("Hello", greedy(9))[0].text == wanted


def test_padding_of_a_static_batch_leaves_with_the_last_request(opened: Callable[..., LLM]) -> None:
    """One is finished and keeps its slot, the other is cancelled: no step follows. Catches blocks that stay taken."""
    llm = opened(**PAGED, batching="static")
    gate = Gate(llm)
    short, long = together(llm, ["One", "Two"], [greedy(1), greedy(50)])
    gate.wait()
    gate.let(2)
    assert short.result(LONG).finish_reason == "length"
    long.cancel()
    gate.open()
    check_rest(llm)
    assert llm.ledger.steps == 3
