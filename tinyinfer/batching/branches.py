"""Branches: several answers to one prompt, which is computed once (parallel sampling; Kwon et al. 2023, section 4.4).

With n > 1 a prompt becomes n sequences. One of them, the first that is admitted, computes the prompt, and the others
wait meanwhile. Then each begins with a fork of what another one has: in a paged cache the same blocks, of which only
the last, partial one is copied, when the branch writes into it. A branch computes the prompt's last token again, one
row, because it needs the logits behind that row for a first token of its own. Branches differ by the seed of their
noise alone; after the fork each is a sequence as any other: it ends, is preempted and is cancelled by itself.

A branch that has ended keeps its positions as long as another branch of its prompt waits for a slot, unless the room is
needed. Wins: n prompts for the price of one, in time and in blocks. Loses: a cache without blocks copies the prompt for
each branch; one that keeps nothing (kv_cache=none) computes the prompt for each branch.
"""

from __future__ import annotations

from collections.abc import Iterable

from tinyinfer.kv_cache.base import Cache
from tinyinfer.sequence import Sequence


def same_prompt(seq: Sequence, other: Sequence) -> bool:
    """Whether two sequences are branches of one prompt."""
    return seq.request.group is not None and seq.request.group == other.request.group


def most_shared(seq: Sequence) -> int:
    """How many positions a branch can take over: the prompt's, but for the token whose logits it needs."""
    return min(len(seq.prompt), len(seq.tokens) - 1)


def must_wait(seq: Sequence, running: Iterable[Sequence], kept: Iterable[Sequence], cache: Cache) -> bool:
    """Whether a branch waits, because another one computes the prompt for it."""
    others = [other for other in running if same_prompt(seq, other)]
    if seq.progress.choices or not others or not cache.can_chunk:  # can_chunk: it keeps what a step has computed
        return False
    done = (cache.length(other) >= most_shared(seq) for other in (*others, *kept) if same_prompt(seq, other))
    return not any(done)


def source_of(seq: Sequence, known: Iterable[Sequence], cache: Cache) -> Sequence | None:
    """The branch of the same prompt that has computed most, with the same rotations; None when there is none."""
    branches = (other for other in known if same_prompt(seq, other) and cache.length(other))
    alike = (other for other in branches if cache.rotation_set(other) == cache.rotation_set(seq))
    return max(alike, key=cache.length, default=None)


def fork_prompt(source: Sequence, seq: Sequence, cache: Cache) -> None:
    """Begins a branch with the positions that another one has of the prompt."""
    cache.fork(source, seq)
    cache.truncate(seq, min(cache.length(source), most_shared(seq)))
