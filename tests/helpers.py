"""Small models without files, and one way to run a golden that also works on a changed copy of the package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from itertools import count, pairwise
from typing import Any

import numpy as np
import pytest

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.switches import BACKENDS
from tinyinfer.engine.clock import Clock
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import Engine, build_engine
from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.prefix_cache import Node, PrefixCache
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import build_model, load_model
from tinyinfer.loading.checkpoint import Checkpoint, LazyTensor
from tinyinfer.model.config import ModelConfig, RopeConfig, expected_tensors
from tinyinfer.model.draft_head import DraftHead
from tinyinfer.model.transformer import Model
from tinyinfer.model.weights import Dense
from tinyinfer.sampling import SamplingParams
from tinyinfer.sequence import Batch, Span
from tinyinfer.sequence import RequestSpec as Asked
from tinyinfer.sequence import Sequence as Request
from tinyinfer.speculative.base import DraftCost
from tinyinfer.switches import resolve
from tinyinfer.text.stop_strings import TextOutput

ALWAYS_DRAFT = DraftCost(lambda rows: 1.0)  # all drafts that fit are proposed; in these small models none would pay
TOLERANCE = 1e-4  # of the largest logit: what the project promises against other implementations
ROUNDING = 1e-5  # of the largest value: the same float32 arithmetic done in another order


def installed_backends() -> list[str]:
    """The values of --backend whose packages and devices are here, each that is a backend of its own.

    Without numba, which is not even imported: its kernels take time to compile, so their tests are marked `cpu`.
    """
    found = []
    for name in BACKENDS:
        with suppress(SwitchError):
            if name not in ("auto", "numba"):  # auto: one of the others
                resolve(BACKENDS, name)(Ledger())
                found.append(name)
    return found


INSTALLED = installed_backends()
COMPILED = [pytest.param("numba", marks=pytest.mark.cpu)] if find_spec("numba") else []
EVERY = [*INSTALLED, *COMPILED]  # for tests that run once for each backend
COMPARED = [pytest.param(INSTALLED, id="installed")]  # for tests that compare backends with one another
COMPARED += [pytest.param(["numpy", "numba"], id="numba", marks=pytest.mark.cpu)] if COMPILED else []


def small_config(**changes: Any) -> ModelConfig:
    """A Llama of a few thousand weights, with whatever fields are given instead."""
    layers, size = changes.get("num_layers", 2), changes.get("head_dim", 6)
    base: dict[str, Any] = {
        "architecture": "llama", "vocab_size": 31, "hidden_size": 20, "intermediate_size": 28, "num_layers": layers,
        "num_heads": 4, "num_kv_heads": 2, "head_dim": size, "max_position": 64, "norm_eps": 1e-5,
        "attention_scale": size**-0.5, "rope": (RopeConfig(),) * layers, "windows": (None,) * layers,
    }  # fmt: skip
    return ModelConfig(**base | changes)


def longrope(boundary: int) -> RopeConfig:
    """Rotary positions of two sets, whose queries and keys fit only among themselves; for heads of 6 numbers."""
    return RopeConfig(
        scaling="longrope", original_max_position=boundary, amplitude=1.2,
        divisors=(1.0, 1.3, 1.5), long_divisors=(3.0, 2.0, 4.0),
    )  # fmt: skip


def lazy(name: str, array: np.ndarray) -> LazyTensor:
    """An array in the clothes of a tensor in a file."""
    return LazyTensor(name, array.shape, array.nbytes, lambda start, stop: array[start:stop])


def random_tensors(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under their canonical names, of a size that keeps activations near 1."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in expected_tensors(config).items():
        spread = 0.3 if len(shape) == 1 else 1.5 * shape[-1] ** -0.5
        center = 1.0 if "norm" in name and not name.endswith(".bias") else 0.0
        tensors[name] = (center + spread * rng.standard_normal(shape)).astype(np.float32)
    tensors["embedding"] *= np.float32(config.hidden_size**0.5)  # else the first norm's epsilon would decide
    return tensors


def one_bad_token(config: ModelConfig, bad: int) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """A configuration and random weights in which the vector of one token is infinite, and its own logit is 0."""
    config = replace(config, embedding_scale=1e2)
    tensors = random_tensors(config)
    tensors["embedding"] /= np.float32(config.embedding_scale)
    tensors["embedding"][bad] = 3e38  # a number; the scale makes it infinite
    tensors["head"][bad] = 0
    return config, tensors


def checkpoint_of(config: ModelConfig, tensors: dict[str, np.ndarray]) -> Checkpoint:
    """A checkpoint that holds these arrays."""
    nothing: Any = None
    return Checkpoint("memory", config, {name: lazy(name, array) for name, array in tensors.items()}, nothing)


def make_engine(
    source: ModelConfig | Checkpoint,
    *,
    seed: int = 0,
    dtype: Any = np.float32,
    clock: Callable[[], float] = lambda: 0.0,
    ops: Any = None,
    second: ModelConfig | Callable[[Model, Any], DraftHead] | None = None,
    draft_cost: DraftCost | None = None,
    **switches: Any,
) -> Engine:
    """An engine over a checkpoint, or over random weights of a configuration.

    ops: its backend; second: its draft model, or what makes a draft head for its model.
    """
    checkpoint = checkpoint_of(source, random_tensors(source, seed)) if isinstance(source, ModelConfig) else source
    config = EngineConfig(**switches)
    ops = ops or NumpyOps(Ledger(), dtype, activations=config.activations)
    model, draft = load_model(checkpoint, ops, config), None
    if isinstance(second, ModelConfig):
        draft = build_model(checkpoint_of(second, random_tensors(second, seed + 1)), ops)
    elif second:
        draft = second(model, ops)
    return build_engine(model, ops, config, clock, draft, draft_cost)


def remade(engine: Engine, kind: type[Engine], clock: Clock | None = None) -> Engine:
    """The parts of an engine put together as another kind of engine, or with another clock."""
    return kind(engine.model, engine.ops, engine.cache, engine.scheduler, engine.drafter, clock or engine.clock)


def check_blocks(engine: Engine, prefixes: PrefixCache | None = None, tables: Iterable[Request] = ()) -> None:
    """Every block of a paged cache is free, or held by exactly its claimants: tables, and the tree of prefixes."""
    cache = engine.cache
    held = Counter(block for seq in tables for block in cache.block_table(seq))
    nodes = [node for root in prefixes.roots.values() for node in tree(root)] if prefixes else []
    held.update(node.block for node in nodes)
    assert cache.blocks.holders == [held[block] for block in range(cache.blocks.num_blocks)]
    assert sorted(cache.blocks.free) == [b for b, holders in enumerate(cache.blocks.holders) if not holders]
    assert all(len(node.tokens) == cache.block_size for node in nodes), "only whole blocks are known"
    assert not prefixes or prefixes.evictable == sum(not node.users for node in nodes)


def tree(node: Node) -> list[Node]:
    """All nodes below this one."""
    return [found for child in node.children.values() for found in (child, *tree(child))]


class Words:
    """Text of a sequence for tests: token 7 is "7 "."""

    def push(self, token: int) -> str:
        return f"{token} "

    def name(self, token: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


class Letters:
    """The tokens of a model without a vocabulary: the letters' numbers."""

    def __init__(self, vocab: int) -> None:
        self.vocab = vocab
        self.beginning: list[int] = []

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) % self.vocab for letter in text]


