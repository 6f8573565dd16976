"""export.py, loading/saving.py, loading/quantized.py: a folder holds what was in memory, or is refused by name."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_writer import GGUF_FAMILIES, write_gguf
from golden import FAMILIES, load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file, save_file

from tinyinfer import LLM
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import ModelError
from tinyinfer.loading import load
from tinyinfer.loading.export import export
from tinyinfer.loading.saving import save_model
from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme

Folder = Callable[[str], Path]
TEXT = "the rain in Sp\u00e4in <|im_end|>"


def saved(source: object, target: Path, **switches: Any) -> LLM:
    """The model with these switches, written to `target`."""
    llm = LLM(str(source), **switches)
    save_model(target, llm.model, load(str(source)), {"method": "rtn"})
    return llm


@pytest.fixture(scope="module")
def good(golden_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantized llama; copy it before changing it."""
    target = tmp_path_factory.mktemp("saved") / "good"
    saved(golden_folder("llama"), target, quantize="int4")
    return target


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    """A quantized llama to be damaged."""
    return Path(shutil.copytree(good, tmp_path / "copy"))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_taken_apart_is_its_checkpoint(name: str, golden_folder: Folder) -> None:
    """Catches a weight forgotten, a bias of the wrong rows, gate and up exchanged, a shared norm written H times."""
    source = load(golden_folder(name))
    found = {}
    for tensor in export(LLM(str(golden_folder(name))).model):
        [array] = tensor.arrays()
        assert [(tensor.name, array.dtype, array.shape)] == tensor.layout()
        found[tensor.name] = array
    assert found.keys() == source.tensors.keys()
    for key, array in found.items():
        assert_array_equal(array, source.tensors[key].numpy(), err_msg=key)


FILES = [(name, "folder") for name in FAMILIES] + [(name, "gguf") for name in GGUF_FAMILIES]


@pytest.mark.parametrize(("name", "kind"), FILES)
def test_a_saved_model_is_the_one_in_memory(name: str, kind: str, golden_folder: Folder, tmp_path: Path) -> None:
    """Of every family, from both kinds of files: logits to the last bit, configuration, tokens and template."""
    source = golden_folder(name) if kind == "folder" else write_gguf(name, tmp_path / "x.gguf")
    before, after = saved(source, tmp_path / "out", quantize="int4"), LLM(str(tmp_path / "out"))
    tokens = load_golden(name).tokens.tolist()
    assert_array_equal(after.logits(tokens), before.logits(tokens))
    assert after.model.nbytes == before.model.nbytes
    assert after.config.eos_token_ids == before.config.eos_token_ids
    assert after.tokenizer.encode(TEXT) == before.tokenizer.encode(TEXT)
    assert after.chat_prompt([{"role": "user", "content": TEXT}]) == before.chat_prompt(
        [{"role": "user", "content": TEXT}]
    )


def same_when_saved(name: str, folder: Path, tmp_path: Path, **switches: Any) -> tuple[LLM, LLM]:
    """The golden with these switches, before and after it was saved: logits to the last bit."""
    if EngineConfig(**switches).calibrated:
        text = tmp_path / "text.txt"
        text.write_text("The rain in the spring is a thing of the hills. " * 60)
        switches |= {"calibration": str(text)}
    before = saved(folder, tmp_path / "out", **switches)
    after = LLM(str(tmp_path / "out"), dtype=switches.get("dtype", "float32"))
    tokens = load_golden(name).tokens.tolist()
    assert_array_equal(after.logits(tokens), before.logits(tokens))
    assert after.model.nbytes == before.model.nbytes
    return before, after


