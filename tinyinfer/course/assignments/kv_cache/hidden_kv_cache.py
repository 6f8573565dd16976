"""The hidden tests of the KV cache: the same claims, with layers that differ, random schedules and other sizes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from tinyinfer.course.assignments.kv_cache import test_kv_cache as public
from tinyinfer.course.compare import Failure, at_least, same_array, same_value
from tinyinfer.course.student import StudentError
from tinyinfer.lessons.cache_judge import OnePass, one_pass
from tinyinfer.llm import LLM
from tinyinfer.model.config import Rows
from tinyinfer.model.transformer import transformer
from tinyinfer.sequence import make_batch

SCHEDULE = 14  # one schedule for all students, with a student's own rows: a mistake costs all of them the same points
UNEVEN = (Rows(3, 4, 6), Rows(1, 10, 2), Rows(2, 5, 5), Rows(4, 2, 3))  # no layer remembers what another one does
ENDLESS = 10**14  # positions: no machine has an address for so many bytes


def test_layers_of_different_sizes(student: Any, rng: Any) -> None:
    """Catches sizes of layer 0 that are used for every layer."""
    mine = public.Remembering(student, rng, UNEVEN, 20)
    a, b = mine.new(15), mine.new(15)
    for work in (((a, 7),), ((b, 3), (a, 1)), ((a, 2), (b, 4)), ((b, 1), (a, 1))):
        mine.step(*work)


def test_a_random_schedule(student: Any, part: Any, rng: Any) -> None:
    """Catches what only a long run shows: chunks, tokens, rollbacks, forks and frees of four sequences, mixed."""
    for name, reserve_all in (("every sequence reserves all", True), ("sequences grow", False)):
        with part(name):
            mine = public.Remembering(student, rng, UNEVEN[:2], 32, reserve_all=reserve_all)
            running = [mine.new(5) for _ in range(3)]
            plan = np.random.default_rng(SCHEDULE)
            for turn in range(14):
                at_random(mine, plan, running, turn)
            for seq in running:
                for layer in range(2):
                    if mine.length(seq):
                        mine.read(layer, seq, 0, mine.length(seq))


def test_a_fork_of_a_fork(student: Any, part: Any, rng: Any) -> None:
    """Catches children that share with their parent, and rolled back positions that come back in a child."""
    with part("three generations"):
        mine = public.Remembering(student, rng, UNEVEN[1:], 20)
        a, b, c = mine.new(18), mine.new(18), mine.new(18)
        mine.step((a, 7), read=False)
        mine.fork(a, b)
        mine.step((b, 2), (a, 1), read=False)
        mine.fork(b, c)
        mine.step((a, 3), (b, 1), (c, 2))
    with part("a child of a sequence that was rolled back"):
        mine = public.Remembering(student, rng, UNEVEN[1:], 20, reserve_all=False)
        a, b = mine.new(6), mine.new(4)
        mine.step((a, 9), read=False)
        mine.truncate(a, 4)
        mine.fork(a, b)
        mine.step((b, 3), (a, 2))
    with part("the parent is freed"):
        mine = public.Remembering(student, rng, UNEVEN[:1], 20)
        a, b = mine.new(9), mine.new(9)
        mine.step((a, 5), read=False)
        mine.fork(a, b)
        mine.free(a)
        mine.step((b, 2))


def test_memory_that_is_refused(student: Any, part: Any, rng: Any) -> None:
    """Catches growth that gives up, or raises, when the system refuses all that the sequence can come to."""
    with part("less is asked for"):
        mine = public.Remembering(student, rng, UNEVEN[:2], ENDLESS, reserve_all=False)
        seq = mine.new(ENDLESS)
        try:
            mine.step((seq, 4), read=False)
            mine.reserve(seq, 14)
        except StudentError as error:
            if error.kind != "RoomError":
                raise
            hint = "when a size is refused, a smaller one may be given: ask for each size of `_sizes` in turn"
            raise Failure("reserve: a RoomError, though there is memory for the rows of this step.", hint) from error
        mine.read(1, seq, 0, 4)
    with part("grow says that it has failed"):
        mine = public.Remembering(student, rng, UNEVEN[:2], ENDLESS)
        same_value(mine.cache.grow(mine.new(4), 4), False, "grow(seq, 4), when the system refuses the memory")
    with part("a RoomError when there is no less"):
        mine = public.Remembering(student, rng, UNEVEN[:2], ENDLESS)
        try:
            mine.reserve(mine.new(4), 4)
        except StudentError as error:
            if error.kind != "RoomError":
                raise
        else:
            hint = "`grow` returns False when none of the sizes was given"
            raise Failure("reserve: no RoomError, though the system refuses the memory.", hint)


def test_bytes_of_a_step(student: Any, part: Any, rng: Any) -> None:
    """Catches reads of more or of less than a step needs: 2·L·K·E·4·S bytes for S positions."""
    layers, heads, size, positions = 3, 2, 8, 13
    mine = public.Remembering(student, rng, (Rows(heads, size, size),) * layers, 24)
    seq = mine.new(24)
    mine.step((seq, positions - 1), read=False)
    received, sent = student.traffic.received_bytes, student.traffic.sent_bytes
    predicted, at_first = 2 * layers * heads * size * public.FLOAT * positions, "in the decode step at position 12"
    with part("read"):
        before, written = received["ContiguousCache.read"], sent["ContiguousCache.append"]
        mine.step((seq, 1))
        read = received["ContiguousCache.read"] - before
        at_least(read, predicted, f"bytes read {at_first}")
        same_value(read, predicted, f"bytes read {at_first}")
        at_least(sent["ContiguousCache.append"] - written, predicted // positions, f"bytes stored {at_first}")
    with part("a window reads its own rows only"):
        before, window = received["ContiguousCache.read"], 4
        for layer in range(layers):
            mine.read(layer, seq, positions - window, positions)
        read = received["ContiguousCache.read"] - before
        same_value(read, predicted // positions * window, "bytes read by a window of 4", usual=[
            (predicted, "the start is ignored: all positions were read")])  # fmt: skip


def test_a_batch_of_windowed_models(student: Any, part: Any, rng: Any) -> None:
    """Catches what a real run mixes: two prompts in chunks, windows that differ by layer, 24 tokens."""
    llm = windowed(public.tiny_model(rng, 1)[0], (5, None))
    texts = [rng.integers(3, llm.config.vocab_size, n).tolist() for n in (24, 17)]
    truths = [one_pass(llm, tokens) for tokens in texts]
    for name, stops in {
        "both prompts in chunks": ((7, 3), (8, 11), (19, 16), (24, 17)),
        "one sequence decodes while the other is read": ((16, 1), (17, 9), (18, 12), (20, 16), (24, 17)),
    }.items():
        with part(name):
            check_batch(student, rng, llm, texts, truths, stops)


def at_random(mine: public.Remembering, plan: np.random.Generator, running: list[Any], turn: int) -> None:
    """A step of random rows for each sequence; in each fourth turn a rollback, a fork or a free of one of them."""
    room = {seq: mine.room - mine.length(seq) for seq in running}
    if turn % 4 != 3:
        work = [(seq, min(int(plan.integers(1, 4)), room[seq])) for seq in running]
        mine.step(*[(seq, rows) for seq, rows in work if rows])
        return
    chosen = running[int(plan.integers(len(running)))]
    if turn % 12 == 3:
        child = mine.new(5)
        mine.fork(chosen, child)
        running.append(child)
    elif turn % 12 == 7:
        mine.truncate(chosen, int(plan.integers(mine.length(chosen))))
    else:
        mine.free(chosen)
        running[running.index(chosen)] = mine.new(4)


def windowed(llm: LLM, windows: tuple[int | None, ...]) -> Any:
    """The same weights, whose layers see so many positions back: what one_pass asks of a model."""
    mixers: list[Any] = [layer.mixer for layer in llm.model.layers]
    layers = [
        replace(layer, mixer=replace(mixer, heads=replace(mixer.heads, window=window)))
        for layer, mixer, window in zip(llm.model.layers, mixers, windows, strict=True)
    ]
    model = replace(llm.model, layers=tuple(layers))
    return SimpleNamespace(model=model, ops=llm.ops, config=llm.config, sequences=llm.sequences)


def check_batch(
    student: Any, rng: Any, llm: Any, texts: list[list[int]], truths: list[OnePass], stops: tuple[tuple[int, int], ...]
) -> None:
    """Raises Failure unless two sequences, computed together up to each pair of stops, have the logits of one pass."""
    mine, sequences = public.InModel(student, rng, llm.config.memory, 32), llm.sequences(texts)
    done: tuple[int, int] = (0, 0)
    rows: tuple[list[Any], list[Any]] = ([], [])
    for pair in stops:
        work = [(seq, first, stop - first) for seq, first, stop in zip(sequences, done, pair, strict=True)]
        for seq, _, n in work:
            mine.reserve(seq, n)
        batch = make_batch([item for item in work if item[2]])
        wanted = replace(batch, logit_rows=np.arange(len(batch)))
        logits = transformer(llm.model, wanted, mine, llm.ops)
        for span in batch.spans:
            rows[sequences.index(span.seq)].append(logits[span.start : span.stop])
            mine.commit(span.seq, span.rows)
        done = pair
    for i, (mine_rows, truth) in enumerate(zip(rows, truths, strict=True)):
        atol = 1e-4 * float(np.abs(truth.logits).max())  # as in the public test
        same_array(np.concatenate(mine_rows), truth.logits, f"logits of prompt {i}", atol=atol, axes=("token", "id"))