_ids = count()


def request(
    prompt: Sequence[int], max_tokens: int = 5, eos: Sequence[int] = (), delay: float = 0.0, **params: Any
) -> Request:
    """A sequence for the engine; greedy, and never ending by itself, unless told otherwise."""
    settings = SamplingParams(max_tokens=max_tokens, **params)
    asked = Asked(next(_ids), list(prompt), settings, settings.seed or 0, max_tokens, frozenset(eos), delay)
    return Request(asked, lambda: TextOutput(Words(), tuple(settings.stop)))


def branches(prompt: Sequence[int], n: int, max_tokens: int = 5, **params: Any) -> list[Request]:
    """n sequences of one prompt, as LLM makes them."""
    first = request(prompt, max_tokens, n=n, **params)
    first.request = replace(first.request, group=first.id)
    return [first, *(first.another_branch(next(_ids), number) for number in range(1, n))]


def flat_batch(work: Sequence[tuple[Request, int, int]]) -> Batch:
    """One batch of positions first ... stop of each (sequence, first, stop); logits of all rows."""
    spans, tokens, positions = [], [], []
    for seq, first, stop in work:
        spans.append(Span(seq, len(tokens), len(tokens) + stop - first, first))
        tokens += seq.tokens[first:stop]
        positions += range(first, stop)
    return Batch(np.array(tokens), np.array(positions), np.arange(len(tokens)), tuple(spans))


