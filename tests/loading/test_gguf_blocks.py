"""gguf_blocks.py, quantize=keep: a GGUF's own codes are the weights that gguf dequantizes, bit for bit."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_writer import add_tensor, finish, random_blocks, wide_llama, write_gguf
from golden import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from tinyinfer import LLM, SamplingParams
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.packed import Packed
from tinyinfer.backends.packed_rows import PackedRows
from tinyinfer.backends.stacked import Stacked
from tinyinfer.errors import ModelError, ModelWarning
from tinyinfer.ledger import Ledger
from tinyinfer.loading import load
from tinyinfer.loading.build import as_stored
from tinyinfer.loading.checkpoint import Joined
from tinyinfer.loading.gguf import KEPT, read_gguf
from tinyinfer.loading.gguf_blocks import SCHEMES, block_codes
from tinyinfer.loading.saving import save_model
from tinyinfer.model.config import held_matrices
from tinyinfer.model.quantized_matrix import QuantizedMatrix
from tinyinfer.model.visit import matrices, weights
from tinyinfer.model.weights import Dense
from tinyinfer.quantization.recipe import kept_recipe

KINDS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]  # gguf's Python package can also quantize to them
K_QUANTS = ["Q4_K", "Q5_K", "Q6_K"]
TOKENS = list(range(3, 20))


@pytest.mark.parametrize("kind", [*KINDS, *K_QUANTS])
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_codes_of_any_bytes_are_what_gguf_makes_of_them(kind: str, seed: int) -> None:
    """To the last bit, the sign of zero too. Catches half bytes in the wrong order, a sign lost, 8 not taken off, scale
    and minimum exchanged, high bits of another group, a minimum added where it is taken off."""
    qtype, raw = gguf.GGMLQuantizationType[kind], random_blocks(kind, 3, 2, seed=seed)
    matrix = block_codes(raw, qtype)
    assert matrix.scheme == SCHEMES[qtype]
    assert matrix.codes.min() >= matrix.scheme.lowest
    assert matrix.codes.max() <= matrix.scheme.highest
    expected = gguf.quants.dequantize(raw.reshape(3, -1), qtype).view(np.uint32)
    assert_array_equal(matrix.dequantize().view(np.uint32), expected)
    for weight in Packed.pack(matrix, np), PackedRows.pack(matrix, np):
        assert_array_equal(np.ascontiguousarray(weight.dequantize(slice(0, 3)).T).view(np.uint32), expected)


def test_what_is_kept_is_what_has_a_scheme() -> None:
    """Catches a type that the file's reader offers and no function reads, or the other way round."""
    assert tuple(qtype.name for qtype in SCHEMES) == KEPT


