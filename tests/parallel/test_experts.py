"""Experts on different ranks: their terms add up by either way, and the bytes of both are known before."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from divided import by_exchange, logits_of
from golden import load_golden
from helpers import TOLERANCE, distance

from tinyinfer.ledger import Ledger
from tinyinfer.loading import load
from tinyinfer.parallel import experts, tensor
from tinyinfer.parallel.comm import Comm, children
from tinyinfer.parallel.experts import SMALL, Visits, exchange, owners_of, total
from tinyinfer.parallel.local import LocalComm, run_ranks

WIDTH = 6


def routed(rows: int, of: int, each: int, seed: int = 0) -> np.ndarray:  # -> (T, k)
    """The experts that rows have chosen, all equally often: `each` different ones of so many."""
    rng = np.random.default_rng(seed)
    return np.array([rng.permutation(of)[:each] for _ in range(rows)])


def terms(visits: Visits, rank: int, width: int = WIDTH) -> np.ndarray:  # -> (T, D)
    """A rank's terms of the rows that visited it: whole numbers, so that sums are exact in any order."""
    x = np.random.default_rng(rank).integers(1, 1000, (len(visits.rows), width)).astype(np.float32)
    return np.where(visits.rows[:, [rank]], x, np.float32(0))


def added_up(way: Any, visits: Visits, width: int = WIDTH) -> tuple[list[np.ndarray], list[Ledger]]:
    """What each rank has when the terms were added up in one way, and what it has sent."""
    ledgers = [Ledger() for _ in range(visits.ranks)]

    def work(comm: Comm) -> np.ndarray:
        return np.asarray(way(terms(visits, comm.rank, width), visits, comm, np))

    return run_ranks(visits.ranks, work, seed=visits.ranks, ledgers=ledgers), ledgers


def all_reduce(x: np.ndarray, visits: Visits, comm: Comm, xp: Any) -> np.ndarray:  # (T, D) -> (T, D)
    """The way in which zeros are sent, too."""
    return np.asarray(comm.all_reduce(x))


def most_sent(way: Any, visits: Visits) -> int:
    """Bytes of the rank that sends most."""
    return max(one.bytes_sent for one in added_up(way, visits)[1])


def test_rows_visit_the_ranks_of_their_experts() -> None:
    """Of five experts the first rank has three. Catches experts that are divided in another way than the model is,
    and a row that visits a rank twice for two experts.
    """
    visits = Visits(np.array([[0, 2], [3, 1], [4, 3]]), owners_of(5, 2), 2)
    assert visits.rows.tolist() == [[True, False], [True, True], [False, True]]
    assert visits.homes == [range(0, 2), range(2, 3)]
    assert visits.terms.tolist() == [[0, 0], [1, 0]]  # the second rank has a term for the first one


@pytest.mark.parametrize("ranks", [2, 3, 4, 7])
@pytest.mark.parametrize("rows", [1, 2, 5, 32])
def test_sums_are_those_of_an_all_reduce(ranks: int, rows: int) -> None:
    """Also of fewer rows than ranks, of which some are home of none. Catches terms that are added to another row, a
    home's own term that is left out, and sums that come back in another order.
    """
    for each in (1, 2, 7):
        visits = Visits(routed(rows, 7, each), owners_of(7, ranks), ranks)
        truth = sum(terms(visits, rank) for rank in range(ranks))
        for found in added_up(exchange, visits)[0]:
            np.testing.assert_array_equal(found, truth)


@pytest.mark.parametrize("ranks", [2, 3, 4, 7])
def test_bytes_are_those_that_the_ledger_counts(ranks: int) -> None:
    """Of each rank, and of all together those of the formula: a row's term from each rank but its home, and its sum
    to each rank but its home. Catches a way that is chosen by other counts than its own.
    """
    for rows in (1, 5, 32):
        visits = Visits(routed(rows, 14, 2), owners_of(14, ranks), ranks)
        _, ledgers = added_up(exchange, visits)
        assert [one.bytes_sent for one in ledgers] == visits.bytes_sent(WIDTH * 4)
        away = sum(rank != home for home, own in enumerate(visits.homes) for row in own
                   for rank in np.flatnonzero(visits.rows[row]))  # fmt: skip
        assert sum(one.bytes_sent for one in ledgers) == (away + rows * (ranks - 1)) * WIDTH * 4


def test_the_way_is_the_one_in_which_the_rank_that_sends_most_sends_less() -> None:
    """Catches a way that loses: where all rows visit all ranks, or all of them one; one that is never taken; and two
    meetings for a few rows.
    """

    def by(chosen: np.ndarray, width: int = 1024) -> str:
        owners = owners_of(8, 4)
        visits = Visits(chosen, owners, 4)
        sent = [
            [one.bytes_sent for one in added_up(way, visits, width)[1]]
            for way in (all_reduce, exchange, lambda x, visits, *more: total(x, chosen, owners, *more))
        ]
        if visits.rows.shape[0] * width * 4 > SMALL:  # the first rank's choice goes to all
            sent[2] = [nbytes - children(rank, 0, 4) * chosen.nbytes for rank, nbytes in enumerate(sent[2])]
        assert sent[2] in sent[:2]
        assert width < 1024 or max(sent[2]) == min(map(max, sent))
        return "all-reduce" if sent[2] == sent[0] else "exchange"

    assert by(routed(32, 8, 1)) == "exchange"
    assert by(routed(32, 8, 2)) == "exchange"
    assert by(routed(32, 8, 8)) == "all-reduce"
    assert by(np.full((32, 1), 7)) == "all-reduce"
    assert by(np.array([[2]]), 20_000) == "all-reduce"  # one row, whose home has not its expert
    assert by(np.array([[0]]), 20_000) == "exchange"
    assert by(routed(32, 8, 1), 64) == "all-reduce"


