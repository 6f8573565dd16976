"""benchmarks/made_models.py: files that are there stay, and a shape's file loads and answers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from gguf_writer import write_gguf

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import made_models
from made_models import SHAPES, made, place_whole

from tinyinfer import LLM, SamplingParams

SMALL = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "head_dim": 8}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_loads_and_answers(name, tmp_path, monkeypatch):
    """All settings but the sizes are the shape's own. Catches norms that multiply by 2, and a tensor's wrong name."""
    monkeypatch.setitem(SHAPES, name, SHAPES[name] | SMALL)
    model = made(name)
    path = write_gguf(model, tmp_path / "x.gguf", "F16")
    llm = LLM(str(path))
    assert (llm.config.num_layers, llm.config.tied_head) == (SHAPES[name]["num_hidden_layers"], True)
    assert abs(np.mean(llm.model.final_norm.weight) - 1) < 0.1
    assert abs(np.std(llm.model.layers[0].mlp.down.weight.dequantize(slice(0, 32))) - 48**-0.5) < 0.02
    assert len(llm.generate(["12"], SamplingParams(max_tokens=3, ignore_eos=True))[0].token_ids) == 3


def test_a_file_is_whole_or_not_there(tmp_path, capsys):
    """Catches a file of half a quantization that the next run would take for done, and one made twice."""
    target = tmp_path / "x.gguf"

    def fails(part: Path) -> None:
        part.write_bytes(b"half")
        raise SystemExit("no quantizer")

    with pytest.raises(SystemExit):
        place_whole(target, fails)
    assert not target.exists()
    place_whole(target, lambda part: part.write_bytes(b"whole"))
    place_whole(target, fails)
    assert target.read_bytes() == b"whole"
    assert "x.gguf: 0 MB" in capsys.readouterr().out


def test_without_a_quantizer_one_sentence_says_what_to_install(tmp_path):
    """Catches a traceback of another interpreter as the answer."""
    with pytest.raises(SystemExit, match=r"cannot quantize .*; install llama-cpp-python there, or name another"):
        made_models.quantize(tmp_path / "x.gguf", tmp_path / "y.gguf", "Q4_K_M", sys.executable)