def forward(engine: Engine, *work: tuple[Request, int, int]) -> list[np.ndarray]:
    """One forward pass over such a batch, committed; the logits of each span."""
    batch = flat_batch(work)
    for seq, first, stop in work:
        engine.cache.reserve(seq, stop - first)
    logits = engine.forward(batch)
    for seq, first, stop in work:
        engine.cache.commit(seq, stop - first)
    return [logits[span.start : span.stop] for span in batch.spans]


def finish(engine: Engine, *sequences: Request) -> list[list[int]]:
    """Runs sequences to their end; the new tokens of each."""
    for _ in engine.run(list(sequences)):
        continue
    return [seq.new_tokens for seq in sequences]


def ends_of_two(engine: Engine, make: Callable[[], list[Request]]) -> list[Any]:
    """What becomes of the same sequences, asked twice: tokens, ends and errors of each, then all preemptions."""
    found: list[Any] = []
    for _ in range(2):
        sequences = make()
        for seq in sequences:
            engine.add(seq, 0.0)
        while engine.busy:
            engine.step()
        found += [(seq.new_tokens, seq.progress.finish_reason, str(seq.progress.error)) for seq in sequences]
    return [*found, engine.ledger.preemptions]


def taken(part: Any, ops: Any) -> Any:
    """A part of a model whose dense weights are a backend's own."""
    if isinstance(part, Dense):
        return ops.take(part.matrix())
    if isinstance(part, tuple):
        return tuple(taken(one, ops) for one in part)
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{field.name: taken(getattr(part, field.name), ops) for field in fields(part)})
    return part


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, as a share of the largest expected value; infinite for NaN and for another shape."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return np.inf
    return float(np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max())


def golden_distance(
    package: str, checkpoint: Checkpoint, tokens: np.ndarray, logits: np.ndarray, backend: str = "numpy", xp: Any = None
) -> float:
    """How far a golden's logits are off when `package` (tinyinfer, or a copy) computes them: the worst of two ways.

    The ways: in one pass, and in three pieces, the last of a single row, with the cache between them.
    """

    def part(name: str) -> Any:
        return import_module(f"{package}.{name}")

    ledger = part("ledger").Ledger()
    if backend in ("numpy", "numba"):
        ops = resolve(part("backends.switches").BACKENDS, backend)(ledger)
    else:
        ops = part("backends.reference").ReferenceOps(ledger, xp=xp or np)
    model = part("loading.build").build_model(checkpoint, ops)
    batch, span = part("sequence").Batch, part("sequence").Span
    worst, rotations = 0.0, checkpoint.config.rotation_sets.of(len(tokens))
    for cuts in ([0, len(tokens)], [0, len(tokens) // 3, len(tokens) - 1, len(tokens)]):
        spec = part("kv_cache.base").CacheSpec(checkpoint.config.memory, len(tokens))
        cache = part("kv_cache.contiguous").ContiguousCache(spec, ops)
        seq, found = request(tokens.tolist()), []
        for first, stop in pairwise(cuts):
            rows = np.arange(stop - first)
            cache.reserve(seq, len(rows))
            spans = (span(seq, 0, len(rows), first, rotation_set=rotations),)
            piece = batch(tokens[first:stop], first + rows, rows, spans)
            compiled = ops.compile(model, cache)
            of_model = part("model.transformer").transformer
            logits_of_piece = compiled.forward(piece) if compiled else of_model(model, piece, cache, ops)
            found.append(ops.to_host(logits_of_piece))
            cache.commit(seq, len(rows))
        worst = max(worst, distance(np.concatenate(found), logits))
    return worst


def rounded(checkpoint: Checkpoint, dtype: Any) -> Checkpoint:
    """The same checkpoint with every matrix (what the backend stores in `dtype`) rounded to it and back."""
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        array = tensor.numpy()
        if array.ndim > 1 and name != "positions":
            array = array.astype(dtype).astype(np.float32)
        tensors[name] = lazy(name, array)
    return replace(checkpoint, tensors=tensors)