def test_a_rank_that_chooses_otherwise_spoils_no_other_row() -> None:
    """As another CPU may, which rounds otherwise. Catches terms that come one row too late, behind that choice."""
    chosen, owners, other = routed(64, 8, 1), owners_of(8, 2), 5
    visits = Visits(chosen, owners, 2)
    truth = added_up(all_reduce, visits, 1024)[0][0]

    def work(comm: Comm) -> np.ndarray:
        own = chosen.copy()
        if comm.rank == 1:
            own[other] = (own[other] + 4) % 8  # an expert of the other rank
        return np.asarray(total(terms(Visits(own, owners, 2), comm.rank, 1024), own, owners, comm, np))

    rest = np.arange(64) != other
    for found in run_ranks(2, work):
        np.testing.assert_array_equal(found[rest], truth[rest])


def test_ranks_of_one_machine_add_up() -> None:
    """Catches an exchange where a byte costs no more than a copy."""
    chosen, owners = routed(32, 8, 1), owners_of(8, 4)
    visits, ledgers = Visits(chosen, owners, 4), [Ledger() for _ in range(4)]

    class Near(LocalComm):
        """Ranks on one machine."""

        one_machine = True

    def work(comm: Comm) -> np.ndarray:
        assert isinstance(comm, LocalComm)
        near = Near(comm.group, comm.some, comm.own, comm.ledger)
        return np.asarray(total(terms(visits, comm.rank, 1024), chosen, owners, near, np))

    run_ranks(4, work, ledgers=ledgers)
    assert [one.bytes_sent for one in ledgers] == [one.bytes_sent for one in added_up(all_reduce, visits, 1024)[1]]


# Experts, of which a row chooses, ranks -> numbers that the rank sends that sends most, by an all-reduce and by an
# exchange, for each of T·D numbers: the table of docs/parallel.md.
COUNTED = [
    (8, 1, 4, 1.5, 0.96), (8, 2, 2, 1.0, 0.9), (8, 2, 4, 1.5, 1.11), (8, 2, 8, 1.75, 1.11), (128, 8, 4, 1.5, 1.44),
    (128, 8, 8, 1.75, 1.47), (128, 8, 16, 1.88, 1.34), (256, 8, 32, 1.94, 1.21),
]  # fmt: skip


@pytest.mark.parametrize(("of", "each", "ranks", "by_ring", "by_exchange"), COUNTED)
def test_the_table_of_the_page_is_counted(of: int, each: int, ranks: int, by_ring: float, by_exchange: float) -> None:
    """1024 rows that choose experts equally often. Catches a table of another engine, and one rank's unequal share."""
    visits = Visits(routed(1024, of, each), owners_of(of, ranks), ranks)
    found = [round(most_sent(way, visits) / (1024 * WIDTH * 4), 2) for way in (all_reduce, exchange)]
    assert found == [by_ring, by_exchange]
    page = (Path(__file__).parents[2] / "docs" / "parallel.md").read_text(encoding="utf-8")
    assert f"| {of} | {each} | {ranks} | {visits.rows.sum() / 1024:.2f} | {by_ring} | {by_exchange} |" in page


# Goldens of mixtures, and ranks: no more than heads or experts.
MIXTURES = [
    ("mixtral", 2), ("mixtral", 4), ("qwen3_moe", 2), ("qwen3_moe", 4), ("qwen3_moe_raw", 4), ("olmoe", 4),
    ("qwen2_moe", 4), ("qwen3_moe_mixed", 4), ("gpt_oss", 4), ("qwen3_moe_bare", 5), ("gpt_oss_bare", 8),
]  # fmt: skip


@pytest.mark.parametrize(("name", "ranks"), MIXTURES)
def test_an_exchange_computes_what_transformers_computes(
    name: str, ranks: int, golden_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every layer, whatever it costs; in pieces of which the last one is a single row. Catches a bias of an expert
    that is lost on its way, and a shared expert that is added twice.
    """
    golden, checkpoint = load_golden(name), load(golden_folder(name))
    monkeypatch.setattr(tensor, "total", by_exchange)
    first, *others = run_ranks(ranks, partial(logits_of, checkpoint=checkpoint, tokens=golden.tokens))
    assert distance(first, golden.logits) < TOLERANCE
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(("name", "ranks"), [("mixtral", 4), ("gpt_oss", 4)])
def test_where_it_sends_less_a_model_takes_the_exchange(
    name: str, ranks: int, golden_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a way that no model takes."""
    golden, checkpoint = load_golden(name), load(golden_folder(name))
    rows = []
    monkeypatch.setattr(experts, "SMALL", 0)
    monkeypatch.setattr(experts, "exchange", lambda x, *others: rows.append(len(x)) or exchange(x, *others))
    for found in run_ranks(ranks, partial(logits_of, checkpoint=checkpoint, tokens=golden.tokens)):
        assert distance(found, golden.logits) < TOLERANCE
    assert max(rows) > 1
