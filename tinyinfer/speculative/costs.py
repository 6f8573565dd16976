"""What drafts cost, measured while the engine runs, and an account that ends drafting where it loses.

A step with k drafts brings (1 - a^(k+1)) / (1 - a) tokens, and pays if it takes fewer passes of one row than that
(Leviathan, Kalman & Matias 2023, sections 3.3 to 3.5). Their cost coefficient c depends on the machine, on the format
of the weights and on what else runs, so it is measured: a pass with drafts is compared with the last passes without, so
that a context that grows, or a busy machine, slows both. The backend's estimate comes first, and again after many steps
without drafts; medians ignore outliers.

The acceptance rate a is learnt, too, and learning costs drafts that are rejected. The account bounds this: drafts spend
what drafts have gained, and beside it two passes at the beginning and 2% of the steps. So plain decoding keeps at least
0.95 of its speed in an answer of 64 tokens, and 0.98 in a long one, if every draft is wrong.

Wins: the same switch is right on a backend where rows are nearly free and on one where a row costs a pass. Loses: the
number of drafts depends on time, so two runs may round differently (verification=best-coupling, whose text depends on
that number, keeps the estimate, without a limit); text that begins to repeat after a long stretch that does not is
drafted a few steps late; and a long prompt that a second model has not read costs more than the account has, until the
drafts of another sequence have paid. (A draft of the target itself has nothing to read: draft_cache.py.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf, log
from statistics import median_low

from tinyinfer.ledger import Ledger
from tinyinfer.sequence import Batch

WINDOW = 3  # so many of the last passes without drafts count
RATIOS = 9  # so many measurements of one size count: each is a pass against another, so it varies by both
REFRESH = 16  # after so many steps with drafts the pass without is timed anew
FORGET = 64  # after so many steps without drafts the estimate counts again
START, ALLOWANCE, MOST = 2.0, 0.02, 6.0  # passes on the account: at first, earned by a step, at most


class RowCosts:
    """Rows of a pass -> its time in passes of one row of the target: an estimate, corrected by measurements.

    A size that was not measured is corrected like the nearest one that was. share: of a draft model, the part of the
    target's time that its passes are estimated to take.
    """

    def __init__(self, estimate: Callable[[int], float], share: float = 1.0) -> None:
        self._estimate, self._share = estimate, share
        self._corrections: dict[int, deque[float]] = {}
        self._costs: dict[int, float] = {}  # computed since the last measurement
        self._estimates: dict[int, float] = {}

    def __call__(self, rows: int) -> float:
        if rows not in self._costs:
            nearest = min(self._corrections, key=lambda size: abs(log(size / rows)), default=None)
            correction = 1.0 if nearest is None else median_low(self._corrections[nearest])
            self._costs[rows] = self.estimate(rows) * correction
        return self._costs[rows]

    def estimate(self, rows: int) -> float:
        """The cost before anything was measured."""
        if rows not in self._estimates:
            self._estimates[rows] = self._share * self._estimate(rows)
        return self._estimates[rows]

    def keep(self, rows: int) -> None:
        """Keeps the present cost of a size, whatever is measured of other sizes."""
        if size_of(rows) not in self._corrections:
            self.learn(rows, self(rows))

    def learn(self, rows: int, cost: float) -> None:
        """Counts a measurement of a size; the newest count."""
        self._corrections.setdefault(size_of(rows), deque(maxlen=RATIOS)).append(cost / self.estimate(rows))
        self._costs.clear()

    def forget(self) -> None:
        """Forgets all measurements, which may be outliers, or of another time."""
        self._corrections.clear()
        self._costs.clear()


def size_of(rows: int) -> int:
    """The rows, rounded to three binary digits: 1 to 8, 10, 12, 14, 16, 20 and so on."""
    step = 1 << max(0, rows.bit_length() - 3)
    return (rows + step // 2) // step * step


class MeasuredCosts:
    """A DraftCost that is learnt from the steps themselves.

    estimate: of the cost of rows, by the backend. share: the part of the target's time that a pass of the draft model
    is estimated to take (0: drafts of no model). candidates: how many drafts of a position are verified side by side.
    """

    def __init__(
        self, clock: Callable[[], float], ledger: Ledger, estimate: Callable[[int], float], share: float,
        candidates: int = 1,
    ) -> None:  # fmt: skip
        self.clock, self.ledger, self.candidates = clock, ledger, candidates
        self.target, self.drafter = RowCosts(estimate), RowCosts(estimate, share)
        self.balance = START
        self._plain = deque[float](maxlen=WINDOW)  # seconds of the last passes without drafts
        self._plain_rows, self._with, self._without = 1, 0, 0  # their rows; steps with drafts, or without, in a row
        self._sequences, self._proposing, self._ready, self._accepted, self._floor = 1, 0.0, 0.0, 0, -inf
        self._read, self._verified = 0, 1  # the most rows of a pass of the draft model, and of a sequence in a step
        self._tried = set[int]()  # rows of the passes of the draft model so far
        self._timed = 0  # passes without drafts that were timed, of which the first may be slow

    # What DraftLength divides by: costs in passes of the target with one row for each sequence.

    def rows(self, n: int) -> float:
        """A pass in which each sequence has so many rows."""
        n *= self.candidates if n > 1 else 1
        return max(1.0, self.target(self._sequences * n) / self.target(self._sequences))

    @property
    def draft(self) -> float:
        """A pass of the draft model that proposes one draft for each sequence."""
        return self.drafter(self._sequences) / self.target(self._sequences)

    # The account.

    def affordable(self, n: int, behind: int, left: int) -> int:
        """How many of n drafts may be proposed for a sequence. behind: its rows that the draft model has to compute.

        left: tokens to come, of which drafts are assumed to save a quarter. Drafts that have gained may spend more.
        """
        if self._timed < WINDOW or self._with >= REFRESH:
            return 0
        n = min(n, 2 * self._verified - 1)
        reading = self._reading(behind)
        if self.balance > START and 0.1 < reading < left / 4:
            self._floor, reading = START, 0.0
        while n > 0 and self.rows(1 + n) - 1 + n * self.draft + reading > self.balance:
            n -= 1
        return n

    def part(self, behind: int) -> int:
        """How many of these rows the draft model computes now: it is not trusted with many before it is timed."""
        return min(behind, max(1, 4 * self._read))

    def _reading(self, behind: int) -> float:
        """What the draft model pays, beyond its usual row, for rows that it is behind."""
        return (self.drafter(behind) - self.drafter(1)) / self.target(self._sequences)

    # Measurements.

    @contextmanager
    def proposing(self, sequences: int) -> Iterator[None]:
        """Wraps the proposal of drafts for so many sequences."""
        self._sequences, self._floor = max(1, sequences), -inf
        self._accepted, begun = self.ledger.drafts_accepted, self.clock()
        yield
        self._ready = self.clock()
        self._proposing = self._ready - begun

    @contextmanager
    def draft_pass(self, rows: int) -> Iterator[None]:
        """Wraps a forward pass of the draft model.

        The first one over a row of each sequence makes what later ones use, and is booked but not learnt from.
        """
        begun, self._read = self.clock(), max(self._read, rows)
        first = rows == self._sequences and rows not in self._tried
        yield
        self._tried.add(rows)
        if (plain := self._plain_seconds(self._sequences)) and not first:
            self.drafter.learn(rows, (self.clock() - begun) / plain * self.target(self._sequences))

    def observe(self, batch: Batch) -> None:
        """Learns from a step at its end: from its time, unless a part of a prompt was computed in it, too."""
        seconds, spans = self.clock() - self._ready, [span for span in batch.spans if span.wanted]
        sequences = len({span.seq.owner for span in spans})
        drafts = sum(span.wanted for span in spans) - sequences
        if not sequences:
            return
        if sum(span.wanted for span in spans) == len(batch):
            self._learn(sequences, drafts, seconds)
        self._settle(sequences, len(batch) - drafts, drafts)
        self._without = 0 if drafts else self._without + 1
        if self._without % FORGET == FORGET - 1:
            self.target.forget()
            self.drafter.forget()
            self._read, self._verified = 0, 1

    def _learn(self, sequences: int, drafts: int, seconds: float) -> None:
        """Learns the cost of rows from a step of nothing but decodes."""
        if not drafts:
            if sequences != self._plain_rows or self._with >= REFRESH:
                self._plain.clear()
            self._plain.append(seconds)
            self._plain_rows, self._with, self._timed = sequences, 0, self._timed + 1
            return
        self._with, self._verified = self._with + 1, max(self._verified, 1 + drafts // sequences)
        if sequences == self._plain_rows and (plain := self._plain_seconds(sequences)):
            self.target.keep(sequences)
            if size_of(sequences) != size_of(sequences + drafts):
                self.target.learn(sequences + drafts, seconds / plain * self.target(sequences))

    def _plain_seconds(self, rows: int) -> float:
        """The time of a pass without drafts; 0 before one was timed."""
        return median_low(self._plain) * self.target(rows) / self.target(self._plain_rows) if self._plain else 0.0

    def _settle(self, sequences: int, rows: int, drafts: int) -> None:
        """Books what a step gained and lost, in passes without drafts."""
        plain = self._plain_seconds(sequences)
        proposing = min(MOST, self._proposing / plain) if plain else 0.0
        extra = max(0.0, self.target(rows + drafts) / self.target(rows) - 1) if drafts else 0.0
        gain = (self.ledger.drafts_accepted - self._accepted) / sequences - extra - proposing
        balance = max(self.balance + gain, min(self.balance, self._floor))
        self.balance = min(MOST, max(balance, min(balance + ALLOWANCE, START)))
