"""A draft of the target itself computes in the target's cache: it costs no room, no prompt and no committed number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import ALWAYS_DRAFT, check_blocks, finish, make_engine, request, small_config

from tinyinfer.arrays import Array
from tinyinfer.backends.switches import BACKENDS
from tinyinfer.engine.engine import Engine
from tinyinfer.ledger import Ledger
from tinyinfer.model.transformer import transformer
from tinyinfer.sequence import Sequence, make_batch
from tinyinfer.speculative import draft_model
from tinyinfer.speculative.draft_cache import OwnCache, TargetCache
from tinyinfer.switches import resolve

MODEL = small_config(num_layers=3, qkv_bias=True, windows=(5, None, None))
PROMPTS = [[4, 5, 6, 7, 4, 5, 6, 9, 4, 5], [1, 2, 3]]
PAGED: dict[str, Any] = {"kv_cache": "paged", "block_size": 4}
PACKED: dict[str, Any] = {"kv_bits": 8, "block_size": 4}
CACHES = {"contiguous": {}, "paged": PAGED, "packed": PACKED, "paged, packed": PAGED | PACKED}
LAYERS: dict[str, Any] = {"speculative": "self", "draft_layers": 1}
COPY: dict[str, Any] = {"speculative": "self", "draft_quantize": "int2"}  # of so few bits that its keys are far off


def drafting(**switches: Any) -> Engine:
    """An engine that proposes as many drafts as it may."""
    return make_engine(MODEL, draft_cost=ALWAYS_DRAFT, **switches)


def watched(engine: Engine, look: Callable[[list[Sequence], Callable[[], None]], None]) -> Engine:
    """The engine, whose drafter is asked by `look(sequences, propose)`."""
    drafter: Any = engine.drafter
    propose = drafter.propose
    drafter.propose = lambda sequences: look(sequences, lambda: propose(sequences))
    return engine


def keys_and_values(engine: Engine, seq: Sequence) -> list[Array]:  # -> layers of (2, S, K, E)
    """What each layer has of the committed positions."""
    quiet = engine.cache.counting(Ledger())
    return [np.array(quiet.read(layer, seq, 0, engine.cache.length(seq))) for layer in range(len(engine.model.layers))]


@pytest.mark.parametrize(("way", "asked"), [
    pytest.param(COPY, {"temperature": 1.0, "seed": 4}, id="copy, drawn"),
    pytest.param(COPY, {}, id="copy, greedy", marks=pytest.mark.full),
    pytest.param(LAYERS, {}, id="layers, greedy", marks=pytest.mark.full),
])  # fmt: skip
@pytest.mark.parametrize("switches", CACHES.values(), ids=CACHES)
def test_what_is_committed_is_what_an_engine_without_drafts_has(switches, way, asked):
    """After every step, every key and value. Catches a key of a draft that stays, and a block packed with one."""
    plain, seq = make_engine(MODEL, **switches), request(PROMPTS[0], 16, **asked)
    expected = {plain.cache.length(seq): keys_and_values(plain, seq) for _ in plain.run([seq]) if not seq.finished}
    engine, drafted = drafting(**switches, **way), request(PROMPTS[0], 16, **asked)
    for _ in engine.run([drafted]):
        if not drafted.finished:
            for mine, its in zip(keys_and_values(engine, drafted), expected[engine.cache.length(drafted)], strict=True):
                step = np.ptp(its) / 255 if "kv_bits" in switches else 0  # rounding may give another code
                assert np.abs(mine - its).max() <= step + 1e-5
    assert drafted.new_tokens == seq.new_tokens
    assert 0 < engine.ledger.drafts_accepted < engine.ledger.drafts_proposed
    assert engine.cache.held_bytes == 0


@pytest.mark.parametrize("switches", CACHES.values(), ids=CACHES)
def test_a_copy_in_fewer_bits_sees_the_target_s_keys_of_all_known_positions(switches):
    """Each draft is the copy's choice behind the target's own keys and those of earlier drafts. Catches a copy that
    reads the prompt itself, and rows of all drafts in the place of the first."""
    engine, compared = drafting(**switches, **COPY, num_draft_tokens=3), []
    drafter: Any = engine.drafter

    def look(sequences: list[Sequence], propose: Callable[[], None]) -> None:
        propose()
        for seq in (seq for seq in sequences if seq.drafts):
            known, drafts = len(seq.tokens), [draft.token for draft in seq.drafts]
            cache = make_engine(MODEL, **switches).cache
            for model, first, rows in ((engine.model, 0, known - 1), (drafter.model, known - 1, len(drafts))):
                cache.reserve(seq, rows)
                logits = transformer(model, make_batch([(seq, first, rows)]), cache, engine.ops)  # (R, V)
                cache.commit(seq, rows)
            assert drafts == logits.argmax(axis=1).tolist()
            compared.append(len(drafts))

    finish(watched(engine, look), *(request(prompt, 9) for prompt in PROMPTS))
    assert sum(compared) > 12


@pytest.mark.parametrize("switches", CACHES.values(), ids=CACHES)
def test_a_draft_is_one_row_however_long_the_prompt_is(switches, monkeypatch):
    """Before the first draft and after rejected ones, too. Catches a prompt that is read twice, or caught up with."""
    rows: list[tuple[int, int]] = []

    def counted(model: Any, batch: Any, *more: Any) -> Any:
        rows.append((len(batch), len(batch.spans)))
        return transformer(model, batch, *more)

    monkeypatch.setattr(draft_model, "transformer", counted)
    engine, seq = drafting(**switches, **LAYERS), request(range(30), 12)
    finish(engine, seq)
    assert set(rows) == {(1, 1)}
    assert len(rows) == engine.ledger.drafts_proposed > 0
    whole = engine.ledger.tokens_computed * engine.cache.position_bytes
    if switches in ({}, PAGED):
        drafts = len(rows) * engine.cache.position_bytes // 3  # one layer of three
        assert engine.ledger.kv_written_bytes == whole + drafts, "what a draft writes is written"


@pytest.mark.parametrize("way", [LAYERS, COPY], ids=["layers", "copy"])
def test_after_a_proposal_the_same_blocks_are_free_in_the_same_order(way):
    """So a sequence that the step passes over holds no room, and one that it takes gets the blocks side by side."""
    engine = drafting(**way, **PAGED, num_blocks=20)

    def look(sequences: list[Sequence], propose: Callable[[], None]) -> None:
        before = engine.cache.next_blocks(20), [engine.cache.block_table(seq) for seq in sequences]
        propose()
        assert (engine.cache.next_blocks(20), [engine.cache.block_table(seq) for seq in sequences]) == before

    sequences = [request(prompt, 16) for prompt in PROMPTS]
    for _ in watched(engine, look).run(sequences):
        check_blocks(engine, tables=[seq for seq in sequences if not seq.finished])
    assert engine.ledger.drafts_proposed > 0
    assert engine.ledger.preemptions == 0


def test_drafts_take_what_room_there_is():
    """Of eight blocks two prompts of 10 take six. Catches a preemption for drafts that no sequence had to propose."""
    engine = drafting(**LAYERS, **PAGED, num_blocks=8, num_draft_tokens=8)
    steps = engine.run([request(PROMPTS[0], 20), request(PROMPTS[0][::-1], 20)])
    next(steps)
    rows = [span.rows for span in next(steps).batch.spans]
    assert rows == [1 + 8, 1 + 1], "the older one's 19 positions take five blocks, so three are left, for 12"
    assert engine.ledger.preemptions == 0


def test_prefixes_make_way_for_drafts():
    """A pool that a server has filled with prefixes has no free block for ever. Catches drafts given up there."""
    engine, evicted = drafting(**LAYERS, **PAGED, num_blocks=9, prefix_cache=True), []
    for n in range(2):
        finish(engine, request([n] * 17, 1))
    assert engine.scheduler.prefixes.evictable == 8

    def look(sequences: list[Sequence], propose: Callable[[], None]) -> None:
        before = engine.ledger.blocks_evicted
        propose()
        evicted.append(engine.ledger.blocks_evicted - before)

    found = finish(watched(engine, look), seq := request(PROMPTS[0], 16))
    assert found == finish(make_engine(MODEL), request(PROMPTS[0], 16))
    assert set(evicted) == {0, 1}, "as many as the drafts lack"
    assert seq.speculation.proposed > 8


def test_a_sequence_that_waits_to_be_computed_again_gets_no_drafts():
    """The keys that its drafts would read are gone."""
    engine = drafting(**LAYERS)
    drafter: Any = engine.drafter
    seq = request(PROMPTS[0], 9)
    assert drafter.held.make_room(seq, 4) == 0
    assert engine.cache.held_bytes == 0


@pytest.mark.parametrize(("switches", "kind"), [
    (LAYERS, TargetCache), (COPY | PAGED | PACKED, TargetCache), (LAYERS | {"kv_cache": "none"}, OwnCache),
    (LAYERS | {"verification": "best-coupling"}, OwnCache),
], ids=str)  # fmt: skip
def test_whose_cache_a_draft_of_the_target_computes_in(switches, kind):
    """Its own where the target's keeps nothing, and where the text depends on the number of drafts."""
    drafter: Any = drafting(**switches).drafter
    assert isinstance(drafter.held, kind)


@pytest.mark.cpu
@pytest.mark.parametrize("way", [LAYERS, COPY], ids=["layers", "copy"])
@pytest.mark.parametrize("switches", CACHES.values(), ids=CACHES)
def test_compiled_passes_of_both_models_share_a_cache(switches, way):
    """The same drafts and texts as NumPy's, and the same bytes. Catches a kernel that packs or counts the layers that
    a draft model lacks."""
    counted = []
    for name in ("numpy", "numba"):
        engine = drafting(ops=resolve(BACKENDS, name)(Ledger(), threads=1), **switches, **way)
        sequences = [request(prompt, 16, seed=n, temperature=float(n)) for n, prompt in enumerate(PROMPTS)]
        texts, ledger = finish(engine, *sequences), engine.ledger
        counted.append((texts, ledger.drafts_proposed, ledger.drafts_accepted, ledger.kv_written_bytes))
    assert counted[0] == counted[1]
    assert 0 < counted[0][2] < counted[0][1]
