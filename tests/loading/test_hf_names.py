"""Every family's tensors arrive under one naming, outputs as rows, with nothing lost and nothing ignored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from golden import FAMILIES, GEMMAS, load_golden, write_hf_folder
from safetensors.numpy import save_file

from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import LazyTensor
from tinyinfer.loading.hf_folder import load_folder

GoldenFolder = Callable[[str], Path]
Arrays = dict[str, np.ndarray]


def load(folder: Path) -> dict[str, LazyTensor]:
    return load_folder(folder).tensors


def changed(name: str, folder: Path, change: Callable[[Arrays], object]) -> Path:
    """A golden's folder with other weights."""
    weights = load_golden(name).weights()
    change(weights)
    write_hf_folder(name, folder)
    save_file({key: np.array(array, order="C") for key, array in weights.items()}, folder / "model.safetensors")
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_number_is_lost(golden_folder: GoldenFolder, name: str) -> None:
    """A tensor read twice, or a third of a fused one left out, keeps every shape right."""
    golden, tensors = load_golden(name), load(golden_folder(name))
    expected = np.sort(np.concatenate([array.ravel() for array in golden.weights().values()]))
    shift = golden.config["model_type"] in GEMMAS
    arrays = [t.numpy() - np.float32(shift and key.endswith("norm")) for key, t in tensors.items()]
    np.testing.assert_allclose(np.sort(np.concatenate([array.ravel() for array in arrays])), expected, atol=2e-7)
    assert sum(t.nbytes for t in tensors.values()) == 4 * len(expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_tiles_are_the_whole(golden_folder: GoldenFolder, name: str) -> None:
    """Splitting, transposing and stacking must hold for tiles that start in the middle."""
    for key, tensor in load(golden_folder(name)).items():
        whole = tensor.numpy()
        assert whole.shape == tensor.shape, key
        assert whole.dtype == np.float32, key
        tiles = np.concatenate([rows for _, rows in tensor.tiles(elements=max(1, whole.size // 3))])
        np.testing.assert_array_equal(tiles, whole, err_msg=key)


def test_llama_names(golden_folder: GoldenFolder) -> None:
    """Gate and up, or the two norms, exchanged: same shapes, another model."""
    weights, tensors = load_golden("llama").weights(), load(golden_folder("llama"))
    names = {
        "embedding": "model.embed_tokens.weight", "final_norm": "model.norm.weight", "head": "lm_head.weight",
        "layers.1.q": "model.layers.1.self_attn.q_proj.weight",
        "layers.1.k.bias": "model.layers.1.self_attn.k_proj.bias",
        "layers.1.v": "model.layers.1.self_attn.v_proj.weight", "layers.1.o": "model.layers.1.self_attn.o_proj.weight",
        "layers.2.gate": "model.layers.2.mlp.gate_proj.weight", "layers.2.up": "model.layers.2.mlp.up_proj.weight",
        "layers.2.down.bias": "model.layers.2.mlp.down_proj.bias",
        "layers.0.attention_norm": "model.layers.0.input_layernorm.weight",
        "layers.0.mlp_norm": "model.layers.0.post_attention_layernorm.weight",
    }  # fmt: skip
    for canonical, name in names.items():
        np.testing.assert_array_equal(tensors[canonical].numpy(), weights[name], err_msg=canonical)


def test_gemma_norms_are_one_more_than_stored(golden_folder: GoldenFolder) -> None:
    """All of them, those of queries and keys too; and post_attention_layernorm is not the MLP's norm as in Llama."""
    weights, tensors = load_golden("gemma3").weights(), load(golden_folder("gemma3"))
    names = {
        "layers.1.attention_norm": "input_layernorm", "layers.1.post_attention_norm": "post_attention_layernorm",
        "layers.1.mlp_norm": "pre_feedforward_layernorm", "layers.1.post_mlp_norm": "post_feedforward_layernorm",
        "layers.1.q_norm": "self_attn.q_norm", "layers.1.k_norm": "self_attn.k_norm",
    }  # fmt: skip
    for canonical, name in names.items():
        np.testing.assert_array_equal(tensors[canonical].numpy(), 1 + weights[f"model.layers.1.{name}.weight"])
    np.testing.assert_array_equal(tensors["final_norm"].numpy(), 1 + weights["model.norm.weight"])
    np.testing.assert_array_equal(tensors["embedding"].numpy(), weights["model.embed_tokens.weight"])


def test_gpt2_matrices_are_turned_and_taken_apart(golden_folder: GoldenFolder) -> None:
    """GPT-2's square matrices fit either way round."""
    weights, tensors = load_golden("gpt2").weights(), load(golden_folder("gpt2"))
    width, layer = load_golden("gpt2").config["n_embd"], "transformer.h.1."
    for i, part in enumerate("qkv"):
        columns = slice(i * width, (i + 1) * width)
        np.testing.assert_array_equal(
            tensors[f"layers.1.{part}"].numpy(), weights[layer + "attn.c_attn.weight"][:, columns].T
        )
        np.testing.assert_array_equal(
            tensors[f"layers.1.{part}.bias"].numpy(), weights[layer + "attn.c_attn.bias"][columns]
        )
    for canonical, name in {"o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}.items():
        np.testing.assert_array_equal(tensors[f"layers.1.{canonical}"].numpy(), weights[f"{layer}{name}.weight"].T)
    np.testing.assert_array_equal(tensors["positions"].numpy(), weights["transformer.wpe.weight"])
    np.testing.assert_array_equal(tensors["layers.1.mlp_norm.bias"].numpy(), weights[layer + "ln_2.bias"])


@pytest.mark.parametrize(("prefix", "old_buffers"), [(False, False), (True, True), (False, True)])
def test_gpt2_as_spelled_before(golden_folder: GoldenFolder, tmp_path: Path, prefix: bool, old_buffers: bool) -> None:
    """Without `transformer.`, and with the causal masks that old files carry as if they were weights."""
    usual = load(golden_folder("gpt2"))
    other = load(write_hf_folder("gpt2", tmp_path, prefix=prefix, old_buffers=old_buffers))
    assert usual.keys() == other.keys()
    for name, tensor in usual.items():
        np.testing.assert_array_equal(tensor.numpy(), other[name].numpy())


@pytest.mark.parametrize("name", ["gpt_neox", "gpt_neox_serial"])
def test_gpt_neox_as_files_carried_it_before(golden_folder: GoldenFolder, tmp_path: Path, name: str) -> None:
    """With the causal masks and the frequencies that a Pythia of 2023 has in every layer."""
    usual, other = load(golden_folder(name)), load(write_hf_folder(name, tmp_path, old_buffers=True))
    assert usual.keys() == other.keys()
    assert all(tensor.nbytes == other[key].nbytes for key, tensor in usual.items())


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "olmoe"])
def test_experts_are_stacked_in_their_order(golden_folder: GoldenFolder, name: str) -> None:
    """In the order of names, expert 10 comes before expert 2; Mixtral's w1, w2, w3 are gate, down, up."""
    weights, tensors = load_golden(name).weights(), load(golden_folder(name))
    prefix, parts = "model.layers.1.mlp.", {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    if name == "mixtral":
        prefix, parts = "model.layers.1.block_sparse_moe.", {"gate": "w1", "up": "w3", "down": "w2"}
    for canonical, part in parts.items():
        tensor = tensors[f"layers.1.{canonical}"]
        expected = np.stack([weights[f"{prefix}experts.{i}.{part}.weight"] for i in range(tensor.shape[0])])
        np.testing.assert_array_equal(tensor.numpy(), expected)
        np.testing.assert_array_equal(tensor.read(1, 3), expected[1:3])
    np.testing.assert_array_equal(tensors["layers.1.router"].numpy(), weights[prefix + "gate.weight"])


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "olmoe"])
def test_experts_may_be_fused(golden_folder: GoldenFolder, tmp_path: Path, name: str) -> None:
    """transformers 5 writes (X, 2F, D), gate above up, with save_original_format=False."""
    usual = load(golden_folder(name))

    def fuse(weights: Arrays) -> None:
        for key in [key for key in weights if ".experts." in key or "block_sparse_moe" in key]:
            array = weights.pop(key)
            if "block_sparse_moe.gate" in key:
                weights[key.replace("block_sparse_moe", "mlp")] = array
        for i in range(load_golden(name).config["num_hidden_layers"]):
            gate, up, down = (usual[f"layers.{i}.{part}"].numpy() for part in ("gate", "up", "down"))
            weights[f"model.layers.{i}.mlp.experts.gate_up_proj"] = np.concatenate([gate, up], axis=1)
            weights[f"model.layers.{i}.mlp.experts.down_proj"] = down

    fused = load(changed(name, tmp_path, fuse))
    assert usual.keys() == fused.keys()
    for key, tensor in usual.items():
        np.testing.assert_array_equal(tensor.numpy(), fused[key].numpy())
        np.testing.assert_array_equal(tensor.read(1, 2), fused[key].read(1, 2))


def test_a_copy_of_the_embedding_as_tied_head_is_dropped(tmp_path: Path) -> None:
    """Converters write it; transformers takes it for the embedding, as long as it is one."""
    folder = changed("llama2", tmp_path, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"]}))
    assert "head" not in load(folder)


@pytest.mark.parametrize("name", ["llama2", "gpt2"])
def test_a_tied_model_may_store_its_one_matrix_as_head(tmp_path: Path, name: str) -> None:
    """safetensors.torch.save_model keeps the first name in the alphabet; transformers 5.23 loads it, difference 0."""
    table = next(key for key in load_golden(name).weights() if key.endswith(("embed_tokens.weight", "wte.weight")))
    folder = changed(name, tmp_path, lambda w: w.update({"lm_head.weight": w.pop(table)}))
    tensors = load(folder)
    assert "head" not in tensors
    np.testing.assert_array_equal(tensors["embedding"].numpy(), load_golden(name).weights()[table])


def test_a_tied_head_that_differs_is_refused(tmp_path: Path) -> None:
    """transformers 4 ignores such a head, transformers 5 uses it."""
    folder = changed("llama2", tmp_path, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"] + 1e-3}))
    assert "set its tie_word_embeddings to false" in refusal(folder)


def test_old_llama_files_carry_their_frequencies(golden_folder: GoldenFolder, tmp_path: Path) -> None:
    """They follow from the configuration, and are no weight."""
    inv_freq = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(6, np.float32)}
    assert load(changed("llama", tmp_path, lambda w: w.update(inv_freq))).keys() == load(golden_folder("llama")).keys()


WRONG: dict[str, tuple[str, Callable[[Arrays], object], str]] = {
    "a weight is missing": ("llama", lambda w: w.pop("model.layers.2.mlp.up_proj.weight"), "'layers.2.up' is missing"),
    "a head is missing": (
        "llama", lambda w: w.pop("lm_head.weight"), "'head' is missing; if the embedding is the head, too, set "
        "tie_word_embeddings to true in config.json"
    ),
    "an embedding is missing": ("llama", lambda w: w.pop("model.embed_tokens.weight"), "'embedding' is missing; the f"),
    "a wrapper's names": (
        "llama", lambda w: [w.update({f"_orig_mod.{name}": w.pop(name)}) for name in list(w)],
        "'embedding' is missing, and tensor '_orig_mod.lm_head.weight' has no place; it is another kind of model, or"
    ),
    "a weight is left over": ("llama", lambda w: w.update({"model.foo.weight": np.ones(3)}), "'model.foo.weight'"),
    "a name of ours": (
        "llama2", lambda w: w.update({"layers.0.q": w.pop("model.layers.0.self_attn.q_proj.weight")}), "is missing"
    ),
    "a layer too many": (
        "llama", lambda w: w.update({"model.layers.3.input_layernorm.weight": np.ones(60, np.float32)}), "layers.3"
    ),
    "a bias that the configuration denies": (
        "llama2", lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": np.ones(48, np.float32)}), "q_proj.bias"
    ),
    "one weight by two names": (
        "llama", lambda w: w.update({"embed_tokens.weight": w["model.embed_tokens.weight"]}), "are the same weight"
    ),
    "a weight of whole numbers": (
        "llama", lambda w: w.update({"model.norm.weight": np.ones(60, np.int64)}), "'model.norm.weight' has type I64"
    ),
    "a scalar": ("llama", lambda w: w.update({"model.norm.weight": np.float32(1)}), "has shape ()"),
    "an expert is missing": (
        "olmoe", lambda w: w.pop("model.layers.1.mlp.experts.3.up_proj.weight"), "expert 3"
    ),
    "an expert too many": (
        "mixtral",
        lambda w: w.update({"model.layers.0.block_sparse_moe.experts.5.w1.weight": np.ones((40, 48), np.float32)}),
        "expert 5",
    ),
    "an expert by two names": (
        "olmoe",
        lambda w: w.update({"layers.1.mlp.experts.3.up_proj.weight": w["model.layers.1.mlp.experts.3.up_proj.weight"]}),
        "are the same weight",
    ),
    "an expert of another shape": (
        "olmoe",
        lambda w: w.update({"model.layers.1.mlp.experts.3.up_proj.weight": np.ones((60, 36), np.float32)}),
        "other experts have",
    ),
    "fused experts that cannot be halved": (
        "olmoe",
        lambda w: w.update({"model.layers.0.mlp.experts.gate_up_proj": np.ones((8, 73, 60), np.float32)}),
        "has shape (8, 73, 60)",
    ),
    "experts in a model without": (
        "llama", lambda w: w.update({"model.layers.0.mlp.experts.0.up_proj.weight": np.ones((2, 2))}), "experts.0"
    ),
    "GPT-2's matrix as a vector": (
        "gpt2", lambda w: w.update({"transformer.h.0.mlp.c_fc.weight": np.ones(9, np.float32)}), "c_fc.weight"
    ),
    "GPT-2's qkv that cannot be cut in three": (
        "gpt2", lambda w: w.update({"transformer.h.0.attn.c_attn.bias": np.ones(169, np.float32)}), "c_attn.bias"
    ),
    "GPT-2's cross attention": (
        "gpt2", lambda w: w.update({"transformer.h.0.crossattention.q_attn.weight": np.ones(9)}), "crossattention"
    ),
    "a head that is tied and a scalar": ("llama2", lambda w: w.update({"lm_head.weight": np.float32(1)}), "lm_head"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path, case: str) -> None:
    """Passed over, each would give wrong text without a word."""
    name, change, named = WRONG[case]
    assert named in refusal(changed(name, tmp_path, change))
