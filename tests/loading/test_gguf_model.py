"""loading/gguf_model.py: a golden written as GGUF is the model in the Hugging Face folder; the rest is refused."""

from __future__ import annotations

import re
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_writer import GGUF_FAMILIES, add_tensor, finish, llama3_divisors, write_gguf
from golden import load_golden, write_hf_folder
from helpers import small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyinfer import LLM
from tinyinfer.errors import ModelError
from tinyinfer.loading.checkpoint import LazyTensor, check_tensors
from tinyinfer.loading.gguf import GGUFFile, read_gguf
from tinyinfer.loading.gguf_model import load_gguf, read_config
from tinyinfer.loading.gguf_names import canonical_tensors
from tinyinfer.loading.hf_folder import load_folder
from tinyinfer.loading.rotations import frequencies
from tinyinfer.model.config import ModelConfig

Written = Callable[[str], str]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A function from a golden's name to its GGUF file."""
    folder, paths = tmp_path_factory.mktemp("gguf"), {}

    def path(name: str) -> str:
        if name not in paths:
            paths[name] = str(write_gguf(name, folder / f"{name}.gguf"))
        return paths[name]

    return path


def changed(path: str, remove: tuple[str, ...] = (), **settings: Any) -> GGUFFile:
    """The file with other metadata; in settings' names, `__` is a dot and the architecture goes without saying."""
    file = read_gguf(path)
    arch = file.fields["general.architecture"]
    values = {f"{arch}.{name.replace('__', '.')}": value for name, value in settings.items()}
    kept = {key: value for key, value in file.fields.items() if key not in [f"{arch}.{name}" for name in remove]}
    return GGUFFile(path, kept | values, file.tensors)


def same_in_effect(a: ModelConfig, b: ModelConfig) -> None:
    """Asserts that two configurations describe the same model, whatever they call it and however they write RoPE."""
    for field in fields(ModelConfig):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if field.name == "rope":
            assert [rope is None for rope in one] == [rope is None for rope in other]
            assert a.rotation_sets == b.rotation_sets
            for x, y in zip(one, other, strict=True):
                if x and y:
                    assert x.size == y.size
                    assert x.amplitude == pytest.approx(y.amplitude, rel=1e-6)
                    size = x.size or a.head_dim
                    # Divisors in a file give float32 wavelengths on either side of a blend.
                    np.testing.assert_allclose(frequencies(x, size), frequencies(y, size), rtol=1e-5)
        elif isinstance(one, float):
            assert one == pytest.approx(other, rel=1e-6), field.name
        elif field.name != "architecture":
            assert one == other, field.name


@pytest.mark.parametrize("name", GGUF_FAMILIES)
def test_gguf_and_folder_hold_the_same_model(name: str, written: Written, golden_folder: Callable[[str], Path]) -> None:
    """Catches a wrong name, a lost permutation or 1 + w, a metadata key misread and a default not known."""
    ours, theirs = load_gguf(written(name)), load_folder(str(golden_folder(name)))
    same_in_effect(ours.config, theirs.config)
    assert ours.tensors.keys() == theirs.tensors.keys()
    for key, tensor in ours.tensors.items():
        np.testing.assert_array_equal(tensor.numpy(), theirs.tensors[key].numpy(), err_msg=key)


@pytest.mark.parametrize("name", GGUF_FAMILIES)
def test_logits_equal_those_of_transformers(name: str, written: Written) -> None:
    """Catches whatever the comparison of tensors cannot see: two loaders that are wrong in the same way."""
    golden = load_golden(name)
    logits = LLM(written(name)).logits(golden.tokens.tolist())
    assert np.abs(logits - golden.logits).max() < 1e-4 * np.abs(golden.logits).max()


@pytest.mark.parametrize("qtype", [None, "Q8_0"])
@pytest.mark.parametrize("name", ["layers.1.q", "layers.1.k"])
def test_any_rows_of_permuted_weights(name: str, qtype: str | None, tmp_path: Path) -> None:
    """Catches a tile that begins or ends inside a head and is put in order as if it were whole heads."""
    tensor = load_gguf(str(write_gguf("llama3", tmp_path / "x.gguf", qtype))).tensors[name]
    whole = tensor.numpy()
    for start, stop in [(0, 1), (3, 4), (9, 23), (15, 17), (16, 32), (1, 32)]:
        np.testing.assert_array_equal(tensor.read(start, stop), whole[start:stop])


