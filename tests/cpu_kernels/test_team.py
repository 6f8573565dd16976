"""The team of threads under attack: forks, Ctrl-C, errors, ends of the program, too many threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from processes import run

from tinyinfer.backends.cpu_kernels import team as module
from tinyinfer.backends.cpu_kernels.kernel import Launch, kernel
from tinyinfer.backends.cpu_kernels.plan import Plan
from tinyinfer.backends.cpu_kernels.scalars import int_at, set_int
from tinyinfer.backends.cpu_kernels.team import Team, team

pytestmark = pytest.mark.cpu


@kernel
def count_item(a, item, thread):
    """Adds 1 to numbers[item]. a: numbers."""
    set_int(a[0] + 8 * item, int_at(a[0] + 8 * item) + 1)


def counting(*items: int) -> tuple[np.ndarray, Plan]:
    """An array, and a plan that adds 1 to its first numbers, once for each launch."""
    numbers = np.zeros(max(items), np.int64)
    return numbers, Plan([Launch(count_item, (numbers,), n) for n in items])


def expected(passes: int, *items: int) -> list[int]:
    return [passes * sum(n > i for n in items) for i in range(max(items))]


ITEMS = (100, 1, 0, 3, 50, 1, 1, 99, 2)


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 64])
def test_each_item_is_computed_once(threads: int) -> None:
    """With as many threads as cores, and with far more. Catches items that are lost or done twice, and a deadlock."""
    numbers, plan = counting(*ITEMS)
    for _ in range(10):
        team().run(plan, threads)
    assert numbers.tolist() == expected(10, *ITEMS)


def test_a_worker_that_sits_jobs_out_joins_the_next_one() -> None:
    """Threads change from job to job, as a busy machine has it. Catches a worker that joins a job twice."""
    numbers, plan = counting(*ITEMS)
    for threads in [3, 1, 2, 1, 1, 3, 2, 4, 1, 4] * 8:
        team().run(plan, threads)
    assert numbers.tolist() == expected(80, *ITEMS)


def test_a_plan_may_be_longer_than_the_table_of_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches writes behind the counters' end, for a model of hundreds of layers."""
    monkeypatch.setattr(module, "MOST_LAUNCHES", 4)
    numbers, plan = counting(*ITEMS)
    team().run(plan, 2)
    team().run(plan, 2, 1, 7)
    assert numbers.tolist() == expected(1, *ITEMS, *ITEMS[1:7])


def test_more_threads_than_there_is_room_for_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a line of a thread that lies in the counters."""
    monkeypatch.setattr(module, "MOST_THREADS", 2)
    numbers, plan = counting(*ITEMS)
    own = Team()
    own.run(plan, 1 << 62)
    assert len(own.workers) == 1
    own.stop()
    assert numbers.tolist() == expected(1, *ITEMS)


def test_a_system_without_more_threads_gets_the_work_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a wait for a worker that never began."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    numbers, plan = counting(*ITEMS)
    own = Team()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        own.run(plan, 3)
    assert not own.workers
    own.run(plan, 3)
    own.stop()
    assert numbers.tolist() == expected(2, *ITEMS)


def test_one_thread_starts_none() -> None:
    own = Team()
    own.run(counting(*ITEMS)[1], 1)
    assert not own.workers


def test_a_team_that_has_ended_still_computes() -> None:
    """A pass may come after the end of the program has begun, from a thread of a server; no worker helps it then."""
    numbers, plan = counting(*ITEMS)
    own = Team()
    own.run(plan, 3)
    own.stop()
    own.stop()
    own.run(plan, 3)
    assert not own.workers
    assert numbers.tolist() == expected(2, *ITEMS)


def test_several_callers_take_turns() -> None:
    """Catches two plans that share counters at once."""
    made = [counting(*ITEMS) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: [team().run(made[n][1], 1 + n % 3) for _ in range(20)], range(4)))
    assert all(numbers.tolist() == expected(20, *ITEMS) for numbers, _ in made)


def test_a_forked_process_has_a_team_of_its_own() -> None:
    """Forks after the threads have started, and while another thread is in the middle of passes. Catches a child that
    waits for threads which only its parent has, or for a lock that one of them holds.
    """
    program = """
one = engine()
assert answer(one) == RIGHT
stop = threading.Event()
def busy():
    other = engine()
    while not stop.is_set():
        answer(other)
for beside in (False, True):
    thread = threading.Thread(target=busy)
    if beside:
        thread.start()
        time.sleep(0.2)
    for _ in range(8):
        child = os.fork()
        if not child:
            os._exit(answer(one) != RIGHT or answer(engine()) != RIGHT)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert answer(one) == RIGHT
