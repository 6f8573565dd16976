"""What `eval --compare` compares: a setting's name, and the switches that it stands for.

`int8`, `int4-g64`, `int3-gchannel:gptq` are `--quantize int8`, `--quantize int4 --group-size 64`, `--quantize int3
--group-size channel --quantize-method gptq`; `bfloat16` is a `--dtype`, `kv4` are `--kv-bits 4`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tinyinfer.cli.arguments import QUANTIZATION_SWITCHES, flag, switches
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import ModelError
from tinyinfer.switches import CALIBRATED, DTYPES, KV_BITS, QUANTIZATIONS

if TYPE_CHECKING:
    from tinyinfer.loading.checkpoint import Checkpoint

SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"dtype": name} for name in DTYPES},
    **{f"kv{bits}": {"kv_bits": bits} for bits in KV_BITS if bits != "off"},
    **{name: {"quantize": name} for name in QUANTIZATIONS if name != "off"},
}
QUANTIZED = re.compile(r"(?P<quantize>\w+?)(-g(?P<group_size>\w+))?(:(?P<quantize_method>\w+))?")
PLAIN = {name: getattr(EngineConfig, name) for name in QUANTIZATION_SWITCHES}
FLOAT = PLAIN | {"dtype": "float32", "kv_bits": "off"}  # what the others are compared with


def each_setting(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """Name -> command line of every setting to evaluate; without --compare only what the command line itself says.

    Raises ValueError for a setting that does not exist, or that sets what a flag sets, too.
    """
    if args.compare is None:
        return {"": args}
    found = {}
    for name in map(str.strip, args.compare.split(",")):
        changes = setting(name)
        for switch in changes:
            if getattr(args, switch) != getattr(EngineConfig(), switch):
                raise ValueError(f"--compare {name} sets {flag(switch)} itself; leave {flag(switch)} out")
        found[name] = without_unused(argparse.Namespace(**vars(args) | changes))
    for name, one in found.items():
        with naming(name):
            EngineConfig(**switches(one))
    return found


def setting(name: str) -> dict[str, Any]:
    """The switches that a setting stands for. Raises ValueError when there is none of that name."""
    parts = QUANTIZED.fullmatch(name)
    base = parts["quantize"] if parts else name
    if base not in SETTINGS or (base != name and "quantize" not in SETTINGS[base]):
        raise ValueError(
            f"--compare: there is no setting {name!r}; the settings are {', '.join(SETTINGS)}, quantized ones also "
            "with a group size and a method, as int4-g64:gptq"
        )
    changes = dict(SETTINGS[base])
    if parts and parts["group_size"]:
        size = parts["group_size"]
        changes["group_size"] = int(size) if size.isdecimal() else size
    if parts and parts["quantize_method"]:
        changes["quantize_method"] = parts["quantize_method"]
    return changes


def without_unused(args: argparse.Namespace) -> argparse.Namespace:
    """The command line of a setting without what it has no use for, so that one --calibration serves those that do."""
    if args.quantize == "off":
        return argparse.Namespace(**vars(args) | PLAIN)
    calibrated = args.quantize_method in CALIBRATED or args.quantize == "w8a8"
    return args if calibrated else argparse.Namespace(**vars(args) | {"calibration": None, "calibration_tokens": None})


def check_settings(settings: dict[str, argparse.Namespace], checkpoint: Checkpoint) -> None:
    """Refuses a setting that cannot work with this model or its text, before the first one takes minutes.

    Raises ModelError, ValueError, as loading with it would.
    """
    from tinyinfer.loading.build import keeps_file_quantization

    for name, one in settings.items():
        c = EngineConfig(**switches(one))
        with naming(name):
            if keeps_file_quantization(c, checkpoint):
                continue
            if c.calibrated:
                from tinyinfer.quantization.apply import read_windows

                read_windows(c, checkpoint.config, checkpoint.tokenizer)
            elif c.quantizes:
                from tinyinfer.quantization.recipe import make_recipe

                make_recipe(c, checkpoint.config)


@contextmanager
def naming(setting: str) -> Iterator[None]:
    """What is refused inside is told with the setting's name."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"--compare {setting}: {error}") from None
    except ValueError as error:
        raise ValueError(f"--compare {setting}: {error}") from None
