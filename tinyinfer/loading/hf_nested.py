"""The text part of a model that also reads images or sound: its configuration and its tensors, the rest passed over.

    config.json     model_type gemma3, and below text_config a whole configuration: model_type gemma3_text
    tensors         language_model.model.layers.0... (files until transformers 4.51), model.language_model.layers.0...
                    (since then), model.text_model.layers.0... (Idefics, SmolVLM); lm_head beside or inside it
    other towers    vision_tower..., multi_modal_projector..., audio_tower...: the names of TOWERS, and no others

It is a kind and no list of models: whatever model_type is outside, the text part loads when its own model_type is a
family that we support. Fields outside it are refused as in any config.json, unless they speak of another tower; so are
tensors. Without an image or a sound in the prompt the other towers are never run, so the logits are the whole model's:
those of the text model's own class. (transformers 5 leaves out a text model's logits_scaling, Granite's, where another
class wraps it; greedy text is the same.)

Wins: Gemma 3 4B and up, Mistral Small 3, LLaVA, InternVL, SmolVLM, whose text models are published in no other form.
Loses: a prompt can hold no image, and the towers take room on the disk.

Names: the classes of transformers 5.23, and its table of the names in older files (conversion_mapping).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tinyinfer.errors import ModelError, note
from tinyinfer.loading.hf_families import FAMILIES, SIZES
from tinyinfer.loading.hf_fields import HARMLESS, NEUTRAL, foreign
from tinyinfer.loading.json_fields import Fields
from tinyinfer.loading.safetensors import Stored
from tinyinfer.loading.strangers import QUANTIZATIONS
from tinyinfer.units import show

NESTED = "text_config"
_TEXT_TYPES = {  # of a text part that does not say its model_type, by the model_type outside
    "gemma3_text": "gemma3",
    "granite": "granite_speech",
    "llama": "deepseek_vl idefics3 janus llava llava_next llava_next_video perception_lm smolvlm video_llava vipllava",
    "mistral": "idefics2 mistral3",
    "qwen2": "fast_vlm got_ocr2 internvl llava_onevision ovis2 qwen2_audio video_llama_3",
}
BOTH_WAYS = ("paligemma",)  # in a prompt of these, a position sees those that come after it
TEXT_TYPES = {outer: text for text, names in _TEXT_TYPES.items() for outer in names.split()}
HEADS = ("ForConditionalGeneration", "ForCausalLM", "Model")  # how classes end that have a text model's head, or none
# Fields outside the text part that speak of another tower, or of where its tokens lie in the text.
_TOWER_FIELD = re.compile(
    r"(^|_)(image|vision|visual|video|audio|speech|acoustic|semantic|projector|multimodal|mm|perceiver|spatial|boi|eoi|"
    r"boa|eoa|timestamp|downsample|vq|adaptor|high_res|pixel)(_|$)|^(scale_factor|_pad_token_id)$"
)
TOWERS = re.compile(
    r"(?:model\.)?((?:(?:embed_|high_res_)?(?:vision|visual|image|video|audio|speech|acoustic|semantic)(?:_[a-z_]+)?|"
    r"(?:multi_modal_|mm_)?projector|connector|aligner|vqmodel|generation_(?:head|aligner|embeddings)))(?:\..*)?"
)
_TEXT = re.compile(r"(?:model\.)?(?:language_model|text_model)\.(?:model\.)?(.+)")


def is_nested(values: Mapping[str, Any]) -> bool:
    """Whether a config.json holds the configuration of its text model below another model's."""
    outer = values.get("model_type")
    return isinstance(outer, str) and outer not in FAMILIES and (NESTED in values or outer in TEXT_TYPES)


def text_fields(whole: Fields) -> Fields:
    """The fields of the text part, with the sizes that its family has where it says none.

    Raises ModelError, naming both model types, for a text part that is not supported, and for a field outside the text
    part that could change the result.
    """
    outer = whole.text("model_type")
    if outer in BOTH_WAYS:
        whole.refuse("model_type", f"is {show(outer)}, whose prompts are read both ways, which is not supported")
    if whole.get(NESTED) is None:
        cure = "use a folder in the form of transformers (its name often ends in -hf)"
        whole.refuse(NESTED, f"is missing, and {show(outer)} has its text model there; {cure}")
    given = whole.table(NESTED, whole.get(NESTED))
    kind = given.text("model_type", TEXT_TYPES.get(outer))
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        whole.refuse(
            "model_type", f"is {show(outer)}, whose text part {show(kind)} is not supported; supported are {known}"
        )
    classes = whole.get("architectures")
    if classes is not None and not (isinstance(classes, list) and all(str(name).endswith(HEADS) for name in classes)):
        whole.refuse("architectures", f"is {show(classes)}, which is no model that writes text; use one of that kind")
    cap = "final_logit_softcapping"
    if outer == "gemma3" and given.get(cap) is not None:
        given.refuse(cap, f"is {show(given.get(cap))}, which transformers 5 applies in gemma3_text but not in gemma3")
    inner = {key: value for key, value in given.values.items() if key != "architectures"}
    values = SIZES[kind] | inner | {"model_type": kind} | _joined(whole, given)
    text = Fields(given.where, values)
    _refuse_outside(whole, text)
    return text


def _joined(whole: Fields, given: Fields) -> dict[str, Any]:
    """The fields that either level may say: the end tokens of both, and any quantization.

    The head is tied if one level says so. Where neither says it, the files decide (hf_folder.py): it is tied in those
    that store no head.
    """
    ends = [one.get("eos_token_id") for one in (whole, given)]
    listed = [end for value in ends if value is not None for end in (value if isinstance(value, list) else [value])]
    tie = "tie_word_embeddings"
    tied = [one.flag(tie, False) for one in (whole, given) if one.get(tie) is not None]
    said = {name: [one.get(name) for one in (whole, given) if one.get(name) is not None] for name in QUANTIZATIONS}
    quantization = {name: values[0] for name, values in said.items() if values}
    joined: dict[str, Any] = {"eos_token_id": listed} if listed else {}
    joined[tie] = any(tied) or not tied
    return joined | quantization


def _refuse_outside(whole: Fields, text: Fields) -> None:
    """Raises ModelError for a field beside the text part that is no other tower's and says more than the text part."""
    for name, value in whole.values.items():
        if name in text.values and value in (text.values[name], None):
            whole.get(name)
    for fields in (whole, text):
        for name in filter(_TOWER_FIELD.search, fields.values):
            fields.get(name)
    whole.refuse_unread(NEUTRAL, HARMLESS, foreign)


def text_tensors(path: str, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors of the text part by their names in a text model; a line names the towers that are passed over.

    Raises ModelError for one weight under two names.
    """
    tensors: dict[str, Stored] = {}
    towers = set()
    for name, tensor in stored.items():
        inside, tower = _TEXT.fullmatch(name), TOWERS.fullmatch(name)
        short = inside[1] if inside else name
        if tower and not inside:
            towers.add(tower[1])
        elif short in tensors:
            other = show(tensors[short].name)
            raise ModelError(f"{path}: tensors {show(name)} and {other} are the same weight; remove one of them")
        else:
            tensors[short] = tensor
    if towers:
        note(f"{path}: only the text model is read; the weights of {', '.join(sorted(towers))} are passed over")
    return tensors