stop.set()
thread.join()
import multiprocessing
def in_child(n):
    return answer(one) == RIGHT
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(all(pool.map(in_child, range(4))))
"""
    assert run(program) == "True\n"


def test_two_models_answer_in_two_threads() -> None:
    """Catches a deadlock, and rows of one model in the other's pass."""
    program = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    both = [engine(), engine(kv_cache="paged"), engine(threads=3), engine(threads=1)]
    print(all(answers == [RIGHT] * 5 for answers in pool.map(lambda one: [answer(one) for _ in range(5)], both)))
"""
    assert run(program) == "True\n"


def test_ctrl_c_is_heard_in_the_middle_of_a_long_prompt() -> None:
    """A pass is run layer by layer, and the engine answers afterwards. Catches a signal that waits for a whole pass."""
    program = """
import signal
config = small_config(hidden_size=256, intermediate_size=2048, num_layers=16, max_position=2048)
one = make_engine(config, ops=NumbaOps(Ledger(), threads=2))
def first_token():
    return finish(one, request([n % 31 for n in range(1024)], 1))
def seconds(since):
    return time.perf_counter() - since
want, late, whole = first_token(), [], []
for share in (0.2, 0.4, 0.6):
    begun = time.perf_counter()
    assert first_token() == want
    whole.append(seconds(begun))
    sent = []
    def interrupt():
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)
    timer = threading.Timer(share * min(whole), interrupt)
    try:
        timer.start()
        while True:
            first_token()
    except KeyboardInterrupt:
        late.append(seconds(sent[0]))
assert first_token() == want
print(min(late) < max(whole) / 3, late, whole)
"""
    assert run(program).startswith("True")


def test_an_error_between_two_passes_changes_nothing() -> None:
    """A signal's handler raises at any moment, hundreds of times. Catches a job that is begun and not computed."""
    program = """
import signal
class Late(Exception):
    pass
def ring(*_):
    raise Late
from tinyinfer.backends.cpu_kernels.buffers import Buffers
from tinyinfer.backends.cpu_kernels.plan import Plan
from tinyinfer.backends.cpu_kernels.rows import gather
from tinyinfer.backends.cpu_kernels.team import team
x, y = Buffers(5, 2).rows("x", 64), Buffers(5, 2).rows("y", 64)
x.array[:] = 1
plan = Plan(gather(x, y, np.arange(5), 3.0) * 4)
team().run(plan, 2)
signal.signal(signal.SIGALRM, ring)
rung = 0
for n in range(400):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0001 + 0.00001 * (n % 60))
        try:
            while True:
                team().run(plan, 2)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Late:
        rung += 1
y.array[:] = 0
team().run(plan, 2)
print(rung, (y.array == 3).all())
"""
    assert run(program) == "400 True\n"


@pytest.mark.parametrize("pause", [0.0, 0.2], ids=["workers spin", "workers sleep"])
def test_a_program_ends(pause: float) -> None:
    """Catches a thread that runs compiled code while Python frees it, and one that is waited for without end."""
    for _ in range(5):
        assert run(f"assert answer(engine()) == RIGHT\ntime.sleep({pause})\nprint('end')") == "end\n"


def test_a_program_may_end_in_the_middle_of_a_pass() -> None:
    """In another thread, which the program does not wait for."""
    program = """
one = engine(threads=3)
def forever():
    while True:
        answer(one)
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.3)
print("end")
"""
    for _ in range(5):
        assert run(program) == "end\n"


def test_an_idle_process_takes_no_time() -> None:
    """Catches workers that go on spinning or yielding: 100% of a core, on a busy machine for a minute."""
    program = """
one = engine(threads=4)
answer(one)
time.sleep(0.05)
before = time.process_time()
time.sleep(0.5)
print(time.process_time() - before)
"""
    assert float(run(program)) < 0.02


def test_a_pickled_model_plans_anew(golden_folder: Callable[[str], Path]) -> None:
    """As with NumPy a pickle has its own engine. Catches plans in it: they hold addresses of the first one's arrays."""
    program = f"""
import pickle
from tinyinfer import LLM, SamplingParams
one = LLM({str(golden_folder("llama"))!r}, backend="numba")
def text(llm):
    return llm.generate("Hello", SamplingParams(max_tokens=9, temperature=0))[0].text
want = text(one)
other = pickle.loads(pickle.dumps(one))
one.close()
del one
print(text(other) == want)
"""
    assert run(program) == "True\n"


def test_the_memory_of_a_deleted_model_comes_back() -> None:
    """Catches mappings of weights, and plans, that something keeps: five models take no more than one."""
    program = """
import gc
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
def one():
    config = small_config(hidden_size=1024, intermediate_size=2048)
    answer(make_engine(config, ops=NumbaOps(Ledger(), threads=2)))
    gc.collect()
one()
before = resident()
for _ in range(5):
    one()
print(resident() - before)
"""
    assert int(run(program)) < 20
