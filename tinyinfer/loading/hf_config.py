"""config.json -> ModelConfig.

The families differ as their records say (hf_families.py), by lists of layers (hf_layers.py) and by rotations, which the
two dialects of transformers 4 and 5 spell differently (hf_rope.py). A field that is neither read nor known to be
neutral is refused, because it could change the result (hf_fields.py says which are not). A model that reads images or
sound, too, has the configuration of its text model inside (hf_nested.py).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tinyinfer.loading.checkpoint import join_end_tokens
from tinyinfer.loading.hf_families import FAMILIES, SIZES, Family
from tinyinfer.loading.hf_fields import HARMLESS, NEUTRAL, foreign
from tinyinfer.loading.hf_nested import is_nested, text_fields
from tinyinfer.loading.hf_rope import RopeFields
from tinyinfer.loading.json_fields import Fields, read_json
from tinyinfer.loading.strangers import QUANTIZATIONS, quantized_by
from tinyinfer.model.config import ModelConfig, MoEConfig
from tinyinfer.units import show

MAX_LAYERS, MAX_EXPERTS = 4096, 65536  # a larger number is refused before a list of that length is made
ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}  # fmt: skip
OURS = "tinyinfer"  # quant_method of the folders that `tinyinfer quantize` writes


def is_ours(quantization: object) -> bool:
    """Whether a quantization_config says that tinyinfer wrote the folder."""
    return isinstance(quantization, dict) and quantization.get("quant_method") == OURS


def read_config(folder: str | Path) -> ModelConfig:
    """The ModelConfig of a Hugging Face folder, from config.json and, for the end tokens, generation_config.json.

    Instead of the folder a file of any other name that is a config.json may be given.

    Raises ModelError, naming file and field, for an unsupported model and a field that is missing, wrong or unknown.
    """
    path = config_file(folder)
    f = Fields(str(path), read_json(path))
    if is_nested(f.values):
        f = text_fields(f)
    family = _family(f)
    config = _gpt2(f, family) if family.architecture == "gpt2" else _decoder(f, family)
    f.refuse_unread(NEUTRAL, HARMLESS | family.fixed, foreign)
    return join_end_tokens(config, _end_tokens(path.parent, f, family))


def config_file(place: str | Path) -> Path:
    """The config.json of a folder, or the file itself."""
    path = Path(place)
    return path if path.suffix == ".json" and path.is_file() else path / "config.json"


def _family(f: Fields) -> Family:
    """The family of the file, or a ModelError that names what was found and what is supported."""
    model_type = f.text("model_type")
    if model_type not in FAMILIES:
        f.refuse("model_type", f"is {show(model_type)}, which is not supported; supported are {', '.join(FAMILIES)}")
    classes, known = f.get("architectures"), FAMILIES[model_type].classes
    if classes is not None and not (isinstance(classes, list) and classes and all(name in known for name in classes)):
        f.refuse("architectures", f"is {show(classes)}, but only {known[0]} is supported; use a model of that kind")
    for name in QUANTIZATIONS:
        quantization = f.get(name)
        if quantization is not None and not is_ours(quantization) and not FAMILIES[model_type].reads(quantization):
            f.refuse(name, f"says that the weights are quantized by {quantized_by(quantization)}")
    return FAMILIES[model_type]


def _decoder(f: Fields, family: Family) -> ModelConfig:
    """The ModelConfig of every family but GPT-2: a Llama, with what is the family's own."""
    layers, width = f.size("num_hidden_layers", most=MAX_LAYERS), f.size("hidden_size")
    heads = f.size("num_attention_heads")
    kv_heads = f.optional_size("num_key_value_heads", family.kv_heads) or heads
    head_dim = f.optional_size("head_dim", family.head_dim) or _share(f, "hidden_size", width, heads)
    if heads % kv_heads:
        f.refuse("num_key_value_heads", f"is {kv_heads}, which does not divide the {heads} query heads; correct one")
    if head_dim % 2:
        f.refuse("head_dim", f"is {head_dim}, but rotary positions rotate pairs of numbers; correct it to an even one")
    max_position = _max_position(f, "max_position_embeddings")
    windows, experts = family.windows(f, layers, family.window), _experts(f, family, layers)
    bias = f.flag(family.bias_field, family.bias) if family.bias_field else family.bias
    config = ModelConfig(
        architecture=family.architecture,
        vocab_size=f.size("vocab_size"),
        hidden_size=width,
        intermediate_size=f.size("intermediate_size", _expert_size(experts)),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_position=max_position,
        norm_eps=f.number(family.eps_field, family.norm_eps),
        attention_scale=head_dim**-0.5,
        rope=RopeFields(f, family, head_dim, max_position).layers(windows),
        windows=windows,
        activation=_activation(f, *family.activation),
        qkv_bias=bias,
        o_bias=bias and family.o_bias,
        mlp_bias=family.mlp_bias and f.flag("mlp_bias", False),
        qk_norm=family.qk_norm,
        tied_head=f.flag("tie_word_embeddings", family.tied),
        experts=experts,
    )
    return replace(config, **family.own(f, config))


