"""What bars tokens: which ones a sequence may choose next, decided on its row of logits before all else.

    logit_bias   a number is added to the logit of a token: -100 all but bars it, 100 all but leaves no other
    min_tokens   the end tokens are barred before so many new tokens
    a grammar    every token is barred with which the answer cannot go on; an end token may come where it may end

A barred token has the logit -infinity, and so no chance: under greedy decoding, after every filter, and as a draft.
Whatever chooses a token reads a row in which that is done, and knows nothing of it.

A draft is no token of the sequence yet. The row behind n drafts is that of a text in which those n were chosen: the
matcher follows the drafts one by one, and takes back what it followed. A draft that is barred is rejected for sure, so
the rows behind it are never looked at.

Wins: one place for all ways to choose. Loses: the row comes to the host, where a backend with a device of its own would
choose by itself; and a drafter that knows no grammar proposes drafts that are barred.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from tinyinfer.errors import GrammarError

STUCK = "no token of the vocabulary goes on with the answer as the grammar wants it"


class Allowed(NamedTuple):
    """What may come next: of each token id whether it may, (N,) bool, and whether the answer may end."""

    tokens: np.ndarray
    end: bool


class Open(NamedTuple):
    """Rows of logits in which what may not come is barred, (R, V), and how many of the first ones may be chosen from.

    A row behind those is never looked at where drafts before it are rejected, or the text ends with one. Where the
    grammar leads no further behind a draft, the step's tokens end with that draft: the next step says why.
    """

    rows: np.ndarray
    good: int


class Matcher(Protocol):
    """Where an answer stands in its grammar."""

    @property
    def fault(self) -> str:
        """Why the grammar cannot be followed any more; "" while it can."""

    def allowed(self) -> Allowed:
        """What may come next."""

    def follow(self, token: int) -> None:
        """One more token of the answer. Never raises: see `fault`."""

    def take_back(self, n: int) -> None:
        """Forgets the newest n tokens, and a fault that they brought."""

    def restarted(self) -> Matcher:
        """A matcher where this one's answer began, which goes its own way. Compiles nothing."""


@dataclass(frozen=True)
class Bars:
    """What bars the tokens of one sequence. By default nothing does.

    ends: the token ids that end the text; least: how many new tokens come before one of them. asked: those ends that
    the caller named; one that is text of the grammar may end the answer in its middle, which the model's own may not.
    """

    ends: frozenset[int] = frozenset()
    least: int = 0
    bias: tuple[tuple[int, float], ...] = ()
    matcher: Matcher | None = None
    asked: frozenset[int] = frozenset()

    @property
    def complete(self) -> bool:
        """Whether the text ends here, because nothing may follow, and there is no end token that could say so."""
        if self.matcher is None or self.ends:
            return False
        tokens, end = self.matcher.allowed()
        return end and not tokens.any() and not self.matcher.fault

    def restarted(self) -> Bars:
        """What bars the tokens of the same sequence, before its first new one."""
        return replace(self, matcher=self.matcher and self.matcher.restarted())

    def follow(self, token: int) -> None:
        """One more token of the sequence."""
        if self.matcher is not None and token not in self.ends:
            self.matcher.follow(token)

    def over(self, logits: np.ndarray, new: int, drafts: Seq[int], request_id: int) -> Open:  # (R, V) ->
        """The rows of a sequence with `new` new tokens, the n-th of them behind n drafts, with all that is barred.

        The same array where nothing bars. Raises GrammarError, which names the request, when no token may come next.
        """
        if not (self.least or self.bias or self.matcher):
            return Open(logits, len(logits))
        rows, good, followed, why = logits.copy(), 0, 0, ""  # a copy: the array is the backend's
        if self.bias:
            tokens, added = zip(*self.bias, strict=True)
            rows[:, list(tokens)] += np.array(added, rows.dtype)
        try:
            for n, row in enumerate(rows):
                if why := self._bar(row, new + n):
                    row[:] = logits[n]  # never chosen from, but numbers
                    break
                good = n + 1
                if n == len(drafts) or row[drafts[n]] == -np.inf or drafts[n] in self.ends:
                    break
                followed += 1
                self.follow(drafts[n])
                if self.complete:
                    break
        finally:
            if self.matcher is not None:
                self.matcher.take_back(followed)
        if not good and len(rows):
            raise GrammarError("{why}", "use a simpler grammar, or one that leaves more open", request_id, why=why)
        return Open(rows, good)

    def _bar(self, row: np.ndarray, new: int) -> str:  # (V,) ->
        """Bars tokens of the row behind `new` new ones, in place; why no token is left, "" when one is."""
        ends = [token for token in self.ends if token < len(row)]
        if self.matcher is not None:
            kept, (tokens, end) = row[ends], self.matcher.allowed()
            if self.matcher.fault:
                return f"the grammar cannot be followed any more: {self.matcher.fault}"
            size = min(len(row), len(tokens))  # a model may have rows behind the vocabulary, as padding
            row[size:] = -np.inf
            np.copyto(row[:size], -np.inf, where=~tokens[:size])
            if end:
                row[ends] = kept
            else:
                row[[token for token in ends if token not in self.asked]] = -np.inf
        if new < self.least:
            kept = row[ends]
            row[ends] = -np.inf
            if row.max() == -np.inf:  # the grammar's text is at its end, and so the answer is
                row[ends] = kept
        return STUCK if row.max() == -np.inf else ""