@pytest.mark.parametrize(
    "switches", [{"quantize": "w8a8"}, {"quantize": "int3", "quantize_method": "combined"}], ids=str
)
@pytest.mark.parametrize("name", ["gemma2", "phi3", "olmo2", "granite", "gpt_neox"])
def test_other_layers_that_read_a_text_can_be_saved(
    switches: dict[str, Any], name: str, golden_folder: Folder, tmp_path: Path
) -> None:
    """Scales in norms of 1 + w, in biases, in norms of parallel layers, and nowhere where no norm stands before."""
    same_when_saved(name, golden_folder(name), tmp_path, **switches)


@pytest.mark.parametrize("name", ["qwen2_moe", "qwen3_moe_mixed", "gpt_oss"])
def test_mixtures_of_every_kind_can_be_saved(name: str, golden_folder: Folder, tmp_path: Path) -> None:
    """Catches a pattern for all layers that dense ones do not fit, experts' biases lost, a router that is rounded."""
    before, _ = same_when_saved(name, golden_folder(name), tmp_path, quantize="int3", quantize_head="int8")
    grids = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["grids"]
    assert "layers.*.down" in grids
    assert ("layers.*.shared_down" in grids) == (name == "qwen2_moe")
    assert not [pattern for pattern in grids if pattern.endswith("router")]
    assert before.config.experts


@pytest.mark.parametrize("bias", ["layers.*.gate.bias", "layers.1.down.bias", "layers.0.sinks"])
def test_a_bias_of_experts_is_no_matrix(bias: str, golden_folder: Folder, tmp_path: Path) -> None:
    """Catches biases of X experts, which have two axes, taken for a matrix of codes that nothing would multiply."""
    saved(golden_folder("gpt_oss"), tmp_path / "out", quantize="int4")
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["grids"][bias] = {"bits": 4, "group": 32}
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=re.escape(f"names '{bias}', which no matrix of this model is called")):
        load(str(tmp_path / "out"))


@pytest.mark.parametrize(
    "switches",
    [
        {"quantize": "int8"}, {"quantize": "int3", "symmetric": True}, {"quantize": "int2", "group_size": 128},
        {"quantize": "int4", "group_size": "channel"}, {"quantize": "int4", "group_size": "tensor"},
        {"quantize": "int4", "quantize_head": "int8", "dtype": "bfloat16"},
        {"quantize_head": "int8", "dtype": "float16"},
        {"quantize": "int3", "quantize_rules": "layers.1.* int8 g64, layers.*.down off"},
        {"quantize": "w8a8"}, {"quantize": "int4", "quantize_method": "awq"},
        {"quantize": "int2", "quantize_method": "combined"},
    ],
    ids=str,
)  # fmt: skip
def test_every_way_to_quantize_can_be_saved(switches: dict[str, Any], golden_folder: Folder, tmp_path: Path) -> None:
    """Catches a scheme that config.json cannot tell, floats widened on the way, a folded norm saved unfolded."""
    both = same_when_saved("smollm2", golden_folder("smollm2"), tmp_path, **switches)
    weights = (llm.model.layers[1].mixer.qkv.weight for llm in both)
    assert len({type(weight) for weight in weights}) == 1


def test_a_gguf_keeps_its_bits_in_a_folder(tmp_path: Path) -> None:
    """Rounded nowhere: the codes in the folder are those in the file."""
    source = write_gguf("llama3", tmp_path / "x.gguf", "Q4_1")
    saved(source, tmp_path / "out", quantize="keep")
    found, wanted = load(str(tmp_path / "out")), load(str(source))
    kept = [name for name, tensor in wanted.tensors.items() if tensor.scheme == QuantScheme(4, 32, False)]
    assert "layers.0.q" in kept
    for name in kept:
        ours, theirs = (c.tensors[name].quantized(0, c.tensors[name].shape[0]) for c in (found, wanted))
        assert_array_equal(ours.codes, theirs.codes)
        assert_array_equal(ours.scale, theirs.scale)
        assert_array_equal(ours.minimum, theirs.minimum)


