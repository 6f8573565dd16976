"""Every backend and cache keeps its protocol: mypy reads this file (.ci/run), no test runs it.

The registries name classes by text, so that nothing is imported before it is chosen; a type checker cannot follow them.
"""

from __future__ import annotations

from collections.abc import Callable

from tinyinfer.backends.auto import auto_ops
from tinyinfer.backends.cupy_ops import CupyOps
from tinyinfer.backends.delegate import DelegatingOps
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.batching.policies import Continuous, Dynamic, Limits, Policy, Static
from tinyinfer.kv_cache.base import Cache, CacheSpec, NoCache
from tinyinfer.kv_cache.contiguous import ContiguousCache
from tinyinfer.kv_cache.paged import PagedCache
from tinyinfer.kv_cache.quantized import QuantizedContiguousCache, QuantizedPagedCache
from tinyinfer.ledger import Ledger
from tinyinfer.model.interfaces import Device, KVCache, Ops
from tinyinfer.speculative.base import Candidates, Drafter, NoCandidates, NoDrafter
from tinyinfer.speculative.candidates import ForkedCandidates
from tinyinfer.speculative.draft_head import HeadDrafter
from tinyinfer.speculative.draft_model import ModelDrafter
from tinyinfer.speculative.prompt_lookup import PromptLookup

BACKENDS: list[Callable[[Ledger], Ops]] = [NumpyOps, ReferenceOps, CupyOps, auto_ops]
WRAPPER: Callable[[Ops], Ops] = DelegatingOps
CACHES: list[Callable[[CacheSpec, Device], Cache]] = [
    NoCache, ContiguousCache, PagedCache, QuantizedContiguousCache, QuantizedPagedCache,
]  # fmt: skip
MODELS_HALF: list[Callable[[CacheSpec, Device], KVCache]] = [NoCache, ContiguousCache, PagedCache]
POLICIES: list[Callable[[Limits], Policy]] = [Static, Dynamic, Continuous]
DRAFTERS: list[type[Drafter]] = [NoDrafter, PromptLookup, ModelDrafter, HeadDrafter]
CANDIDATES: list[Callable[[Cache, Ledger], Candidates]] = [NoCandidates, ForkedCandidates]
