"""Traps: what is easily done wrong in a family, each planted in the configuration or the weights of its golden.

A trap is a mistake that another engine made or that a file invites, made where a loader would make it. test_families.py
asserts that the golden notices. Mistakes in the lines of the model itself are in mutants.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from helpers import lazy

from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.loading.reorder import partial_rotation_order
from tinyinfer.model.config import MoEConfig, RopeConfig

Change = Callable[[Checkpoint], Checkpoint]
Arrays = dict[str, np.ndarray]


# Ways to change a model.


def fields(**changes: Any) -> Change:
    """Other fields of the configuration."""
    return lambda found: replace(found, config=replace(found.config, **changes))


def mixture(**changes: Any) -> Change:
    """Other fields of its mixture of experts."""

    def change(found: Checkpoint) -> Checkpoint:
        assert isinstance(found.config.experts, MoEConfig)
        return fields(experts=replace(found.config.experts, **changes))(found)

    return change


def rotations(change: Callable[[RopeConfig], RopeConfig]) -> Change:
    """Another rotation in each layer that has one."""
    return lambda found: fields(rope=tuple(rope and change(rope) for rope in found.config.rope))(found)


def rotation(**changes: Any) -> Change:
    """Other fields of each layer's rotation."""
    return rotations(lambda rope: replace(rope, **changes))


def windows(order: Callable[[tuple[int | None, ...]], tuple[int | None, ...]]) -> Change:
    """The windows of the layers in another order."""
    return lambda found: fields(windows=order(found.config.windows))(found)


def weights(change: Callable[[Arrays], Arrays]) -> Change:
    """Other weights: `change` gets all arrays by their canonical names and returns those that are new."""

    def changed(found: Checkpoint) -> Checkpoint:
        arrays = change({name: tensor.numpy() for name, tensor in found.tensors.items()})
        assert arrays, "nothing was changed"
        return replace(found, tensors=found.tensors | {name: lazy(name, array) for name, array in arrays.items()})

    return changed


