"""Lesson 20: its judges know the right answer, the usual slips and what is no answer; its ranks are the library's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinyinfer.lessons import rank_runs as runs
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.lessons.parallelism import (
    BATCHES,
    BUBBLE,
    CASES,
    EXERCISES,
    RANKS,
    SENT,
    SLIPS,
    STAGES,
    best,
    judge_best,
    predicted,
)
from tinyinfer.lessons.ring_judge import judge_ring, ring
from tinyinfer.lessons.shares_judge import judge_shares, matrices, mlp, shares
from tinyinfer.loading.hf_config import read_config
from tinyinfer.measure.cluster import read_cluster
from tinyinfer.measure.split import bubble
from tinyinfer.parallel.collectives import tree_all_reduce

EXERCISE = {one.name: one for one in EXERCISES}


# The ring.


def all_to_all(parts: list[np.ndarray], comm: Any) -> None:
    """The right sums by too many bytes: each rank sends all it has to every other rank."""
    whole = [part.copy() for part in parts]
    for distance in range(1, comm.size):
        for part, own in zip(parts, whole, strict=True):
            to, source = (comm.rank + distance) % comm.size, (comm.rank - distance) % comm.size
            part += comm.exchange(own, to, np.empty_like(own), source)


def one_number_a_message(parts: list[np.ndarray], comm: Any) -> None:
    """The right sums and bytes by too many messages."""

    class Slowly:
        rank, size = comm.rank, comm.size

        def exchange(self, x: np.ndarray, to: int, y: np.ndarray, source: int) -> np.ndarray:
            for i in range(max(len(x), len(y))):
                comm.exchange(x[i : i + 1], to, y[i : i + 1], source)
            return y

    ring(parts, Slowly())


def left_turn(parts: list[np.ndarray], comm: Any) -> None:
    """Right: the ring the other way round."""
    n, rank = comm.size, comm.rank
    for step in range(n - 1):
        mine = parts[(rank + step + 1) % n]
        mine += comm.exchange(parts[(rank + step) % n], (rank - 1) % n, np.empty_like(mine), (rank + 1) % n)
    for step in range(n - 1):
        comm.exchange(parts[(rank + step - 1) % n], (rank - 1) % n, parts[(rank + step) % n], (rank + 1) % n)


def without_waiting(parts: list[np.ndarray], comm: Any) -> None:
    """Right: a send that does not wait, and then a receive."""

    class Posting:
        rank, size = comm.rank, comm.size

        def exchange(self, x: np.ndarray, to: int, y: np.ndarray, source: int) -> np.ndarray:
            comm.post(x, to)
            return np.asarray(comm.receive(y, source))

    ring(parts, Posting())


def nothing_added(parts: list[np.ndarray], comm: Any) -> None:
    n, rank = comm.size, comm.rank
    for step in range(n - 1):
        comm.exchange(parts[(rank - step) % n], (rank + 1) % n, parts[(rank - step - 1) % n], (rank - 1) % n)


def same_part(parts: list[np.ndarray], comm: Any) -> None:
    """In each round the part that was given away first."""
    n, rank = comm.size, comm.rank
    for _ in range(n - 1):
        mine = parts[(rank - 1) % n]
        mine += comm.exchange(parts[rank], (rank + 1) % n, np.empty_like(mine), (rank - 1) % n)
        comm.exchange(mine, (rank + 1) % n, np.empty_like(parts[(rank - 2) % n]), (rank - 1) % n)


def first_number_only(parts: list[np.ndarray], comm: Any) -> None:
    """One number of each part is added, the others stay."""
    ones = [part[:1] for part in parts]
    ring(ones, comm)


def fewer_rounds(parts: list[np.ndarray], comm: Any) -> None:
    """One rank stops early."""
    n, rank = comm.size, comm.rank
    for step in range(n - 1 - (rank == 0)):
        mine = parts[(rank - step - 1) % n]
        mine += comm.exchange(parts[(rank - step) % n], (rank + 1) % n, np.empty_like(mine), (rank - 1) % n)


@pytest.mark.parametrize("right", [ring, left_turn, without_waiting])
def test_every_right_ring_is_right(right: Any) -> None:
    """Catches a judge that wants one direction, or one kind of message."""
    assert judge_ring(right) is None


RINGS = {
    "a ring needs": all_to_all,
    "messages; a ring needs": one_number_a_message,
    "so all ranks that send first wait": runs.send_first,
    "sends nothing": lambda parts, comm: None,
    "lacks in part": nothing_added,
    "no rank can go on": fewer_rounds,
    "you write a collective": lambda parts, comm: comm.broadcast(parts[0]),
    "what is no sum": first_number_only,
}


@pytest.mark.parametrize("said", RINGS)
def test_a_wrong_ring_is_told(said: str) -> None:
    """Catches one sentence for all mistakes, and a ring that sends too much."""
    wrong = EXERCISE["ring"].judged(RINGS[said])
    assert wrong is not None
    assert said in f"{wrong.sentence} {wrong.hint}"


def test_another_wrong_ring_is_wrong() -> None:
    assert EXERCISE["ring"].judged(same_part) is not None


# The shares.


def interleaved(gate: np.ndarray, up: np.ndarray, down: np.ndarray, rank: int, n: int) -> Any:
    return gate[rank::n], up[rank::n], down[:, rank::n]


def test_every_right_division_is_right() -> None:
    """Catches a judge that wants neighbouring neurons."""
    assert judge_shares(interleaved) is None
    assert judge_shares(lambda *given: list(shares(*given))) is None


def slipped(change: Any) -> Any:
    return lambda gate, up, down, rank, n: change(gate, up, down, *shares(gate, up, down, rank, n), rank, n)


def other(matrix: np.ndarray, rank: int, n: int) -> np.ndarray:
    """The neurons of a rank, counted from the end."""
    return shares(matrix[::-1], matrix[::-1], matrix[::-1].T, rank, n)[0]


SHARES = {
    "others than its neurons of up": slipped(lambda g, u, d, a, b, c, r, n: (a, other(u, r, n), c)),
    "belong to other neurons": slipped(lambda g, u, d, a, b, c, r, n: (a, b, other(d.T, r, n).T)),
    "do not add up": slipped(lambda g, u, d, a, b, c, r, n: (a, b, c / n)),
    "whole MLP": lambda gate, up, down, rank, n: (gate, up, down),
    "each neuron belongs to one": lambda g, u, d, r, n: (g[: len(g) // 2], u[: len(g) // 2], d[:, : len(g) // 2]),
    "no matrix": lambda g, u, d, r, n: (g[0], u[0], d[0]),
    "three matrices": lambda g, u, d, r, n: (g, u),
    "same neurons in all three": slipped(lambda g, u, d, a, b, c, r, n: (a, u, c)),
    "outputs of down": slipped(lambda g, u, d, a, b, c, r, n: (a, b, d[r::n])),
    "silu needs the whole sum": lambda g, u, d, r, n: (g[:, r::n], u[:, r::n], d[r::n]),
}  # fmt: skip


@pytest.mark.parametrize("said", SHARES)
def test_a_wrong_division_is_told(said: str) -> None:
    """Catches one sentence for all mistakes."""
    wrong = EXERCISE["shares"].judged(SHARES[said])
    assert wrong is not None
    assert said in f"{wrong.sentence} {wrong.hint}"


def test_terms_add_up() -> None:
    x, whole = np.random.default_rng(3).normal(size=(2, 5)), matrices(11)
    for n in (1, 2, 3, 11):
        terms = [mlp(x, *shares(*whole, rank, n)) for rank in range(n)]
        assert sum(terms) == pytest.approx(mlp(x, *whole))


# The ranks of the real model, and those on paper.


def test_ranks_with_a_students_ring_say_what_one_says() -> None:
    """Catches sums that are not the student's: the ledger counts its messages, and a wrong ring is heard."""
    llm = Lesson("20_parallelism").tiny(quantize="int8", quantize_head="int8", group_size="channel")
    alone = runs.together(llm, "Hello", 5, 1, ring)
    assert alone.ledgers[0].bytes_sent == 0
    for ranks in (2, 3, 4):
        said = runs.together(llm, "Hello", 5, ranks, ring, seed=ranks)
        assert (said.tokens, said.text) == (alone.tokens, alone.text)
        assert max(said.weights) < alone.weights[0]
        rows, c = 5 + 4, llm.config
        sums = (2 * c.num_layers + 1) * rows * c.hidden_size * 4
        assert sum(one.bytes_sent for one in said.ledgers[1:]) >= sums * 2 * (ranks - 1) / ranks * (ranks - 1)
    wrong = runs.together(llm, "Hello", 5, 2, lambda parts, comm: None)
    assert wrong.tokens != alone.tokens


