"""Traces: every number of hand-worked steps in its place, as text and as HTML, whenever it is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from itertools import count
from typing import Any

import pytest
from helpers import ALWAYS_DRAFT, finish, make_engine, request, small_config

from tinyinfer import LLM, SamplingParams
from tinyinfer.cli import main
from tinyinfer.engine.trace import Block, StepTrace, Turn
from tinyinfer.engine.trace_html import NotebookTrace, Timeline, show_steps
from tinyinfer.ledger import Ledger
from tinyinfer.sequence import Batch, Draft, Sequence
from tinyinfer.speculative.verify import verify

LLAMA = small_config()
POSITION = 2 * 2 * 2 * 6 * 4  # bytes of a position: keys and values, layers, key heads, head size, bytes of a float
PAGED = {"kv_cache": "paged", "block_size": 4}
EVERYTHING = PAGED | {
    "num_blocks": 12, "prefix_cache": True, "speculative": "prompt-lookup", "max_num_batched_tokens": 8,
    "draft_cost": ALWAYS_DRAFT,
}  # fmt: skip


class Script:
    """A drafter that says what it was told to, once for each sequence."""

    def __init__(self, drafts: dict[Sequence, list[int]]) -> None:
        self.drafts = drafts

    verify = staticmethod(verify)

    def propose(self, sequences: list[Sequence]) -> None:
        for seq in sequences:
            seq.set_drafts([Draft(token) for token in self.drafts.pop(seq, [])])

    def observe(self, batch: Batch) -> None:
        """Learns nothing."""

    def free(self, seq: Sequence) -> None:
        pass


class Page(HTMLParser):
    """What a browser would make of a page: tables as rows of (text, class) of their cells, and what holds them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.classes: list[list[list[str]]] = []
        self.marked: list[tuple[str, str]] = []  # (tag or class of a box, its text)
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.cell = False
        self.box = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag == "table":
            self.tables.append([])
            self.classes.append([])
        if tag == "tr":
            self.tables[-1].append([])
            self.classes[-1].append([])
        if tag in ("th", "td"):
            self.cell = True
            self.tables[-1][-1].append("")
            self.classes[-1][-1].append(dict(attrs).get("class", ""))
        if tag in ("i", "ins", "del") and self.cell:
            self.box = dict(attrs).get("class", tag)
            self.marked.append((self.box, ""))

    def handle_data(self, data: str) -> None:
        if self.cell:
            self.tables[-1][-1][-1] += data
        if self.box:
            self.marked[-1] = self.box, self.marked[-1][1] + data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            self.cell = False
        if tag in ("i", "ins", "del"):
            self.box = ""


def alone(prompt: Any, n: int) -> list[int]:
    """The plain engine's first n tokens."""
    return finish(make_engine(LLAMA), request(prompt, n))[0]


def ticking() -> Callable[[], float]:
    """A clock that moves on by 1/8 s each time it is read."""
    times = count()
    return lambda: next(times) / 8


