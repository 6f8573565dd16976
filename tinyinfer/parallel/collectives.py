"""An all-reduce written out, twice: from messages between two ranks alone, as a library has it inside.

A message of b bytes takes α + β·b: a latency, and a time for each byte. n ranks add up arrays of B bytes:

    ring    2(n-1) · (α + β·B/n)            every rank sends 1/n of the array to its neighbour, again and again
    tree    2·⌈log2 n⌉ · (α + β·B)           half of the ranks send all they have to the other half, and so on

(Patarasu & Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations"; Thakur et al. 2005,
"Optimization of collective communication operations in MPICH".)

The ring wins with large arrays: its bytes, 2(n-1)/n · B a rank, hardly grow with n, and no algorithm sends fewer. The
tree wins with small ones, whose time is latency: for a token's row of 2 KB it sends few messages.
"""

from __future__ import annotations

from tinyinfer.arrays import Array
from tinyinfer.parallel.comm import Comm, split


def ring_all_reduce(x: Array, comm: Comm) -> Array:  # (...,) -> (...,)
    """The sum of the ranks' arrays, in the place of x, which is contiguous."""
    n, rank, parts = comm.size, comm.rank, split(x, comm.size)
    right, left = (rank + 1) % n, (rank - 1) % n
    for step in range(n - 1):  # after these, rank r has the sum of part r + 1
        given, added_to = parts[(rank - step) % n], parts[(rank - step - 1) % n]
        added_to += comm.exchange(given, right, added_to.copy(), left)  # the copy is room for what comes
    for step in range(n - 1):  # the sums go round
        comm.exchange(parts[(rank + 1 - step) % n], right, parts[(rank - step) % n], left)
    return x


def tree_all_reduce(x: Array, comm: Comm) -> Array:  # (...,) -> (...,)
    """The sum of the ranks' arrays, in the place of x, which is contiguous: up a binomial tree to rank 0, and down."""
    steps = [1 << i for i in range((comm.size - 1).bit_length())]
    mine = [step for step in steps if comm.rank % (2 * step) == 0 and comm.rank + step < comm.size]
    above = comm.rank & (comm.rank - 1)  # without its lowest bit; rank 0 is the root
    for step in mine:
        x += comm.receive(x.copy(), comm.rank + step)
    if comm.rank:
        comm.send(x, above)
        comm.receive(x, above)
    for step in reversed(mine):
        comm.send(x, comm.rank + step)
    return x
