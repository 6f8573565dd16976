"""Running ahead: what the device computes while the host still looks at the last token.

The next step of a decode batch is nearly always the same: the same sequences, each one position further, each with the
token that was just chosen. The device knows all of that, so the next steps are launched before they are asked for. When
the engine asks for a step that is foreseen, its tokens are there already, or on their way.

When the engine asks for anything else, what was launched is forgotten. Nothing is wrong then: a launched step has only
written keys and values behind the committed length of each sequence, into blocks of its own or into free ones, where
nothing is read; and whatever comes after it on the stream writes there before it reads.

Blocks are foreseen, too. A sequence needs a new one every few steps, and of many sequences one does in nearly every
step. The free blocks are a stack: which of them will be taken is known, and the device's tables are made longer before
the scheduler has done so. If another block is free by then, the step was not foreseen.

Wins: the host's work (scheduling, text, an answer to a client) hides under the GPU's. Loses: a request that arrives
waits for the steps that are launched, and a step that is not foreseen costs what was launched in vain; so the number of
steps grows only while they are used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from tinyinfer.backends.kernels.bucket import Bucket
from tinyinfer.backends.kernels.buffers import Seat, seats_of
from tinyinfer.sampling import is_changed
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import Batch, Sequence, Span

MOST = 8  # steps ahead


@dataclass
class Row:
    """A sequence's row in the steps that run: its next position, and the token that the device has for it there.

    blocks: its table on the device; the first `taken` of them are the sequence's by now.
    """

    number: int
    seat: Seat
    rotation_set: int
    position: int
    blocks: list[int]
    taken: int
    token: int | None = None  # None: not known to the host yet

    def sees(self, seat: Seat) -> bool:
        """Whether a sequence sits where the device thinks: the same arrays, and blocks that were foreseen."""
        self.taken = len(seat.blocks)
        return seat[:3] == self.seat[:3] and list(seat.blocks) == self.blocks[: self.taken]


@dataclass
class Ahead:
    """The steps of one bucket that were launched and not yet asked for."""

    bucket: Bucket
    rows: dict[Sequence, Row]
    whole: bool = True  # whether all rows still belong to sequences that run
    steps: deque[int] = field(default_factory=deque)  # the numbers of the launched steps' results

    def continues(self, batch: Batch) -> bool:
        """Whether the batch is the next step: some of these sequences, one row each, with the device's tokens."""
        pairs = zip(batch.spans, batch.tokens.tolist(), strict=True) if one_row_each(batch) else [(None, 0)]
        return all(span is not None and self._continues(span, token) for span, token in pairs)

    def _continues(self, span: Span, token: int) -> bool:
        row = self.rows.get(span.seq)
        return row is not None and (row.position, row.token, row.rotation_set) == (span.first, token, span.rotation_set)

    def foresees(self, batch: Batch, cache: Any) -> bool:
        """Whether the device has computed the batch, or can without a word from the host.

        Keys and values must lie where the device thinks. A row whose sequence has left must not go on: its room may be
        another's by now. So nothing new is launched for the sequences that are left.
        """
        ready = bool(self.steps) or (self.whole and len(batch.spans) == len(self.rows))
        if not ready:
            return False
        seats = seats_of([cache.pools_of(span.seq) for span in batch.spans])
        return all(self.rows[span.seq].sees(seat) for span, seat in zip(batch.spans, seats, strict=True))

    def take(self, batch: Batch) -> tuple[int, np.ndarray]:
        """The batch's step, launched now unless it was before: the number of its results, and the rows."""
        self.whole = self.whole and len(batch.spans) == len(self.rows)
        rows = np.array([self.rows[span.seq].number for span in batch.spans])
        for row in self.rows.values():
            row.position, row.token = row.position + 1, None
        return (self.steps.popleft() if self.steps else self.bucket.launch()), rows

    def learn(self, batch: Batch, tokens: np.ndarray) -> None:
        """The tokens that the device chose for the batch, after which its next step can be recognized."""
        for span, token in zip(batch.spans, tokens.tolist(), strict=True):
            self.rows[span.seq].token = token

    def run(self, batch: Batch, cache: Any, most: int) -> None:
        """Launches further steps behind the batch, up to `most` of them, as far as every sequence can go."""
        if not self.whole or any(left_to_host(span.seq.request.params) for span in batch.spans):
            return
        sets, rows = cache.spec.sets, self.rows.values()
        same = min(sets.most_drafts(span.first + 1) for span in batch.spans)  # steps with the same rotations
        most = min(most, same, max(map(answer_of, batch.spans)))
        foreseen = sum(len(row.blocks) - row.taken for row in rows)  # of the free blocks the next ones
        if cache.kernel_sizes or len(self.steps) >= most:  # a block that is packed gets float rows that no one foresees
            free: Iterator[int] = iter(())
        else:
            free = iter(cache.next_blocks(foreseen + len(rows) * most)[foreseen:])
        while len(self.steps) < most and self._has_room(batch, len(self.steps) + 1, free):
            self.steps.append(self.bucket.launch())

    def _has_room(self, batch: Batch, step: int, free: Iterator[int]) -> bool:
        """Whether every row has a block for its position so many steps on; the device is told of new ones."""
        pairs = [(span, self.rows[span.seq]) for span in batch.spans]
        short = [(span, row) for span, row in pairs if (span.first + step) // row.seat.block_size == len(row.blocks)]
        blocks = list(islice(free, len(short))) if all(step <= answer_of(span) for span, _ in short) else []
        if len(blocks) < len(short):
            return False
        for (_, row), block in zip(short, blocks, strict=True):
            self.bucket.seats.lengthen(row.number, len(row.blocks), block)
            row.blocks.append(block)
        if short:
            self.bucket.staging.send_places(self.bucket.stream)
        return True


def begin(batch: Batch, bucket: Bucket, seats: list[Seat]) -> Ahead | None:
    """What can be foreseen after a batch that the bucket computes; None: nothing, when it is no decode step."""
    if not one_row_each(batch):
        return None
    rows = {
        span.seq: Row(n, seat, span.rotation_set, span.first + 1, list(seat.blocks), len(seat.blocks))
        for n, (span, seat) in enumerate(zip(batch.spans, seats, strict=True))
    }
    return Ahead(bucket, rows)


def one_row_each(batch: Batch) -> bool:
    """Whether a batch is a decode step: one row of each sequence, and a token wanted after each."""
    return len(batch) == len(batch.spans) == len(batch.logit_rows)


def answer_of(span: Span) -> int:
    """How many steps a sequence can go on behind its row until its answer is as long as it may be."""
    return len(span.seq.prompt) + span.seq.request.max_tokens - 1 - span.first - span.rows


def left_to_host(params: SamplingParams) -> bool:
    """Whether only the host can choose: penalties need all tokens so far, log-probabilities a row of logits."""
    return is_changed(params) or params.logprobs is not None