def words(*columns: str) -> list[list[str]]:
    """The cells of lines whose columns lie two or more spaces apart."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in columns]


# By hand


def test_two_sequences_of_one_step_that_begin_alike():
    """Catches: a block that is not marked as shared, new or kept, numbers under another's heading, wrong units.

    b finds the 8 positions that a computes in this very step, in blocks 0 and 1; each has one more block of its own.
    """
    a, b = request([*range(1, 9), 9], 3), request([*range(1, 9), 10, 11], 3)
    engine = make_engine(LLAMA, clock=ticking(), num_blocks=12, prefix_cache=True, **PAGED)
    trace = next(engine.run([a, b], watch=True))
    [token_a], [token_b] = alone(a.prompt, 1), alone(b.prompt, 1)
    head, events, *table = str(trace).splitlines()
    assert head.startswith("step of 11 rows: 375.0 ms, ")
    assert head.endswith(
        f"B of weights, KV {(9 + 10) * POSITION / 1000} kB read + {11 * POSITION / 1000} kB written, "
        f"cache {4 * 4 * POSITION / 1000} kB ({(3 + 2) * POSITION} B unused), 8 of 12 blocks free"
    )
    assert events == f"  joined: {a.id}, {b.id}"
    assert words(*table) == [
        ["sequence", "phase", "positions", "computed", "reused", "new tokens",
         "blocks (* shared, ' in prefix cache, + new)"],
        [f"{a.id}", "prefill", "0-8", "9", "0", f"{token_a}", "0*'+ 1*'+ 2+(1/4)"],
        [f"{b.id}", "prefill", "8-9", "2", "8 (prefix cache)", f"{token_b}", "0*' 1*' 3+(2/4)"],
    ]  # fmt: skip
    assert trace.turns[0].blocks[1:] == (Block(1, 4, 4, 2, True, True), Block(2, 1, 4, 1, False, True))
    assert (trace.seconds, trace.seconds_outside) == (0.375, 0.25)

    page = Page(trace._repr_html_())
    assert page.tables == [[
        ["sequence", "phase", "positions", "computed", "reused", "new tokens", "blocks"],
        [f"{a.id}", "prefill", "0-8", "9", "0", f"{token_a}", "012 1/4"],
        [f"{b.id}", "prefill", "8-9", "2", "8 (prefix cache)", f"{token_b}", "013 2/4"],
    ]]  # fmt: skip
    assert page.marked == [
        ("prefill", "prefill"), ("block shared new", "0"), ("block shared new", "1"), ("block own new", "2 1/4"),
        ("prefill", "prefill"), ("block shared", "0"), ("block shared", "1"), ("block own new", "3 2/4"),
    ]  # fmt: skip
    fills = [value for name, value in page.attributes if name == "style"]
    assert fills[:6] == [f"--fill: {n}%" for n in (100, 100, 25, 100, 100, 50)]


def test_columns_lie_below_each_other():
    """Catches headings and cells of different widths, and an empty cell that moves those behind it."""
    traces = list(make_engine(LLAMA, **EVERYTHING).run(crowd(), watch=True))
    assert len(traces) > 10
    for trace in traces:
        table = str(trace).splitlines()[1 + bool(trace.events()) :]
        names, *rows = trace.table()
        starts = [table[0].index(name) for name in names]
        for line, row in zip(table[1:], rows, strict=True):
            for start, cell in zip(starts, row, strict=True):
                assert line[start : start + len(cell)] == cell
                assert not line[start - 2 : start].strip()


def test_drafts_that_were_accepted_and_rejected():
    """Catches drafts that are looked for after the step has cleared them, and one counted right behind a wrong one."""
    seq = request(range(5), 6)
    right = alone(seq.prompt, 4)[1:]
    drafts = [right[0], (right[1] + 1) % 31, right[2]]
    engine = make_engine(LLAMA, num_blocks=8, **PAGED)
    engine.drafter = Script({seq: drafts})
    _, trace, after, *_ = engine.run([seq], watch=True)
    [turn] = trace.turns
    assert (turn.drafts, turn.accepted, turn.tokens) == (tuple(drafts), 1, tuple(right[:2]))
    assert words(str(trace).splitlines()[-1]) == [
        [f"{seq.id}", "decode", "5-8", "4", "5", f"{right[0]} | {drafts[1]} {drafts[2]}", f"{right[0]} {right[1]}",
         "0 1 2+(1/4)"],
    ]  # fmt: skip
    assert "drafts" in str(trace)
    assert "drafts" not in str(after), "the next step has none"
    page = Page(trace._repr_html_())
    assert page.marked[1:4] == [("ins", str(drafts[0])), ("del", str(drafts[1])), ("del", str(drafts[2]))]
    assert page.tables[0][1][5:7] == [" ".join(map(str, drafts)), f"{right[0]} {right[1]}"]
    cells = Page(Timeline((trace,))._repr_html_())
    assert (cells.tables[0][1], cells.classes[0][1]) == ([f"sequence {seq.id}", "2 1/3"], ["", "drafted"])


def test_an_end_among_right_drafts():
    """Catches a token behind the end shown as generated, and an unused draft shown as accepted."""
    prompt = range(3, 9)
    first, *right = alone(prompt, 4)
    assert right[1] not in (first, right[0]), "choose another prompt"
    seq = request(prompt, 9, eos=[right[1]])
    engine = make_engine(LLAMA)
    engine.drafter = Script({seq: right})
    *_, trace = engine.run([seq])
    [turn] = trace.turns
    assert (turn.tokens, turn.accepted, turn.ended) == (tuple(right[:2]), 2, "stop")
    assert str(trace).splitlines()[1] == f"  left: {seq.id} (stop)"
    expected = [f"{right[0]} {right[1]} | {right[2]}", f"{right[0]} {right[1]}, ended: stop"]
    assert words(str(trace).splitlines()[-1])[0][-2:] == expected


def preempting() -> tuple[list[StepTrace], Sequence, Sequence]:
    """Three blocks of four: in step 2 both want a second block, so b makes way and starts again when a is done."""
    a, b = request(range(4), 3), request(range(4, 8), 3)
    engine = make_engine(LLAMA, num_blocks=3, **PAGED)
    return list(engine.run([a, b], watch=True)), a, b


def test_a_preempted_sequence_waits_and_is_computed_again():
    """Catches a preemption that is not told, positions computed twice that look like new ones, blocks of a step ago."""
    traces, a, b = preempting()
    assert [trace.events() for trace in traces] == [
        f"joined: {a.id}, {b.id}",
        f"preempted: {b.id}; waiting: {b.id}",
        f"left: {a.id} (length); waiting: {b.id}",
        f"joined: {b.id}",
        f"left: {b.id} (length)",
    ]
    assert [words(*str(trace).splitlines()[3:]) for trace in traces] == [
        [[f"{a.id}", "prefill", "0-3", "4", "0", f"{a.new_tokens[0]}", "0+"],
         [f"{b.id}", "prefill", "0-3", "4", "0", f"{b.new_tokens[0]}", "1+"]],
        [[f"{a.id}", "decode", "4", "1", "4", f"{a.new_tokens[1]}", "0 2+(1/4)"]],
        [[f"{a.id}", "decode", "5", "1", "5", f"{a.new_tokens[2]}, ended: length", "0 2(2/4)"]],
        [[f"{b.id}", "recompute", "0-4", "5 (4 again)", "0", f"{b.new_tokens[1]}", "2+ 0+(1/4)"]],
        [[f"{b.id}", "decode", "5", "1", "5", f"{b.new_tokens[2]}, ended: length", "2 0(2/4)"]],
    ]  # fmt: skip
    assert [trace.pool for trace in traces] == [(1, 3), (1, 3), (3, 3), (1, 3), (3, 3)]


def test_the_timeline_of_a_run():
    """Catches a cell in another sequence's row or another step's column, and one in a wrong colour."""
    traces, a, b = preempting()
    page = Page(show_steps(iter(traces))._repr_html_())
    assert page.tables == [[
        ["step", "1", "2", "3", "4", "5"],
        [f"sequence {a.id}", "4", "1", "1", "", ""],
        [f"sequence {b.id}", "4", "×", "…", "5", "1"],
        ["rows", "8", "1", "1", "5", "1"],
        ["blocks held", "2", "2", "0", "2", "0"],
    ]]  # fmt: skip
    assert page.classes[0][1:3] == [
        ["", "prefill", "decode", "decode ended", "", ""],
        ["", "prefill", "preempted", "waiting", "recompute", "decode ended"],
    ]
    [title] = [value for name, value in page.attributes if name == "title" and "again" in value]
    assert f"computed: 5 (4 again); reused: 0; new tokens: {b.new_tokens[1]}; blocks: 2+ 0+(1/4)" in title


def test_a_finished_sequence_is_padding_and_all_leave_together():
    """Catches padding that is shown as a decode, a token of it, and an end that is told twice."""
    a, b = request(range(3), 1), request(range(5), 3)
    traces = list(make_engine(LLAMA, batching="static").run([a, b], watch=True))
    assert [turn.phase for trace in traces for turn in trace.turns if turn.id == a.id] == ["prefill"] + ["padding"] * 2
    last = str(traces[1]).splitlines()[-1]  # padding comes behind the running sequences
    assert words(last) == [[f"{a.id}", "padding", "3", "1", "3", "-"]]
    assert [trace.events() for trace in traces[1:]] == ["", f"left: {a.id} (length), {b.id} (length)"]
    assert [str(trace).count("ended") for trace in traces] == [1, 0, 1]
    assert not any("blocks" in str(trace) or "blocks" in trace._repr_html_() for trace in traces)
    page = Page(Timeline(tuple(traces))._repr_html_())
    assert page.classes[0][1] == ["", "prefill ended", "padding", "padding"]
    assert [row[0] for row in page.tables[0]][3:] == ["rows"], "no blocks, no row of them"


def test_a_finished_sequence_without_its_slot_has_left():
    """Three blocks of four: a's third one, in step 6, is that of b, which is done. Catches calling it a preemption."""
    a, b = request(range(4), 6), request(range(4, 8), 1)
    traces = list(make_engine(LLAMA, batching="static", num_blocks=3, **PAGED).run([a, b], watch=True))
    events = [f"joined: {a.id}, {b.id}", *[f"without rows: {b.id}"] * 4, f"left: {b.id} (length), {a.id} (length)"]
    assert [trace.events() for trace in traces] == events


