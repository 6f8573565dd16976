"""Exact counters of the work done: the part of performance that is the same on every machine.

A stopwatch on a shared laptop measures the laptop. The ledger counts what an optimization really changes (arithmetic,
bytes moved, tokens computed twice), so a speed-up can be predicted (roofline.py), asserted in a test and graded
anywhere. The code that does the work counts it, in the next line; a fast path must count the same as the reference.

Counted are the matrix products (2·m·n·k), attention (4·H·E for every position that a query really sees), every weight
byte read, and the keys and values read and written. Norms, rotations and activations are below 1% and left out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass
class Ledger:
    """Running totals since construction; subtract two copies to get the cost of what lies between."""

    flops: int = 0  # of matrix products, attention included
    attention_flops: int = 0  # the part of `flops` done by attention
    weight_bytes: int = 0  # weights read, each once per use
    kv_read_bytes: int = 0
    kv_written_bytes: int = 0
    kv_copied_bytes: int = 0  # gathered from scattered blocks to be read in one piece, or moved by a fork or growth
    tokens_computed: int = 0  # rows that went through the model
    tokens_recomputed: int = 0  # the part of them computed before: preemption, longrope or no cache dropped their K/V
    tokens_padding: int = 0  # the part of them of finished sequences, which keep their slot (static batching)
    tokens_reused: int = 0  # positions that a step found in the cache
    tokens_cached: int = 0  # positions that sequences found computed, by others or earlier, when they were admitted
    preemptions: int = 0  # sequences whose cache was freed for another one, to be computed again
    blocks_allocated: int = 0  # blocks taken from the free list of a paged cache
    blocks_evicted: int = 0  # blocks that the prefix cache freed
    drafts_proposed: int = 0  # drafts verified
    drafts_accepted: int = 0  # drafts accepted
    logit_rows: int = 0  # rows that went through the head
    expert_rows: int = 0  # (row, expert) pairs computed by mixtures of experts
    experts_read: int = 0  # experts whose weights were read, over all layers
    steps: int = 0  # forward passes
    messages_sent: int = 0  # by this rank to others, where a model is divided among several (parallel/)
    bytes_sent: int = 0

    def copy(self) -> Ledger:
        """The totals as they are now."""
        return Ledger(**vars(self))

    def add(self, other: Ledger) -> None:
        """Counts what another one has counted, too: the work of another process."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))

    def __sub__(self, earlier: Ledger) -> Ledger:
        """What was counted since `earlier`, a copy of this ledger."""
        return Ledger(**{f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)})

    def as_dict(self) -> dict[str, int]:
        """Counter name -> total, for JSON."""
        return asdict(self)

    @property
    def bytes_moved(self) -> int:
        """All bytes read or written: what decode, being memory-bound, waits for."""
        return self.weight_bytes + self.kv_read_bytes + self.kv_written_bytes + self.kv_copied_bytes