def test_what_the_files_hold(good: Path) -> None:
    """A stranger can read them by the documentation alone: names, types, and weights by hand from the bytes."""
    tensors = load_file(good / "model.safetensors")
    config = json.loads((good / "config.json").read_text())
    grid = {"bits": 4, "group": 32, "symmetric": False}
    table = dict.fromkeys([f"layers.*.{name}" for name in ("q", "k", "v", "o", "gate", "up", "down")], grid)
    assert config["quantization_config"] == {
        "quant_method": "tinyinfer", "version": 1, "method": "rtn", "grids": table
    }  # fmt: skip
    codes, scale, minimum = (tensors[f"layers.0.o.{part}"] for part in ("codes", "d", "m"))
    assert (codes.dtype, scale.dtype, minimum.dtype) == (np.uint8, np.float16, np.float16)
    assert scale.shape == minimum.shape
    [lazy] = [tensor for name, tensor in load(str(good)).tensors.items() if name == "layers.0.o"]
    outputs, inputs = lazy.shape
    half = (inputs + 1) // 2
    by_hand = np.empty(lazy.shape, np.float32)
    for n in range(outputs):
        for i in range(inputs):
            code = codes[n, i] & 15 if i < half else codes[n, i - half] >> 4
            by_hand[n, i] = np.float32(scale[n, i // 32]) * np.float32(code) + np.float32(minimum[n, i // 32])
    assert_array_equal(lazy.numpy(), by_hand)
    assert sorted(path.name for path in good.iterdir()) == [
        "SHA256SUMS", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip


def test_nothing_is_read_before_it_is_wanted(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a float copy on the way into memory: no matrix is dequantized while the model is loaded."""
    load(str(good))  # reads headers only
    monkeypatch.setattr(QuantizedMatrix, "dequantize", lambda self: pytest.fail("codes became floats"))
    assert LLM(str(good)).model.layers


def test_a_folder_of_ours_is_not_quantized_again(good: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"quantize=int8 is given, but .*good is quantized already"):
        LLM(str(good), quantize="int8")
    assert LLM(str(good), quantize="keep").model.nbytes == LLM(str(good)).model.nbytes


# Damaged folders


def change_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """Rewrites the safetensors file after a change."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def set_to(name: str, value: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, np.ndarray]], Any]:
    """A change of one tensor."""
    return lambda tensors: tensors.update({name: value(tensors[name])})


def with_infinity(array: np.ndarray) -> np.ndarray:
    """A copy with one infinite number."""
    array = array.copy()
    array.flat[-1] = np.inf
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layers.1.q.d"), "the tensor 'layers.1.q.d' is missing"),
        (lambda t: t.pop("layers.1.q.m"), "the tensor 'layers.1.q.m' is missing"),
        (lambda t: t.pop("layers.0.down.codes"), "the tensor 'layers.0.down.codes' is missing"),
        (lambda t: t.pop("final_norm"), "the weight 'final_norm' is missing"),
        (set_to("layers.0.k.codes", lambda a: a[:, 1:].copy()), "safetensors: tensor 'layers.0.k.codes' is U8 of"),
        (set_to("layers.0.k.codes", lambda a: a.astype(np.int8)), "tensor 'layers.0.k.codes' is I8 of shape"),
        (set_to("layers.0.k.d", lambda a: a.astype(np.float32)), "tensor 'layers.0.k.d' is F32 of shape"),
        (set_to("layers.0.k.d", lambda a: a[1:].copy()), "tensor 'layers.0.k.d' is F16 of shape"),
        (set_to("final_norm", lambda a: a[1:].copy()), "tensor 'final_norm' has shape"),
        (set_to("final_norm", lambda a: a.astype(np.uint8)), "tensor 'final_norm' has type U8"),
        (set_to("layers.1.up.d", with_infinity), "tensor 'layers.1.up' holds NaN or infinity"),
        (set_to("layers.1.up.m", with_infinity), "tensor 'layers.1.up' holds NaN or infinity"),
        (lambda t: t.update({"more.d": t["final_norm"]}), "tensor 'more.d' has no place"),
        (lambda t: t.update({"layers.0.q": np.zeros((2, 2), np.float32)}), "tensor 'layers.0.q' has no place"),
    ],
)
def test_a_damaged_folder_is_told_by_file_and_tensor(change: Any, message: str, copy: Path) -> None:
    """Each is a sentence, not a traceback, and never a model with wrong weights."""
    change_tensors(copy, change)
    with pytest.raises(ModelError) as caught:
        LLM(str(copy))
    assert message in str(caught.value)
    assert "copy" in str(caught.value)


def set_field(path: list[Any], value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets a field of the quantization_config, or removes it."""

    def change(config: dict[str, Any]) -> None:
        for key in path[:-1]:
            config = config[key]
        if value is Ellipsis:
            del config[path[-1]]
        else:
            config[path[-1]] = value

    return change


def test_a_few_patterns_for_thousands_of_layers(copy: Path) -> None:
    """Catches M4: names of all layers were made for each pattern, and with W8A8 for each name; 1.4 kB took minutes."""
    config = json.loads((copy / "config.json").read_text())
    [grid] = {json.dumps(grid) for grid in config["quantization_config"]["grids"].values()}
    whole = {"bits": 8, "group": None, "symmetric": True, "activation_bits": 8}
    for each in (json.loads(grid), whole):
        config["num_hidden_layers"] = 4096
        config["quantization_config"]["grids"] = {
            name if name != "layers.*.q" else f"layers.{i}.q": each
            for name in ("layers.*.q", "layers.*.k", "layers.*.v", "layers.*.o", "layers.*.up")
            for i in (range(4096) if name == "layers.*.q" else (0,))
        }
        (copy / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=r"the folder is incomplete|config\.json says"):
            load(copy)


Q = "layers.*.q"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_field(["version"], 2), "'version' is 2, and only 1 is known; update tinyinfer"),
        (set_field(["version"], ...), "'version' is missing"),
        (set_field(["method"], 3), "'method' is 3, but must be a string"),
        (set_field(["grids"], []), "'grids' is [], but must say how each matrix is rounded"),
        (set_field(["grids"], {}), "'grids' is {}, but must say"),
        (set_field(["order"], "act"), "'order' ('act') is not known"),
        (set_field(["grids", Q, "bits"], 7), "'bits' is 7, but must be one of 2, 3, 4, 5, 6, 8"),
        (set_field(["grids", Q, "bits"], True), "'bits' is True, but must be a whole number"),
        (set_field(["grids", Q, "bits"], 8), "tensor 'layers.0.q.codes' is U8 of shape"),
        (set_field(["grids", Q, "group"], 0), "'group' is 0, but must be a whole number from 1"),
        (set_field(["grids", Q, "group"], 64), "tensor 'layers.0.q.d' is F16 of shape"),
        (set_field(["grids", Q, "symmetric"], "no"), "'symmetric' is 'no', but must be true or false"),
        (set_field(["grids", Q, "symmetric"], True), ".q.m' has no place in a model of the family llama"),
        (set_field(["grids", Q, "zero"], 8), "'zero' (8) is not known"),
        (set_field(["grids", Q, "nested"], 0), "'nested' is 0, but must be a whole number from 1"),
        (set_field(["grids", Q, "nested"], 3), "gives 'layers.*.q' scales for 3 groups together, which leave a rest"),
        (set_field(["grids", Q, "nested"], 1), "the tensor 'layers.0.q.d.codes' is missing"),
        (set_field(["grids", Q, "activation_bits"], 8), "'activation_bits' goes with 8 symmetric bits and no groups"),
        (set_field(["grids", Q], None), "'bits' is missing"),
        (set_field(["grids", Q], ...), "the weight 'layers.0.q' is missing"),
        (set_field(["grids", "layers.9.q"], {"bits": 4}), "names 'layers.9.q', which no matrix of this model"),
        (set_field(["grids", "layers.0.q"], {"bits": 4}), "names 'layers.0.q', which is there under another name"),
        (set_field(["grids", "final_norm"], {"bits": 4}), "names 'final_norm', which no matrix"),
    ],
)
def test_a_wrong_quantization_config_is_told_by_field(change: Any, message: str, copy: Path) -> None:
    """Nothing in it is passed over: a setting that is not known could change every weight."""
    config = json.loads((copy / "config.json").read_text())
    change(config["quantization_config"])
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as caught:
        load(str(copy))
    assert message in str(caught.value)


def test_a_folder_that_others_quantized_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"]["quant_method"] = "gptq"
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="the weights are quantized"):
        load(str(copy))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([Q, 4, 32]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PLACES = [[], ["version"], ["method"], ["grids"], ["grids", Q], ["grids", Q, "bits"], ["grids", Q, "group"],
          ["grids", Q, "symmetric"], ["grids", Q, "whole"], ["grids", Q, "activation_bits"], ["grids", Q, "nested"],
          ["more"]]  # fmt: skip


@settings(max_examples=150)
@given(place=st.sampled_from(PLACES), value=JSON)
def test_any_quantization_config_loads_or_is_a_model_error(place: list[str], value: Any, good: Path) -> None:
    """Catches a TypeError or KeyError out of the depths for a file that was edited by hand."""
    config = json.loads((good / "config.json").read_text())
    set_field(["quantization_config", *place], value)(config)
    with tempfile.TemporaryDirectory() as folder:
        for file in good.iterdir():
            (Path(folder) / file.name).symlink_to(file)
        (Path(folder) / "config.json").unlink()
        (Path(folder) / "config.json").write_text(json.dumps(config))
        with suppress(ModelError):  # most are wrong, some are as good as what was there
            load(folder)


# Writing


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt(), MemoryError()], ids=repr)
@pytest.mark.parametrize("last", [1, 30])
def test_what_is_interrupted_leaves_nothing(
    error: BaseException, last: int, golden_folder: Folder, tmp_path: Path
) -> None:
    """After the first tensor or after the last: no folder, no hidden one beside it."""
    source = golden_folder("llama")
    llm = LLM(str(source), quantize="int4")

    def stop(done: int, of: int) -> None:
        if done == min(last, of):
            raise error

    expected = ModelError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected, match="No space left" if expected is ModelError else None):
        save_model(tmp_path / "out", llm.model, load(str(source)), {"method": "rtn"}, stop)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_config_json_cannot_tell_is_refused(tmp_path: Path) -> None:
    """A llama's has no scale for the scores. Catches a folder that loads, and is another model."""
    source = write_gguf("llama", tmp_path / "x.gguf", extra={"llama.attention.scale": 0.5})
    llm = LLM(str(source), quantize="int4")
    with pytest.raises(ModelError, match=r"x\.gguf: a setting of this model has no place in a config\.json"):
        save_model(tmp_path / "out", llm.model, load(str(source)), {"method": "rtn"})
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_a_folder_with_something_in_it_is_left_alone(good: Path, golden_folder: Folder, tmp_path: Path) -> None:
    """An empty one is filled."""
    llm, source = LLM(str(golden_folder("llama")), quantize="int4"), load(golden_folder("llama"))
    (tmp_path / "empty").mkdir()
    save_model(tmp_path / "empty", llm.model, source, {"method": "rtn"})
    assert (tmp_path / "empty" / "model.safetensors").read_bytes() == (good / "model.safetensors").read_bytes()
    (tmp_path / "file").write_text("mine")
    for place, why in [("empty", "is there already and not empty"), ("file", "is a file"),
                       ("no/such/place", "there is no folder")]:  # fmt: skip
        with pytest.raises(ValueError, match=why):
            save_model(tmp_path / place, llm.model, source, {"method": "rtn"})
    assert (tmp_path / "file").read_text() == "mine"
