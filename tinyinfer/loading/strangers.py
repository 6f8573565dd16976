"""What a folder or a quantization is that no loader reads, and the cure that works.

People have adapters, pickled weights, files for phones and for other engines, and quantizations of other tools. Each is
told by its files or its fields, and its cure is a step that ends in a folder or a file that loads: "download it again"
would bring the same files again. The names of files are enough, so the same table serves a folder on the disk and the
listing of a repository on the hub.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from tinyinfer.loading.json_fields import read_json
from tinyinfer.units import show

ADAPTER = "adapter_config.json"
DRAFT_HEAD = "tinyinfer_draft_head"  # the model_type of a folder that is no model by itself (draft_heads.py)
QUANTIZATIONS = ("quantization_config", "quantization", "compression_config")  # fields by which tools tell theirs
_TO_SAFETENSORS = "transformers.AutoModelForCausalLM.from_pretrained({place}).save_pretrained(NEW_FOLDER)"
_MERGE = "peft.AutoPeftModelForCausalLM.from_pretrained({place}).merge_and_unload().save_pretrained(NEW_FOLDER)"
_ORIGINAL = "use the original model, whose weights are safetensors, or a GGUF file of it"
_KINDS = (  # pattern of a file's name, what it is, the cure; the first that fits is told
    (r"adapter_config\.json", "an adapter, which is no model without its base model",
     f"merge the two in Python by {_MERGE}, copy the base model's tokenizer files there and give that folder"),
    (r"pytorch_model.*\.bin(\.index\.json)?", "pickled weights, which are not read because they can hold code",
     f"convert them in Python by {_TO_SAFETENSORS}, copy the tokenizer files there and give that folder"),
    (r"consolidated.*\.(pth|pt)", "weights in the form of their makers, not in that of the hub",
     "use the repository's form with config.json and safetensors (its name often ends in -hf)"),
    (r"model-\d+-of-\d+\.safetensors", "parts of the weights without the index that names the part of each tensor",
     "download model.safetensors.index.json too"),
    (r".*\.gguf", "a GGUF file is a model by itself", "give the file"),
    (r"consolidated.*\.safetensors", "weights in the form of their makers, not in that of the hub",
     "download config.json and the files model*.safetensors too"),
    (r".*\.onnx(_data)?", "a model for ONNX Runtime", _ORIGINAL),
    (r"openvino.*\.(xml|bin)", "a model for OpenVINO", _ORIGINAL),
    (r".*\.(mlmodel|mlmodelc|mlpackage|mlprogram)", "a model for Core ML", _ORIGINAL),
    (r".*\.(tflite|task|litertlm)", "a model for LiteRT", _ORIGINAL),
    (r".*\.(engine|plan)", "a model for TensorRT", _ORIGINAL),
    (r".*\.pte", "a model for ExecuTorch", _ORIGINAL),
    (r".*\.mnn", "a model for MNN", _ORIGINAL),
    (r".*\.nemo", "a model for NeMo", _ORIGINAL),
    (r"tf_model.*\.h5|.*\.keras", "weights of TensorFlow", _ORIGINAL),
    (r"flax_model.*\.msgpack", "weights of Flax", _ORIGINAL),
    (r".*\.(pth|pt|ckpt|bin)", "pickled weights, which are not read because they can hold code", _ORIGINAL),
    (r".*\.safetensors", "not model.safetensors by its name", "rename the file if it holds the whole model"),
)  # fmt: skip


def told(names: Collection[str], place: str) -> str | None:
    """What files of these names are, and the cure; None for files of which nothing is known.

    place: the folder or the repository, as the cure's commands name it: whole, however long it is.
    """
    for pattern, what, cure in _KINDS:
        found = [name for name in names if re.fullmatch(rf"(.*/)?{pattern}", name, re.IGNORECASE)]
        if found:
            found.sort(key=_depth)
            inner = Path(place) / Path(found[0]).parent
            place = str(inner) if inner.is_dir() else place
            listed = ", ".join(map(repr, found[:8])) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
            return f"{listed}: {what}; {cure.format(place=repr(place))}"
    return None


def _depth(name: str) -> tuple[int, str]:
    """Files of the folder itself come before those of the folders in it."""
    return name.count("/"), name


def told_of(folder: Path) -> str | None:
    """What a folder holds instead of a model, and the cure, as the end of a sentence; None where nothing is known."""
    broken = sorted(path.name for path in folder.glob("*") if path.is_symlink() and not path.exists())
    if broken:
        cure = "copy the folder again with the files in the place of the links (cp -rL), or download it"
        return f"it holds links to files that are not there ({', '.join(map(repr, broken[:8]))}); {cure}"
    names = [path.relative_to(folder).as_posix() for path in (*folder.glob("*"), *folder.glob("*/*"))]
    inner = sorted(name for name in names if name.endswith("/config.json"))
    if "config.json" not in names and inner:
        return f"a folder in it is one; give that: {str((folder / inner[0]).parent)!r}"
    sentence = told(names, str(folder))
    adapters = sorted((name for name in names if Path(name).name == ADAPTER), key=_depth)
    base = read_json(folder / adapters[0]).get("base_model_name_or_path") if adapters else None
    if sentence and base:
        sentence = sentence.replace("its base model;", f"its base model, {show(base)};")
    return sentence and f"it holds {sentence}"


def quantized_by(quantization: object) -> str:
    """The tool that made a quantization_config of another tool, and the cure, as the end of a sentence."""
    fields = quantization if isinstance(quantization, dict) else {}
    method = fields.get("quant_method", quantization)
    tool = show(method)
    if "quant_method" not in fields and {"group_size", "bits"} <= fields.keys():
        tool = f"MLX ({show(fields['bits'])} bits in groups of {show(fields['group_size'])})"
    elif fields.get("load_in_4bit") or fields.get("load_in_8bit"):
        tool = "'bitsandbytes'"
    return f"{tool}, which is not read; use the float model that it was made from, or a GGUF file of it"
