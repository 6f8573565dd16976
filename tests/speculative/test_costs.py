"""What drafts cost, in the time of a made-up machine: the clock is read from the ledger, so every run is the same."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from helpers import finish, make_engine, request, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.clock import WallClock
from tinyinfer.engine.engine import Engine
from tinyinfer.ledger import Ledger
from tinyinfer.measure.roofline import Machine
from tinyinfer.measure.simulated_clock import SimulatedClock
from tinyinfer.speculative.base import DraftCost
from tinyinfer.speculative.costs import MeasuredCosts, RowCosts, size_of

MODEL = small_config(max_position=400)
PROMPT = [4, 5, 6, 7, 4, 5, 6, 9, 4, 5]


class RowClock:
    """A clock on which a forward pass takes as long as `cost` says of its rows, times `slower` of what is computed."""

    def __init__(self, ledger: Ledger, cost: Callable[[int], float], slower: Callable[[int], float]) -> None:
        self.ledger, self.cost, self.slower = ledger, cost, slower
        self.rows, self.now = 0, 0.0

    def __call__(self) -> float:
        done = self.ledger.tokens_computed
        if done > self.rows:
            self.now += self.cost(done - self.rows) * self.slower(done)
        self.rows = done
        return self.now


def table(rows: int) -> float:
    """As in NumPy: few more rows cost something."""
    return 1.0 + 0.25 * min(rows - 1, 8)


MACHINES: dict[str, Callable[[int], float]] = {
    "rows are free": lambda rows: 1.0 + rows / 1000,
    "rows cost something": table,
    "a row costs more than a pass": lambda rows: 1.1 * rows - 0.1,
    "two rows cost three passes": lambda rows: 1.0 if rows == 1 else 1.0 + rows,
}


def machine(cost: Callable[[int], float], slower: Callable[[int], float] = lambda done: 1.0, **switches: Any) -> Engine:
    """An engine on such a machine."""
    ops = NumpyOps(Ledger())
    return make_engine(MODEL, ops=ops, clock=RowClock(ops.ledger, cost, slower), **switches)


def told(engine: Engine, truth: list[int], right: Callable[[int], bool]) -> Engine:
    """The engine, whose prompt lookup finds the true continuation, or a wrong one where `right(position)` is false."""

    def lookup(tokens: list[int], n: int) -> list[list[int]]:
        first = len(tokens)
        return [[t if right(i) else (t + 1) % 31 for i, t in enumerate(truth[first : first + n], first)]]

    engine.drafter.lookup = lookup  # type: ignore[attr-defined]
    return engine


def text_of(n: int) -> list[int]:
    """The prompt and n more tokens of plain decoding."""
    return [*PROMPT, *finish(make_engine(MODEL), request(PROMPT, n))[0]]


TRUTH = text_of(200)


def seconds(engine: Engine, n: int) -> float:
    """The time between the first token and the last of n, which are those of plain decoding."""
    seq = request(PROMPT, n)
    assert finish(engine, seq) == [TRUTH[len(PROMPT) :][:n]]
    return seq.timing.times[-1] - seq.timing.times[0]


def plain(cost: Callable[[int], float], n: int) -> float:
    """The same time without drafts."""
    return (n - 1) * cost(1)


@pytest.mark.parametrize(("name", "n"), [*((name, 64) for name in MACHINES), ("rows cost something", 200)])
def test_drafts_that_are_all_wrong_cost_a_twentieth_at_most(name, n):
    """From the first token on, whatever rows cost. Catches probes without an end, and seven drafts at once."""
    engine = told(machine(MACHINES[name], speculative="prompt-lookup"), TRUTH, lambda position: False)
    assert seconds(engine, n) <= plain(MACHINES[name], n) / 0.95


@pytest.mark.parametrize(("name", "times"), [("rows are free", 4.5), ("rows cost something", 2.0)])
def test_right_drafts_are_worth_what_their_rows_cost(name, times):
    """Eight tokens a pass. Catches an account that is never refilled by what drafts gain."""
    engine = told(machine(MACHINES[name], speculative="prompt-lookup"), TRUTH, lambda position: True)
    assert plain(MACHINES[name], 200) / seconds(engine, 200) > times


@pytest.mark.parametrize("name", ["a row costs more than a pass", "two rows cost three passes"])
def test_where_rows_cost_too_much_even_right_drafts_are_given_up(name):
    """By the backend's estimate drafts pay; the measurements say no."""
    engine = told(machine(MACHINES[name], speculative="prompt-lookup"), TRUTH, lambda position: True)
    assert seconds(engine, 200) <= plain(MACHINES[name], 200) / 0.95


def test_text_that_stops_repeating_costs_little_more_than_the_rest():
    """Right for 80 tokens, wrong for 120: the wrong ones take at most 133 passes. Catches gains spent without a limit.
    """
    right = len(PROMPT) + 80
    engine = told(machine(table, speculative="prompt-lookup"), TRUTH, lambda position: position < right)
    seq = request(PROMPT, 200)
    finish(engine, seq)
    assert seq.timing.times[-1] - seq.timing.times[80] <= 133


def test_text_that_begins_to_repeat_is_found():
    """Wrong for 100 tokens, then right: the rest takes half as long as plain decoding. Catches drafts given up."""
    right = len(PROMPT) + 100
    engine = told(machine(table, speculative="prompt-lookup"), TRUTH, lambda position: position >= right)
    seq = request(PROMPT, 200)
    finish(engine, seq)
    assert seq.timing.times[-1] - seq.timing.times[100] < 100 / 2


