"""`inspect`: sizes as transformers counts them, bytes as they are really held, and what the roofline makes of both."""

from __future__ import annotations

import doctest
import json
import math
from dataclasses import replace
from typing import NoReturn

import pytest
from cli_helpers import base_model, short
from gguf_writer import wide_llama, write_gguf
from golden import FAMILIES, load_golden

from tinyinfer import LLM, SamplingParams, units
from tinyinfer.cli import main
from tinyinfer.engine.config import EngineConfig
from tinyinfer.loading import load
from tinyinfer.measure import inspect
from tinyinfer.measure.roofline import Machine, expected_decode, expected_prefill
from tinyinfer.model.config import MoEConfig

__all__ = ["base_model", "short"]  # fixtures

MACHINE = Machine(read_bandwidth=30e9, matrix_speed=240e9)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the tests the measurement."""
    monkeypatch.setattr("tinyinfer.measure.roofline.measure_machine", lambda threads: MACHINE)


def inspected(capsys: pytest.CaptureFixture[str], model: object, *flags: str) -> dict:
    """The JSON of a model."""
    assert main(["inspect", "-m", str(model), "--json", *flags]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert not [line for line in err.splitlines() if "only the text model is read" not in line]
    return json.loads(out)


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_are_those_that_transformers_has(name, golden_folder, capsys):
    """Catches a tied head counted twice, an expert or a bias left out, a weight in no part or in two."""
    found = inspected(capsys, golden_folder(name))
    expected = sum(math.prod(shape) for shape in load_golden(name).tensors.values())
    assert found["parameters"] == sum(found["parameters_by_part"].values()) == expected


@pytest.mark.filterwarnings("ignore::tinyinfer.ModelWarning")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_bytes_are_those_that_are_held(name, dtype, golden_folder, capsys):
    """Against the arrays of the model when it is loaded: norms that heads share, positions and biases included."""
    found = inspected(capsys, golden_folder(name), "--dtype", dtype)
    assert found["weight_bytes"] == sum(found["weight_bytes_by_part"].values())
    assert found["weight_bytes"] == LLM(str(golden_folder(name)), dtype=dtype).model.nbytes


def test_the_parts_by_hand(golden_folder, capsys):
    """Mixtral: width 48, 3 layers, 5 experts of 40, 6 and 3 heads of 10, vocabulary 277, an untied head."""
    found = inspected(capsys, golden_folder("mixtral"))
    assert found["parameters_by_part"] == {
        "embedding": 277 * 48,
        "attention": 3 * (48 * (6 + 2 * 3) * 10 + 60 * 48),
        "MLP": 3 * (48 * 5 + 5 * 3 * 48 * 40),
        "norms": 3 * 2 * 48 + 48,
        "head": 277 * 48,
    }
    assert found["parameters"] - found["parameters_per_token"] == 3 * 3 * 3 * 48 * 40  # 3 of 5 experts in 3 layers


def test_costs_and_limits_of_three_steps(golden_folder, capsys):
    """A prefill as long as the context allows, and decode at both ends of it, each by the roofline."""
    config = load(golden_folder("gemma3")).config
    steps = inspected(capsys, golden_folder("gemma3"))["roofline"]
    first, last = expected_decode(config, 0), expected_decode(config, 127)
    expected = [(expected_prefill(config, 128), 128), (first, 1), (last, 1)]
    assert [step["step"] for step in steps] == ["prefill of 128", "decode at position 0", "decode at position 127"]
    for step, (ledger, tokens) in zip(steps, expected, strict=True):
        seconds = max(ledger.flops / 240e9, ledger.bytes_moved / 30e9)
        assert step["tokens_per_second"] == pytest.approx(tokens / seconds)
        assert step["flops_per_token"] == ledger.flops / tokens
        assert step["flops_per_byte"] == ledger.flops / ledger.bytes_moved
        assert step["limit"] == ("arithmetic" if ledger.flops / ledger.bytes_moved > 8 else "memory")
    assert {step["limit"] for step in steps} == {"arithmetic", "memory"}


def test_switches_change_what_they_change(golden_folder, capsys):
    """A shorter context and half the bytes; without a cache nothing is kept and a decode step is a prefill."""
    folder = golden_folder("llama")
    config = load(folder).config
    found = inspected(capsys, folder, "-c", "50", "--dtype", "float16")
    assert (found["max_context"], found["roofline"][2]["step"]) == (50, "decode at position 49")
    assert found["kv_bytes_per_token"] == 2 * 3 * 2 * 14 * 4
    assert found["kv_bytes_at_max_context"] == 50 * found["kv_bytes_per_token"]
    assert found["roofline"][1]["bytes_per_token"] == expected_decode(config, 0, itemsize=2).bytes_moved
    found = inspected(capsys, folder, "-c", "50", "--kv-cache", "none")
    assert found["kv_bytes_at_max_context"] == 0
    assert found["roofline"][2]["flops_per_token"] == expected_prefill(config, 50).flops


def test_no_weight_is_read(golden_folder):
    """A model larger than memory can be inspected: its tensors would raise."""

    def refuse(start: int, stop: int) -> NoReturn:
        raise AssertionError("a weight was read")

    checkpoint = load(golden_folder("olmoe"))
    closed = {name: replace(tensor, read=refuse) for name, tensor in checkpoint.tensors.items()}
    found = inspect.describe("olmoe", replace(checkpoint, tensors=closed), EngineConfig(), 128, MACHINE)
    assert found["file_bytes"] == 4 * found["parameters"]


def test_whether_there_is_a_chat_template(short, base_model, capsys):
    assert inspected(capsys, short)["chat_template"] is True
    assert inspected(capsys, base_model)["chat_template"] is False


def test_the_text_says_what_and_why(golden_folder, capsys):
    """The same figures for people: parts, the cache, three limits with their reasons, windows and experts."""
    assert main(["inspect", "-m", str(golden_folder("qwen2_window"))]) == 0
    text = capsys.readouterr().out
    for line in ("see only the last 9 positions", "chat template: yes", "context 128 positions", "prefill of 128",
                 "30 GB/s", "240 GFLOP/s: 8 FLOPs in the time of a byte", "the processor waits"):  # fmt: skip
        assert line in text
    for part in inspect.PARTS:
        assert f"\n{part} " in text
    assert main(["inspect", "-m", str(golden_folder("qwen3_moe_raw"))]) == 0
    text = capsys.readouterr().out
    assert "2 of 7 experts a token" in text
    assert "the embedding again" in text


def test_the_text_tells_of_shared_experts_dense_layers_and_a_boundary(golden_folder, capsys):
    """Catches a mixture described as if every layer had it, and a crossing that costs a computation unannounced."""

    def text(name: str, *flags: str) -> str:
        assert main(["inspect", "-m", str(golden_folder(name)), *flags]) == 0
        return capsys.readouterr().out

    def described(name: str) -> tuple[MoEConfig, int]:
        config = load(golden_folder(name)).config
        assert config.experts
        return config.experts, config.num_layers

    moe, layers = described("qwen2_moe")
    shown = f"{moe.experts_per_token} of {moe.num_experts} experts a token beside a shared one"
    assert moe.shared_size
    assert shown in text("qwen2_moe")
    moe, layers = described("qwen3_moe_mixed")
    assert moe.dense_layers
    assert f"experts a token, in {layers - len(moe.dense_layers)} of {layers} layers, so " in text("qwen3_moe_mixed")
    boundary = load(golden_folder("phi3_long")).config.rotation_sets.boundary
    assert boundary
    line = f"sequences of more than {boundary} positions are rotated by other frequencies"
    assert line in text("phi3_long")
    assert line not in text("phi3_long", "-c", str(boundary))


def test_tables_and_amounts_are_as_their_examples_say():
    """Columns that do not line up, or a wrong prefix."""
    found = doctest.testmod(units)
    assert (found.failed, found.attempted > 0) == (0, True)
    assert [units.amount(x, "B") for x in (999.9, 1000, 46080, 2.5e12)] == ["999.9 B", "1 kB", "46.08 kB", "2.5 TB"]


def test_a_context_beyond_the_models_is_refused(short, capsys):
    assert main(["inspect", "-m", short, "-c", "129"]) == 2
    assert "--max-model-len=129 is more than the 128 positions" in capsys.readouterr().err


QUANTIZED = ["--quantize", "int4", "--group-size", "64", "--quantize-head", "int8",
             "--quantize-rules", "layers.2.o off"]  # fmt: skip


@pytest.mark.parametrize("name", ["llama", "smollm2", "gpt2", "qwen3_moe", "qwen2_moe", "qwen3_moe_mixed", "gpt_oss"])
def test_quantized_bytes_are_those_that_are_held(name, golden_folder, capsys):
    """By part and by matrix, against the loaded model, from the configuration alone. Catches a tied head twice."""
    found = inspected(capsys, golden_folder(name), *QUANTIZED)
    switches = {"quantize": "int4", "group_size": 64, "quantize_head": "int8", "quantize_rules": "layers.2.o off"}
    assert found["weight_bytes"] == LLM(str(golden_folder(name)), **switches).model.nbytes
    others = sum(tensor.nbytes for tensor in load(golden_folder(name)).tensors.values() if len(tensor.shape) == 1)
    matrices = {matrix["name"]: matrix for matrix in found["matrices"]}
    assert matrices["layers.2.o"]["bits_per_weight"] == 32
    assert matrices["layers.1.o"]["grid"] == {"bits": 4, "group": 64, "symmetric": False, "whole": False}
    if name in ("llama", "smollm2"):  # no positions, no norm that heads share
        assert found["weight_bytes"] == others + sum(matrix["bytes"] for matrix in matrices.values())


def test_a_file_of_mixed_types_is_shown_tensor_by_tensor(tmp_path, capsys):
    """q and k in 4 bits, v in 6: bytes as held, and a scheme for each. Catches a fused matrix called floats."""
    path = write_gguf(wide_llama(), tmp_path / "x.gguf", lambda name: "Q6_K" if "attn_v" in name else "Q4_K")
    found = inspected(capsys, path, "--quantize", "keep")
    assert found["weight_bytes"] == LLM(str(path), quantize="keep").model.nbytes
    grids = {matrix["name"]: matrix["grid"] for matrix in found["matrices"]}
    assert "layers.0.qkv" not in grids
    assert grids["layers.0.v"] == {"bits": 6, "group": 16, "symmetric": True, "whole": False, "nested": 16}
    assert main(["inspect", "-m", str(path), "--quantize", "keep"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["layers.*.k", "int4", "g32x8", "asymmetric", "4.625", "2", "x", "9.472", "kB"] in lines


def test_bits_per_weight_by_hand(golden_folder, capsys):
    """Llama's golden: D 60, one group of 60 inputs; 6 heads of 14 are 84 outputs of o's inputs: 60 outputs are a block.

    qkv: 140 outputs, 3 blocks of 64 · (60 · 4 + 16 + 16) bits; o: 60 outputs of 84 inputs in 2 groups.
    """
    found = inspected(capsys, golden_folder("llama"), *QUANTIZED)
    matrices = {matrix["name"]: matrix["bits_per_weight"] for matrix in found["matrices"]}
    assert matrices["layers.0.qkv"] == pytest.approx(3 * 64 * (60 * 4 + 32) / (140 * 60))
    assert matrices["layers.0.o"] == pytest.approx(64 * (84 * 4 + 2 * 32) / (60 * 84))
    assert matrices["head"] == pytest.approx(5 * 64 * (60 * 8 + 16) / (277 * 60))


def test_a_quantized_step_reads_what_the_ledger_counts(golden_folder, capsys):
    """The roofline's bytes of the first decode step, against a step that ran."""
    found = inspected(capsys, golden_folder("smollm2"), *QUANTIZED)
    llm = LLM(str(golden_folder("smollm2")), quantize="int4", group_size=64, quantize_head="int8",
              quantize_rules="layers.2.o off")  # fmt: skip
    [trace] = llm.steps([[5]], SamplingParams(max_tokens=1))
    assert found["roofline"][1]["bytes_per_token"] == trace.ledger.bytes_moved


def test_the_text_shows_matrices_that_are_alike_as_one(golden_folder, capsys):
    assert main(["inspect", "-m", str(golden_folder("llama")), *QUANTIZED]) == 0
    text = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert any(line.startswith("layers.*.qkv int4 g64 asymmetric 6.217 3 x ") for line in lines)
    assert any(line.startswith("layers.*.o int4 g64 asymmetric") and "2 x" in line for line in lines)
    assert any(line.startswith("layers.2.o floats 32 ") for line in lines)
    assert any(line.startswith("head int8 g64 symmetric") for line in lines)
    assert "in memory" in text
    assert main(["inspect", "-m", str(golden_folder("llama"))]) == 0
    assert "bits a weight" not in capsys.readouterr().out
