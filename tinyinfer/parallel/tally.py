"""A tally: what the ranks of a model have counted, in one ledger, pass by pass.

Each rank's ledger counts what that rank does: its part of the products, of the weights and of the cache, and what it
sends. The first rank alone counts what all do together: steps, tokens, drafts, blocks. With each pass the others tell
the first one their part, a few numbers, and it adds them up. So a step's ledger, and all that is derived from it
(bench, --json, the roofline), is that of the whole model, as of one process; what each rank does for itself (norms, a
router, copies of key heads) counts as often as it is done.

Wins: counts of a divided model can be compared with those of one process. Loses: one message more, of each rank in each
pass; what a cache moves between two passes counts with the next one.
"""

from __future__ import annotations

import numpy as np

from tinyinfer.ledger import Ledger
from tinyinfer.parallel.comm import Comm

WORK = (
    "flops", "attention_flops", "weight_bytes", "kv_read_bytes", "kv_written_bytes", "kv_copied_bytes", "expert_rows",
    "experts_read", "messages_sent", "bytes_sent",
)  # fmt: skip


class Tally:
    """Of a rank that follows: tells the first one, again and again, what this rank has counted since the last time."""

    def __init__(self, comm: Comm) -> None:
        self.ledger, self.told, self.comm = comm.ledger, comm.ledger.copy(), comm.counting(Ledger())

    def tell(self) -> None:
        """Sends what is new, and does not wait. This message itself is not counted."""
        new, self.told = self.ledger - self.told, self.ledger.copy()
        self.comm.post(np.array([getattr(new, name) for name in WORK], np.int64), 0)


def add_work(total: Ledger, comm: Comm) -> None:
    """Adds to a ledger what each other rank tells of a pass."""
    for rank in range(1, comm.size):
        counts = comm.receive(np.empty(len(WORK), np.int64), rank)
        total.add(Ledger(**dict(zip(WORK, counts.tolist(), strict=True))))
