"""One launch a step, through the engine: tokens and ledger of the reference; a graph where one launch does not fit."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
from helpers import finish, small_config
from on_device import agree, ask, gpu_engine, watched

from tinyinfer.backends.kernels.persistent_plan import unpersistent
from tinyinfer.errors import ModelWarning
from tinyinfer.loading import load
from tinyinfer.model.weights import Dense

MODEL = small_config(windows=(5, None), qkv_bias=True)
A, B = ([(step * i + i // 3) % 31 for i in range(24)] for step in (7, 11))


def test_a_step_of_one_sequence_is_one_launch():
    """A window, a paged cache, steps that run ahead. Catches an address of another layer, and a bias left out."""
    engine = agree(MODEL, [(A[:5], 9)], decode="persistent", kv_cache="paged", block_size=4)
    assert engine.compiled.way == "persistent"
    [bucket] = engine.compiled.buckets.values()
    assert [launch.name for launch in bucket.plan().launches] == ["persistent"]
    with watched() as seen:
        finish(engine, *ask([(B[:1], 3)]))
    assert seen.kernels == 0
    assert 2 <= seen.graphs <= 3 + 8


@pytest.mark.cuda
def test_several_sequences_and_filters_run_as_a_graph():
    """Side by side and alone; a sequence that stays alone goes over to the single launch."""
    engine = agree(MODEL, [(A[:5], 4), (B[:4], 9)], {"temperature": 0.8, "seed": 5}, decode="persistent")
    assert {rows: len(bucket.plan().launches) for rows, bucket in engine.compiled.buckets.items()} == {1: 1, 2: 12}
    engine = agree(MODEL, [(A[:5], 4)], {"temperature": 0.8, "seed": 5, "top_k": 3}, decode="persistent")
    assert len(engine.compiled.buckets[1].plan().launches) > 1


@pytest.mark.cuda
def test_packed_weights_in_one_launch(golden_folder):
    """Three pointers a matrix; the head is of another type than the layers, and the table of a third."""
    model, switches = load(golden_folder("llama")), {"quantize": "int4", "quantize_head": "int8"}
    plain, device = (gpu_engine(model, decode, **switches) for decode in ("eager", "persistent"))
    assert finish(device, *ask([(A[:9], 6)])) == finish(plain, *ask([(A[:9], 6)]))
    assert device.compiled.way == "persistent"


@pytest.mark.parametrize("changes", [{"qk_norm": "head"}, {"post_norms": True}], ids=str)
def test_a_model_that_does_not_fit_runs_as_a_graph(changes):
    """And a note says why. Catches norms that are silently left out."""
    with pytest.warns(ModelWarning, match="gpu_decode=persistent: a layer has norms of its heads or behind"):
        engine = gpu_engine(small_config(**changes), "persistent")
    assert engine.compiled.way == "graph"


@pytest.mark.parametrize(
    ("queries", "keys", "size", "fits"),
    [
        (32, 4, 64, True), (24, 2, 64, False), (16, 2, 128, True), (24, 2, 128, False), (4, 1, 256, True),
        (8, 1, 256, False),
    ],
)  # fmt: skip
def test_heads_that_take_too_much_shared_memory_run_as_a_graph(queries, keys, size, fits):
    """Those that ptxas refuses, of Gemma's first 2B model among others. Catches the bound of smaller blocks."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        engine = gpu_engine(small_config(num_heads=queries, num_kv_heads=keys, head_dim=size), "persistent")
    assert engine.compiled.way == ("persistent" if fits else "graph")
    assert fits or f"{queries // keys} query heads of {size} numbers share a key head" in str(notes[0].message)


def test_layers_that_differ_do_not_fit():
    """One kernel has one type of weight, and one scale and cap for all layers."""
    model = gpu_engine(MODEL).model
    first, second = model.layers
    heads = replace(second.mixer.heads, scale=0.5)
    scaled = replace(second, mixer=replace(second.mixer, heads=heads))
    assert "scale or cap" in unpersistent(replace(model, layers=(first, scaled)))
    halved = replace(second.mlp.down, weight=Dense(second.mlp.down.weight.array.astype("float16")))
    mixed = replace(second, mlp=replace(second.mlp, down=halved))
    assert "several types" in unpersistent(replace(model, layers=(first, mixed)))
    assert unpersistent(model) == ""
