"""Routing: which replica gets the next request of the queue?

A replica is known by its load: how many requests it has, and how many tokens are outstanding there, which are those of
prompts still to compute and those still to generate.

    round-robin        one after the other, whatever they have to do
    least-outstanding  the one with the fewest outstanding tokens: lengths differ, so equal counts are no equal work
    prefix             the one that would have the fewest afterwards: what its prefix cache holds of the prompt is not
                       to be computed there

A conversation comes back to the replica that has its keys and values, unless that one is behind by more tokens than the
cache would save. The front does not ask: it remembers which blocks of tokens each replica was given, as a chain of
hashes (a block's hash is of its tokens and of the hash before it), so that one number stands for a path through a
replica's prefix tree. Where the front is wrong, because a block was evicted or two chains have one hash, the prompt is
computed, and no token changes: the replica compares tokens.

Routing by a tree that the router keeps is SGLang's (cache-aware router; Zheng et al. 2024); to weigh the prompt tokens
that a cache saves against the load is Preble's (Srivatsa et al. 2024).

Wins: where requests share prefixes, and no replica's cache holds all of them. Loses: nothing where none do, since the
load alone decides then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

Salt = str | None


@dataclass(frozen=True)
class Load:
    """What a replica has to do: requests, and outstanding tokens."""

    requests: int = 0
    tokens: int = 0


class Router(Protocol):
    """What the front asks of a router. loads: of the replicas that have room, by their numbers; one at least.

    salt: prompts with different ones share nothing in a prefix cache (`SamplingParams.cache_salt`).
    """

    def choose(self, prompt: Seq[int], loads: Mapping[int, Load], salt: Salt = None) -> int:
        """The number of the replica that gets a request with these tokens."""

    def cached(self, replica: int, prompt: Seq[int], salt: Salt = None) -> int:
        """How many tokens of the prompt the replica need not compute."""

    def learn(self, replica: int, tokens: Seq[int], salt: Salt = None) -> None:
        """The replica has computed, or will now compute, a sequence of these tokens."""

    def forget(self) -> None:
        """All prefix caches are empty."""


class RoundRobin:
    """One replica after the other. block_size, most: of the prefix trees, which do not matter here."""

    def __init__(self, block_size: int | None, most: int) -> None:
        self.last = -1

    def choose(self, prompt: Seq[int], loads: Mapping[int, Load], salt: Salt = None) -> int:
        numbers = sorted(loads)
        self.last = next((number for number in numbers if number > self.last), numbers[0])
        return self.last

    def cached(self, replica: int, prompt: Seq[int], salt: Salt = None) -> int:
        return 0

    def learn(self, replica: int, tokens: Seq[int], salt: Salt = None) -> None:
        return

    def forget(self) -> None:
        return


class LeastOutstanding:
    """The replica with the fewest outstanding tokens; of equal ones, that which was given the fewest tokens so far."""

    def __init__(self, block_size: int | None, most: int) -> None:
        self.given: dict[int, int] = {}

    def choose(self, prompt: Seq[int], loads: Mapping[int, Load], salt: Salt = None) -> int:
        def behind(number: int) -> tuple[int, int, int]:
            return loads[number].tokens - self.cached(number, prompt, salt), self.given.get(number, 0), number

        chosen = min(loads, key=behind)
        self.given[chosen] = self.given.get(chosen, 0) + len(prompt)
        return chosen

    def cached(self, replica: int, prompt: Seq[int], salt: Salt = None) -> int:
        return 0

    def learn(self, replica: int, tokens: Seq[int], salt: Salt = None) -> None:
        return

    def forget(self) -> None:
        return


class SharedPrefix(LeastOutstanding):
    """The replica with the fewest outstanding tokens, those not counted that its prefix cache saves.

    block_size: tokens of a block of the prefix trees; None: there are none. most: blocks of one tree at most; the front
    forgets what was used least recently, as the tree does.
    """

    def __init__(self, block_size: int | None, most: int) -> None:
        super().__init__(block_size, most)
        self.block_size, self.most = block_size, most
        self.known: dict[int, dict[int, None]] = {}  # replica -> hashes of its blocks, those of the newest use last

    def cached(self, replica: int, prompt: Seq[int], salt: Salt = None) -> int:
        known, blocks = self.known.get(replica, {}), 0
        for link in chain(prompt[:-1], self.block_size, salt):  # the last token is computed in any case, for its logits
            if link not in known:
                break
            blocks += 1
        return blocks * (self.block_size or 0)

    def learn(self, replica: int, tokens: Seq[int], salt: Salt = None) -> None:
        known = self.known.setdefault(replica, {})
        for link in reversed(list(chain(tokens, self.block_size, salt))):  # a parent stays longer than its children
            known.pop(link, None)
            known[link] = None
        while len(known) > self.most:
            known.pop(next(iter(known)))

    def forget(self) -> None:
        self.known.clear()


def chain(tokens: Seq[int], block_size: int | None, salt: Salt = None) -> Iterator[int]:
    """The hash of each whole block, each with all that stands before it, the salt first; none without blocks."""
    link, size = hash(salt), block_size or len(tokens) + 1
    for stop in range(size, len(tokens) + 1, size):
        link = hash((link, *tokens[stop - size : stop]))
        yield link
