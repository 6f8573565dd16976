"""Clocks, and requests that arrive over time: on simulated time every figure is exact."""

from __future__ import annotations

from helpers import finish, make_engine, remade, request, small_config

from tinyinfer.engine.clock import WallClock
from tinyinfer.engine.engine import Engine
from tinyinfer.engine.metrics import request_metrics
from tinyinfer.ledger import Ledger
from tinyinfer.measure.roofline import Machine
from tinyinfer.measure.simulated_clock import SimulatedClock

SECONDS_OF_MEMORY = Machine(read_bandwidth=1000.0, matrix_speed=1e30)  # 1000 bytes a second, arithmetic for nothing
SECONDS_OF_WORK = Machine(read_bandwidth=1e30, matrix_speed=1e6)


def simulated(machine: Machine = SECONDS_OF_WORK, **switches) -> Engine:
    """An engine on the time that `machine` would need."""
    engine = make_engine(small_config(), **switches)
    return remade(engine, Engine, SimulatedClock(engine.ledger, machine))


def test_simulated_time_is_what_was_counted_since_the_last_look():
    """Whichever limit binds, reading by reading. Catches: the whole ledger's cost added again at each reading."""
    ledger = Ledger(weight_bytes=12345)
    clock = SimulatedClock(ledger, Machine(read_bandwidth=1000.0, matrix_speed=4000.0))
    assert clock() == clock() == 0.0, "what was counted before it began is not its business"
    ledger.weight_bytes += 1500
    ledger.kv_read_bytes += 500
    assert clock() == 2.0
    ledger.flops += 12000
    ledger.weight_bytes += 1000
    assert clock() == clock() == 2.0 + 3.0


def test_waiting_on_a_simulated_clock_jumps_and_never_goes_back():
    """Idle time passes at once; a moment that is past already changes nothing; work comes on top."""
    ledger = Ledger()
    clock = SimulatedClock(ledger, SECONDS_OF_MEMORY)
    clock.wait_until(7.5)
    assert clock() == 7.5
    clock.wait_until(3.0)
    assert clock() == 7.5
    ledger.weight_bytes += 500
    clock.wait_until(7.75)
    assert clock() == 8.0, "what was done before the wait took until 8.0"


def test_a_wall_clock_does_not_return_early():
    """time.sleep may wake too soon; and a moment in the past is no wait at all (a negative sleep is an error)."""
    clock = WallClock()
    moment = clock() + 0.01
    clock.wait_until(moment)
    assert clock() >= moment
    clock.wait_until(moment - 1)


def test_requests_arrive_when_they_are_due():
    """Two of them, 100 seconds apart, on a machine that needs far less for the first: the clock jumps over the gap."""
    engine = simulated()
    a, b = request(range(6), 3), request(range(9), 2, delay=100.0)
    traces = list(engine.run([a, b]))
    assert [[span.seq for span in trace.batch.spans] for trace in traces] == [[a]] * 3 + [[b]] * 2
    seconds = [trace.ledger.flops / 1e6 for trace in traces]
    assert 0 < sum(seconds[:3]) < 100
    assert a.timing.times == [sum(seconds[:1]), sum(seconds[:2]), sum(seconds[:3])]
    assert (b.timing.arrival, b.timing.started) == (100.0, 100.0)
    assert b.timing.times[0] == 100.0 + seconds[3]
    figures = request_metrics(b)
    assert (figures.arrival_s, figures.ttft_s) == (100.0, b.timing.times[0] - 100.0)


def test_who_arrives_during_a_step_joins_the_next_one():
    """Half a prefill after the first came: it waits for the end of that step, and its wait counts into its TTFT."""
    probe = simulated()
    [prefill] = probe.run([request(range(20), 1)])
    half = prefill.ledger.flops / 2e6
    engine = simulated()
    a, b = request(range(20), 3), request([1, 2], 2, delay=half)
    traces = list(engine.run([a, b]))
    assert [[span.seq for span in trace.batch.spans] for trace in traces] == [[a], [a, b], [a, b]]
    assert b.timing.arrival == half
    assert b.timing.started == a.timing.times[0] == 2 * half
    assert request_metrics(b).ttft_s == b.timing.times[0] - half


def test_arrivals_count_from_the_beginning_of_their_run():
    """A second run on the same engine starts its own time; catches delays taken for moments of the clock."""
    engine = simulated()
    finish(engine, request(range(6), 2, delay=50.0))
    late = request(range(6), 2, delay=5.0)
    began = engine.clock()
    finish(engine, late)
    assert began > 50.0
    assert late.timing.arrival == late.timing.started == began + 5.0


def test_a_dynamic_batch_starts_at_its_deadline():
    """One request and no other before its time is up: exactly then, though a full batch would come later."""
    engine = simulated(batching="dynamic", batch_timeout=2.0, max_num_seqs=3)
    a, b, c = request([1, 2], 1, delay=1.0), request([3], 1, delay=2.5), request([4], 1, delay=9.0)
    traces = list(engine.run([a, b, c]))
    assert [[span.seq for span in trace.batch.spans] for trace in traces] == [[a, b], [c]]
    assert (a.timing.started, b.timing.started, c.timing.started) == (3.0, 3.0, 9.0)


def test_a_static_batch_starts_with_its_last_one():
    """The two that came first wait for the third; the fourth, alone, waits for none."""
    engine = simulated(batching="static", max_num_seqs=3)
    sequences = [request([1, 2], 1, delay=delay) for delay in (0.0, 1.0, 6.0, 8.0)]
    finish(engine, *sequences)
    assert [seq.timing.started for seq in sequences] == [6.0, 6.0, 6.0, 8.0]


def test_a_replay_gives_the_same_figures():
    """All times of a busy workload, twice: nothing on a simulated clock may depend on the machine or its mood."""

    def replay() -> list[list[float]]:
        engine = simulated(
            SECONDS_OF_MEMORY, kv_cache="paged", block_size=4, num_blocks=6, prefix_cache=True, max_num_seqs=4
        )
        sequences = [request(range(3 + i % 7), 3 + i % 5, delay=i * 5.0) for i in range(12)]
        finish(engine, *sequences)
        assert engine.ledger.preemptions > 0
        assert engine.ledger.blocks_evicted > 0
        return [seq.timing.times for seq in sequences]

    assert replay() == replay()