def test_a_running_sequence_that_gets_no_rows():
    """The drafts of a take all four rows of the step, so b has a slot and nothing to do."""
    a, b = request([1, 2], 6), request([3, 4], 6)
    engine = make_engine(LLAMA, max_num_batched_tokens=4)
    engine.drafter = Script({a: [5, 6, 7]})
    run = engine.run([a, b], watch=True)
    traces = [next(run), next(run)]
    assert traces[1].events() == f"without rows: {b.id}"
    assert Page(Timeline(tuple(traces))._repr_html_()).tables[0][2] == [f"sequence {b.id}", "2", "○"]


def test_a_prompt_in_chunks():
    """Catches a token shown for a chunk that has none, and its rows as those of the whole prompt."""
    seq = request(range(10), 1)
    traces = list(make_engine(LLAMA, max_num_batched_tokens=4).run([seq]))
    lines = [words(str(trace).splitlines()[-1])[0][2:] for trace in traces]
    assert lines == [
        ["0-3", "4", "0", "-"], ["4-7", "4", "4", "-"], ["8-9", "2", "8", f"{seq.new_tokens[0]}, ended: length"],
    ]  # fmt: skip


def test_without_a_cache_every_decode_computes_all_again():
    """A decode is told by what it is for, not by how many rows it takes."""
    seq = request(range(4), 3)
    traces = list(make_engine(LLAMA, kv_cache="none").run([seq], watch=True))
    lines = [words(str(trace).splitlines()[-1])[0][1:5] for trace in traces]
    assert lines == [
        ["prefill", "0-3", "4", "0"], ["decode", "0-4", "5 (4 again)", "0"], ["decode", "0-5", "6 (5 again)", "0"],
    ]  # fmt: skip


