"""`prune`: a folder that answers as the pruned model in memory would; mistakes, and nothing left when it is cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import short, unopened
from safetensors.numpy import load_file, save_file

from tinyinfer import LLM
from tinyinfer.cli import main
from tinyinfer.errors import ModelError
from tinyinfer.loading import load
from tinyinfer.model.visit import matrices, weights
from tinyinfer.quantization.apply import floats

__all__ = ["short"]  # fixture

TEXT = "The rain in the spring is a thing of the hills, and the hills are green and far away. " * 60


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def generated(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    """The JSON line of a short answer."""
    assert main(["generate", "-q", "--json", "--raw", "--ignore-eos", "-n", "8", "-p", "The rain", *flags]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "words",
    [
        "--prune magnitude",
        "--prune wanda --sparsity 2:4 --calibration TEXT",
        "--prune sparsegpt --sparsity 0.3 --calibration TEXT --quantize int4 --quantize-head int8",
        "--prune magnitude --sparsity 2:4 --quantize int3",
        "--drop-layers 1 --width 0.5 --calibration TEXT",
        "--drop-layers 1 --calibration TEXT --quantize int8",
    ],
)
def test_prune_then_generate(words: str, short: str, text: str, tmp_path: Path, capsys) -> None:
    """The same logits as with the same switches at the start, bit for bit, and the same tokens."""
    out, flags = tmp_path / "out", words.replace("TEXT", text).split()
    assert main(["prune", "-m", short, "-o", str(out), *flags]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[-1].startswith(f"{out}: ")
    found = generated(capsys, "-m", str(out))
    assert found["token_ids"] == generated(capsys, "-m", short, *flags)["token_ids"]
    names = (word[2:].replace("-", "_") for word in flags[::2])
    switches = {name: _value(value) for name, value in zip(names, flags[1::2], strict=True)}
    np.testing.assert_array_equal(LLM(str(out)).logits([1, 5, 9]), LLM(short, **switches).logits([1, 5, 9]))


def _value(word: str) -> Any:
    """A flag's word as Python gives it."""
    return int(word) if word.isdecimal() else word if ":" in word or not word[0].isdigit() else float(word)


@pytest.mark.parametrize("sparsity", ["0.53", "0.6", "2:4"])
@pytest.mark.parametrize("bits", ["", "int4", "int3"])
def test_experts_come_back(golden_folder, sparsity: str, bits: str, tmp_path: Path) -> None:
    """A mixture's weights, expert by expert. Catches codes of one expert read from the padding behind another's."""
    source, out = str(golden_folder("mixtral")), tmp_path / "out"
    flags = ["--method", "magnitude", "--sparsity", sparsity, *(["--quantize", bits] if bits else [])]
    assert main(["prune", "-q", "-m", source, "-o", str(out), *flags]) == 0
    llm = LLM(source, prune="magnitude", sparsity=sparsity, quantize=bits or "off")
    for (name, held), (_, right) in zip(matrices(LLM(str(out)).model), matrices(llm.model), strict=True):
        for weight, other in zip(weights(held), weights(right), strict=True):
            np.testing.assert_array_equal(floats(weight), floats(other), err_msg=name)


def test_method_is_another_name(short: str, tmp_path: Path, capsys) -> None:
    assert main(["prune", "-q", "-m", short, "-o", str(tmp_path / "out"), "--method", "magnitude"]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["method"] == "magnitude"
    assert config["grids"]["layers.*.q"] == {"sparse": "mask"}
    assert config["recipe"]["sparsity"] == "0.5"


def test_the_folder_is_smaller_as_counted(short: str, tmp_path: Path, capsys) -> None:
    """In memory what the folder's tensors take, but for where the rows of a mask begin: 8 bytes each and 8."""
    assert main(["prune", "-q", "-m", short, "-o", str(tmp_path / "out"), "--method", "magnitude"]) == 0
    folder = load(str(tmp_path / "out"))
    model = LLM(str(tmp_path / "out")).model
    stored = sum(tensor.nbytes for tensor in folder.tensors.values())
    c = folder.config
    heads = (c.num_heads + 2 * c.num_kv_heads) * c.head_dim
    rows = heads + c.hidden_size + 2 * c.intermediate_size + c.hidden_size
    assert model.nbytes == stored + c.num_layers * 8 * (rows + 4)
    assert model.nbytes < LLM(short).model.nbytes


@pytest.mark.parametrize("words", ["", "--sparsity 2:4", "--quantize int4", "--sparsity 2:4 --dtype bfloat16"])
def test_inspect_counts_the_bytes_in_memory(words: str, short: str, tmp_path: Path, capsys) -> None:
    """Without reading a weight; of codes a few bytes more, where the parts of a fused matrix end inside 8 codes."""
    flags = words.split()
    assert main(["prune", "-q", "-m", short, "-o", str(tmp_path / "out"), "--method", "magnitude", *flags]) == 0
    dtype = flags[-2:] if "--dtype" in flags else []
    assert main(["inspect", "-m", str(tmp_path / "out"), "--json", *dtype]) == 0
    found = json.loads(capsys.readouterr().out)
    held = LLM(str(tmp_path / "out"), dtype=(dtype or ["float32"])[-1]).model.nbytes
    assert 0 <= found["weight_bytes"] - held <= (100 if "int4" in words else 0)


def test_inspect_cannot_prune(short: str, capsys) -> None:
    """Catches the bytes of the whole model, shown for a pruned one."""
    assert main(["inspect", "-m", short, "--prune", "wanda"]) == 2
    assert "--prune=wanda removes weights that only a loaded model can name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-o OUT", "there is nothing to remove; add one of them"),
        ("-o OUT --sparsity 0.5 --quantize int4", "there is nothing to remove"),
        ("-o OUT --method obs", "invalid choice: 'obs'"),
        ("-o OUT --method wanda --sparsity 1.5", "--sparsity=1.5 must lie between 0"),
        ("-o OUT --method wanda --sparsity 0", "--sparsity=0 must lie between 0"),
        ("-o OUT --sparsity 2:4 --drop-layers 1", "--sparsity=2:4 is given, but --prune=off removes no single weight"),
        ("-o OUT --drop-layers 1 --quantize keep", "--drop-layers=1 changes weights, and --quantize=keep takes them"),
        ("-o OUT --method magnitude --calibration-tokens 512", "--prune=magnitude reads no text"),
        ("-o OUT --width 0", "--width=0.0 must lie between 0"),
        ("-o /nowhere/at/all --method wanda", "there is no folder"),
        ("--method wanda", "-o/--output"),
    ],
)
def test_mistakes(words: str, message: str, short: str, tmp_path: Path, capsys) -> None:
    """One line each, before a model is opened."""
    assert main(["prune", *words.replace("OUT", str(tmp_path / "out")).split()], unopened) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--method magnitude --sparsity 3:7", "--sparsity=3:7 does not divide the 60 inputs of layers.0.qkv"),
        ("--drop-layers 99 --calibration TEXT", "--drop-layers"),
        ("--keep-hidden 9999 --calibration TEXT", "--keep-hidden"),
        ("--keep-kv-heads 99 --calibration TEXT", "--keep-kv-heads"),
        ("--method wanda --calibration SHORT", "tokens, but a window has 127; give a longer text"),
    ],
)
def test_mistakes_about_this_model(words: str, message: str, short: str, text: str, tmp_path: Path, capsys) -> None:
    """All of a layer or a model pruned, a pattern that does not divide, a text shorter than a window."""
    (tmp_path / "short.txt").write_text("The rain.")
    words = words.replace("TEXT", text).replace("SHORT", str(tmp_path / "short.txt"))
    assert main(["prune", "-q", "-m", short, "-o", str(tmp_path / "out"), *words.split()]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.glob("*out*"))


