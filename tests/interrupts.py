"""An error at any executed line of the engine: raises it, then counts what is left and asks for answers.

A setting is a set of switches and a piece of work that an interrupt meets. Work is done by a new engine each time, over
the same weights. `tally` interrupts it at the n-th line that it executes in the traced files. Afterwards every block
must be free or in the tree of prefixes, nothing may be kept for a sequence, requests of other callers must end with
their text, and new requests, a short and a long one, must get the plain engine's tokens.
"""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from dis import opname
from linecache import getline
from pathlib import Path
from random import Random
from typing import Any

from draft_heads import head_of
from helpers import ALWAYS_DRAFT, branches, finish, longrope, make_engine, request, small_config, tree

import tinyinfer
from tinyinfer.engine.engine import Engine
from tinyinfer.engine.inbox import Inbox
from tinyinfer.engine.loop import EngineLoop
from tinyinfer.model.config import ModelConfig
from tinyinfer.request import Request
from tinyinfer.sequence import Sequence

PACKAGE = Path(tinyinfer.__file__).parent
TRACED = tuple(str(PACKAGE / part) for part in ("batching", "kv_cache", "engine", "speculative", "sequence.py"))
CONFIG, SECOND = small_config(num_layers=1), small_config(num_layers=1, hidden_size=12, intermediate_size=16)
LONGROPE = small_config(num_layers=1, rope=(longrope(10),))  # the answers to A, B and C cross this boundary
PATIENCE = 4.0  # seconds after which work has hung; a piece of work takes milliseconds
A, B, C, D = list(range(9)), [*range(8), 30, 4], [7, 8, 7, 8, 7, 8, 7], [3, 1, 2]
LONG = [*range(8), *range(20, 30)]
KEPT = ("_lengths", "_written", "_tables", "_slots", "_open", "_arrays", "_packed", "_step", "_states", "_paths")


class Hung(BaseException):
    """The work has not ended."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises Hung in a block that takes longer, on systems that have alarms."""

    def ring(*_: object) -> None:
        raise Hung

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Interrupt:
    """Raises `error` at the n-th line that is executed in the traced files within its blocks; 0: counts lines only.

    lines: so many were executed. where: file, line and function in which it was raised.
    """

    def __init__(
        self, at: int, error: type[BaseException] = KeyboardInterrupt, files: tuple[str, ...] = TRACED
    ) -> None:
        self.at, self.error, self.files = at, error, files
        self.lines, self.where = 0, ""

    def __enter__(self) -> None:
        if not self.where:
            sys.settrace(self.call)

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def call(self, frame: Any, event: str, arg: object) -> Any:
        """Traces the frames of the traced files."""
        return self.line if frame.f_code.co_filename.startswith(self.files) else None

    def line(self, frame: Any, event: str, arg: object) -> Any:
        """Counts a line."""
        if event == "line" and not self.where and not releases_lock(frame):
            self.lines += 1
            if self.lines == self.at:
                code = frame.f_code
                self.where = f"{Path(code.co_filename).relative_to(PACKAGE)}:{frame.f_lineno} {code.co_name}"
                sys.settrace(None)
                raise self.error
        return self.line


def releases_lock(frame: Any) -> bool:
    """Whether the frame is at the end of `with lock:`, which a signal cannot reach: Python looks for signals at calls,
    and the call there is the release. (An error that a trace function raises there would leave the lock taken.)"""
    at_exit = not opname[frame.f_code.co_code[frame.f_lasti]].startswith(("LOAD_FAST", "LOAD_GLOBAL"))
    return at_exit and bool(re.match(r"\s+with \S*lock:", getline(frame.f_code.co_filename, frame.f_lineno)))


@dataclass
class World:
    """An engine, its callers' loop, and what other callers have asked for. mine: what the interrupted caller asked."""

    engine: Engine
    loop: EngineLoop
    interrupt: Interrupt
    requests: list[Request] = field(default_factory=list)
    others: list[Sequence] = field(default_factory=list)
    runs: list[Any] = field(default_factory=list)

    def submit(self, *asked: tuple[list[int], int]) -> None:
        """Another caller's requests, left for the engine by another thread."""
        new = [Request(request(prompt, n), self.loop) for prompt, n in asked]
        thread = threading.Thread(target=self.loop.submit, args=(new,))
        thread.start()
        thread.join()
        self.requests += new


