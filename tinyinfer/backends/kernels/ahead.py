"""Running ahead: what the device computes while the host still looks at the last token.

The next step of a decode batch is nearly always the same: the same sequences, each one position further, each with the
token that was just chosen. The device knows all of that, so the next steps are launched before they are asked for. When
the engine asks for a step that is foreseen, its tokens are there already, or on their way.

When the engine asks for anything else, what was launched is forgotten. Nothing is wrong then: a launched step has only
written keys and values behind the committed length of each sequence, in room that was reserved for it, and whatever
comes after it on the stream writes there before it reads. So a step may run ahead as far as each sequence's blocks go,
and no block table changes on the way.

Wins: the host's work (scheduling, text, an answer to a client) hides under the GPU's. Loses: a request that arrives
waits for the steps that are launched, and a step that is not foreseen costs what was launched in vain; so the number of
steps grows only while they are used.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyinfer.backends.kernels.bucket import Bucket
from tinyinfer.backends.kernels.buffers import Seat, seat_of
from tinyinfer.sampling import has_penalties
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import Batch, Sequence, Span

MOST = 8  # steps ahead


@dataclass
class Row:
    """A sequence's row in the steps that run: its next position, and the token that the device has for it there."""

    number: int
    seat: Seat
    rotation_set: int
    position: int
    token: int | None = None  # None: not known to the host yet


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
        return ready and all(self.rows[span.seq].seat == seat_of(cache.pools_of(span.seq)) for span in batch.spans)

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
        room = min(room_of(span, self.rows[span.seq].seat, cache) for span in batch.spans)
        while len(self.steps) < min(most, room, max(map(answer_of, batch.spans))):
            self.steps.append(self.bucket.launch())


def begin(batch: Batch, bucket: Bucket, seats: list[Seat]) -> Ahead | None:
    """What can be foreseen after a batch that the bucket computes; None: nothing, when it is no decode step."""
    if not one_row_each(batch):
        return None
    spans = enumerate(zip(batch.spans, seats, strict=True))
    return Ahead(bucket, {span.seq: Row(n, seat, span.rotation_set, span.first + 1) for n, (span, seat) in spans})


def one_row_each(batch: Batch) -> bool:
    """Whether a batch is a decode step: one row of each sequence, and a token wanted after each."""
    return len(batch) == len(batch.spans) == len(batch.logit_rows)


def room_of(span: Span, seat: Seat, cache: Any) -> float:
    """How many steps a sequence's keys and values have room for behind its row, all with the same rotations."""
    _, _, block_size, blocks = seat
    length = span.first + span.rows  # the row's own position included
    return min(len(blocks) * block_size - length, cache.spec.sets.most_drafts(length))


def answer_of(span: Span) -> int:
    """How many steps a sequence can go on behind its row until its answer is as long as it may be."""
    return len(span.seq.prompt) + span.seq.request.max_tokens - 1 - span.first - span.rows


def left_to_host(params: SamplingParams) -> bool:
    """Whether only the host can choose: penalties need all tokens so far, log-probabilities a row of logits."""
    return has_penalties(params) or params.logprobs is not None
