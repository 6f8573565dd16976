"""Folders and quantizations that no loader reads are told for what they are, with a cure that works."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from golden import write_hf_folder

from tinyinfer import LLM, ModelError
from tinyinfer.errors import ModelWarning
from tinyinfer.loading import load
from tinyinfer.loading.hf_config import read_config

GoldenFolder = Callable[[str], Path]


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert "download it again" not in str(caught.value)
    assert "download the folder again" not in str(caught.value)
    return str(caught.value)


FOLDERS = {  # a folder's files, and what the sentence says of them
    ("adapter_config.json", "adapter_model.safetensors"): ["an adapter", "'acme/base'", "merge_and_unload"],
    ("checkpoint-5/adapter_config.json", "README.md"): ["'acme/base'", "/checkpoint-5').merge_and_unload"],
    ("pytorch_model.bin",): ["'pytorch_model.bin': pickled weights", "from_pretrained", "save_pretrained"],
    ("pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"): ["pickled weights", "save_pretrained"],
    ("consolidated.00.pth", "params.json"): ["in the form of their makers", "-hf"],
    ("consolidated.safetensors", "params.json"): ["in the form of their makers", "model*.safetensors"],
    ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"): ["model.safetensors.index.json too"],
    ("a-Q4_K_M.gguf", "a-Q8_0.gguf"): ["'a-Q4_K_M.gguf', 'a-Q8_0.gguf'", "give the file"],
    ("onnx/model.onnx", "onnx/model.onnx_data"): ["'onnx/model.onnx'", "ONNX Runtime", "GGUF"],
    ("openvino_model.xml", "openvino_model.bin"): ["OpenVINO"],
    ("model.mlpackage",): ["Core ML"],
    ("gemma.task",): ["LiteRT"],
    ("rank0.engine",): ["TensorRT"],
    ("llama.pte",): ["ExecuTorch"],
    ("llm.mnn",): ["MNN"],
    ("tf_model.h5",): ["TensorFlow"],
    ("flax_model.msgpack",): ["Flax"],
    ("model.nemo",): ["NeMo"],
    ("epoch=3.ckpt",): ["pickled weights"],
    ("gemma.safetensors",): ["'gemma.safetensors': not model.safetensors", "rename"],
}


@pytest.mark.parametrize("with_config", [False, True])
@pytest.mark.parametrize("files", FOLDERS)
def test_a_folder_of_another_kind_is_told_for_what_it_is(
    golden_folder: GoldenFolder, tmp_path: Path, files: tuple[str, ...], with_config: bool
) -> None:
    """Catches "download the folder again", which would bring the same files; config.json may be beside them or not."""
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"base_model_name_or_path": "acme/base"}))
    if with_config:
        (tmp_path / "config.json").write_bytes((golden_folder("llama") / "config.json").read_bytes())
    said = refusal(tmp_path)
    assert all(words in said for words in FOLDERS[files]), said


def test_a_cure_names_a_long_folder_whole(golden_folder: GoldenFolder, tmp_path: Path) -> None:
    """Catches a command that fails because its path was cut short for the message."""
    folder = tmp_path / ("a" * 100) / ("b" * 100)
    folder.mkdir(parents=True)
    (folder / "pytorch_model.bin").touch()
    assert f"from_pretrained({str(folder)!r})" in refusal(folder)
    write_hf_folder("llama", folder / "inner")
    assert f"give that: {str(folder / 'inner')!r}" in refusal(folder)


def test_an_adapter_without_a_base_is_one_still(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "it holds 'adapter_config.json': an adapter" in refusal(tmp_path)


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_a_link_without_its_file_is_told(tmp_path: Path, lost: str) -> None:
    """Catches "not model.safetensors by its name; rename it": the hub's cache, copied without its blobs, has links."""
    write_hf_folder("llama", tmp_path)
    (tmp_path / lost).unlink()
    (tmp_path / lost).symlink_to("../../blobs/abc")
    assert f"it holds links to files that are not there ('{lost}'); copy the folder again" in refusal(tmp_path)