def test_a_divided_mlp_is_the_whole_one() -> None:
    llm = Lesson("20_parallelism").tiny()
    whole = runs.mlp_of(llm, 1)
    x = np.random.default_rng(0).normal(size=(3, llm.config.hidden_size)).astype(np.float32)
    for ranks in (1, 2, 3):
        found, ledgers = runs.divided_mlp(x, llm, 1, shares, ring, ranks)
        assert all(np.allclose(one, mlp(x, *whole), atol=1e-4) for one in found)
        assert sum(ledger.bytes_sent for ledger in ledgers) == 2 * (ranks - 1) * x.nbytes


def test_the_ring_that_sends_first_is_right_where_sends_do_not_wait() -> None:
    """It is right by luck, and not wrong: catches a bad example."""
    arrays = [np.full(5, 10.0**rank, np.float32) for rank in range(3)]

    def lucky(parts: list[np.ndarray], comm: Any) -> None:
        class Buffered:
            rank, size, send, receive = comm.rank, comm.size, staticmethod(comm.post), staticmethod(comm.receive)

        runs.send_first(parts, Buffered())

    found, _ = runs.summed(arrays, lucky)
    assert all((one == 111).all() for one in found)
    assert runs.outcome(arrays, lucky) == "It ends."
    assert "no rank can go on" in runs.outcome(arrays, runs.send_first)
    assert np.array_equal(runs.by_library(arrays)[2], found[0])
    assert tree_all_reduce.__doc__


