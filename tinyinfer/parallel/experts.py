"""Experts on different ranks: what they give for a row goes home to one rank, by all-to-all, and from there to all.

A row visits the ranks that have an expert of its choice, and each of them has a term of the row's sum. An all-reduce
adds up all ranks' arrays of T rows, in which most rows of a rank are zeros: those that did not visit it. It is two
halves, and in the first one zeros can stay where they are. Each of n ranks is the home of T/n rows, and a row visits v
ranks on average; numbers that a rank sends:

                      an all-reduce                              here
    terms go home     reduce-scatter, zeros too    T·D (n-1)/n   all-to-all, without zeros    T·D (n-1)/n · v/n
    sums go to all    all-gather                   T·D (n-1)/n   all-gather                   T·D (n-1)/n

(GShard: Lepikhin et al. 2020, section 3; DeepSpeed-MoE: Rajbhandari et al. 2022.) There another all-to-all comes first
and takes rows to their experts, since a device has its own rows only. Here all ranks have all rows, since attention's
all-reduce gave them, so no row has to travel. And all have computed the router, so each knows which terms will come.
The first rank's choice holds for all, a few numbers a row: another CPU may round a router's scores otherwise and choose
another expert, and then every term behind that one would come to a wrong row.

Wins: where a row visits few of many ranks: with one expert a row and 4 ranks, 0.625 of the bytes. Loses: where rows
visit all ranks; where one rank has the expert that all rows choose, since the others wait for its messages; with a
decode step's few rows, since ranks meet twice; and on one machine, where bytes cost less than the copies made of rows.
So ranks of one machine add up all rows. Others know the counts, all of them, and take the way in which the rank that
sends most sends less.
"""

from __future__ import annotations

import numpy as np

from tinyinfer.arrays import Array, Xp, to_host
from tinyinfer.parallel.comm import Comm, counted, passed_on, row_bytes, sizes
from tinyinfer.parallel.shards import division

SMALL = 1 << 16  # bytes of an array for which a second meeting of the ranks takes longer than the bytes that it spares


class Visits:
    """Which ranks each row visits, as all of them know. chosen: each row's experts. owners: the rank of each expert.

    rows: whether a row visits a rank. homes: the rows whose home each rank is. terms: of how many rows each rank (first
    axis) has terms for each other one, their home (second axis).
    """

    def __init__(self, chosen: np.ndarray, owners: np.ndarray, ranks: int) -> None:  # (T, k), (X,) ->
        self.ranks, self.homes = ranks, division(len(chosen), ranks)
        self.rows = np.zeros((len(chosen), ranks), bool)  # (T, ranks)
        np.put_along_axis(self.rows, owners[chosen], True, axis=1)
        self.terms = np.array([self.rows[home].sum(axis=0) for home in map(as_slice, self.homes)]).T  # (ranks, ranks)
        np.fill_diagonal(self.terms, 0)

    def bytes_sent(self, row: int) -> list[int]:
        """Bytes that each rank sends in an `exchange` of rows of so many bytes."""
        homes = [len(home) for home in self.homes]
        return [row * (sent + passed_on(homes, rank)) for rank, sent in enumerate(self.terms.sum(axis=1).tolist())]


def owners_of(experts: int, ranks: int) -> np.ndarray:  # -> (X,)
    """The rank that has each expert of a layer."""
    return np.repeat(np.arange(ranks), sizes(experts, ranks))


def total(
    x: Array, chosen: Array, owners: np.ndarray, comm: Comm, xp: Xp
) -> Array:  # (T, D), (T, k), (X,) -> (T, D)
    """The sums of the ranks' terms, by the way in which the rank that sends most sends less; x is used up.

    x: this rank's terms, and zeros for the rows that did not visit it. chosen, owners: see Visits.
    """
    x = xp.ascontiguousarray(x)
    if x.nbytes > SMALL and not comm.one_machine:
        visits = Visits(comm.broadcast(np.array(to_host(chosen))), owners, comm.size)
        by_ring = max(counted(x.size, rank, comm.size, x.itemsize) for rank in range(comm.size))
        if max(visits.bytes_sent(row_bytes(x))) < by_ring:
            return exchange(x, visits, comm, xp)
    return comm.all_reduce(x)


def exchange(x: Array, visits: Visits, comm: Comm, xp: Xp) -> Array:  # (T, D) -> (T, D)
    """The sums of the ranks' terms, in the place of x: each is made at the row's home, and from there all get it."""
    me, home = comm.rank, as_slice(visits.homes[comm.rank])
    sent, received = visits.terms[me].tolist(), visits.terms[:, me].tolist()
    away = visits.rows[:, me].copy()  # (T,): the rows that visited this rank and are at home on another one
    away[home] = False
    came = comm.all_to_all(x[xp.asarray(np.flatnonzero(away))], sent, received)
    sums, stops = x[home], np.cumsum(received).tolist()  # (rows, D): this rank's own terms, and now those of the others
    for rank in range(comm.size):
        if rank != me:
            visitors = np.flatnonzero(visits.rows[home, rank])  # in rising order, as their terms came; each row once
            sums[xp.asarray(visitors)] += came[stops[rank] - received[rank] : stops[rank]]
    for rows, part in zip(visits.homes, comm.all_gather(sums, [len(rows) for rows in visits.homes]), strict=True):
        x[as_slice(rows)] = part
    return x


def as_slice(rows: range) -> slice:
    """Rows in one piece, as an index."""
    return slice(rows.start, rows.stop)