Work = Callable[[World], None]


def alone(world: World) -> None:
    """A caller of `steps`: one run to its end, then one that is left after its second step."""
    with world.interrupt:
        for _ in world.loop.steps([request(A, 4), request(B, 3, stop=["2 2 2"]), request(C, 5)], watch=True):
            continue
        run = world.loop.steps([request(A, 4), request(D, 6)])
        next(run)
        next(run)
        run.close()


def owner(world: World) -> None:
    """A caller who alone owns the engine, and asks for logits between two steps."""
    engine, scored = world.engine, request(LONG, 1)
    try:
        with world.interrupt:
            run = engine.run([request(A, 4), request(B, 3), request(C, 5)])
            next(run)
            for start in range(0, len(LONG), 5):
                engine.logits(scored, start, 5)
                next(run, None)
            for _ in run:
                continue
    finally:
        engine.abort(scored)


def branching(world: World) -> None:
    """A caller whose prompts have branches, and scores of their own."""
    with world.interrupt:
        scored = [request(B, 3, prompt_logprobs=1), request(C, 0, prompt_logprobs=1)]
        for _ in world.loop.steps([*branches(LONG, 3, 4), *scored, *branches(A, 2, 1)]):
            continue


def beside_a_run(world: World) -> None:
    """Two callers of `steps` on one thread, in turn; the first one is interrupted."""
    world.others = [request(B, 5), request(C, 4)]
    other = world.loop.steps(world.others)
    world.runs = [other]
    next(other)
    run, going = world.loop.steps([request(A, 3), request(D, 2)]), True
    while going:
        with world.interrupt:
            going = next(run, None) is not None
        next(other, None)


def beside_requests(world: World) -> None:
    """A caller of `steps`, whose thread takes the turns of another caller's requests, too."""
    inbox = world.loop.check_open().inbox
    inbox.retire()  # so no thread takes the turns
    try:
        steps_with_requests(world)
    finally:
        inbox.retired = False


def beside_the_thread(world: World) -> None:
    """A caller of `steps`, beside requests that the engine's thread takes over."""
    steps_with_requests(world)


def steps_with_requests(world: World) -> None:
    """Steps; when the first one computes, another caller leaves requests."""
    forward = world.engine.forward

    def asked(batch: Any) -> Any:
        if not world.requests:
            world.submit((B, 3), (C, 1), (D, 4))
        return forward(batch)

    world.engine.forward = asked  # type: ignore[method-assign]
    with world.interrupt:
        for _ in world.loop.steps([request(A, 5), request(D, 2)]):
            continue


