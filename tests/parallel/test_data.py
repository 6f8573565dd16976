"""Replicas behind one queue say what one engine says, whatever is asked of them and whichever of them dies."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoint_of, finish, make_engine, one_bad_token, random_tensors, small_config
from interrupts import Interrupt
from replicated import MODEL, Threads, asked, dies_after, fails_at, fronted, hangs_after, in_stages, records

import tinyinfer
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import Engine
from tinyinfer.engine.loop import EngineLoop
from tinyinfer.engine.trace import StepTrace
from tinyinfer.errors import NotFiniteError, RequestError, SwitchError
from tinyinfer.ledger import Ledger
from tinyinfer.replicas.front import Front
from tinyinfer.replicas.start import Place, Replicas, accepted, connected
from tinyinfer.request import Request
from tinyinfer.sequence import Sequence

SHARED = [4, 5, 6, 7, 4, 5, 6, 9]
PROMPTS = [[*SHARED, 4, 5], [1, 2] * 6, [3, 9], [*SHARED, 4, 5, 8, 8], [*SHARED, 1], [2, 7, 7], [5], [1, 2] * 8]
PAGED = {"kv_cache": "paged", "block_size": 3}
SWITCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "chunks": {"max_num_batched_tokens": 4, "max_num_seqs": 2},
    "static": {"batching": "static", "max_num_seqs": 2},
    "dynamic": {"batching": "dynamic", "max_num_seqs": 2, "batch_timeout": 0.01},
    "prefixes": {**PAGED, "prefix_cache": True},
    "short of blocks": {"kv_cache": "paged", "block_size": 2, "num_blocks": 16, "prefix_cache": True},
    "lookup": {"speculative": "prompt-lookup"},
    "candidates": {**PAGED, "speculative": "prompt-lookup", "num_draft_candidates": 2},
}
ASKED: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": {"temperature": 1.0, "seed": 4},
    "penalties": {"repetition_penalty": 1.3, "frequency_penalty": 0.2},
    "scores": {"logprobs": 2},
    "stops": {"stop": ["7 8", "15 0"]},
}


def told(sequences: list[Sequence]) -> list[Any]:
    """All that a caller sees of sequences, but times."""
    tops = [[sorted(choice.top or ()) for choice in seq.progress.choices] for seq in sequences]
    seen = [(seq.new_tokens, seq.text.text, seq.progress.finish_reason, len(seq.timing.times)) for seq in sequences]
    return list(zip(seen, tops, strict=True))


def work(**given: Any) -> list[Sequence]:
    """The same requests each time."""
    return [asked(prompt, 12, **given) for prompt in PROMPTS]


def truth(switches: dict[str, Any], **given: Any) -> list[Any]:
    """What one engine tells of them."""
    sequences = work(**given)
    finish(make_engine(MODEL, **switches), *sequences)
    return told(sequences)


def steps(front: Engine, sequences: list[Sequence]) -> list[StepTrace]:
    """Runs sequences to their end; the traces, with no work left behind."""
    traces = list(front.run(sequences))
    assert not front.busy
    return traces


@pytest.mark.parametrize("given", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_replicas_say_what_one_engine_says(switches: dict[str, Any], given: dict[str, Any]) -> None:
    """Catches a replica with other noise, a token that is appended twice, and a text that only the replica has."""
    with fronted(3, **switches) as front:
        traces = steps(front, found := work(**given))
    assert told(found) == truth(switches, **given)
    assert {trace.replica for trace in traces if len(trace.batch)} == {0, 1, 2}


def test_the_ledger_counts_the_work_of_all_replicas() -> None:
    """Without shared prefixes that is the work of one engine. Catches counts of the front's own replica alone, and
    counts that are added twice.
    """
    with fronted(3) as front:
        traces = steps(front, work())
    one = make_engine(MODEL)
    finish(one, *work())
    for name in ("tokens_computed", "kv_written_bytes", "kv_read_bytes", "logit_rows", "attention_flops"):
        assert getattr(front.ledger, name) == getattr(one.ledger, name), name
    assert sum(trace.ledger.tokens_computed for trace in traces) == front.ledger.tokens_computed


def test_a_trace_names_the_callers_sequences_and_their_ids() -> None:
    """Catches the numbers of placements in what --trace prints, and a step of another replica without its sequences."""
    with fronted(2, **PAGED) as front:
        sequences = work()
        traces = list(front.run(sequences, watch=True))
    ids = {seq.id for seq in sequences}
    remote = [trace for trace in traces if trace.replica == 1]
    assert any(turn.blocks for trace in remote for turn in trace.turns), "watched"
    for trace in remote:
        assert {turn.id for turn in trace.turns} | {*trace.idle, *trace.waiting} <= ids
        assert [turn.id for turn in trace.turns] == [span.seq.id for span in trace.batch.spans]
        assert str(trace).startswith("replica 1, step of ")
    assert {seq for trace in remote for seq in trace.left} <= set(sequences)


def test_times_are_the_fronts() -> None:
    """Catches moments of another process's clock, which may lie hours away."""
    with fronted(2) as front:
        before = front.clock()
        traces = steps(front, sequences := work())
        after = front.clock()
    for seq in sequences:
        assert before <= seq.timing.arrival <= seq.timing.started <= seq.timing.times[0]
        assert seq.timing.times == sorted(seq.timing.times)
        assert seq.timing.times[-1] <= after
    ends = [trace.times[2] for trace in traces]
    assert ends == sorted(ends)