@pytest.mark.parametrize("kind", KINDS)
def test_any_rows_of_a_file_as_codes(kind: str, tmp_path: Path) -> None:
    """Catches an offset of rows in bytes of floats, or of the first axis where experts are stacked."""
    array = np.random.default_rng(0).standard_normal((3, 5, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    add_tensor(writer, "flat", array[0], kind)
    add_tensor(writer, "stack", array, kind)
    finish(writer)
    tensors = read_gguf(str(tmp_path / "x.gguf")).tensors
    flat, stack = tensors["flat"], tensors["stack"]
    for start, stop in [(0, 5), (1, 2), (3, 5)]:
        assert_array_equal(flat.quantized(start, stop).dequantize(), flat.read(start, stop))
    for e in range(3):
        assert_array_equal(stack.quantized(5 * e, 5 * e + 5).dequantize(), stack.read(e, e + 1)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_keeps_its_bits_is_the_float_model(kind: str, tmp_path: Path) -> None:
    """Catches the permutation of Llama's queries and keys lost on the way of the codes, parts joined in another order.

    llama3: heads of 14 and a width of 64, so all matrices but `down` are whole blocks.
    """
    path = str(write_gguf("llama3", tmp_path / "x.gguf", kind))
    full, kept = LLM(path), LLM(path, quantize="keep")
    for one, other in zip(full.model.layers, kept.model.layers, strict=True):
        attention = (one.mixer.qkv, other.mixer.qkv), (one.mixer.o, other.mixer.o)
        for a, b in (*attention, (one.mlp.gate_up, other.mlp.gate_up)):
            if a.weight.shape[1] % 32 == 0:
                assert isinstance(b.weight, Packed)
            assert_array_equal(b.weight.dequantize(slice(None)), a.weight.dequantize(slice(None)))
    assert isinstance(kept.model.layers[0].mixer.qkv.weight, Packed)
    assert kept.model.nbytes < full.model.nbytes
    tokens = load_golden("llama3").tokens.tolist()
    a, b = full.logits(tokens), kept.logits(tokens)
    assert np.abs(a - b).max() < 1e-5 * np.abs(a).max()


def test_experts_keep_their_bits(tmp_path: Path) -> None:
    """Catches gate of one expert above up of another."""
    path = str(write_gguf("mixtral", tmp_path / "x.gguf"))
    assert isinstance(LLM(path, quantize="keep").model.layers[0].mlp.gate_up.linears[0].weight, Dense)
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(tmp_path / "y.gguf", "llama")
    arrays = {name: rng.standard_normal((3, 70, 64)).astype(np.float32) for name in ("gate", "up")}
    for name, array in arrays.items():
        add_tensor(writer, name, array, "Q4_0")
    finish(writer)
    tensors = read_gguf(str(tmp_path / "y.gguf")).tensors
    for e in range(3):
        kept = as_stored("gate_up", Joined((tensors["gate"], tensors["up"]), e))
        assert isinstance(kept, QuantizedMatrix)
        weight = NumpyOps(Ledger()).take(kept)
        assert isinstance(weight, Packed)
        rows = np.concatenate([tensors[name].read(e, e + 1)[0] for name in ("gate", "up")])
        assert_array_equal(weight.dequantize(slice(None)).T, rows)


@pytest.mark.parametrize(
    ("kinds", "kept"),
    [
        (("Q8_0", "Q8_0"), [Packed]), (("Q8_0", "Q4_0"), [Packed, Packed]), (("Q4_1", "F32"), [Packed, Dense]),
        (("F32", "Q5_1"), [Dense, Packed]), (("F32", "F32"), [Dense]), (("IQ4_NL", "IQ4_NL"), [Dense]),
    ],
)  # fmt: skip
def test_each_part_stays_as_the_file_has_it(kinds: tuple[str, str], kept: list[type], tmp_path: Path) -> None:
    """Catches codes of one scheme read by another's scales, and all parts made floats because one of them is."""
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    array = np.random.default_rng(0).standard_normal((2, 6, 32)).astype(np.float32)
    for i, kind in enumerate(kinds):
        add_tensor(writer, f"part{i}", array[i], kind)
    finish(writer)
    parts = list(read_gguf(str(tmp_path / "x.gguf")).tensors.values())
    weight = NumpyOps(Ledger()).take(as_stored("layers.0.gate_up", Joined(tuple(parts))))
    assert [type(part) for part in (weight.parts if isinstance(weight, Stacked) else (weight,))] == kept
    assert_array_equal(weight.dequantize(slice(None)).T, np.concatenate([part.numpy() for part in parts]))


@pytest.mark.parametrize("kind", K_QUANTS)
def test_a_model_of_k_quants_answers_as_the_float_model_and_so_does_its_folder(kind: str, tmp_path: Path) -> None:
    """Logits to the last bit after saving. Catches scales of scales that are saved as what they stand for."""
    path = str(write_gguf(wide_llama(), tmp_path / "x.gguf", kind))
    full, kept = LLM(path), LLM(path, quantize="keep")
    save_model(tmp_path / "saved", kept.model, load(path), {"method": "keep"})
    again = LLM(str(tmp_path / "saved"))
    scheme = SCHEMES[gguf.GGMLQuantizationType[kind]]
    for llm in (kept, again):
        assert {held.weight.scheme for name, held in matrices(llm.model) if name != "embedding"} == {scheme}
    assert kept.model.nbytes == again.model.nbytes < full.model.nbytes / 4
    logits = kept.logits(TOKENS)
    assert np.abs(logits - full.logits(TOKENS)).max() < 1e-5 * np.abs(logits).max()
    assert_array_equal(again.logits(TOKENS), logits)
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    texts = [llm.generate([TOKENS], params)[0].token_ids for llm in (full, kept, again)]
    assert texts[0] == texts[1] == texts[2]


def q4_k_m(name: str) -> str | None:
    """Types as llama.cpp's 'Q4_K_M' mixes them: more bits for v and down in some layers, and other types there."""
    if name.startswith("blk.1.") and ("attn_v" in name or "ffn_down" in name):
        return "Q6_K"
    return "Q8_0" if "token_embd" in name else None if "ffn_up" in name else "Q4_K"


def test_a_file_that_mixes_types_keeps_them_all(tmp_path: Path) -> None:
    """q and k in other bits than v, gate in other bits than a float up. Catches tensors made floats in silence, parts
    in another order, and a folder that gives a fused matrix the type of its first tensor."""
    path = str(write_gguf(wide_llama(), tmp_path / "x.gguf", q4_k_m))
    full, kept = LLM(path), LLM(path, quantize="keep")
    save_model(tmp_path / "saved", kept.model, load(path), {"method": "keep"})
    again, recipe = LLM(str(tmp_path / "saved")), kept_recipe(kept.config, load(path).tensors)
    for llm in (kept, again):
        first, second = llm.model.layers
        assert isinstance(first.mixer.qkv.weight, Packed)
        assert isinstance(second.mixer.qkv.weight, Stacked)
        assert [part.scheme.bits for part in second.mixer.qkv.weight.parts] == [4, 4, 6]
        assert [type(part) for part in first.mlp.gate_up.weight.parts] == [Packed, Dense]
        held = held_matrices(llm.config)
        assert sum(recipe.nbytes(held[name], 4) for name, _ in matrices(llm.model)) == sum(
            weight.nbytes for _, one in matrices(llm.model) for weight in weights(one)
        )
    logits = kept.logits(TOKENS)
    assert np.abs(logits - full.logits(TOKENS)).max() < 1e-5 * np.abs(logits).max()
    assert_array_equal(again.logits(TOKENS), logits)


def test_what_cannot_be_kept_is_said(tmp_path: Path) -> None:
    """Catches a file most of which becomes floats in silence: seven times its bytes, and the speed of floats."""
    path = write_gguf(wide_llama(), tmp_path / "x.gguf", lambda name: "IQ4_NL" if "attn_" in name else "Q4_K")
    told = r"8 tensors, 'blk\.0\.attn_k\.weight' the first of them, are of a type that is not kept, so 184\.3 kB become"
    with pytest.warns(ModelWarning, match=told):
        kept = LLM(str(path), quantize="keep")
    assert isinstance(kept.model.layers[0].mixer.qkv.weight, Dense)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize(
    ("kind", "place"),
    [("Q8_0", 0), ("Q4_1", 0), ("Q4_1", 2), ("Q5_0", 0), ("Q5_1", 2), ("Q4_K", 0), ("Q5_K", 2), ("Q6_K", 208)],
)
def test_a_scale_that_is_no_number_is_refused(kind: str, place: int, bad: float, tmp_path: Path) -> None:
    """Catches a damaged file whose every answer would be NaN: floats are checked as they are read, codes must be."""
    path = write_gguf(wide_llama(), tmp_path / "x.gguf", kind)
    data = bytearray(path.read_bytes())
    info = load(str(path)).tensors["layers.0.o"]
    raw = gguf.GGUFReader(path)
    [tensor] = [t for t in raw.tensors if t.name == info.name]
    data[tensor.data_offset + place : tensor.data_offset + place + 2] = np.float16(bad).tobytes()
    path.write_bytes(bytes(data))
    with pytest.raises(ModelError, match=r"x\.gguf: tensor 'blk\.0\.attn_output\.weight' holds NaN or infinity"):
        LLM(str(path), quantize="keep")


@pytest.mark.weights
def test_smollm2_in_its_own_bits(smollm2: Path) -> None:
    """As many bytes as in the file, and the tokens of the model in float32."""
    full, kept = (LLM(str(smollm2), max_model_len=128, quantize=quantize) for quantize in ("off", "keep"))
    assert kept.model.nbytes == sum(tensor.nbytes for tensor in load(str(smollm2)).tensors.values())
    params = SamplingParams(max_tokens=4)
    [one], [other] = (llm.generate("The capital of France is", params) for llm in (full, kept))
    assert one.token_ids == other.token_ids