def in_the_thread(world: World) -> None:
    """Only other callers' requests: the error is the engine's thread's own."""

    def call(frame: Any, event: str, arg: object) -> Any:
        engines = threading.current_thread().name == "tinyinfer engine"
        return world.interrupt.call(frame, event, arg) if engines else None

    threading.settrace(call)
    try:
        world.submit((A, 4), (B, 3), (C, 2))
        for one in world.requests:
            with suppress(MemoryError, TimeoutError):
                one.result(timeout=PATIENCE / 2)
    finally:
        threading.settrace(None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Setting:
    """Switches, and the work that is interrupted. second: with a draft model, or a head. config: of the model."""

    switches: dict[str, Any]
    work: Work = alone
    second: bool = False
    error: type[BaseException] = KeyboardInterrupt
    config: ModelConfig = CONFIG


PAGED: dict[str, Any] = {"kv_cache": "paged", "block_size": 4}
PREFIXES: dict[str, Any] = {**PAGED, "num_blocks": 24, "prefix_cache": True}
LOOKUP: dict[str, Any] = {"speculative": "prompt-lookup", "num_draft_tokens": 3}
SETTINGS = {
    "contiguous": Setting({}),
    "none": Setting({"kv_cache": "none"}),
    "paged": Setting({**PAGED, "num_blocks": 24}),
    "paged, growing": Setting({**PAGED, "prefix_cache": True}),
    "prefix cache": Setting(PREFIXES),
    "prefix cache, preempting": Setting({**PREFIXES, "num_blocks": 8}),
    "chunked": Setting({**PREFIXES, "num_blocks": 9, "max_num_batched_tokens": 6}),
    "static": Setting({**PREFIXES, "batching": "static"}),
    "prompt-lookup": Setting({**PREFIXES, **LOOKUP}),
    "candidates": Setting({**PREFIXES, **LOOKUP, "num_draft_candidates": 3}),
    "draft": Setting({**PREFIXES, "speculative": "draft", "draft_model": "second", "num_draft_tokens": 2}, second=True),
    "head": Setting({**PREFIXES, "speculative": "draft", "draft_model": "head", "num_draft_tokens": 2}, second=True),
    "self, candidates": Setting(
        {**PAGED, "speculative": "self", "draft_layers": 1, "num_draft_tokens": 2, "num_draft_candidates": 2}
    ),
    "kv_bits 8": Setting({"kv_bits": 8, "block_size": 4}),
    "kv_bits 8, paged": Setting({**PREFIXES, "num_blocks": 9, "kv_bits": 8}),
    "logits": Setting(PREFIXES, owner),
    "logits, small pool": Setting({**PREFIXES, "num_blocks": 9}, owner),
    "logits, contiguous": Setting({}, owner),
    "logits, kv_bits 8, growing": Setting({**PAGED, "kv_bits": 8}, owner),
    "two runs": Setting({**PREFIXES, "num_blocks": 9}, beside_a_run),
    "two runs, static": Setting({**PAGED, "batching": "static"}, beside_a_run),
    "run and requests": Setting(PREFIXES, beside_requests),
    "run and requests, preempting": Setting({**PREFIXES, "num_blocks": 8}, beside_requests),
    "run and engine's thread": Setting(PREFIXES, beside_the_thread),
    "MemoryError, run": Setting({**PREFIXES, "num_blocks": 9}, beside_requests, error=MemoryError),
    "MemoryError, engine's thread": Setting({**PREFIXES, "num_blocks": 9}, in_the_thread, error=MemoryError),
    "branches": Setting({**PREFIXES, "num_blocks": 12}, branching),
    "branches, contiguous": Setting({"max_num_seqs": 2}, branching),
    "longrope": Setting({**PREFIXES, **LOOKUP, "num_blocks": 12, "max_num_batched_tokens": 6}, config=LONGROPE),
    "longrope, self, kv_bits 8": Setting({"kv_bits": 8, "block_size": 4, "speculative": "self", "draft_layers": 1,
                                          "num_draft_tokens": 2}, config=LONGROPE),
    "longrope, logits": Setting({**PREFIXES, "num_blocks": 9}, owner, config=LONGROPE),
}


def engine_of(setting: Setting) -> Engine:
    """A new engine that proposes as many drafts as it may."""
    second = (head_of if setting.switches["draft_model"] == "head" else SECOND) if setting.second else None
    return make_engine(setting.config, second=second, draft_cost=ALWAYS_DRAFT, **setting.switches)


_plain: dict[tuple[Any, ...], list[int]] = {}


def plain(prompt: list[int], n: int, setting: Setting) -> list[int]:
    """What an engine that nothing interrupts answers: without any optimization, but for bits that change numbers."""
    bits = setting.switches.get("kv_bits")
    key = (*prompt, n, bits, setting.config)
    if key not in _plain:
        switches = {"kv_bits": bits, "block_size": 4} if bits else {"kv_cache": "none"}
        _plain[key] = finish(make_engine(setting.config, **switches, max_num_seqs=1), request(prompt, n))[0]
    return _plain[key]


def leftovers(engine: Engine, loop: EngineLoop) -> tuple[int, list[str]]:
    """How many blocks have no owner, and what else is kept for sequences although there are none."""
    scheduler, found = engine.scheduler, []
    prefixes: Any = scheduler.prefixes
    for name in ("running", "waiting", "kept", "_last_turn", "members"):
        found += [name] if getattr(scheduler, name, None) else []
    drafter: Any = scheduler.drafter
    keepers = [engine.cache, prefixes, scheduler.candidates, getattr(drafter, "cache", None),
               getattr(drafter, "lengths", None)]  # fmt: skip
    for keeper in keepers:
        found += [f"{type(keeper).__name__}.{name}" for name in KEPT if getattr(keeper, name, None)]
    inbox, scoring = loop.check_open().inbox, loop.check_open().scoring
    found += ["scoring"] if scoring.waiting else []
    names = ("requests", "runs", "borrowed", "driving", "news", "ended")
    found += ["states of a head"] if getattr(drafter, "_states", None) else []
    found += [f"inbox.{name}" for name in names if getattr(inbox, name, None) and not empty(getattr(inbox, name))]
    nodes = [node for root in getattr(prefixes, "roots", {}).values() for node in tree(root)]
    found += ["users"] if any(node.users for node in nodes) else []
    found += ["evictable"] if len(nodes) != prefixes.evictable else []
    if not engine.cache.num_blocks:
        return 0, found + (["held_bytes"] if engine.cache.held_bytes else [])
    blocks: Any = engine.cache
    wanted = [0] * blocks.num_blocks
    for node in nodes:
        wanted[node.block] += 1
    free = sorted(blocks.blocks.free)
    lost = sum(not n for n in wanted) - len(set(free) & {i for i, n in enumerate(wanted) if not n})
    found += ["holders"] if blocks.blocks.holders != wanted else []
    found += ["free list"] if free != [i for i, n in enumerate(wanted) if not n] else []
    return lost, found


def empty(part: Any) -> bool:
    """Whether a container or queue holds nothing."""
    return bool(part.empty()) if hasattr(part, "empty") else part is None or not part


@dataclass
class Result:
    """What an interrupt left. where: "" when the work ended before the interrupt."""

    where: str
    lost: int = 0
    left: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    hung: bool = False

    @property
    def fine(self) -> bool:
        return not (self.lost or self.left or self.wrong or self.hung)


def interrupted(setting: Setting, at: int) -> tuple[Result, int]:
    """What is left after an interrupt at the n-th line, and how many lines were executed."""
    engine = engine_of(setting)
    world = World(engine, EngineLoop(engine), Interrupt(at, setting.error))
    result = Result("")
    try:
        with within(PATIENCE):
            try:
                setting.work(world)
            except (KeyboardInterrupt, MemoryError):
                pass
            except Exception as error:
                result.wrong.append(f"{type(error).__name__}: {error}")
            result.where = world.interrupt.where
            check(world, setting, result)
    except Hung:
        result.hung = True
    finally:
        sys.settrace(None)
        world.loop.closed = True
    return result, world.interrupt.lines


def signalled(setting: Setting, count: int, rng: Random, most: int = 3) -> Iterator[Result]:
    """Interrupts one engine so many times at random moments, up to `most` times in a row; the state after each.

    The interrupts are Python's own for a signal, so they may also come inside of a line, or while one is handled.
    """
    engine = engine_of(setting)
    world = World(engine, EngineLoop(engine), Interrupt(0, setting.error))
    shots = 0

    def ring(number: int, frame: Any) -> None:
        nonlocal shots
        while frame is not None and not frame.f_code.co_filename.startswith(TRACED):
            frame = frame.f_back
        if frame is not None and shots > 0:  # else the interrupt would be the test's own
            shots -= 1
            signal.setitimer(signal.ITIMER_REAL, rng.choice([3e-5, 1e-4, 3e-4]) if shots else 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(count):
            shots = rng.randint(1, most)
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 0.02))
            interrupted_run(world, rng)
            shots = 0
            signal.setitimer(signal.ITIMER_REAL, 0)
            yield after_all(world, setting, last=False)
        yield after_all(world, setting, last=True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def interrupted_run(world: World, rng: Random) -> None:
    """Runs until an interrupt comes through, and until no other one comes."""
    for _ in range(10):  # one more than there are interrupts in a row
        try:
            for _ in world.loop.steps([request(A, 4), request(B, 3), request(C, rng.randint(1, 5))]):
                continue
            return
        except KeyboardInterrupt:
            continue


def wait_for_rest(inbox: Inbox) -> None:
    """Waits until no thread drives: one that ends while something is left for it starts another one."""
    while True:
        with inbox.lock:
            thread = inbox.driver
        if not isinstance(thread, threading.Thread) or not thread.is_alive():
            return
        thread.join(PATIENCE)
        if thread.is_alive():
            raise Hung


def after_all(world: World, setting: Setting, last: bool) -> Result:
    """What is left once a new request has been answered."""
    result = Result("at a random moment")
    with within(PATIENCE):
        try:
            seq = request(LONG if last else D, 3)
            for _ in world.loop.steps([seq]):
                continue
            compare(seq, setting, result)
            wait_for_rest(world.loop.check_open().inbox)
            result.lost, result.left = leftovers(world.engine, world.loop)
        except Hung:
            result.hung = True
    return result


def check(world: World, setting: Setting, result: Result) -> None:
    """Asks for answers, those of other callers first, and counts before and after new ones."""
    inbox = world.loop.check_open().inbox
    if setting.work in (alone, owner):
        wait_for_rest(inbox)  # the engine's thread does what the interrupted caller has left
        result.lost, result.left = leftovers(world.engine, world.loop)
    for run in world.runs:
        try:
            for _ in run:
                continue
        except Exception as error:
            result.wrong.append(f"of another caller: {type(error).__name__}: {error}")
    if setting.work is not beside_requests:  # there a run takes the turns: the next one
        finish_requests(world, setting, result)
    for prompt, n in ((A, 4), (D, 3), (LONG, 6)):
        seq = request(prompt, n)
        try:
            for _ in world.loop.steps([seq]):
                continue
        except Exception as error:
            result.wrong.append(f"{type(error).__name__}: {error}")
        compare(seq, setting, result)
    finish_requests(world, setting, result)
    for seq in world.others:
        compare(seq, setting, result)
    wait_for_rest(inbox)
    lost, left = leftovers(world.engine, world.loop)
    result.lost, result.left = max(lost, result.lost), result.left or left
    prefixes: Any = world.engine.scheduler.prefixes
    held = sum(len(tree(root)) for root in getattr(prefixes, "roots", {}).values())
    evicted = sum(iter(prefixes.evict, False)) if held else 0
    if evicted != held:
        result.left.append("heap")


def finish_requests(world: World, setting: Setting, result: Result) -> None:
    """Waits for other callers' requests. An error of their own step may end them, but only with that error."""
    for one in world.requests:
        try:
            one.result(timeout=PATIENCE / 2)
        except TimeoutError:
            raise Hung from None
        except MemoryError:
            assert setting.error is MemoryError
            continue
        except BaseException as error:
            result.wrong.append(f"of another caller: {type(error).__name__}: {error}")
            continue
        compare(one.seq, setting, result)


def compare(seq: Sequence, setting: Setting, result: Result) -> None:
    """Tokens and text of a sequence must be the plain engine's."""
    wanted = plain(seq.prompt, seq.request.max_tokens, setting)
    if seq.new_tokens != wanted:
        result.wrong.append(f"{seq.new_tokens} for {wanted}, {seq.progress.finish_reason}")
    elif seq.text.text != "".join(f"{token} " for token in wanted):
        result.wrong.append(f"text {seq.text.text!r} for {wanted}")


def tally(name: str, every: int = 1, first: int = 1) -> Iterator[Result]:
    """The result of an interrupt at every n-th line of a setting, until its work is done."""
    at = first
    while True:
        result, _ = interrupted(SETTINGS[name], at)
        if not result.where:
            if not result.fine:
                yield result
            return
        yield result
        at += every