def test_fused_and_permuted_by_hand() -> None:
    """Catches the permutation applied a second time instead of undone, to values too, or to the rows of another part.

    llama.cpp's converter fuses on demand (--fuse-qkv). Two heads of 6 have no permutation that is its own inverse.
    """
    q = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]  # pairs (i, i + 3) made neighbours
    stored = np.array([*q, *(100 + i for i in q), *range(200, 212)], np.float32)[:, None]
    tensor = LazyTensor("blk.0.attn_qkv.weight", (36, 1), 144, lambda start, stop: stored[start:stop])
    file = GGUFFile("x.gguf", {"general.architecture": "llama"}, {tensor.name: tensor})
    parts = canonical_tensors(file, small_config(num_layers=1, num_heads=2, num_kv_heads=2, head_dim=6))
    for i, name in enumerate("qkv"):
        np.testing.assert_array_equal(parts[f"layers.0.{name}"].numpy()[:, 0], 100 * i + np.arange(12))
    smaller = GGUFFile("x.gguf", file.fields, {tensor.name: replace(tensor, shape=(35, 1))})
    with pytest.raises(ModelError, match=r"'blk\.0\.attn_qkv\.weight' has shape \(35, 1\), but q and k and v have 36"):
        canonical_tensors(smaller, small_config(num_layers=1, num_heads=2, num_kv_heads=2, head_dim=6))


def test_quantized_file_gives_nearly_the_same_logits(tmp_path: Path) -> None:
    """Catches blocks assigned to the wrong rows: Q8_0 is off by 0.4% of a weight, a mix-up by everything."""
    golden = load_golden("llama3")
    logits = LLM(str(write_gguf("llama3", tmp_path / "x.gguf", "Q8_0"))).logits(golden.tokens.tolist())
    assert np.abs(logits - golden.logits).max() < 0.05 * np.abs(golden.logits).max()


def test_the_divisors_of_llama3_come_from_the_file(written: Written) -> None:
    """Catches rope_freqs.weight ignored, which only long prompts would show."""
    rope = read_config(read_gguf(written("llama3"))).rope[0]
    np.testing.assert_array_equal(np.array(rope.divisors, np.float32), llama3_divisors(load_golden("llama3").config))
    linear = read_config(changed(written("llama3"), rope__scaling__factor=2.0)).rope[0]
    np.testing.assert_array_equal(np.array(linear.divisors), 2 * np.array(rope.divisors))