def test_requests_that_come_later_wait_for_their_time() -> None:
    """Catches a queue that is only read at the beginning."""
    with fronted(2) as front:
        sequences = [asked([3, 4], 3, delay=delay) for delay in (0.0, 0.15, 0.05)]
        steps(front, sequences)
    first, last, middle = (seq.timing.started - seq.timing.arrival for seq in sequences)
    assert min(first, last, middle) >= 0
    assert sequences[1].timing.started - sequences[0].timing.arrival >= 0.15


# Ends


def test_aborted_requests_leave_their_replica() -> None:
    """Catches blocks that a replica keeps, and a report of a dropped sequence that is taken for one of another."""
    engines: list[Engine] = []
    with fronted(2, records(engines), **PAGED) as front:
        sequences = work()
        run = front.run(sequences)
        for _ in range(6):
            next(run)
        dropped = sequences[::2]
        front.abort(*dropped)
        for _ in run:
            continue
        steps(front, again := work())
    expected = truth(PAGED)
    assert told(sequences)[1::2] == expected[1::2]
    assert told(again) == expected
    assert all(seq.progress.finish_reason == "abort" for seq in dropped)
    assert [engine.cache.blocks_in_use for engine in (front.own, *engines)] == [0, 0]


def test_a_replica_whose_requests_are_all_dropped_goes_on() -> None:
    """Again and again, so that it is told in the middle of its work. Catches one that waits for a step that never
    comes, or ends.
    """
    with fronted(2, routing="round-robin") as front:
        for n in range(12):
            run = front.run([asked([3, 4], 40), asked([5, 6], 40)])
            for _ in range(n + 1):
                next(run)
            run.close()
        steps(front, found := work())
        assert list(front.queue.remotes) == [1]
    assert told(found) == truth({})


def test_padding_of_a_static_batch_leaves_with_the_last_of_the_others() -> None:
    """Catches a replica that pads for ever, because the sequence that its batch waits for was aborted."""
    engines: list[Engine] = []
    with fronted(2, records(engines), batching="static", routing="round-robin") as front:
        long, short = [asked([3, 4], 60) for _ in range(2)], [asked([3, 4], 2) for _ in range(2)]
        run = front.run([*long, *short])
        while not all(seq.finished for seq in short):
            next(run)
        front.abort(*long)
        assert list(run) == []
        steps(front, [asked([5], 2), asked([6], 2)])
    assert not engines[0].busy


