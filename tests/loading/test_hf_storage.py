"""What a family stores in another form than it is used, taken apart: every number in its place, read when asked for.

The files are written by hand, with the names and shapes that transformers writes for a model of such a family, and what
they must give is computed from them in the plainest way.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import lazy, random_tensors, small_config
from safetensors.numpy import save_file

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import LazyTensor, check_tensors
from tinyinfer.loading.hf_names import canonical_tensors
from tinyinfer.loading.safetensors import read_header
from tinyinfer.model.config import ModelConfig, MoEConfig, RopeConfig, expected_tensors

Arrays = dict[str, np.ndarray]
LAYER = "layers.1."
H, K, E, D, F = 4, 2, 6, 20, 28  # of small_config


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def read(folder: Path, config: ModelConfig, arrays: Arrays) -> dict[str, LazyTensor]:
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "model.safetensors")
    return canonical_tensors(str(folder), config, read_header(folder / "model.safetensors"))


def equal(tensors: dict[str, LazyTensor], expected: Arrays) -> None:
    """The tensors are these arrays, whole and in tiles that begin in the middle, and have their shapes."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    assert shapes == {name: array.shape for name, array in expected.items()}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.numpy(), expected[name], err_msg=name)
        for start in range(len(expected[name])):
            np.testing.assert_array_equal(tensor.read(start, start + 1), expected[name][start : start + 1])


def one_file_of(tensors: Iterable[LazyTensor], arrays: Arrays) -> None:
    """The bytes of the parts are the bytes of the file: what inspect and progress count."""
    assert sum(tensor.nbytes for tensor in tensors) == sum(array.nbytes for array in arrays.values())


def refusal(folder: Path, config: ModelConfig, arrays: Arrays) -> str:
    """The one sentence by which the folder is refused, that names the folder."""
    with pytest.raises(ModelError) as caught:
        read(folder, config, arrays)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_phi3_queries_keys_and_values_lie_below_one_another(tmp_path: Path) -> None:
    """Catches a cut in three alike (there are fewer keys than queries), and gate and up exchanged."""
    qkv, both = numbers((H + 2 * K) * E, D), numbers(2 * F, D, seed=1)
    arrays = {
        "model.layers.1.self_attn.qkv_proj.weight": qkv,
        "model.layers.1.mlp.gate_up_proj.weight": both,
        "model.layers.1.mlp.down_proj.weight": numbers(D, F),
    }
    tensors = read(tmp_path, small_config(architecture="phi3"), arrays)
    parts = {"q": qkv[:24], "k": qkv[24:36], "v": qkv[36:], "gate": both[:F], "up": both[F:], "down": numbers(D, F)}
    equal(tensors, {LAYER + name: array for name, array in parts.items()})
    one_file_of(tensors.values(), arrays)


def test_partial_rotation_moves_queries_and_keys_of_its_layers(tmp_path: Path) -> None:
    """Catches the order left out, applied to values, or taken from another layer: the shapes are the same."""
    qkv = numbers((H + 2 * K) * E, D)
    ropes = RopeConfig(), RopeConfig(size=2), None
    config = small_config(architecture="phi3", num_layers=3, rope=ropes)
    tensors = read(tmp_path, config, {f"model.layers.{i}.self_attn.qkv_proj.weight": qkv for i in range(3)})
    one = [0, 2, 3, 1, 4, 5]  # of a head of 6, whose first 2 are turned
    order = np.array([E * head + i for head in range(H) for i in one])
    parts = {"q": qkv[:24], "k": qkv[24:36], "v": qkv[36:]}
    moved = {"q": qkv[:24][order], "k": qkv[24:36][order[:12]], "v": qkv[36:]}
    layers = (parts, moved, parts)
    equal(tensors, {f"layers.{i}.{name}": array for i, layer in enumerate(layers) for name, array in layer.items()})