def test_the_cluster_is_that_of_the_file(tmp_path: Any, request: Any) -> None:
    """Catches numbers in the lesson that have no source any more."""
    folder = request.config.rootpath / "docs" / "clusters"
    assert read_cluster(str(folder / "h100.json")) == runs.NODES
    (tmp_path / "config.json").write_bytes((folder / "llama-2-70b.json").read_bytes())
    known = read_config(tmp_path)
    assert {name: getattr(known, name) for name in vars(known) if name != "eos_token_ids"} == {
        name: value for name, value in vars(runs.LLAMA_70B).items() if name != "eos_token_ids"
    }


def test_more_gpus_are_slower() -> None:
    """The lesson's claim: catches a model of the network in which it no longer holds."""
    found = runs.decode_passes()
    truth, usual = predicted(found)
    assert truth == pytest.approx(0.69, abs=0.01)
    assert min(found, key=lambda gpus: found[gpus].total) == 8
    assert len(usual) == 4
    assert f"{1000 * found[8].total:.1f}" == "9.1"  # the task names it


# The exercises.


WRONG = [
    ("sent", 2 * 30 * 2304 * 1.5, "embedding"),
    ("sent", 61 * 2304, "length of all rows"),
    ("sent", 61 * 2304 * 0.75, "half of the ring"),
    ("sent", 61 * 2304 * 3, "every other rank"),
    ("sent", 31 * 2304 * 1.5, "one sum a layer"),
    ("sent", 4 * SENT, "all ranks"),
    ("sent", 1, "too low"),
    ("batches", 30, "waiting by the work"),
    ("batches", 26, "one too few"),
    ("batches", 28, "One fewer"),
    ("batches", 36, "p in place"),
    ("batches", 40, "p over a tenth"),
    ("batches", 3, "half of the time"),
    ("batches", 29, "too high"),
]


@pytest.mark.parametrize(("name", "answer", "said"), WRONG)
def test_a_usual_wrong_answer_gets_its_own_hint(name: str, answer: float, said: str) -> None:
    """Catches one hint for all mistakes."""
    wrong = EXERCISE[name].judged(answer)
    assert wrong is not None
    assert said in f"{wrong.sentence} {wrong.hint}"


def test_the_numbers_of_the_exercises() -> None:
    assert bubble(STAGES, BATCHES) <= BUBBLE + 1e-12 < bubble(STAGES, BATCHES - 1)
    assert SENT == 61 * 576 * 4 * 2 * (RANKS - 1) / RANKS == 210_816


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip[1])
def test_a_slip_in_the_number_of_ranks_is_named(slip: Any) -> None:
    """Catches a hint that fits another mistake, and cases in which a slip makes no difference."""
    made, sentence, hint = slip
    wrong = judge_best(lambda *case: made(case))
    assert wrong is not None
    assert (wrong.sentence, wrong.hint) == (sentence, hint)


def test_another_number_of_ranks_is_told() -> None:
    for answer, said in ((lambda *case: 1, "is faster"), (lambda *case: 0.5, "no number of ranks")):
        wrong = judge_best(answer)
        assert wrong is not None
        assert said in wrong.sentence or said in wrong.hint or "not divided" in wrong.sentence
    assert judge_best(lambda *case: np.int64(best(*case))) is None
    assert {best(*case) for case in CASES} > {1}