@pytest.mark.parametrize("after", range(0, 14))
def test_a_replica_that_dies_loses_no_request_and_answers_none_twice(
    after: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """After so many reports, the first of three. Catches tokens that are lost with it, or come again, and a front that
    waits for it.
    """
    switches: dict[str, Any] = {**PAGED, "prefix_cache": True, "max_num_seqs": 2}
    for given in ({}, {"temperature": 1.0, "seed": 4, "stop": ["7 8"]}):
        with fronted(3, dies_after(after), **switches) as front:
            steps(front, found := work(**given))
            steps(front, more := work(**given))
            assert list(front.queue.remotes) == [2]
        assert told(found) == told(more) == truth(switches, **given)
        assert capsys.readouterr().err.startswith("tinyinfer: replica 1 has ended")


def test_the_front_goes_on_alone_when_all_others_have_died(capsys: pytest.CaptureFixture[str]) -> None:
    with fronted(3, partial(dies_after(2), numbers=(1, 2))) as front:
        steps(front, found := work())
        assert not front.queue.remotes
    assert told(found) == truth({})
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_replica_that_hangs_counts_as_dead(after: int, capsys: pytest.CaptureFixture[str]) -> None:
    """It reads, and says nothing more. Catches a front that waits for it for ever."""
    with fronted(2, hangs_after(after), rank_timeout=0.5) as front:
        steps(front, found := work())
    assert told(found) == truth({})
    assert "tinyinfer: replica 1 has reported nothing for 0.5 s; " in capsys.readouterr().err


@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize("after", [2, 5, 9])
def test_a_replica_with_several_passes_under_way_names_only_what_the_front_knows(stages: int, after: int) -> None:
    """Watched, and while requests are aborted. Catches a trace of a pass that was begun before a sequence left."""
    with fronted(2, in_stages(stages), routing="round-robin", kv_cache="paged") as front:
        sequences = [asked([3, 4, i % 7 + 1], 3 + i % 9) for i in range(20)]
        run = front.run(sequences, watch=True)
        for _ in range(after):
            next(run)
        front.abort(*list(front.queue.remotes[1].placed)[::2])
        for _ in run:
            continue
        assert list(front.queue.remotes) == [1]
        assert not front.busy


def test_a_slow_replica_0_does_not_slow_down_the_others() -> None:
    """Its request gets no token before the other's is finished. Catches reports that pile up until the front's own
    replica has computed as many steps.
    """
    with fronted(2, routing="round-robin") as front:
        forward = front.own.forward

        def slow(batch: Any) -> Any:
            time.sleep(0.2)
            return forward(batch)

        front.own.forward = slow  # type: ignore[method-assign]
        mine, others = asked([3, 4], 40), asked([5, 6], 40)
        run = front.run([mine, others])
        while not others.finished:
            next(run)
        assert len(mine.new_tokens) < 20
        assert others.timing.times[-1] - others.timing.times[0] < 20 * 0.2
        front.abort(mine)


def test_a_front_that_pauses_gives_up_no_healthy_replica() -> None:
    """As a notebook that reads steps slowly. Catches silence that is counted while the front did not look."""
    with fronted(2, max_num_seqs=1, rank_timeout=0.5) as front:
        for n, _ in enumerate(front.run([asked([3, 4], 4) for _ in range(16)])):
            if n in (1, 5, 9):
                time.sleep(0.8)
        assert list(front.queue.remotes) == [1]


@pytest.mark.parametrize(("names", "shared"), [("aaa", 3), ("aab", 2), ("abb", 1)])
def test_replicas_share_the_memory_of_their_machine(
    names: str, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One machine, or two. Catches replicas that each plan a cache as if the machine were theirs."""
    own = threading.local()
    monkeypatch.setattr("tinyinfer.replicas.start.platform.node", lambda: own.name)
    monkeypatch.setattr("tinyinfer.replicas.start.connected", lambda place: pairs[place.number - 1][1])
    checkpoint, c = checkpoint_of(MODEL, random_tensors(MODEL)), EngineConfig(data_parallel_size=3)
    pairs, found = [Pipe() for _ in range(2)], [0, 0, 0]

    def replica(number: int) -> None:
        own.name, ops = names[number], NumpyOps(Ledger())
        replicas = Replicas(c, ops.ledger, Place(number, None, "", b""))
        if number == 0:
            replicas.links.update({1: pairs[0][0], 2: pairs[1][0]})
        replicas.load(checkpoint, ops, c, lambda done, of: None)
        found[number] = ops.processes

    threads = [threading.Thread(target=replica, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [names.count(name) for name in names]
    assert found[0] == shared


def test_strangers_do_not_keep_replicas_away() -> None:
    """One that says nothing, one that says anything. Catches an accept that waits for a stranger, or ends with it."""
    key, listener = b"key" * 10, Listener(("127.0.0.1", 0))
    place = Place(1, None, listener.address, key)
    silent, talking = socket.create_connection(listener.address), socket.create_connection(listener.address)
    talking.sendall(b"GET / HTTP/1.1\r\n\r\n")
    talking.close()
    coming: list[Any] = []
    thread = threading.Thread(target=lambda: coming.append(connected(place)))
    thread.start()
    found = accepted(listener, 2, key)
    thread.join(20)
    silent.close()
    assert list(found) == [1]
    found[1].send("hello")
    assert coming[0].recv() == "hello"


def test_a_replica_whose_process_has_ended_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """launch leaves a file. Catches a front that waits two minutes for one that ran out of memory at its beginning."""
    (tmp_path / "ended1").touch()
    monkeypatch.setenv("TINYINFER_RANKS", str(tmp_path))
    with pytest.raises(SwitchError, match="of its replicas, number 1 has ended"):
        accepted(Listener(str(tmp_path / "front")), 2, b"key")


def test_a_replica_without_work_may_be_silent() -> None:
    """Catches one that is given up because nothing was asked of it."""
    with fronted(2, rank_timeout=0.02) as front:
        steps(front, [asked([3], 2)])
        steps(front, [asked([3], 2, delay=0.1)])
        assert list(front.queue.remotes) == [1]


# Errors


def test_a_text_that_is_made_elsewhere_ends_its_request_there() -> None:
    """A stop string, in a text that the front alone shows. Catches a replica that computes what no text will hold."""
    with fronted(2, routing="round-robin") as front:
        steps(front, [asked([3, 4], 40, stop=["7 8"]), asked([3, 4], 40, stop=["7 8"])])
    one = make_engine(MODEL)
    finish(one, asked([3, 4], 40, stop=["7 8"]))
    assert front.ledger.tokens_computed == 2 * one.ledger.tokens_computed


def test_an_error_of_a_replica_ends_its_requests_and_no_others() -> None:
    """Through the engine's thread. Catches an error without its request, which would end requests of other callers."""
    with fronted(2, fails_at(3)) as front:
        loop = EngineLoop(front)
        requests = [Request(seq, loop) for seq in work()]
        loop.submit(requests)
        errors, ended = [], []
        for request in requests:
            try:
                ended.append(request.result(60).token_ids)
            except RequestError as error:
                errors.append(str(error))
        loop.close()
    assert set(errors) == {"replica 1 has failed with it (RuntimeError: of a test)"}
    assert ended
    assert all(tokens in [one[0][0] for one in truth({})] for tokens in ended)


def test_numbers_that_overflow_in_a_replica_name_the_callers_request() -> None:
    config = small_config(logit_scale=1e38)
    with fronted(2, checkpoint=checkpoint_of(config, random_tensors(config)), routing="round-robin") as front:
        loop = EngineLoop(front)
        requests = [Request(asked([3, 4], 3), loop) for _ in range(4)]
        loop.submit(requests)
        for request in requests:
            with pytest.raises(NotFiniteError) as caught:
                request.result(60)
            assert caught.value.request_id == request.id
        loop.close()


def test_an_overflow_in_a_replica_costs_the_others_of_its_step_nothing() -> None:
    """In the front's own replica, and in another one. Catches others that are preempted, and computed again."""
    source = checkpoint_of(*one_bad_token(MODEL, bad := 30))
    with fronted(2, checkpoint=source, routing="round-robin") as front:
        loop = EngineLoop(front)
        requests = [Request(asked(prompt, 9), loop) for prompt in ([3, 4], [5, 6], [7, bad], [8, bad], [9, 10], [1, 2])]
        loop.submit(requests)
        for n, request in enumerate(requests):
            if n in (2, 3):
                with pytest.raises(NotFiniteError, match="in the embedding"):
                    request.result(60)
            else:
                assert len(request.result(60).token_ids) == 9
        loop.close()
        assert front.ledger.preemptions == 0


def test_a_sequence_that_can_never_fit_is_refused_before_any_work() -> None:
    with fronted(2, max_model_len=8) as front, pytest.raises(ValueError, match="9 positions do not fit into a cache"):
        list(front.run([asked([1] * 9, 1)]))


def drive(front: Front, sequences: list[Sequence]) -> None:
    """Steps to the end, as the engine's thread does, whatever interrupts a step."""
    while any(not seq.finished for seq in sequences):
        if front.wait():
            front.step()


@pytest.mark.parametrize("start", range(1, 26, 3))
def test_an_interrupt_at_any_line_loses_no_request_and_answers_none_twice(start: int) -> None:
    """Ctrl-C in the front. Catches a report that was half taken, and a sequence that is in no list."""
    traced = ("replicas/front.py", "replicas/queue.py", "replicas/remote.py", "sequence.py")
    files = tuple(str(Path(tinyinfer.__file__).parent / name) for name in traced)
    for at in range(start, 1200, 131):
        with fronted(2, **PAGED, max_num_seqs=3) as front:
            sequences = work()
            for seq in sequences:
                front.add(seq, front.clock())
            with suppress(KeyboardInterrupt), Interrupt(at, files=files):
                drive(front, sequences)
            drive(front, sequences)
            assert not front.busy
        assert told(sequences) == truth(PAGED), at


# Several engines


def test_engines_with_other_switches_share_the_replicas() -> None:
    """As `with_engine` makes them. Catches an engine that reads what another one was told."""
    threads = Threads(2)
    c = EngineConfig(data_parallel_size=2)
    replicas, first = threads.start(c)
    other = EngineConfig(data_parallel_size=2, **PAGED, max_num_seqs=2)  # type: ignore[arg-type]
    second = replicas.build(first.model, first.ops, other, first.clock)
    for engine in (first, second, first):
        steps(engine, found := work())
        assert told(found) == truth({})
    with pytest.raises(SwitchError, match="data_parallel_size=2 has replicas of another model than the one that is to"):
        replicas.build(make_engine(MODEL).model, first.ops, c, first.clock)
    threads.end()


def test_forgotten_prefixes_are_forgotten_in_all_replicas() -> None:
    """As between two rounds of `bench`. Catches a round that finds what the one before it computed."""
    with fronted(2, **PAGED, prefix_cache=True, routing="round-robin") as front:
        for _ in range(2):
            before = front.ledger.copy()
            steps(front, [asked([1, 2] * 6, 2), asked([1, 2] * 6, 2)])
            assert (front.ledger - before).tokens_cached == 0
            front.forget_prefixes()
        steps(front, [asked([1, 2] * 6, 2), asked([1, 2] * 6, 2)])
        steps(front, more := [asked([1, 2] * 6, 2), asked([1, 2] * 6, 2)])
    assert [seq.progress.cached_tokens for seq in more] == [9, 9]