@pytest.mark.parametrize(("kind", "rows"), [("head", (E, E)), ("full", (H * E, K * E))])
def test_partial_rotation_moves_biases_and_norms_along(tmp_path: Path, kind: str, rows: tuple[int, int]) -> None:
    """Catches a norm's weight of one head taken for all heads', and biases left behind their rows."""
    config = small_config(architecture="qwen3", qk_norm=kind, qkv_bias=True, rope=(None, RopeConfig(size=4)))
    sizes = {"q_proj.bias": H * E, "k_proj.bias": K * E, "v_proj.bias": K * E}
    sizes |= {"q_norm.weight": rows[0], "k_norm.weight": rows[1]}
    arrays = {f"model.layers.1.self_attn.{name}": np.arange(n, dtype=np.float32) for name, n in sizes.items()}
    tensors = read(tmp_path, config, arrays)
    one = [0, 1, 4, 2, 3, 5]  # of a head of 6, whose first 4 are turned: pairs (0, 2) and (1, 3), then (4, 5)
    for name, count in (("q.bias", H), ("k.bias", K), ("q_norm", rows[0] // E), ("k_norm", rows[1] // E)):
        assert tensors[LAYER + name].numpy().tolist() == [E * head + i for head in range(count) for i in one], name
    assert tensors[LAYER + "v.bias"].numpy().tolist() == list(range(K * E))


def test_gpt_neox_packs_the_three_of_each_head(tmp_path: Path) -> None:
    """Catches queries, keys and values cut as thirds of the matrix, and the order of half-turned heads left out."""
    rope = RopeConfig(size=2)
    config = small_config(architecture="gpt_neox", num_kv_heads=H, rope=(rope, rope), norm="layer", gated=False)
    heads, biases = numbers(H, 3, E, D), numbers(H, 3, E, seed=1)
    arrays = {
        "gpt_neox.layers.1.attention.query_key_value.weight": heads.reshape(-1, D),
        "gpt_neox.layers.1.attention.query_key_value.bias": biases.reshape(-1),
        "gpt_neox.layers.1.attention.dense.weight": numbers(D, H * E),
        "gpt_neox.layers.1.mlp.dense_h_to_4h.weight": numbers(F, D),
        "gpt_neox.layers.1.mlp.dense_4h_to_h.bias": numbers(D),
        "gpt_neox.layers.1.input_layernorm.bias": numbers(D, seed=2),
        "gpt_neox.layers.1.post_attention_layernorm.weight": numbers(D, seed=3),
        "gpt_neox.final_layer_norm.bias": numbers(D, seed=4),
        "gpt_neox.embed_in.weight": numbers(31, D),
        "embed_out.weight": numbers(31, D, seed=5),
    }
    tensors = read(tmp_path, config, arrays)
    one = [0, 2, 3, 1, 4, 5]
    expected = {
        "q": heads[:, 0, one].reshape(-1, D), "k": heads[:, 1, one].reshape(-1, D), "v": heads[:, 2].reshape(-1, D),
        "q.bias": biases[:, 0, one].reshape(-1), "k.bias": biases[:, 1, one].reshape(-1),
        "v.bias": biases[:, 2].reshape(-1), "o": numbers(D, H * E), "up": numbers(F, D), "down.bias": numbers(D),
        "attention_norm.bias": numbers(D, seed=2), "mlp_norm": numbers(D, seed=3),
    }  # fmt: skip
    ends = {"final_norm.bias": numbers(D, seed=4), "embedding": numbers(31, D), "head": numbers(31, D, seed=5)}
    equal(tensors, {LAYER + name: array for name, array in expected.items()} | ends)
    one_file_of(tensors.values(), arrays)


GPT_OSS = small_config(
    architecture="gpt_oss", qkv_bias=True, o_bias=True, mlp_bias=True, sinks=True, experts=MoEConfig(3, 2, 10)
)


def gpt_oss_arrays() -> Arrays:
    """The experts and the sinks of a layer as transformers writes them."""
    experts = "model.layers.1.mlp.experts."
    return {
        f"{experts}gate_up_proj": numbers(3, D, 20), f"{experts}gate_up_proj_bias": numbers(3, 20),
        f"{experts}down_proj": numbers(3, 10, D, seed=1), f"{experts}down_proj_bias": numbers(3, D, seed=2),
        "model.layers.1.mlp.router.weight": numbers(3, D, seed=3), "model.layers.1.mlp.router.bias": numbers(3, seed=4),
        "model.layers.1.self_attn.sinks": numbers(H, seed=5),
    }  # fmt: skip


def test_gpt_oss_has_gate_and_up_interleaved_and_inputs_first(tmp_path: Path) -> None:
    """Catches halves in the place of turns, gate and up exchanged, and matrices of 10 by 20 left unturned."""
    arrays, both, bias = gpt_oss_arrays(), numbers(3, D, 20), numbers(3, 20)
    tensors = read(tmp_path, GPT_OSS, arrays)
    expected = {
        "gate": both[..., ::2].swapaxes(1, 2), "up": both[..., 1::2].swapaxes(1, 2), "gate.bias": bias[:, ::2],
        "up.bias": bias[:, 1::2], "down": numbers(3, 10, D, seed=1).swapaxes(1, 2), "down.bias": numbers(3, D, seed=2),
        "router": numbers(3, D, seed=3), "router.bias": numbers(3, seed=4), "sinks": numbers(H, seed=5),
    }  # fmt: skip
    equal(tensors, {LAYER + name: array for name, array in expected.items()})
    one_file_of(tensors.values(), arrays)


@pytest.mark.parametrize("fused", [False, True])
def test_a_shared_expert_and_dense_layers_among_mixtures(tmp_path: Path, fused: bool) -> None:
    """Catches the shared expert's gate taken for the router, or its matrices for one more expert's."""
    moe = MoEConfig(3, 2, 10, shared_size=14, dense_layers=(1,))
    config = small_config(architecture="qwen2_moe", experts=moe)
    mlp = "model.layers.0.mlp."
    gate, up, down = numbers(3, 10, D), numbers(3, 10, D, seed=1), numbers(3, D, 10, seed=2)
    if fused:
        experts = {"gate_up_proj": np.concatenate([gate, up], axis=1), "down_proj": down}
    else:
        parts = {"gate_proj": gate, "up_proj": up, "down_proj": down}
        experts = {f"{i}.{name}.weight": stack[i] for name, stack in parts.items() for i in range(3)}
    arrays = {f"{mlp}experts.{name}": array for name, array in experts.items()} | {
        f"{mlp}gate.weight": numbers(3, D, seed=3),
        f"{mlp}shared_expert_gate.weight": numbers(1, D, seed=4),
        f"{mlp}shared_expert.gate_proj.weight": numbers(14, D, seed=5),
        f"{mlp}shared_expert.up_proj.weight": numbers(14, D, seed=6),
        f"{mlp}shared_expert.down_proj.weight": numbers(D, 14, seed=7),
        "model.layers.1.mlp.gate_proj.weight": numbers(F, D, seed=8),
        "model.layers.1.mlp.up_proj.weight": numbers(F, D, seed=9),
        "model.layers.1.mlp.down_proj.weight": numbers(D, F, seed=10),
    }
    expected = {
        "gate": gate, "up": up, "down": down, "router": numbers(3, D, seed=3), "shared_router": numbers(1, D, seed=4),
        "shared_gate": numbers(14, D, seed=5), "shared_up": numbers(14, D, seed=6),
        "shared_down": numbers(D, 14, seed=7),
    }  # fmt: skip
    dense = {"gate": numbers(F, D, seed=8), "up": numbers(F, D, seed=9), "down": numbers(D, F, seed=10)}
    expected = {f"layers.0.{name}": array for name, array in expected.items()}
    equal(read(tmp_path, config, arrays), expected | {LAYER + name: array for name, array in dense.items()})
    assert expected_tensors(config).items() >= {name: array.shape for name, array in expected.items()}.items()


@pytest.mark.parametrize(
    ("family", "fields", "more"),
    [("gemma2", {"post_norms": True}, 1), ("olmo2", {"post_norms": True, "pre_norms": False}, 0)],
)
def test_norms_of_families_that_have_other_ones(tmp_path: Path, family: str, fields: Any, more: int) -> None:
    """Catches post_attention_layernorm taken for the MLP's norm as in Llama, and Gemma's 1 forgotten or OLMo's."""
    names = {"post_attention_norm": "post_attention_layernorm", "post_mlp_norm": "post_feedforward_layernorm"}
    if fields.get("pre_norms", True):
        names |= {"attention_norm": "input_layernorm", "mlp_norm": "pre_feedforward_layernorm"}
    arrays = {f"model.layers.1.{file}.weight": numbers(D, seed=i) for i, file in enumerate(names.values())}
    arrays["model.norm.weight"] = numbers(D, seed=9)
    config = small_config(architecture=family, **fields)
    expected = {LAYER + name: more + numbers(D, seed=i) for i, name in enumerate(names)}
    equal(read(tmp_path, config, arrays), expected | {"final_norm": more + numbers(D, seed=9)})
    assert {name for name in expected_tensors(config) if name.startswith(LAYER) and "norm" in name} == expected.keys()


WRONG: dict[str, tuple[ModelConfig, Arrays, tuple[str, ...]]] = {
    "Phi-3's rows do not add up to the heads": (
        small_config(architecture="phi3"),
        {"model.layers.0.self_attn.qkv_proj.weight": numbers(49, D)},
        ("'model.layers.0.self_attn.qkv_proj.weight' has shape (49, 20)", "2 times 2 key heads of 6 have 48 rows"),
    ),
    "GPT-NeoX's rows do not add up to the heads": (
        small_config(architecture="gpt_neox", num_kv_heads=H),
        {"gpt_neox.layers.0.attention.query_key_value.bias": numbers(71)},
        ("query_key_value.bias' has shape (71,)", "4 query heads and 2 times 4 key heads of 6 have 72 rows"),
    ),
    "Phi-3's gate and up of odd rows": (
        small_config(architecture="phi3"),
        {"model.layers.0.mlp.gate_up_proj.weight": numbers(57, D)},
        ("gate_up_proj.weight' has shape (57, 20)",),
    ),
    "as many rows as config.json asks for, of no number": (
        small_config(architecture="phi3", num_heads=10**7, num_kv_heads=10**7, head_dim=10**7),
        {"model.layers.0.self_attn.qkv_proj.weight": np.zeros((3 * 10**14, 0), np.float32)},
        ("qkv_proj.weight' has shape (300000000000000, 0)",),
    ),
    "rows without a number": (
        small_config(architecture="phi3"),
        {"model.layers.0.mlp.gate_up_proj.weight": numbers(56, 0)},
        ("gate_up_proj.weight' has shape (56, 0)",),
    ),
    "gpt-oss's biases of odd columns": (
        GPT_OSS, {"model.layers.0.mlp.experts.gate_up_proj_bias": numbers(3, 21)}, ("gate_up_proj_bias'", "(3, 21)")
    ),
    "gpt-oss's experts as a matrix": (
        GPT_OSS, {"model.layers.0.mlp.experts.down_proj": numbers(10, D)}, ("down_proj' has shape (10, 20)",)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_cut_is_refused_by_name(tmp_path: Path, case: str) -> None:
    """Catches rows cut wherever they happen to lie, and a traceback or no memory in the place of a sentence."""
    config, arrays, named = WRONG[case]
    sentence = refusal(tmp_path, config, arrays)
    assert all(words in sentence for words in named), sentence


def test_sinks_of_another_number_than_the_heads_are_refused(tmp_path: Path) -> None:
    """Catches sinks broadcast to, or cut at, the heads that there are."""
    tensors = {name: lazy(name, array) for name, array in random_tensors(GPT_OSS).items()}
    sinks = read(tmp_path, GPT_OSS, {"model.layers.1.self_attn.sinks": numbers(H + 1)})
    with pytest.raises(ModelError, match=r"'model\.layers\.1\.self_attn\.sinks' has shape") as caught:
        check_tensors(str(tmp_path), GPT_OSS, tensors | sinks)
    assert str(tmp_path) in str(caught.value)


BUFFERS = [
    ("llama", "rotary_emb.inv_freq"), ("llama", "model.rotary_emb.inv_freq"),
    ("phi3", "model.layers.1.self_attn.rotary_emb.inv_freq"),
    ("gpt_neox", "gpt_neox.layers.1.attention.bias"), ("gpt_neox", "gpt_neox.layers.1.attention.masked_bias"),
    ("gpt_neox", "gpt_neox.layers.1.attention.rotary_emb.inv_freq"), ("gpt_neox", "layers.1.attention.bias"),
    ("gpt2", "transformer.h.1.attn.bias"), ("gpt2", "h.1.attn.masked_bias"),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.uint8])
@pytest.mark.parametrize(("family", "name"), BUFFERS)
def test_buffers_of_old_files_are_passed_over(tmp_path: Path, family: str, name: str, dtype: Any) -> None:
    """Catches an old Pythia or Llama refused for a causal mask that the configuration gives anyway."""
    assert not read(tmp_path, small_config(architecture=family), {name: np.ones((1, 1, 3, 3), dtype)})


@pytest.mark.parametrize(
    "name",
    ["model.layers.1.self_attn.bias", "model.layers.1.self_attn.sinks", "model.layers.1.mlp.bias", "attention.bias",
     "gpt_neox.layers.1.attention.dense.masked_bias", "model.layers.1.rotary_emb.scale", "model.inv_freq"],
)  # fmt: skip
def test_no_other_tensor_is_passed_over(tmp_path: Path, name: str) -> None:
    """Catches a pattern that fits more than buffers: a weight that is left out changes the text without a word."""
    (tensor,) = read(tmp_path, small_config(), {name: numbers(4)}).values()
    assert tensor.name == name