# Whatever is on


def crowd() -> list[Sequence]:
    """Five that begin alike or repeat themselves, too many for twelve blocks."""
    begin = [1, 2, 3, 4, 5, 6, 7, 8]
    prompts = [[*begin, 9], [*begin, 1, 2, 3], [1, 2, 1, 2, 1, 2, 1], [*begin, 5], [0, 1, 2, 3, 4, 5]]
    return [request(prompt, n) for prompt, n in zip(prompts, (14, 16, 12, 6, 8), strict=True)]


def stayed(turns: Iterable[Turn]) -> list[Turn]:
    """Of each sequence's candidates the one that was right, else the first."""
    best: dict[int, Turn] = {}
    for turn in turns:
        if turn.phase != "candidate" or turn.accepted:
            best[turn.id] = turn
    return list(best.values())


SWITCHES: dict[str, dict[str, Any]] = {
    "everything": EVERYTHING,
    "static": EVERYTHING | {"batching": "static", "max_num_seqs": 3},
    "self": {"speculative": "self", "max_num_batched_tokens": 9},
    "candidates": EVERYTHING | {"num_draft_candidates": 2, "max_num_batched_tokens": 16},
    "contiguous": {"max_num_seqs": 2},
    "none": {"kv_cache": "none"},
}


@pytest.fixture(params=SWITCHES)
def switches(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Some of the ways to run."""
    return SWITCHES[request.param]


@pytest.mark.parametrize("watch", [False, True])
def test_turns_say_what_the_ledger_counts(switches, watch):
    """Step by step; catches a number that is taken from the sequence at the wrong moment, with any switch on."""
    sequences = crowd()
    traces = list(make_engine(LLAMA, **switches).run(sequences, watch=watch))
    for trace in traces:
        turns, ledger = trace.turns, trace.ledger
        assert sum(turn.rows for turn in turns) == ledger.tokens_computed == len(trace.batch)
        assert sum(turn.again for turn in turns) == ledger.tokens_recomputed
        assert sum(turn.first for turn in turns) == ledger.tokens_reused
        assert sum(turn.cached for turn in turns) == ledger.tokens_cached
        assert sum(turn.rows for turn in turns if turn.phase == "padding") == ledger.tokens_padding
        assert sum(len(turn.drafts) for turn in stayed(turns)) == ledger.drafts_proposed
        assert sum(turn.accepted for turn in turns) == ledger.drafts_accepted
        assert len(trace.preempted) == ledger.preemptions
    for seq in sequences:
        turns = [turn for trace in traces for turn in stayed(trace.turns) if turn.id == seq.id]
        assert [token for turn in turns for token in turn.tokens] == seq.new_tokens
        ends = [turn.ended for trace in traces for turn in trace.turns if turn.id == seq.id]
        assert [end for end in ends if end] == ["length"]
        assert sum(seq in trace.joined for trace in traces) == 1 + seq.progress.preemptions
        assert sum(seq in trace.left for trace in traces) == 1


def test_the_crowd_comes_to_everything_there_is_to_show():
    """Else the tests that use it would show nothing."""
    traces = list(make_engine(LLAMA, **EVERYTHING).run(crowd(), watch=True))
    turns = [turn for trace in traces for turn in trace.turns]
    assert {turn.phase for turn in turns} == {"prefill", "decode", "recompute"}
    assert {turn.accepted > 0 for turn in turns if turn.drafts} == {False, True}
    assert any(trace.preempted for trace in traces)
    assert any(trace.waiting for trace in traces)
    assert any(trace.idle for trace in traces)
    assert any(turn.cached for turn in turns)
    assert {block.sequences for turn in turns for block in turn.blocks} >= {1, 2, 3}


def test_blocks_are_those_that_the_cache_has_in_the_step(switches):
    """Every position of a turn lies in its blocks, and none of them is shared further than its neighbours say."""
    traces = list(make_engine(LLAMA, **switches).run(crowd(), watch=True))
    paged = switches.get("kv_cache") == "paged"
    for trace in traces:
        for turn in trace.turns:
            assert sum(block.filled for block in turn.blocks) == (turn.first + turn.rows) * paged
            for block in turn.blocks:
                tables = [turn for turn in trace.turns if block.number in {other.number for other in turn.blocks}]
                assert len(tables) <= block.sequences <= len(tables) + len(trace.idle)
                assert block.new or block.filled > 0
        assert (trace.pool is not None) == paged


def looks(trace: StepTrace) -> tuple[object, ...]:
    """Everything that it shows."""
    return str(trace), trace._repr_html_(), Timeline((trace,))._repr_html_(), trace.turns, trace.events()


def test_a_trace_shows_its_step_whenever_it_is_looked_at(switches):
    """At once and at the end, when the sequences have moved on and their blocks belong to others."""
    traces, first_sight = [], []
    for trace in make_engine(LLAMA, **switches).run(crowd(), watch=True):
        traces.append(trace)
        first_sight.append(looks(trace))
    assert [looks(trace) for trace in traces] == first_sight


def test_an_unwatched_run_costs_nothing(monkeypatch):
    """No block tables, no lists of waiting sequences, no text; catches a trace that is written down and never read."""

    def never(*args: Any) -> Any:
        raise AssertionError("the trace was read")

    for owner, name in ((StepTrace, "__str__"), (StepTrace, "table"), (Turn, "cells"), (StepTrace, "events")):
        monkeypatch.setattr(owner, name, never)
    sequences = crowd()
    engine = make_engine(LLAMA, **EVERYTHING | {"prefix_cache": False})
    monkeypatch.setattr(engine.cache, "block_table", never)
    traces = list(engine.run(sequences))
    assert all(seq.progress.finish_reason == "length" for seq in sequences)
    assert not any(turn.blocks for trace in traces for turn in trace.turns)
    assert not any(trace.waiting or trace.idle for trace in traces)


# Pages


def test_everything_is_escaped():
    """Catches a name that becomes a tag or leaves its attribute, wherever a name may come from later."""
    nasty = """<script>"x" & 'y'</script>"""
    turn = Turn(7, nasty, 0, 2, 0, 0, (5,), (), (5, 6), nasty)
    batch: Any = range(2)
    trace = NotebookTrace(batch, [], (0.0, 0.0, 0.0), Ledger(), 0, 0, turns=(turn,))
    step, run = Page(trace._repr_html_()), Page(Timeline((trace,))._repr_html_())
    assert step.tables[0][1] == ["7", nasty, "0-1", "2", "0", "5", f"5 6, ended: {nasty}"]
    assert step.marked[0] == (nasty, nasty)
    assert run.classes[0][1][1] == f"{nasty} ended"
    assert any(name == "title" and f"phase: {nasty}; positions: 0-1" in value for name, value in run.attributes)
    assert "script" not in step.tags | run.tags


def test_pages_need_nothing_from_elsewhere():
    """A saved notebook shows them without a network, and nothing in them runs."""
    traces = list(make_engine(LLAMA, **EVERYTHING).run(crowd(), watch=True))
    for text in (*(trace._repr_html_() for trace in traces), show_steps(traces)._repr_html_()):
        page = Page(text)
        assert page.tags <= {"style", "div", "p", "b", "small", "span", "table", "tr", "th", "td", "i", "ins", "del"}
        assert {name for name, _ in page.attributes} <= {"class", "style", "title"}
        assert not any(word in text for word in ("http", "url(", "@import", "//"))


# Watched runs


def test_steps_and_the_command_line_watch(golden_folder, capsys):
    """Catches a run that is not told that it is watched: all would be there but the blocks."""
    folder = str(golden_folder("llama"))
    llm = LLM(folder, kv_cache="paged", block_size=4)
    [trace] = llm.steps([0, 5, 9, 2, 7], SamplingParams(max_tokens=1, ignore_eos=True))
    assert [str(block) for block in trace.turns[0].blocks] == ["0+", "1+(1/4)"]
    assert main(["generate", "-m", folder, "--trace", "--kv-cache", "paged", "-n", "2", "-q", "hello"]) == 0
    assert "blocks (* shared" in capsys.readouterr().err