@pytest.mark.parametrize("slower", [
    lambda done: 1.0 + done / 1000,  # a context that grows
    lambda done: 30.0 if done % 11 == 0 else 1.0,  # outliers
], ids=["growing", "outliers"])  # fmt: skip
def test_the_cost_of_rows_is_measured(slower):
    """Within a fifth of the machine's, while passes take longer and longer, or some 30 times as long."""
    engine = told(machine(table, slower, speculative="prompt-lookup"), TRUTH, lambda position: True)
    finish(engine, request(PROMPT, 200))
    cost = engine.drafter.lengths.cost  # type: ignore[attr-defined]
    assert cost.rows(8) == pytest.approx(table(8), rel=0.2)
    assert cost.rows(1) == 1.0


def test_rows_of_several_sequences_are_those_of_their_common_pass():
    """Four sequences with two rows each, beside four with one. Catches one sequence's cost taken for that of all."""
    engine = told(machine(table, speculative="prompt-lookup"), TRUTH, lambda position: True)
    finish(engine, *(request(PROMPT, 60) for _ in range(4)))
    cost = engine.drafter.lengths.cost  # type: ignore[attr-defined]
    with cost.proposing(4):
        assert cost.rows(2) == pytest.approx(table(8) / table(4))
        assert cost.rows(8) < table(8)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_draft_model_that_is_wrong_costs_a_twentieth_at_most(layers):
    """Its prompt and its passes count, too, on a machine that waits for memory. Catches a prompt that is computed for a
    model whose drafts never pay.
    """
    def run(**switches: Any) -> float:
        ops = NumpyOps(Ledger())
        clock = SimulatedClock(ops.ledger, Machine(read_bandwidth=1e6, matrix_speed=1e12))
        return seconds(make_engine(MODEL, ops=ops, clock=clock, **switches), 64)

    second = small_config(max_position=400, num_layers=layers, hidden_size=8)
    assert run(second=second, speculative="draft", draft_model="second") <= run() / 0.95


@pytest.mark.parametrize(("switches", "begins"), [
    ({"speculative": "self", "draft_layers": 1}, True),
    ({"speculative": "draft", "draft_model": "second", "second": small_config(max_position=400, num_layers=1)}, False),
], ids=["self", "draft"])  # fmt: skip
def test_a_draft_of_the_target_has_no_prompt_to_pay_for(switches, begins):
    """Behind a prompt of 200 its first layers draft at once; another model of one layer would have to read it first."""
    ops = NumpyOps(Ledger())
    clock = SimulatedClock(ops.ledger, Machine(read_bandwidth=1e6, matrix_speed=1e12))
    deep, seq = small_config(max_position=400, num_layers=6), request([*range(20)] * 10, 12)
    finish(make_engine(deep, ops=ops, clock=clock, **switches), seq)
    assert (seq.speculation.proposed > 0) == begins


def test_a_draft_model_slower_than_its_size_is_not_asked_again():
    """Its passes take three of the target's, where its size promised a third, and the first, which compiles, even
    fifty. Its prompt is begun with a single row. Catches a model that is given up for its first pass alone.
    """
    now, ledger = [0.0], Ledger()
    costs = MeasuredCosts(lambda: now[0], ledger, table, 1 / 3)
    costs._plain.append(1.0)
    costs._timed = 3
    assert costs.affordable(4, 8, 100) == 1, "not more before a step with drafts was timed"
    assert costs.part(8) == 1
    for seconds, cost in ((50.0, 1 / 3), (3.0, 3.0)):
        with costs.draft_pass(1):
            now[0] += seconds
        assert costs.draft == pytest.approx(cost)
    assert costs.affordable(4, 7, 100) == 0
    assert costs.part(8) == 4


def test_gains_pay_for_the_prompt_of_the_next_sequence():
    """A draft model that has gained reads a longer prompt than the account could pay, unless few tokens follow."""
    costs = MeasuredCosts(lambda: 0.0, Ledger(), lambda rows: 1 + rows / 10, 1.0)
    costs._timed, costs._verified = 3, 8
    assert costs.affordable(4, 100, 1000) == 0
    costs.balance = 3.0
    assert costs.affordable(4, 100, 1000) > 0
    assert costs.affordable(4, 100, 20) == 0


def test_costs_of_sizes_that_were_not_measured_follow_the_nearest():
    costs = RowCosts(float)
    costs.keep(1)
    costs.learn(4, 8.0)
    assert [costs(n) for n in (1, 2, 3, 4, 8)] == [1.0, 2.0, 6.0, 8.0, 16.0]
    for cost in (4.0, 400.0, 4.0):
        costs.learn(4, cost)
    assert costs(4) == 4.0
    costs.forget()
    assert costs(4) == 4.0 == RowCosts(float)(4)


def test_sizes_are_exact_where_a_row_matters():
    assert [size_of(n) for n in range(1, 20)] == [1, 2, 3, 4, 5, 6, 7, 8, 10, 10, 12, 12, 14, 14, 16, 16, 16, 20, 20]


@pytest.mark.parametrize("way", ["prompt-lookup", "self"])
def test_costs_go_to_another_process_with_their_engine(way):
    """A model that is pickled takes its drafter along. Catches a function that is defined inside of another one."""
    cost = make_engine(MODEL, speculative=way).drafter.lengths.cost  # type: ignore[attr-defined]
    cost.clock = WallClock()
    assert pickle.loads(pickle.dumps(cost)).rows(3) == cost.rows(3)


def test_a_text_that_depends_on_the_number_of_drafts_does_not_depend_on_time():
    """With verification=best-coupling the costs are fixed, and so is a seed's text."""
    for way, kind in (("same-text", MeasuredCosts), ("best-coupling", DraftCost)):
        engine = make_engine(MODEL, speculative="self", draft_layers=1, verification=way)
        assert isinstance(engine.drafter.lengths.cost, kind)  # type: ignore[attr-defined]