def test_an_adapter_beside_a_model_is_no_part_of_it(tmp_path: Path) -> None:
    """Catches an adapter passed over without a word: transformers loads the two."""
    write_hf_folder("llama", tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.warns(ModelWarning, match=r"adapter beside the model \(adapter_config\.json\) is not read"):
        load(tmp_path)


def test_the_model_one_folder_down_is_named(tmp_path: Path) -> None:
    """sentence-transformers' first folders have their model in 0_Transformer; an archive may add a folder, too."""
    write_hf_folder("llama", tmp_path / "0_Transformer")
    (tmp_path / "modules.json").write_text("[]")
    assert f"a folder in it is one; give that: '{tmp_path / '0_Transformer'}'" in refusal(tmp_path)


def test_a_model_beside_strangers_loads(golden_folder: GoldenFolder, tmp_path: Path) -> None:
    """Catches a folder refused for what else it holds: repositories often hold a model in several forms."""
    write_hf_folder("llama", tmp_path)
    for name in ("pytorch_model.bin", "model.onnx", "modules.json", "consolidated.safetensors"):
        (tmp_path / name).write_text("{}")
    assert LLM(str(tmp_path)).config == LLM(str(golden_folder("llama"))).config


QUANTIZATIONS = {
    "MLX": ({"quantization": {"group_size": 64, "bits": 4}}, "MLX (4 bits in groups of 64)"),
    "MLX, both fields": (
        {"quantization": {"group_size": 32, "bits": 8}, "quantization_config": {"group_size": 32, "bits": 8}},
        "MLX (8 bits in groups of 32)",
    ),
    "bitsandbytes": ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "'bitsandbytes'"),
    "bitsandbytes, old": ({"quantization_config": {"load_in_8bit": True}}, "'bitsandbytes'"),
    "GPTQ": ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}, "'gptq'"),
    "AWQ": ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}, "'awq'"),
    "FP8": ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, "'fp8'"),
    "compressed-tensors": ({"quantization_config": {"quant_method": "compressed-tensors"}}, "'compressed-tensors'"),
    "compressed-tensors, old": ({"compression_config": {"quant_method": "compressed-tensors"}}, "'compressed-tensors'"),
    "no object": ({"quantization_config": "int4"}, "'int4'"),
}  # fmt: skip


@pytest.mark.parametrize("case", QUANTIZATIONS)
def test_another_tools_quantization_is_named_with_a_cure(tmp_path: Path, case: str) -> None:
    """Catches `quantized (None)` of MLX's files, and a name without a way on."""
    changes, named = QUANTIZATIONS[case]
    said = refusal(write_hf_folder("llama", tmp_path, changes=changes))
    assert f"says that the weights are quantized by {named}, which is not read; use the float model" in said
    assert "GGUF" in said


@pytest.mark.parametrize("case", QUANTIZATIONS)
def test_so_is_that_of_a_nested_model(tmp_path: Path, case: str) -> None:
    """Catches "remove it if you know better" for the 4 bits of MLX's Gemma 3, which has the field outside."""
    changes, named = QUANTIZATIONS[case]
    outer = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}
    (tmp_path / "config.json").write_text(json.dumps(outer | changes))
    assert f"the weights are quantized by {named}, which is not read; use the float model" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["quantization", "quantization_config", "compression_config"])
def test_a_quantization_that_is_null_is_none(golden_folder: GoldenFolder, tmp_path: Path, name: str) -> None:
    folder = write_hf_folder("llama", tmp_path, changes={name: None})
    assert read_config(folder) == read_config(golden_folder("llama"))


# --- the hub's cache ---


def cached(root: Path, *versions: str, main: str | None = None) -> Path:
    """The cache's folder of a model, with these versions and what refs/main says."""
    for version in versions:
        write_hf_folder("llama", root / "snapshots" / version)
    if main is not None:
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text(main)
    return root


@pytest.mark.parametrize(
    ("versions", "main", "chosen"),
    [(["a"], None, "a"), (["a", "b"], "b", "b"), (["a", "b"], "a\n", "a"), (["a"], "gone", "a")],
)
def test_a_model_in_the_hubs_cache_is_its_main_version(
    tmp_path: Path, versions: list[str], main: str | None, chosen: str
) -> None:
    """Catches the folder models--owner--name refused, which people copy from the cache, and another version taken."""
    root = cached(tmp_path / "models--acme--tiny", *versions, main=main)
    assert load(root).path == str(root / "snapshots" / chosen)


@pytest.mark.parametrize(
    ("versions", "main", "said"),
    [(["a", "b"], None, "2 versions"), (["a", "b"], "c", "2 versions"), ([], None, "no version")],
)
def test_versions_of_which_none_is_named_are_told(
    tmp_path: Path, versions: list[str], main: str | None, said: str
) -> None:
    (tmp_path / "snapshots").mkdir()
    assert said in refusal(cached(tmp_path, *versions, main=main))
