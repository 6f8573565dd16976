"""A student's own part in the library's engine: a KV cache, a verifier of drafts, or operations.

The engine takes any cache and any drafter that keep their contract (kv_cache/base.py, speculative/base.py). A wrapper
here keeps the contract and asks the student's few lines for the idea itself. So the real model ends on them.

Wins: what the student wrote is compared token by token with the library's own. Loses: the wrapper takes one sequence's
part at a time, without blocks, chunks or drafts for a student's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.batching.policies import Continuous, Limits
from tinyinfer.batching.scheduler import Scheduler
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import Engine, build_cache
from tinyinfer.kv_cache.base import Cache, CacheSpec, NoPrefixes, Prefixes
from tinyinfer.ledger import Ledger
from tinyinfer.llm import LLM
from tinyinfer.model.interfaces import Device, Ops
from tinyinfer.noise import uniform
from tinyinfer.sampling import Choice, choose, describe, distribution, draw
from tinyinfer.sequence import Batch, Sequence
from tinyinfer.speculative.base import Drafter, NoCandidates, NoDrafter
from tinyinfer.speculative.best_coupling import ACCEPT_STREAM

Verifier = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class StudentCache(Cache):
    """The library's contract of a cache, kept by one object of the student's for each sequence.

    make(layers): an empty object with `append`, `read` and `length`, as lesson 03 describes them.
    """

    can_chunk = False  # a prompt is computed in one step

    def __init__(self, make: Callable[[int], Any], spec: CacheSpec, device: Device) -> None:
        super().__init__(spec, device)
        self._make = make
        self._caches: dict[int, Any] = {}  # sequence id -> the student's object

    def length(self, seq: Sequence) -> int:
        """The positions that the student's object counts: the position of the next row."""
        cache = self._caches.get(seq.id)
        return 0 if cache is None else cache.length()

    def reserve(self, seq: Sequence, n: int) -> None:
        if seq.id not in self._caches:
            self._caches[seq.id] = self._make(len(self.spec.memory))

    def append(self, layer: int, k: Array, v: Array, batch: Batch) -> None:  # (T, K, E), (T, K, E) ->
        for span in batch.spans:
            self._caches[span.seq.id].append(layer, k[span.start : span.stop], v[span.start : span.stop])
        self.ledger.kv_written_bytes += k.nbytes + v.nbytes

    def read(
        self, layer: int, seq: Sequence, start: int, stop: int | None = None
    ) -> tuple[Array, Array]:  # -> (S, K, E), (S, K, E)
        k, v = (rows[start:stop] for rows in self._caches[seq.id].read(layer))  # (S, K, E), (S, K, E)
        self.ledger.kv_read_bytes += k.nbytes + v.nbytes
        return k, v

    def commit(self, seq: Sequence, n: int) -> None:
        """Nothing: the student's object counts rows as it gets them."""

    def free(self, seq: Sequence) -> None:
        self._caches.pop(seq.id, None)

    def clear(self, kept: Collection[int] = ()) -> None:
        self._caches = {}


class StudentVerifier:
    """A drafter of the library, whose drawn drafts a student's rule accepts or replaces.

    verifier(p, q): of each token the probability that a draft of it is accepted, and the law of a replacement, as
    lesson 08 describes them. The random numbers are those of verification=best-coupling.
    """

    def __init__(self, drafter: Drafter, verifier: Verifier) -> None:
        self._drafter, self._verifier, self.most = drafter, verifier, drafter.most
        self.propose, self.observe, self.free, self.keep = drafter.propose, drafter.observe, drafter.free, drafter.keep

    def verify(self, logits: np.ndarray, seq: Sequence) -> list[Choice]:  # (R, V) ->
        """The next tokens: drafts up to the first one that is replaced, and one token more if none is."""
        params, prompt, new, seed = seq.sampling
        choices: list[Choice] = []
        for row, draft in zip(logits[:-1], seq.drafts, strict=True):
            assert draft.probs is not None
            position = len(prompt) + len(new)
            token, p = draft.token, distribution(row, params, prompt, new)  # (V,)
            with np.errstate(divide="ignore", invalid="ignore"):  # 0/0 is of no draft, and log 0 is never drawn
                accept, replacement = self._verifier(p, draft.probs)  # (V,), (V,)
                if uniform(seed, position, ACCEPT_STREAM) >= accept[token]:
                    token = draw(np.log(replacement), seed, position)
            choices.append(describe(token, row, params))
            if token != draft.token:
                return choices
            new.append(token)
        return [*choices, choose(logits[-1], params, prompt, new, seed)]


def student_cache(llm: LLM, make: Callable[[int], Any]) -> StudentCache:
    """A cache of the student's for this model."""
    return StudentCache(make, build_cache(llm.config, llm.ops, EngineConfig()).spec, llm.ops)


def own_engine(
    llm: LLM, cache: Cache | None = None, drafter: Drafter | None = None,
    prefixes: Callable[[Any, Ledger], Prefixes] = NoPrefixes, ops: Ops | None = None,
) -> Engine:  # fmt: skip
    """An engine over the weights of `llm`, with the student's cache, drafter, prefixes or operations.

    Its ledger is that of `llm`.
    """
    c, ops, clock = EngineConfig(), ops or llm.ops, llm.engine.clock
    cache = cache or build_cache(llm.config, ops, c)
    policy = Continuous(Limits(c.max_num_seqs, c.max_num_batched_tokens, c.batch_timeout))
    found, candidates = prefixes(cache, ops.ledger), NoCandidates(cache, ops.ledger)
    scheduler = Scheduler(cache, found, drafter or NoDrafter(), candidates, policy, ops.ledger)
    return Engine(llm.model, ops, cache, scheduler, drafter or NoDrafter(), clock)


def answers(llm: LLM, engine: Engine, sequences: list[Sequence]) -> list[list[int]]:
    """The new tokens of each sequence, which the engine runs to its end."""
    for _ in engine.run(sequences):
        continue
    return [llm.output(seq).token_ids for seq in sequences]