def _gpt2(f: Fields, family: Family) -> ModelConfig:
    """The ModelConfig of GPT-2. Its fields have other names; the usual names are accepted too, as in transformers."""
    f.alias("n_embd", "hidden_size")
    f.alias("n_layer", "num_hidden_layers")
    f.alias("n_head", "num_attention_heads")
    f.alias("n_positions", "max_position_embeddings")
    layers, width, heads = f.size("n_layer", most=MAX_LAYERS), f.size("n_embd"), f.size("n_head")
    head_dim = _share(f, "n_embd", width, heads)
    if head_dim % 2:
        f.refuse("n_head", f"is {heads}, which makes heads of the odd size {head_dim}; that is not supported")
    return ModelConfig(
        architecture=family.architecture,
        vocab_size=f.size("vocab_size"),
        hidden_size=width,
        intermediate_size=f.optional_size("n_inner") or 4 * width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        max_position=_max_position(f, "n_positions"),
        norm_eps=f.number("layer_norm_epsilon", family.norm_eps),
        attention_scale=head_dim**-0.5 if f.flag("scale_attn_weights", True) else 1.0,
        rope=(None,) * layers,
        windows=(None,) * layers,
        norm="layer",
        activation=_activation(f, "activation_function", "gelu_new"),
        gated=False,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        learned_positions=True,
        tied_head=f.flag("tie_word_embeddings", family.tied),
    )


def _max_position(f: Fields, name: str) -> int:
    """The length of the context; in a file that does not say it, its family's, as in transformers."""
    return f.optional_size(name) or SIZES[f.text("model_type")]["max_position_embeddings"]


def _share(f: Fields, name: str, width: int, heads: int) -> int:
    """The width divided by the number of heads. Raises ModelError where that is no whole number."""
    if width % heads:
        f.refuse(name, f"is {width}, which {heads} heads do not divide evenly; correct it or give head_dim")
    return width // heads


def _activation(f: Fields, name: str, absent: str) -> str:
    """The activation function by its name in ModelConfig."""
    value = f.text(name, absent)
    if value not in ACTIVATIONS:
        f.refuse(name, f"is {show(value)}, which is not supported; supported are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[value]


def _experts(f: Fields, family: Family, layers: int) -> MoEConfig | None:
    """The mixture of experts, if a layer has one; transformers 4 and 5 name the number of experts differently."""
    if family.expert_size is None:
        return None
    f.alias("num_local_experts", "num_experts")
    dense, (total, chosen, renormalize) = family.dense(f, layers), family.experts
    if len(dense) == layers:
        for name in ("num_experts_per_tok", "norm_topk_prob", family.expert_size, family.shared_size or ""):
            f.get(name)  # without any expert they say nothing
        return None
    count, each = f.size("num_local_experts", total, most=MAX_EXPERTS), f.size("num_experts_per_tok", chosen)
    if f.optional_size("experts_per_token", each) != each:  # gpt-oss has both, and only the other counts
        f.refuse("experts_per_token", f"differs from num_experts_per_tok, which is {each}; correct one of them")
    if each > count:
        f.refuse("num_experts_per_tok", f"is {each}, more than the {count} experts that there are; correct one of them")
    if renormalize is None:
        renormalize = f.flag("norm_topk_prob", False)
    shared = f.size(family.shared_size) if family.shared_size else 0
    return MoEConfig(count, each, f.size(family.expert_size), renormalize, shared, dense)


def _expert_size(experts: MoEConfig | None) -> int | None:
    """The intermediate_size of a file that does not say it: an expert's, unless there are dense layers that have it."""
    return experts.expert_size if experts and not experts.dense_layers else None


def _end_tokens(folder: Path, f: Fields, family: Family) -> list[int]:
    """The ids that end a text: generation_config.json's and config.json's, for a fine-tune may change only one of them.

    The family's own counts only where neither file names any.
    """
    path = folder / "generation_config.json"
    generation = _ids(Fields(str(path), read_json(path)), None) if path.exists() else []
    return generation + _ids(f, None if generation else family.eos)


def _ids(f: Fields, absent: int | None) -> list[int]:
    """The field eos_token_id as a list."""
    value = f.get("eos_token_id", absent)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(not isinstance(i, int) or isinstance(i, bool) or i < 0 for i in ids):
        f.refuse("eos_token_id", f"is {show(ids)}, but must be one id or a list of ids from 0 on; correct it")
    return ids