def each(*ends: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Another array wherever a canonical name ends so."""
    return weights(lambda arrays: {name: change(array) for name, array in arrays.items() if name.endswith(ends)})


def exchanged(first: str, second: str) -> Change:
    """Two weights of each layer in each other's place."""

    def change(arrays: Arrays) -> Arrays:
        pairs = [(name, name.replace(first, second)) for name in arrays if name.endswith(first)]
        return {a: arrays[b] for pair in pairs for a, b in (pair, pair[::-1])}

    return weights(change)


def unpermuted(found: Checkpoint) -> Checkpoint:
    """Rows of queries and keys in the file's order, where the first numbers of a head are those that turn."""
    c = found.config
    size = next(rope.size for rope in c.rope if rope)
    assert size is not None
    assert size < c.head_dim

    def change(rows: np.ndarray) -> np.ndarray:
        return rows[np.argsort(partial_rotation_order(len(rows) // c.head_dim, c.head_dim, size))]

    return each(".q", ".k", ".q.bias", ".k.bias", change=change)(found)


def thirds(found: Checkpoint) -> Checkpoint:
    """GPT-NeoX's packed matrix cut into thirds, although it holds queries, keys and values head by head."""
    h = found.config.num_heads

    def change(arrays: Arrays) -> Arrays:
        new: Arrays = {}
        for i in range(found.config.num_layers):
            names = [f"layers.{i}.{part}" for part in "qkv"]
            parts = [arrays[name].reshape(h, found.config.head_dim, -1) for name in names]
            packed = np.stack(parts, axis=1).reshape(-1, found.config.hidden_size)
            new |= dict(zip(names, np.split(packed, 3), strict=True))
        return new

    return weights(change)(found)


def halves(found: Checkpoint) -> Checkpoint:
    """gpt-oss's packed experts cut into halves, although gate and up are interleaved."""

    def change(arrays: Arrays) -> Arrays:
        new: Arrays = {}
        for gate in (name for name in arrays if name.endswith(".gate")):
            up = gate.replace(".gate", ".up")
            turns = np.stack([arrays[gate], arrays[up]], axis=2)  # (X, F, 2, D)
            packed = turns.reshape(len(turns), -1, turns.shape[-1])  # (X, 2F, D)
            new |= dict(zip((gate, up), np.split(packed, 2, axis=1), strict=True))
        return new

    return weights(change)(found)


def without(end: str) -> Change:
    """The weights whose names end so left out."""
    return lambda found: replace(
        found, tensors={name: tensor for name, tensor in found.tensors.items() if not name.endswith(end)}
    )


def other_rule(layers: tuple[Any, ...]) -> tuple[Any, ...]:
    """What each layer has, in its neighbour's place."""
    return (*layers[1:], layers[0])


def square(rope: RopeConfig) -> RopeConfig:
    return replace(rope, amplitude=rope.amplitude**2)


def short_for_long(rope: RopeConfig) -> RopeConfig:
    return replace(rope, divisors=rope.long_divisors, long_divisors=rope.divisors)


def whole_head(rope: RopeConfig) -> RopeConfig:
    assert rope.divisors is not None
    assert rope.long_divisors is not None
    return replace(rope, size=16, divisors=(*rope.divisors, 1.0, 1.0), long_divisors=(*rope.long_divisors, 1.0, 1.0))


def inverted(found: Checkpoint) -> Checkpoint:
    """Rotation in the layers that have none, and none in the others."""
    turned = next(rope for rope in found.config.rope if rope)
    return fields(rope=tuple(None if rope else turned for rope in found.config.rope))(found)


def other_way(found: Checkpoint) -> Checkpoint:
    """Every head turned the other way: the two halves of queries and keys exchanged."""
    e = found.config.head_dim

    def change(rows: np.ndarray) -> np.ndarray:
        return np.roll(rows.reshape(-1, e, *rows.shape[1:]), e // 2, axis=1).reshape(rows.shape)

    return each(".q", ".k", "q_norm", "k_norm", change=change)(found)


def one_rotation(found: Checkpoint) -> Checkpoint:
    """The rotation of the layers that see everything, or of those that have one, in all layers."""
    c = found.config
    chosen = next(rope for rope, window in zip(c.rope, c.windows, strict=True) if rope and window is None)
    return fields(rope=(chosen,) * c.num_layers)(found)


def rotations_exchanged(found: Checkpoint) -> Checkpoint:
    return fields(rope=other_rule(found.config.rope))(found)


def one_head(weight: np.ndarray) -> np.ndarray:
    """The first head's part of a norm's weight in all heads."""
    return np.resize(weight[:10], len(weight))


def norms_before(found: Checkpoint) -> Checkpoint:
    """OLMo-2's norms in front of attention and MLP, as other families have them."""
    named = {
        name.replace("post_attention_norm", "attention_norm").replace("post_mlp_norm", "mlp_norm"): tensor
        for name, tensor in found.tensors.items()
    }
    return fields(pre_norms=True, post_norms=False)(replace(found, tensors=named))


def one_norm(found: Checkpoint) -> Checkpoint:
    """The norm before attention also before the MLP."""

    def change(arrays: Arrays) -> Arrays:
        names = [name for name in arrays if ".mlp_norm" in name]
        return {name: arrays[name.replace("mlp_norm", "attention_norm")] for name in names}

    return weights(change)(found)


@dataclass(frozen=True)
class Trap:
    """A mistake that the golden must notice."""

    name: str
    golden: str
    change: Change


TRAPS = [
    Trap("no_rope_layers read the other way round", "smollm3", inverted),
    Trap("every layer rotated", "smollm3", one_rotation),
    Trap("windows in the layers with rotation", "smollm3",
         windows(lambda old: tuple(None if window else 9 for window in old))),
    Trap("windows on the odd layers", "gemma2", windows(other_rule)),
    Trap("windows on every layer", "gemma2", windows(lambda old: (old[0],) * len(old))),
    Trap("no cap of the scores", "gemma2", fields(score_cap=None)),
    Trap("no cap of the logits", "gemma2", fields(logit_cap=None)),
    Trap("the two caps exchanged", "gemma2", fields(score_cap=3.0, logit_cap=6.0)),
    Trap("scale by the head size", "gemma2", fields(attention_scale=14**-0.5)),
    Trap("norms that multiply by w, not by 1 + w", "gemma2", each("norm", change=lambda w: w - np.float32(1))),
    Trap("no norm behind attention", "gemma2", without("post_attention_norm")),
    Trap("no norm behind the MLP", "gemma2", without("post_mlp_norm")),
    Trap("an embedding that is not scaled", "gemma2", fields(embedding_scale=1.0)),
    Trap("yarn's amplitude left out", "llama_yarn", rotation(amplitude=1.0)),
    Trap("yarn's amplitude squared", "llama_yarn", rotations(square)),
    Trap("yarn's factor left out", "llama_yarn", rotation(factor=1.0)),
    Trap("yarn taken for linear", "llama_yarn", rotation(scaling="linear")),
    Trap("the ends of yarn's blend rounded", "qwen2_yarn", rotation(truncate=True)),
    Trap("beta_slow 0 taken for 0.01", "qwen2_yarn", rotation(beta_slow=0.01)),
    Trap("mscale without mscale_all_dim", "qwen2_yarn", rotation(amplitude=1 + 0.15 * float(np.log(2.0)))),
    Trap("gate and up exchanged", "phi3", exchanged(".gate", ".up")),
    Trap("rotation the other way round", "olmo2", other_way),
    Trap("a window one too long", "phi3", windows(lambda old: tuple(window and window + 1 for window in old))),
    Trap("no windows", "phi3", windows(lambda old: (None,) * len(old))),
    Trap("partial rotation without its permutation", "phi3_long", unpermuted),
    Trap("the whole head rotated", "phi3_long", rotations(whole_head)),
    Trap("short and long factors exchanged", "phi3_long", rotations(short_for_long)),
    Trap("longrope's amplitude left out", "phi3_long", rotation(amplitude=1.0)),
    Trap("longrope's amplitude squared", "phi3_long", rotations(square)),
    Trap("norms before, not after", "olmo2", norms_before),
    Trap("query and key norms of one head", "olmo2", each("q_norm", "k_norm", change=one_head)),
    Trap("windows in every second layer from the second on", "olmo3", windows(other_rule)),
    Trap("one rotation for both kinds of layers", "olmo3", one_rotation),
    Trap("the rotations of the two kinds exchanged", "olmo3", rotations_exchanged),
    Trap("attention_multiplier beside 1/sqrt(E)", "granite", fields(attention_scale=0.15 * 14**-0.5)),
    Trap("attention_multiplier left out", "granite", fields(attention_scale=14**-0.5)),
    Trap("logits multiplied, not divided", "granite", fields(logit_scale=3.5)),
    Trap("residual multiplier left out", "granite", fields(residual_scale=1.0)),
    Trap("embedding multiplier left out", "granite", fields(embedding_scale=1.0)),
    Trap("halves one after the other", "gpt_neox", fields(parallel=False)),
    Trap("halves side by side", "gpt_neox_serial", fields(parallel=True)),
    Trap("a quarter of the head rotated, permutation left out", "gpt_neox", unpermuted),
    Trap("the packed matrix cut into thirds", "gpt_neox", thirds),
    Trap("one norm for both halves", "gpt_neox", one_norm),
    Trap("weights of experts renormalized", "qwen2_moe", mixture(renormalize=True)),
    Trap("no shared expert", "qwen2_moe", each("shared_down", change=np.zeros_like)),
    Trap("the shared expert's gate and up exchanged", "qwen2_moe", exchanged(".shared_gate", ".shared_up")),
    Trap("weights of experts not renormalized", "qwen3_moe_mixed", mixture(renormalize=False)),
    Trap("sinks left out", "gpt_oss", fields(sinks=False)),
    Trap("sinks of zero", "gpt_oss", each("sinks", change=np.zeros_like)),
    Trap("another head's sinks", "gpt_oss", each("sinks", change=lambda w: np.roll(w, 1))),
    Trap("windows on the other layers", "gpt_oss", windows(lambda old: tuple(None if window else 8 for window in old))),
    Trap("SiLU for the clamped gate", "gpt_oss", fields(activation="silu")),
    Trap("gate and up of experts as halves", "gpt_oss", halves),
    Trap("gate and up of experts exchanged", "gpt_oss", exchanged(".gate", ".up")),
    Trap("no bias of the router", "gpt_oss", each("router.bias", change=np.zeros_like)),
    Trap("no biases of gates", "gpt_oss", each(".gate.bias", change=np.zeros_like)),
    Trap("no biases behind experts", "gpt_oss", each("down.bias", change=np.zeros_like)),
    Trap("softmax over all experts, not over the chosen ones", "gpt_oss", mixture(renormalize=False)),
]  # fmt: skip
