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
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from tinyinfer.errors import GrammarError

STUCK = "no token of the vocabulary goes on with the answer as the grammar wants it"


class Allowed(NamedTuple):
    """What may come next: of each token id whether it may, (N,) bool, and whether the answer may end."""

    tokens: np.ndarray
    end: bool


class Matcher(Protocol):
    """Where an answer stands in its grammar."""

    @property
    def closed(self) -> bool:
        """Whether the answer is complete, and nothing may follow."""

    @property
    def fault(self) -> str:
        """Why the grammar cannot be followed any more; "" while it can."""

    def allowed(self) -> Allowed:
        """What may come next."""

    def follow(self, token: int) -> None:
        """One more token of the answer. Never raises: see `fault`."""

    def take_back(self, n: int) -> None:
        """Forgets the newest n tokens."""


@dataclass(frozen=True)
class Bars:
    """What bars the tokens of one sequence. By default nothing does.

    ends: the token ids that end the text; least: how many new tokens come before one of them.
    """

    ends: frozenset[int] = frozenset()
    least: int = 0
    bias: tuple[tuple[int, float], ...] = ()
    matcher: Matcher | None = None

    @property
    def complete(self) -> bool:
        """Whether the text ends here, because nothing may follow, and there is no end token that could say so."""
        matcher = self.matcher
        if matcher is None or self.ends or matcher.fault:
            return False
        return matcher.closed or not matcher.allowed().tokens.any()

    def follow(self, token: int) -> None:
        """One more token of the sequence."""
        if self.matcher is not None and token not in self.ends:
            self.matcher.follow(token)

    def over(self, logits: np.ndarray, new: int, drafts: Seq[int], request_id: int) -> np.ndarray:  # (R, V) -> (R, V)
        """The rows of a sequence with `new` new tokens, the n-th of them behind n drafts, with all that is barred.

        The same array where nothing bars. Raises GrammarError, which names the request, when no token is left.
        """
        if not (self.least or self.bias or self.matcher):
            return logits
        rows, followed = logits.copy(), 0  # the array is the backend's
        for token, bias in self.bias:
            rows[:, token] += bias
        try:
            for n, row in enumerate(rows):
                self._bar(row, new + n, request_id)
                if n == len(drafts) or row[drafts[n]] == -np.inf or drafts[n] in self.ends:
                    break
                self.follow(drafts[n])
                followed += 1
        finally:
            if self.matcher is not None:
                self.matcher.take_back(followed)
        return rows

    def _bar(self, row: np.ndarray, new: int, request_id: int) -> None:  # (V,) ->
        """Bars tokens of the row behind `new` new ones, in place."""
        ends = [token for token in self.ends if token < len(row)]
        if self.matcher is not None:
            kept, (tokens, end) = row[ends], self._allowed(self.matcher, request_id)
            size = min(len(row), len(tokens))  # a model may have rows behind the vocabulary, as padding
            row[size:] = -np.inf
            np.copyto(row[:size], -np.inf, where=~tokens[:size])
            if end:
                row[ends] = kept
        if new < self.least:
            kept = row[ends]
            row[ends] = -np.inf
            if row.max() == -np.inf:  # the grammar's text is at its end, and so the answer is
                row[ends] = kept
        if row.max() == -np.inf:
            raise GrammarError(STUCK, "use a model with more tokens, or a wider grammar", request_id)

    def _allowed(self, matcher: Matcher, request_id: int) -> Allowed:
        found = matcher.allowed()
        if matcher.fault:
            raise GrammarError("the grammar cannot be followed any more ({why})", "use a simpler one", request_id,
                               why=matcher.fault)  # fmt: skip
        return found