def test_a_pruned_folder_is_not_pruned_again(short: str, tmp_path: Path, capsys) -> None:
    out = str(tmp_path / "out")
    assert main(["prune", "-q", "-m", short, "-o", out, "--method", "magnitude"]) == 0
    assert main(["prune", "-q", "-m", out, "-o", f"{out}2", "--method", "magnitude"]) == 2
    assert "pruned already" in capsys.readouterr().err
    with pytest.raises(ValueError, match="pruned already"):
        LLM(out, quantize="int8")


def test_activations_are_not_rounded_for_sparse_weights(short: str, tmp_path: Path, capsys) -> None:
    """Catches a switch that a folder accepts and no product hears of."""
    out = str(tmp_path / "out")
    assert main(["prune", "-q", "-m", short, "-o", out, "--method", "magnitude", "--quantize", "int4"]) == 0
    with pytest.raises(ValueError, match="activations=int8 rounds the inputs of matrices"):
        LLM(out, activations="int8")


def test_a_family_that_is_not_written_is_refused_before_it_is_loaded(golden_folder, tmp_path: Path, capsys) -> None:
    words = ["-m", str(golden_folder("mixtral")), "-o", str(tmp_path / "out"), "--drop-layers", "1"]
    assert main(["prune", "-q", *words], unopened) == 2
    assert "is a mixture of experts, which is not written as a plain folder" in capsys.readouterr().err


def test_ctrl_c_leaves_nothing(short: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """While tensors are written."""

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tinyinfer.loading.saving.save_file", interrupted)
    assert main(["prune", "-q", "-m", short, "-o", str(tmp_path / "out"), "--method", "magnitude"]) == 130
    assert not list(tmp_path.iterdir())


# What a folder may not say


@pytest.fixture
def folder(short: str, tmp_path: Path) -> Path:
    """A pruned folder of a sparse matrix with codes."""
    out = tmp_path / "out"
    assert main(["prune", "-q", "-m", short, "-o", str(out), "--method", "magnitude", "--quantize", "int4"]) == 0
    return out


def test_a_mask_with_other_bits_than_weights(folder: Path) -> None:
    """Catches weights that are silently taken from the next row."""
    tensors = load_file(folder / "model.safetensors")
    tensors["layers.1.q.places"][3] = 0
    save_file(tensors, folder / "model.safetensors")
    message = r"'layers\.1\.q\.codes' has not as many weights as 'layers\.1\.q\.places' says"
    with pytest.raises(ModelError, match=message):
        LLM(str(folder))


def test_a_part_that_is_missing(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name in ("layers.0.up.places", "layers.0.up.codes", "layers.0.up.d"):
        save_file({key: value for key, value in tensors.items() if key != name}, folder / "model.safetensors")
        with pytest.raises(ModelError, match=f"'{name}' is missing"):
            load(str(folder))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"sparse": "block"}, "'block', but must be mask or 2:4"),
        ({"sparse": "mask", "bits": 4, "group": 32, "symmetric": False}, "goes with symmetric codes"),
        ({"sparse": "mask", "bits": 7, "group": 32, "symmetric": True}, "'bits' is 7"),
        ({"sparse": "mask", "odd": 1}, "odd"),
    ],
)
def test_what_the_config_may_not_say(folder: Path, entry: dict[str, Any], message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["grids"]["layers.*.q"] = entry
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as refused:
        load(str(folder))
    assert message in str(refused.value)