@pytest.mark.parametrize("divisors", [[2.0] * 7, [2.0] * 7 + [0.0]], ids=["one too few", "zero"])
def test_divisors_that_cannot_be(divisors: list[float], written: Written) -> None:
    """Catches frequencies that are infinite or broadcast from the wrong number of divisors."""
    file, values = read_gguf(written("llama3")), np.array(divisors, np.float32)
    wrong = LazyTensor("rope_freqs.weight", values.shape, values.nbytes, lambda start, stop: values[start:stop])
    with pytest.raises(ModelError, match=r"'rope_freqs\.weight'"):
        read_config(GGUFFile(file.path, file.fields, file.tensors | {"rope_freqs.weight": wrong}))


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "rotation not known": ("llama", {"rope__scaling__type": "ntk"}, "'ntk', which is not supported"),
    "yarn that shrinks": ("qwen2", {"rope__scaling__type": "yarn", "rope__scaling__factor": 0.5}, "by 1 or more"),
    "yarn without a base": ("llama_yarn", {"rope__freq_base": 1.0}, "needs a base above 1"),
    "yarn's bounds crossed": ("llama_yarn", {"rope__scaling__yarn_beta_fast": 0.5}, "not above yarn_beta_slow"),
    "yarn mixed otherwise": (
        "llama_yarn", {"rope__scaling__yarn_ext_factor": 0.5}, "'llama.rope.scaling.yarn_ext_factor'"
    ),
    "yarn of DeepSeek": (
        "llama_yarn", {"rope__scaling__yarn_log_multiplier": 0.1}, "'llama.rope.scaling.yarn_log_multiplier'"
    ),
    "longrope without divisors": ("llama", {"rope__scaling__type": "longrope"}, "'rope_factors_short.weight' is miss"),
    "longrope with a factor": ("phi3_long", {"rope__scaling__factor": 2.0}, "has divisors instead"),
    "half a pair turned": ("gpt_neox", {"rope__dimension_count": 5}, "'gptneox.rope.dimension_count' is 5"),
    "more turned than a head has": ("phi3", {"rope__dimension_count": 44}, "'phi3.rope.dimension_count' is 44"),
    "a model without rotation": ("granite", {"rope__scaling__finetuned": False}, "'granite.rope.scaling.finetuned'"),
    "scores capped in a family without": ("gemma3", {"attn_logit_softcapping": 50.0}, "gemma3.attn_logit_softcapping"),
    "a negative cap": ("gemma2", {"final_logit_softcapping": -30.0}, "must be a positive number"),
    "weights not renormalized": ("qwen3_moe", {"expert_weights_norm": False}, "'qwen3moe.expert_weights_norm'"),
    "weights renormalized": ("olmoe", {"expert_weights_norm": True}, "'olmoe.expert_weights_norm'"),
    "attention before the MLP": ("phi3", {"use_parallel_residual": True}, "'phi3.use_parallel_residual'"),
    "part of a head turned": ("llama", {"rope__dimension_count": 6}, "rope.dimension_count"),
    "values of another size": ("llama", {"attention__value_length": 16}, "attention.value_length"),
    "heads of odd size": ("llama", {"attention__key_length": 15, "rope__dimension_count": 15}, "no even size"),
    "scores capped": ("llama", {"attn_logit_softcapping": 50.0}, "'llama.attn_logit_softcapping'"),
    "logits capped": ("qwen3", {"final_logit_softcapping": 30.0}, "'qwen3.final_logit_softcapping'"),
    "logits scaled": ("llama", {"logit_scale": 0.5}, "'llama.logit_scale'"),
    "attention both ways": ("qwen3", {"attention__causal": False}, "'qwen3.attention.causal'"),
    "keys clamped": ("llama", {"attention__clamp_kqv": 8.0}, "'llama.attention.clamp_kqv'"),
    "attention factor": ("qwen2", {"rope__scaling__attn_factor": 1.2}, "'qwen2.rope.scaling.attn_factor'"),
    "experts' weights scaled": ("mixtral", {"expert_weights_scale": 2.5}, "'llama.expert_weights_scale'"),
    "sigmoid router": ("mixtral", {"expert_gating_func": 2}, "'llama.expert_gating_func'"),
    "shared experts": ("mixtral", {"expert_shared_count": 1}, "'llama.expert_shared_count'"),
    "more experts used than there are": ("mixtral", {"expert_used_count": 6}, "more than the 5 experts"),
    "experts in a family without": ("qwen2", {"expert_count": 4}, "'qwen2.expert_count'"),
    "windows in a family without": ("qwen2", {"attention__sliding_window": 9}, "'qwen2.attention.sliding_window'"),
    "a key from the future": ("llama", {"attention__telepathy": True}, "'llama.attention.telepathy'"),
    "heads that do not divide": ("llama", {"attention__head_count_kv": 4}, "does not divide the 6 heads"),
    "layers of different sizes": ("llama", {"feed_forward_length": np.array([112, 112, 96])}, "differs between layers"),
    "more layers than tensors": ("llama", {"block_count": 2**31 - 1}, "more than the file has tensors"),
    "no layers": ("llama", {"block_count": 0}, "'llama.block_count' is 0"),
    "a width in words": ("llama", {"embedding_length": "sixty"}, "'llama.embedding_length' is 'sixty'"),
    "epsilon NaN": ("llama", {"attention__layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon"),
    "a pattern of too few layers": (
        "gemma3", {"attention__sliding_window_pattern": np.array([True, False])}, "sliding_window_pattern"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_metadata_that_would_change_the_result_are_refused(name: str, written: Written) -> None:
    """Catches a setting that is silently ignored, and so a model that is slightly wrong."""
    golden, settings, expected = REFUSED[name]
    with pytest.raises(ModelError) as error:
        read_config(changed(written(golden), **settings))
    message = str(error.value)
    assert expected in message
    assert message.startswith(written(golden))
    assert "\n" not in message


def test_metadata_that_change_nothing_pass(written: Written) -> None:
    """Catches refusing what real files carry: switches that are off, and sizes given once per layer."""
    plain = read_config(read_gguf(written("llama")))
    off = {"attn_logit_softcapping": 0.0, "attention__causal": True, "expert_count": 0, "expert_used_count": 0,
           "tensor_data_layout": "Meta AI original pth", "rope__scaling__type": "none", "rope__scaling__factor": 8.0,
           "attention__head_count": np.array([6, 6, 6]), "attention__head_count_kv": np.array([2, 2, 2])}  # fmt: skip
    assert read_config(changed(written("llama"), **off)) == plain


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"general.architecture": "mamba"}, r"'mamba', which is not supported in GGUF; supported are llama, qwen2"),
        ({"general.type": "adapter"}, "not a model of its own"),
        ({"general.architecture": 7}, "must be a string"),
    ],
)
def test_files_that_are_not_one_supported_model(change: dict[str, Any], expected: str, written: Written) -> None:
    """Catches loading a part of a model, an adapter or another architecture as if it were a Llama."""
    file = read_gguf(written("llama"))
    with pytest.raises(ModelError, match=expected):
        read_config(GGUFFile(file.path, file.fields | change, file.tensors))


