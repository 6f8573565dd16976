"""speculative=self with a copy of the model in fewer bits: the text is the float model's, its drafts mostly right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import ALWAYS_DRAFT, finish, make_engine, request, small_config

from tinyinfer.cli import main
from tinyinfer.engine.config import EngineConfig
from tinyinfer.model.config import MoEConfig
from tinyinfer.model.weights import Grid
from tinyinfer.quantization.apply import floats, round_layers
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


def test_all_layers_are_rounded_to_the_grid_and_nothing_else():
    """What stays is the target's own, what is rounded lies on the grid of the switches. Catches a rounded router."""
    model = make_engine(MODELS["moe"]).model
    c = EngineConfig(speculative="self", draft_quantize="int4", group_size=64, symmetric=True)
    draft, grid = round_layers(model, c, make_engine(MODELS["moe"]).ops), Grid(4, 64, True)
    assert (draft.embedding, draft.head, draft.final_norm) == (model.embedding, model.head, model.final_norm)
    for old, new in zip(model.layers, draft.layers, strict=True):
        assert new.mlp.router is old.mlp.router
        pairs = [(old.qkv.weight, new.qkv.weight), (old.o.weight, new.o.weight)]
        pairs += [(old.mlp.down.expert(e), new.mlp.down.expert(e)) for e in range(5)]
        for before, after in pairs:
            assert np.array_equal(floats(after), round_to_nearest(floats(before), grid).dequantize())


def test_its_own_switches_and_refusals():
    """group_size and symmetric are the draft's, too; without speculative=self there is no draft to round."""
    EngineConfig(speculative="self", draft_quantize="int4", group_size=64, symmetric=True)
    with pytest.raises(ValueError, match="add speculative=self"):
        EngineConfig(draft_quantize="int4")
    with pytest.raises(ValueError, match=r"quantizes nothing.* or draft_quantize="):
        EngineConfig(speculative="self", group_size=64)


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
