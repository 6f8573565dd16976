"""Drafts by a model in fewer bits, a copy of the target or a folder: the text is the float model's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import ALWAYS_DRAFT, finish, make_engine, request, small_config

from tinyinfer import LLM, SamplingParams
from tinyinfer.backends.packed import Packed
from tinyinfer.cli import main
from tinyinfer.engine.config import EngineConfig
from tinyinfer.loading import load
from tinyinfer.loading.saving import save_model
from tinyinfer.model.config import MoEConfig
from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.model.visit import matrices, weights
from tinyinfer.quantization.apply import coarser_copy, floats
from tinyinfer.quantization.rtn import round_to_nearest

MODELS = {
    "llama": small_config(num_layers=3, windows=(5, None, None)),
    "gpt2": small_config(norm="layer", gated=False, learned_positions=True, rope=(None, None)),
    "moe": small_config(experts=MoEConfig(5, 2, 12)),
}
PROMPTS = [[3, 4, 5, 6, 7], [9, 8], [1] * 11]


@pytest.mark.parametrize("bits", ["int8", "int4", "int2"])
@pytest.mark.parametrize("name", MODELS)
def test_a_coarser_copy_of_the_model_proposes_drafts_and_changes_no_token(name, bits):
    """Three prompts together, every family's kind of MLP. Catches a target that is rounded along with its draft."""
    expected = [finish(make_engine(MODELS[name], kv_cache="none"), request(p, 12))[0] for p in PROMPTS]
    engine = make_engine(MODELS[name], draft_cost=ALWAYS_DRAFT, speculative="self", draft_quantize=bits)
    sequences = [request(p, 12) for p in PROMPTS]
    assert finish(engine, *sequences) == expected
    assert engine.ledger.drafts_proposed > 0
    if bits == "int8":
        assert engine.ledger.drafts_accepted > 0.8 * engine.ledger.drafts_proposed


def test_layers_and_head_are_rounded_by_their_schemes_and_nothing_else():
    """What stays is the target's own. Catches a rounded router, and a head of floats that is most of what is read."""
    model = make_engine(MODELS["moe"]).model
    scheme, of_head, ops = QuantScheme(4, 64, True), QuantScheme(8, 32, True), make_engine(MODELS["moe"]).ops
    draft = coarser_copy(model, scheme, of_head, ops)
    assert draft.embedding is model.embedding
    assert draft.final_norm == model.final_norm
    assert np.array_equal(
        floats(draft.head.weight), round_to_nearest(floats(model.head.weight), of_head).dequantize()
    )
    assert coarser_copy(draft, scheme, QuantScheme(4, 32, True), ops).head.weight is draft.head.weight
    for old, new in zip(model.layers, draft.layers, strict=True):
        assert new.mlp.router == old.mlp.router
        assert new.mlp.router.weight is old.mlp.router.weight
        pairs = [(old.mixer.qkv.weight, new.mixer.qkv.weight), (old.mixer.o.weight, new.mixer.o.weight)]
        pairs += [(old.mlp.down.linears[e].weight, new.mlp.down.linears[e].weight) for e in range(5)]
        for before, after in pairs:
            assert np.array_equal(floats(after), round_to_nearest(floats(before), scheme).dequantize())


def test_what_a_pass_reads_is_what_its_cost_is_estimated_by():
    """A draft of a tied model holds the table and a head, and reads the head. Catches a table of floats that counts."""
    engine = make_engine(small_config(tied_head=True))
    model, scheme = engine.model, QuantScheme(4, 64, True)
    draft = coarser_copy(model, scheme, QuantScheme(8, 32, True), engine.ops)
    assert model.pass_nbytes == model.nbytes
    assert draft.pass_nbytes == draft.nbytes - draft.embedding.nbytes


def test_its_own_switches_and_refusals():
    """group_size and symmetric are the draft's, too; without speculative=self there is no draft to round."""
    EngineConfig(speculative="self", draft_quantize="int4", group_size=64, symmetric=True)
    with pytest.raises(ValueError, match="add speculative=self"):
        EngineConfig(draft_quantize="int4")
    with pytest.raises(ValueError, match=r"quantizes nothing.* or draft_quantize="):
        EngineConfig(speculative="self", group_size=64)


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_a_draft_folder_that_is_quantized_stays_quantized(
    name: str, golden_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """In memory as in the file, and the text is the float model's. Catches a draft that becomes floats in silence."""
    source, saved = str(golden_folder(name)), str(tmp_path / "draft")
    quantized = LLM(source, quantize="int4", quantize_head="int8").model
    save_model(saved, quantized, load(source), {"method": "rtn"})
    llm = LLM(source, speculative="draft", draft_model=saved)
    draft = llm.engine.drafter.model
    for (place, held), (_, wanted) in zip(matrices(draft), matrices(quantized), strict=True):
        for weight, other in zip(weights(held), weights(wanted), strict=True):
            assert isinstance(weight, Packed) != place.endswith(".router"), place
            assert weight.scheme == other.scheme
            assert np.array_equal(weight.dequantize(slice(None)), other.dequantize(slice(None)))
    assert draft.nbytes == quantized.nbytes
    assert all(weight.scheme is None for _, held in matrices(llm.model) for weight in weights(held)), "the target"
    params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
    [expected], [found] = (model.generate([[5, 6, 7]], params) for model in (LLM(source), llm))
    assert found.token_ids == expected.token_ids


@pytest.mark.full
@pytest.mark.weights
def test_smollm2_with_a_draft_of_4_bits_equals_plain_greedy_and_tells_its_acceptance(smollm2: Path, capsys) -> None:
    """The command of the lesson. Groups of 64, since in groups of 32 this GGUF's draft would be the model itself."""
    words = ["generate", "-m", str(smollm2), "-q", "--json", "-n", "12", "-c", "256", "What is gravity?"]
    lines = []
    for more in ("", "--speculative self --draft-quantize int4 --group-size 64"):
        assert main([*words, *more.split()]) == 0
        lines.append(json.loads(capsys.readouterr().out))
    assert lines[0]["token_ids"] == lines[1]["token_ids"]
    assert 0 < lines[1]["acceptance_rate"] <= 1