def test_a_missing_required_key_is_named(written: Written) -> None:
    """Catches a KeyError, and an invented value where the file has none."""
    for key in ("block_count", "embedding_length", "attention.head_count", "context_length", "feed_forward_length",
                "attention.layer_norm_rms_epsilon"):  # fmt: skip
        with pytest.raises(ModelError, match=rf"'llama\.{key}' is missing"):
            read_config(changed(written("llama"), remove=(key,)))


def test_defaults_of_optional_keys(written: Written) -> None:
    """Catches defaults unlike llama.cpp's: as many key heads as heads, RoPE's base 10000, linear by a factor."""
    sizes = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    config = read_config(changed(written("llama2"), remove=("attention.head_count_kv", "rope.freq_base", *sizes)))
    same_in_effect(config, read_config(read_gguf(written("llama2"))))
    assert read_config(changed(written("llama"), rope__scaling__factor=3.0)).rope[0].factor == 3.0
    assert read_config(changed(written("llama"), rope__scale_linear=5.0)).rope[0].factor == 5.0


def test_gemma3_as_published(written: Written) -> None:
    """Catches a wrong default of Gemma 3, whose published files leave most to the reader."""
    removed = ("attention.scale", "attention.sliding_window_pattern", "rope.freq_base", "rope.freq_base_swa")
    config = read_config(changed(written("gemma3"), remove=removed))
    assert config.windows == (7, 7, 7, 7)  # the sixth would be the first to see all
    assert {rope.theta for rope in config.rope if rope} == {10000.0}
    assert config.attention_scale == 20**-0.5
    assert config.embedding_scale == pytest.approx(48**0.5)
    everywhere = read_config(changed(written("gemma3"), remove=(*removed, "attention.sliding_window")))
    assert everywhere.windows == (None,) * 4
    assert {rope.theta for rope in everywhere.rope if rope} == {1e6}


def test_gemma3_window_patterns(written: Written) -> None:
    """Catches a pattern turned around: True means a window, and a period's last layer is the one that sees all."""
    by_layer = changed(written("gemma3"), attention__sliding_window_pattern=np.array([False, True, True, False]))
    assert read_config(by_layer).windows == (None, 7, 7, None)
    every_second = changed(written("gemma3"), attention__sliding_window_pattern=2)
    assert read_config(every_second).windows == (7, None, 7, None)
    never = changed(written("gemma3"), attention__sliding_window_pattern=0)
    assert read_config(never).windows == (7, 7, 7, 7)


@pytest.mark.parametrize(("name", "layers", "width"), [("gemma3", 62, 48 / 4), ("gemma2", 46, 54 / 6)])
def test_gemma_27b_scales_by_its_width(name: str, layers: int, width: float, written: Written) -> None:
    """Catches 1/sqrt(head size) for the models that llama.cpp tells from the others by their 62 and 46 layers."""
    file = changed(written(name), remove=("attention.scale",), block_count=layers)
    more = {f"more.{i}": file.tensors["output_norm.weight"] for i in range(layers)}
    config = read_config(GGUFFile(file.path, file.fields, file.tensors | more))
    assert config.attention_scale == pytest.approx(width**-0.5)


