"""What an optimization costs in quality, and what it saves: one row of a table for each setting.

A setting is a name for some switches: `int4-g64-a8:gptq` is quantize=int4, group_size=64, activations=int8,
quantize_method=gptq; `bfloat16` is a dtype, `kv4` is kv_bits=4; `sparsegpt-2:4` is prune=sparsegpt, sparsity=2:4, and
`drop3` is drop_layers=3. Of several things at once the names are joined, as `wanda-0.5+int8` or `drop3+refit`. A row
has the perplexity of a text, the distance from the float model, and the bytes and bits that the weights take.

`--help` lists SETTINGS, so what needs NumPy is imported inside the functions.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from tinyinfer.backends.switches import DTYPES
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.switches import KV_BITS
from tinyinfer.pruning.switches import PRUNE_METHODS, READING, STRUCTURED, PruningSwitches
from tinyinfer.quantization.switches import CALIBRATED, CALIBRATION, QUANTIZATIONS, QuantizationSwitches

if TYPE_CHECKING:
    from tinyinfer.llm import LLM
    from tinyinfer.loading.checkpoint import Checkpoint
    from tinyinfer.measure.perplexity import Perplexity

SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"dtype": name} for name in DTYPES},
    **{f"kv{bits}": {"kv_bits": bits} for bits in KV_BITS if bits != "off"},
    **{name: {"quantize": name} for name in QUANTIZATIONS if name != "off"},
}
QUANTIZED = re.compile(r"(?P<quantize>\w+?)(-g(?P<group_size>\w+))?(?P<activations>-a8)?(:(?P<quantize_method>\w+))?")
PRUNED = re.compile(rf"(?P<prune>{'|'.join(name for name in PRUNE_METHODS if name != 'off')})-(?P<sparsity>[\d.:]+)")
PARTS = re.compile(r"(?P<part>drop|kv-heads|hidden)(?P<value>\d+)|width(?P<share>\d*\.\d+)")
PARTS_OF = {"drop": "drop_layers", "kv-heads": "keep_kv_heads", "hidden": "keep_hidden"}
UNQUANTIZED = {one.name: one.default for one in fields(QuantizationSwitches)}
UNPRUNED = {one.name: one.default for one in fields(PruningSwitches)}
# What the others are compared with.
FLOAT = UNQUANTIZED | UNPRUNED | {"dtype": "float32", "activations": "float", "kv_bits": "off"}


def setting(name: str) -> dict[str, Any]:
    """The switches that the name of a setting means. Raises SwitchError when there is no setting of that name.

    Raises SwitchError also where two of its parts set the same switch.
    """
    changes: dict[str, Any] = {}
    for part in name.split("+"):
        new = part_of_setting(part)
        if twice := changes.keys() & new.keys():
            reason = f"{{field}}: {{value!r}} sets {{{twice.pop()}}} twice"
            raise SwitchError("compare", name, reason, "join parts that differ")
        changes |= new
    return changes


def part_of_setting(name: str) -> dict[str, Any]:
    """The switches that a part of a name means. Raises SwitchError when there is no such part."""
    if pruned := PRUNED.fullmatch(name):
        return dict(pruned.groupdict())
    if name == "refit":
        return {"refit": True}
    if removed := PARTS.fullmatch(name):
        share, part = removed["share"], removed["part"]
        return {"width": float(share)} if share else {PARTS_OF[part]: int(removed["value"])}
    parts = QUANTIZED.fullmatch(name)
    base = parts["quantize"] if parts else name
    if base not in SETTINGS or (base != name and "quantize" not in SETTINGS[base]):
        cure = "the settings are {known}, quantized ones also with a group size, integer activations and a method, "
        cure += "as int4-g64-a8:gptq, and pruned ones, as wanda-0.5, sparsegpt-2:4+int4, drop3, width0.75+refit"
        reason = "{field}: there is no setting {value!r}"
        raise SwitchError("compare", name, reason, cure, known=", ".join(SETTINGS))
    changes = dict(SETTINGS[base])
    if parts and parts["group_size"]:
        size = parts["group_size"]
        changes["group_size"] = int(size) if size.isdecimal() else size
    if parts and parts["activations"]:
        changes["activations"] = "int8"
    if parts and parts["quantize_method"]:
        changes["quantize_method"] = parts["quantize_method"]
    return changes


def switches_of(name: str, switches: dict[str, Any]) -> dict[str, Any]:
    """The switches with those of a setting. Raises SwitchError for a switch that both set.

    What a setting has no use for is left out, so that what is said of the calibration serves the settings that read it.
    """
    changes = setting(name)
    for one in changes:
        if switches[one] != getattr(EngineConfig, one):
            raise SwitchError("compare", name, f"{{field}} {{value}} sets {{{one}}} itself", f"leave {{{one}}} out")
    joined = switches | changes
    by_text = joined["prune"] in READING or any(joined[one] is not None for one in STRUCTURED)
    text = {name: joined[name] for name in CALIBRATION}
    if joined["quantize"] == "off":
        return joined | UNQUANTIZED | (text if by_text else {})
    reads = by_text or joined["quantize_method"] in CALIBRATED or joined["quantize"] == "w8a8"
    return joined if reads else joined | {name: UNQUANTIZED[name] for name in CALIBRATION}


def beginning_as(config: EngineConfig, bos: bool) -> EngineConfig:
    """The same switches; without bos, where the model is quantized by text, that text is read without one, too."""
    return config if bos or not config.reads_text else replace(config, calibration_bos=False)


def check_setting(config: EngineConfig, checkpoint: Checkpoint) -> None:
    """Refuses what cannot work with this model or its text, as loading would, but before any weight is read.

    Raises ModelError, ValueError.
    """
    from tinyinfer.engine.room import check_activations
    from tinyinfer.loading.build import keeps_file_quantization
    from tinyinfer.pruning.apply import check_can_prune
    from tinyinfer.pruning.apply import read_windows as read_windows_to_prune
    from tinyinfer.quantization.apply import read_windows
    from tinyinfer.quantization.recipe import make_recipe

    check_activations(checkpoint, config)
    if keeps_file_quantization(config, checkpoint):
        return
    check_can_prune(config, checkpoint.config)
    if config.prunes_by_text:
        read_windows_to_prune(config, checkpoint.config, checkpoint.tokenizer)
    elif config.calibrated:
        read_windows(config, checkpoint.config, checkpoint.tokenizer)
    elif config.quantizes:
        make_recipe(config, checkpoint.config)


def float_config(switches: dict[str, Any], keep: bool) -> EngineConfig:
    """What settings are compared with: float32, or what a folder that is quantized already keeps."""
    return EngineConfig(**switches | FLOAT | ({"quantize": "keep"} if keep else {}))


def evaluate(
    llm: LLM,
    tokens: Sequence[int],
    window: int,
    reference: LLM | None = None,
    beginning: Sequence[int] = (),
    on_window: Callable[[Perplexity], None] = lambda so_far: None,
) -> dict[str, Any]:
    """The figures of one setting over the tokens of a text.

    reference: the model to measure the distance from, which may be `llm` itself; None: no distance is measured.
    beginning: the tokens that stand before each window and are not scored.
    on_window is called after each window with the perplexity so far. Raises NotFiniteError when the model's
    numbers overflow.
    """
    from tinyinfer.measure.inspect import bits_per_weight
    from tinyinfer.measure.kl import Divergence, divergences
    from tinyinfer.measure.perplexity import Perplexity

    started = time.perf_counter()
    last = Perplexity(0.0, 0), Divergence(0.0, 1.0)
    for last in divergences(llm, reference or llm, tokens, window, beginning):
        on_window(last[0])
    scored, distance = last
    far = {"kl_divergence": distance.kl, "top1_agreement": distance.agreement} if reference else {}
    return {
        "perplexity": scored.perplexity,
        "nll": scored.nll,
        **far,
        "tokens": scored.tokens,
        "window": window,
        "bos": bool(beginning),
        "weight_bytes": llm.model.nbytes,
        "bits_per_weight": bits_per_weight(llm.model, (reference or llm).model),
        "seconds": time.perf_counter() - started,
        "ledger": llm.ledger.as_dict(),
    }