def test_gemma2_as_the_first_files(written: Written) -> None:
    """Catches a cap or a window lost for files of June 2024, which say none of them; a window on the odd layers."""
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    config = read_config(changed(written("gemma2"), remove=(*caps, "attention.scale", "attention.sliding_window")))
    assert (config.score_cap, config.logit_cap) == (50.0, 30.0)
    assert config.windows == (4096, None, 4096, None, 4096)
    assert config.attention_scale == pytest.approx(14**-0.5)
    off = read_config(changed(written("gemma2"), attn_logit_softcapping=0.0, final_logit_softcapping=0.0))
    assert (off.score_cap, off.logit_cap) == (None, None)
    assert read_config(changed(written("gemma3"), final_logit_softcapping=30.0)).logit_cap == 30.0


def test_layers_that_the_file_does_not_list(written: Written) -> None:
    """Catches windows and rotations on the wrong layers, where only llama.cpp's code says which."""
    pattern = ("attention.sliding_window_pattern",)
    assert read_config(changed(written("gpt_oss"), remove=pattern)).windows == (8, None, 8, None)
    assert read_config(changed(written("olmo3"), remove=pattern)).windows == (10, 10, 10, None)
    smollm3 = read_config(read_gguf(written("smollm3_bare")))
    assert [rope is None for rope in smollm3.rope] == [False, False, False, True, False]


def test_what_first_files_of_other_families_leave_out(written: Written) -> None:
    """Catches a base, a factor or an expert's width taken from elsewhere; 0 is how llama.cpp writes "no factor"."""
    neox = read_config(changed(written("gpt_neox"), remove=("rope.freq_base", "use_parallel_residual")))
    assert neox.parallel
    assert [(rope.theta, rope.size) for rope in neox.rope if rope] == [(1e4, 6)] * 4
    moe = read_config(changed(written("qwen2_moe_bare"), remove=("expert_feed_forward_length",)))
    assert moe.experts
    assert moe.experts.expert_size == 50 // 4
    zeros = {"attention__scale": 0.0, "residual_scale": 0.0, "embedding_scale": 0.0, "logit_scale": 0.0}
    granite = read_config(changed(written("granite"), **zeros))
    assert (granite.residual_scale, granite.embedding_scale, granite.logit_scale) == (1.0, 1.0, 1.0)
    assert granite.attention_scale == pytest.approx(14**-0.5)


def test_yarns_amplitude_is_a_product(written: Written) -> None:
    """Catches an amplitude squared, and one of the three keys for it not read."""
    file, amplitude = written("llama_yarn"), 0.1 * np.log(4.0) + 1
    for keys, expected in [
        ({}, amplitude),
        ({"rope__scaling__yarn_attn_factor": 1.5}, 1.5),
        ({"rope__scaling__attn_factor": 0.5}, amplitude * 0.5),
        ({"rope__scaling__factor": 1.0}, 1.0),
    ]:
        assert {rope.amplitude for rope in read_config(changed(file, **keys)).rope if rope} == {expected}


def test_longrope_of_a_short_text(written: Written) -> None:
    """Catches the long divisors for every text: llama.cpp chooses by the memory it has, transformers by the text."""
    golden = load_golden("phi3_long")
    assert golden.short_logits is not None
    tokens = golden.tokens[: len(golden.short_logits)].tolist()
    logits = LLM(written("phi3_long")).logits(tokens)
    assert np.abs(logits - golden.short_logits).max() < 1e-4 * np.abs(golden.short_logits).max()


@pytest.mark.parametrize("name", ["llama3", "phi3_long", "olmo3", "smollm3_bare"])
def test_codes_are_cut_and_ordered_like_floats(name: str, tmp_path: Path, golden_folder: Callable[[str], Path]) -> None:
    """Catches codes of another row than the floats': rows of fused matrices, and of heads that are reordered."""
    ours = load_gguf(str(write_gguf(name, tmp_path / "x.gguf", "Q8_0"))).tensors
    theirs, kept = load_folder(str(golden_folder(name))).tensors, 0
    for key, tensor in ours.items():
        if tensor.codes:
            blocks = gguf.quants.quantize(theirs[key].numpy(), gguf.GGMLQuantizationType.Q8_0)
            expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)
            np.testing.assert_array_equal(tensor.numpy(), expected, err_msg=key)
            np.testing.assert_array_equal(tensor.quantized(3, 17).dequantize(), expected[3:17], err_msg=key)
            kept += 1
    assert kept > 5


def test_experts_of_four_bits(tmp_path: Path) -> None:
    """gpt-oss as its GGUF files have it. Catches blocks of MXFP4 read along another axis, or of another expert.

    The golden's widths are no whole blocks, so that these are: 64 for 52 and 32 for 30.
    """
    golden, wider = load_golden("gpt_oss"), {52: 64, 30: 32, 60: 64}
    shapes = {name: tuple(wider.get(n, n) for n in shape) for name, shape in golden.tensors.items()}
    golden = replace(golden, config=golden.config | {"hidden_size": 64, "intermediate_size": 32}, tensors=shapes)
    ours = load_gguf(str(write_gguf(golden, tmp_path / "x.gguf", "MXFP4"))).tensors
    theirs = load_folder(str(write_hf_folder(golden, tmp_path / "folder"))).tensors
    for part in ("gate", "up", "down"):
        blocks = gguf.quants.quantize(theirs[f"layers.2.{part}"].numpy(), gguf.GGMLQuantizationType.MXFP4)
        expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.MXFP4)
        np.testing.assert_array_equal(ours[f"layers.2.{part}"].numpy(), expected, err_msg=part)
        assert ours[f"layers.2.{part}"].nbytes == expected.size * 17 // 32, "a byte of scale for 32 numbers of 4 bits"


def test_end_tokens(written: Written) -> None:
    """Catches a chat that never ends, and an id of -1 or beyond the vocabulary taken for one."""
    file = read_gguf(written("llama"))
    p, tokens = "tokenizer.ggml.", [*file.fields["tokenizer.ggml.tokens"][:-1], "<end_of_turn>"]
    settings = {p + "eot_token_id": 7, p + "eom_token_id": 2**32 - 1, p + "tokens": tokens}
    assert read_config(GGUFFile(file.path, file.fields | settings, file.tensors)).eos_token_ids == (2, 7, 276)
    with pytest.raises(ModelError, match=r"tokenizer\.ggml\.eot_token_id"):
        read_config(GGUFFile(file.path, file.fields | {"tokenizer.ggml.eot_token_id": -4}, file.tensors))


def damaged(path: str, copy: Path, **names: str) -> str:
    """A copy of a file in which tensors have other names of the same length."""
    content = Path(path).read_bytes()
    for old, new in names.items():
        old = old.replace("__", ".")
        assert len(old) == len(new)
        content = content.replace(old.encode(), new.encode())
    copy.write_bytes(content)
    return str(copy)


def test_tensors_missing_or_unknown(written: Written, tmp_path: Path) -> None:
    """Catches weights that are ignored, invented or taken from the wrong place."""
    with pytest.raises(ModelError, match=r"'blk\.1\.ffn_mist\.weight' is not known"):
        load_gguf(damaged(written("llama2"), tmp_path / "a.gguf", blk__1__ffn_gate__weight="blk.1.ffn_mist.weight"))
    with pytest.raises(ModelError, match=r"tensor 'token_embd.weight' is missing"):
        load_gguf(damaged(written("llama2"), tmp_path / "b.gguf", token_embd__weight="token_embz.weight"))
    with pytest.raises(ModelError, match=r"'layers\.2\.attention_norm' is missing"):
        load_gguf(damaged(written("llama2"), tmp_path / "c.gguf", blk__2__attn_norm="blk.7.attn_norm"))


def test_divisors_that_the_rotation_does_not_read(written: Written) -> None:
    """Catches one of two stretches silently ignored: Llama 3's divisors beside yarn, LongRoPE's beside a factor."""
    yarn = changed(written("llama3"), rope__scaling__type="yarn", rope__scaling__factor=2.0)
    with pytest.raises(ModelError, match=r"'rope_freqs\.weight' is not known"):
        canonical_tensors(yarn, read_config(yarn))
    linear = changed(written("phi3_long"), rope__scaling__type="linear", remove=("rope.scaling.attn_factor",))
    with pytest.raises(ModelError, match=r"'rope_factors_short\.weight' is not known"):
        canonical_tensors(linear, read_config(linear))


def test_two_tensors_for_one_weight(written: Written) -> None:
    """Catches one of a dense MLP and a stack of experts silently winning over the other."""
    file = read_gguf(written("llama2"))
    twice = file.tensors | {"blk.0.ffn_up_exps.weight": file.tensors["blk.0.ffn_up.weight"]}
    with pytest.raises(ModelError, match=r"'blk\.0\.ffn_up_exps\.weight' is a second 'layers\.0\.up'"):
        canonical_tensors(GGUFFile(file.path, file.fields, twice), read_config(file))


def test_a_tensor_of_the_wrong_shape(written: Written) -> None:
    """Catches a head size or width that does not fit the weights, before a product fails deep in the model."""
    file = changed(written("qwen2"), attention__head_count=2, attention__head_count_kv=1)
    config = read_config(file)
    check_tensors(file.path, config, canonical_tensors(file, config))  # heads twice as large fit as well
    wrong = changed(written("qwen2"), feed_forward_length=97)
    config = read_config(wrong)
    with pytest.raises(ModelError, match=r"'blk\.0\.ffn_gate\.weight' has shape \(96, 56\)"):
        check_tensors(wrong.path, config, canonical_tensors(wrong, config))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path]:
    """The bytes of a whole model of 3 KB, and a path for its damaged forms."""
    path = tmp_path_factory.mktemp("fuzz") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for setting, value in {"block_count": 1, "context_length": 9, "embedding_length": 4, "feed_forward_length": 32,
                           "head_count": 2, "head_count_kv": 1, "rope_dimension_count": 2}.items():  # fmt: skip
        getattr(writer, f"add_{setting}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["<s>", "</s>", "a", "b", "ab"])
    writer.add_token_types([3, 3, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(1)
    shapes = {"attn_q": (4, 4), "attn_k": (2, 4), "attn_v": (2, 4), "attn_output": (4, 4), "ffn_gate": (32, 4),
              "ffn_up": (32, 4), "ffn_down": (4, 32), "attn_norm": (4,), "ffn_norm": (4,)}  # fmt: skip
    named: dict[str, tuple[int, ...]] = {f"blk.0.{name}.weight": shape for name, shape in shapes.items()}
    named |= {"token_embd.weight": (5, 4), "output_norm.weight": (4,), "rope_freqs.weight": (1,)}
    for name, shape in named.items():
        add_tensor(writer, name, np.ones(shape, np.float32), "Q4_0")
    finish(writer)
    content = path.read_bytes()
    assert load_gguf(str(path)).tensors["layers.0.down"].shape == (4, 32)
    return content, path


NUMBERS = st.sampled_from([0, 1, 2, 9, 255, 2**16, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1])
PATCHES = st.one_of(
    st.binary(min_size=1, max_size=4),
    NUMBERS.map(lambda n: struct.pack("<Q", n)),
    NUMBERS.map(lambda n: struct.pack("<I", n % 2**32)),
)


@pytest.mark.filterwarnings("error", "ignore::tinyinfer.errors.ModelWarning")
@settings(max_examples=400)
@given(data=st.data())
def test_no_damage_raises_anything_but_modelerror(tiny: tuple[bytes, Path], data: st.DataObject) -> None:
    """Catches struct.error, KeyError, MemoryError, UnicodeDecodeError, ... out of a file that a disk has damaged."""
    content, path = tiny
    broken = bytearray(content)
    names = [found.end() for found in re.finditer(rb"(general|llama|tokenizer|blk)[a-z_.0-9]+", content)]
    lengths = st.tuples(st.sampled_from(names), st.sampled_from([0, 4, 8, 12])).map(sum)  # types and counts are there
    places = st.integers(0, len(content) - 1) | lengths
    for at, patch in data.draw(st.lists(st.tuples(places, PATCHES), min_size=1, max_size=3)):
        broken[at : at + len(patch)] = patch
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    path.write_bytes(broken[:cut])
    message, peak = complaint(str(path))
    assert message is None or (message.startswith(str(path)) and "\n" not in message)
    assert peak < 200_000, "a length was believed before it was compared with the size of the file"


def complaint(path: str) -> tuple[str | None, int]:
    """What loading all of a file raises as a ModelError, None if nothing, and the most bytes that it held."""
    message = None
    tracemalloc.start()
    try:
        for tensor in load_gguf(path).tensors.values():
            tensor.numpy()
    except ModelError as error:
        message = str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return message, peak
