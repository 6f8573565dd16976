"""EngineConfig: every switch has DESIGN's default, takes all its values, and refuses the rest with a cure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import make_engine, small_config

from tinyinfer import LLM
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.switches import KVCacheSwitches
from tinyinfer.quantization.switches import QuantizationSwitches
from tinyinfer.switches import Switches, switch

DEFAULTS: dict[str, Any] = {
    "tensor_parallel_size": 1, "pipeline_parallel_size": 1, "rank_timeout": 300.0,
    "data_parallel_size": 1, "routing": "prefix",
    "kv_cache": "contiguous", "block_size": 16, "num_blocks": None, "kv_bits": "off", "kv_group_size": None,
    "prefix_cache": False, "batching": "continuous", "batch_timeout": 0.05, "max_num_seqs": 16,
    "max_num_batched_tokens": 2048, "max_model_len": None, "speculative": "off", "draft_model": None,
    "draft_layers": None, "num_draft_tokens": None, "num_draft_candidates": 1, "quantize": "off",
    "draft_quantize": "off", "verification": "same-text",
    "group_size": 32, "symmetric": None, "quantize_method": "rtn", "quantize_head": "off", "quantize_rules": None,
    "calibration": None, "calibration_tokens": None, "calibration_bos": True, "dtype": "float32",
    "activations": "float", "backend": "numpy", "gpu_decode": "graph", "threads": None,
    "prune": "off", "sparsity": "0.5", "drop_layers": None, "width": None, "keep_kv_heads": None, "keep_hidden": None,
    "refit": False,
}  # fmt: skip
VALUES: dict[str, list[Any]] = {
    "kv_cache": ["contiguous", "none", "paged"],
    "kv_bits": ["off", 8, 4, 2],
    "batching": ["continuous", "static", "dynamic"],
    "speculative": ["off", "prompt-lookup", "draft", "self"],
    "draft_quantize": ["off", "int8", "int4", "int3", "int2"],
    "verification": ["same-text", "best-coupling"],
    "quantize": ["off", "keep", "int8", "int4", "int3", "int2", "w8a8"],
    "group_size": [32, 64, 128, "channel", "tensor"],
    "quantize_method": ["rtn", "hqq", "gptq", "awq", "combined"],
    "quantize_head": ["off", "int8"],
    "dtype": ["float32", "bfloat16", "float16"],
    "backend": ["numpy", "reference", "numba", "cupy", "auto"],
    "activations": ["float", "int8"],
    "prune": ["off", "magnitude", "wanda", "sparsegpt"],
    "gpu_decode": ["graph", "kernels", "eager", "persistent"],
    "routing": ["prefix", "least-outstanding", "round-robin"],
}
COUNTS = ["block_size", "num_blocks", "kv_group_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len",
          "draft_layers", "num_draft_tokens", "num_draft_candidates", "calibration_tokens", "threads",
          "drop_layers", "keep_kv_heads", "keep_hidden"]  # fmt: skip
NEEDS: dict[Any, dict[str, Any]] = {"best-coupling": {"speculative": "self"}}  # what a value cannot do without
NEEDS |= {value: {"quantize": "int4"} for value in (64, 128, "channel", "tensor", "hqq", "gptq", "awq", "combined")}
NEEDS |= {value: {"backend": "cupy"} for value in ("kernels", "eager", "persistent")}
NEEDS |= {value: {"data_parallel_size": 2} for value in ("least-outstanding", "round-robin")}
LOADED = ["quantize", "group_size", "quantize_method", "quantize_head", "dtype", "activations", "backend",
          "gpu_decode", "prune"]  # LLM's, not the engine's  # fmt: skip


def refusal(**switches: Any) -> str:
    """What a configuration is refused with; one sentence, and the field that it is about with its value."""
    with pytest.raises(SwitchError, match=r".") as caught:
        EngineConfig(**switches)
    error, sentence = caught.value, str(caught.value)
    assert isinstance(error, ValueError)
    assert error.value is switches.get(error.field, DEFAULTS[error.field])
    assert "\n" not in sentence
    assert ". " not in sentence
    assert len(sentence) < 240
    return sentence


# Defaults and values


def test_defaults_are_the_promised_ones():
    """Catches a default that moved, which would change every user's run in silence, and a switch that no test pins."""
    assert {field.name: field.default for field in fields(EngineConfig)} == DEFAULTS
    assert EngineConfig() == EngineConfig(**DEFAULTS)


def test_numpys_numbers_are_numbers():
    """As SamplingParams takes them; catches a length that NumPy computed being refused, and one that JSON cannot hold.
    """
    given = {"max_model_len": np.int64(256), "kv_bits": np.uint8(8), "block_size": np.int32(8)}
    config = EngineConfig(**given, batch_timeout=np.float32(0.5))
    assert config == EngineConfig(max_model_len=256, kv_bits=8, block_size=8, batch_timeout=0.5)
    assert json.loads(json.dumps(asdict(config)))["kv_bits"] == 8
    for wrong in (np.int64(0), np.float64(256.0), np.array(256)):
        with pytest.raises(SwitchError, match=r"max_model_len=.* must be a whole number of at least 1"):
            EngineConfig(max_model_len=wrong)


def test_the_choices_are_the_promised_ones_with_the_default_first():
    """The command line lists them in this order; catches a value that the registry lost."""
    assert {one.name: list(known) for one in fields(EngineConfig) if (known := one.metadata["choices"])} == VALUES
    for name, known in VALUES.items():
        assert known[0] == DEFAULTS[name]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, known in VALUES.items() for value in known])
def test_every_value_constructs_and_builds_an_engine(name, value):
    """Catches a choice that is listed and whose part is missing or takes other arguments."""
    own = {"speculative": "self"} if name == "draft_quantize" else NEEDS.get(value, {})
    switches = {name: value} | own
    assert getattr(EngineConfig(**switches), name) == value
    if name not in LOADED:
        make_engine(small_config(), second=small_config() if value == "draft" else None, **switches)


def test_every_combination_constructs_or_says_why_not():
    """All values of all named switches together: an engine's worth of settings or one sentence, and nothing else."""
    names = ["kv_cache", "kv_bits", "batching", "speculative"]
    refused = 0
    for values in product(*(VALUES[name] for name in names), [False, True], [None, 9], [2048, 64]):
        switches = dict(zip([*names, "prefix_cache", "num_blocks", "max_num_batched_tokens"], values, strict=True))
        switches |= NEEDS.get(switches["speculative"], {})
        bad = switches["kv_cache"] != "paged" and (switches["prefix_cache"] or switches["num_blocks"] is not None)
        bad |= switches["kv_cache"] == "none" and (
            switches["kv_bits"] != "off" or switches["max_num_batched_tokens"] < 2048
        )
        if bad:
            refused += 1
            assert ";" in refusal(**switches), "what is wrong; what to change"
        else:
            EngineConfig(**switches)
    assert refused > 0


def test_a_configuration_never_changes():
    """Parts are built from it once; catches a switch that is turned later and has no effect."""
    with pytest.raises(AttributeError):
        EngineConfig().kv_cache = "none"  # type: ignore[misc]


# Refusals


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("value", ["pagd", "", None, 3, True, ["paged"], 8.5], ids=repr)
def test_an_unknown_value_is_refused_with_the_known_ones(name, value):
    """Catches a value that is taken for the default, and a TypeError for one that cannot be looked up."""
    known = ", ".join(map(str, VALUES[name]))
    assert refusal(**{name: value}) == f"{name}={value!r} is not known; choose one of {known}"


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 2.0, "4", True, float("nan"), [1]], ids=repr)
def test_a_count_is_a_whole_number_of_at_least_one(name, value):
    """A budget of 0 tokens would wait for ever, a block of 0 positions divide by zero."""
    assert refusal(**{name: value}) == f"{name}={value!r} must be a whole number of at least 1"


@pytest.mark.parametrize("name", COUNTS)
def test_none_means_a_default_only_where_there_is_one(name):
    """Catches None compared with a number later on: a TypeError without a word about the switch."""
    needs: dict[str, Any] = {"draft_layers": {"speculative": "self"}}  # None is no wish, and needs nothing else
    if DEFAULTS[name] is None:
        assert getattr(EngineConfig(**{name: None}, **needs.get(name, {})), name) is None
    else:
        assert refusal(**{name: None}) == f"{name}=None must be a whole number of at least 1"


@pytest.mark.parametrize("value", ["on", "off", 1, None], ids=repr)
def test_prefix_cache_is_a_bool(value):
    """Catches prefix_cache="off", which is true."""
    assert refusal(prefix_cache=value, kv_cache="paged") == f"prefix_cache={value!r} must be True or False"


@pytest.mark.parametrize("value", ["on", "off", 1, 0], ids=repr)
def test_symmetric_is_a_bool(value):
    """Catches symmetric="off", which is true."""
    assert refusal(symmetric=value, quantize="int4") == f"symmetric={value!r} must be True or False"


@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan"), "1", None, True], ids=repr)
def test_batch_timeout_is_a_time(value):
    """Catches NaN, which is neither below nor above anything, and a batch that waits for ever."""
    assert refusal(batch_timeout=value) == f"batch_timeout={value!r} must be a number of seconds of at least 0"
    EngineConfig(batch_timeout=0)


@pytest.mark.parametrize(
    ("switches", "wrong", "cure", "cured"),
    [
        ({"prefix_cache": True}, "kv_cache=contiguous has none", "add kv_cache=paged", {"kv_cache": "paged"}),
        ({"prefix_cache": True, "kv_cache": "none"}, "kv_cache=none has none", "add kv_cache=paged",
         {"kv_cache": "paged"}),
        ({"num_blocks": 8}, "kv_cache=contiguous has none", "add kv_cache=paged", {"kv_cache": "paged"}),
        ({"kv_cache": "none", "max_num_batched_tokens": 64}, "cuts prompts into chunks", "choose another kv_cache",
         {"kv_cache": "contiguous"}),
        ({"kv_cache": "none", "kv_bits": 4}, "kv_cache=none keeps nothing", "choose contiguous or paged",
         {"kv_cache": "contiguous"}),
        ({"kv_group_size": 16}, "kv_bits=off quantizes nothing", "add kv_bits=8, 4 or 2", {"kv_bits": 2}),
        ({"draft_model": "x"}, "speculative=off does not use it", "add speculative=draft", {"speculative": "draft"}),
        ({"draft_model": "x", "speculative": "self"}, "=self does not use it", "add speculative=draft",
         {"speculative": "draft"}),
        ({"draft_layers": 1}, "speculative=off does not use it", "add speculative=self", {"speculative": "self"}),
        ({"draft_layers": 1, "speculative": "prompt-lookup"}, "=prompt-lookup does not use it", "add speculative=self",
         {"speculative": "self"}),
        ({"draft_quantize": "int4"}, "speculative is off", "add speculative=self", {"speculative": "self"}),
        ({"verification": "best-coupling"}, "speculative is off", "choose speculative=draft or self",
         {"speculative": "self"}),
        ({"verification": "best-coupling", "speculative": "prompt-lookup"}, "for drafts that are drawn",
         "choose speculative=draft or self", {"speculative": "self"}),
        ({"verification": "best-coupling", "speculative": "self", "kv_cache": "paged", "num_draft_candidates": 2},
         "verifies one draft of a position, but num_draft_candidates is 2", "leave one of them out",
         {"verification": "same-text"}),
        ({"num_draft_tokens": 3}, "makes no drafts", "choose prompt-lookup, draft or self", {"speculative": "self"}),
        ({"group_size": 64}, "quantize=off quantizes nothing", "add quantize=int8, int4", {"quantize": "int4"}),
        ({"symmetric": False}, "quantize=off quantizes nothing", "add quantize=int8, int4", {"quantize_head": "int8"}),
        ({"quantize_method": "hqq"}, "quantizes nothing", "add quantize=int8, int4", {"quantize": "int2"}),
        ({"quantize_method": "gptq", "quantize_head": "int8"}, "quantize=off leaves them", "add quantize=int8, int4",
         {"quantize": "int3"}),
        ({"calibration": "x", "quantize": "int4"}, "quantize_method=rtn looks at no text", "choose",
         {"quantize_method": "gptq"}),
        ({"calibration_bos": False, "quantize": "int4"}, "=rtn looks at no text", "choose",
         {"quantize_method": "gptq"}),
        ({"calibration_tokens": 999, "quantize": "int4", "quantize_method": "hqq"}, "=hqq looks at no text", "choose",
         {"quantize_method": "awq"}),
        ({"quantize": "keep", "group_size": 64}, "takes the file's own bits", "choose quantize=int8, int4",
         {"quantize": "int8"}),
        ({"quantize": "keep", "quantize_head": "int8"}, "takes the file's own bits", "leave it out",
         {"quantize_head": "off"}),
        ({"quantize": "w8a8", "group_size": 64}, "quantize=w8a8 has one way", "choose quantize=int8",
         {"quantize": "int8"}),
        ({"quantize": "w8a8", "quantize_method": "gptq"}, "quantize=w8a8 has one way", "leave it out",
         {"quantize_method": "rtn"}),
        ({"quantize": "int4", "quantize_method": "hqq", "group_size": "tensor"}, "group_size=tensor has one scale",
         "choose another group_size", {"group_size": "channel"}),
        ({"quantize": "int4", "quantize_method": "combined", "group_size": "tensor"}, "=combined fits one to each",
         "quantize_method=rtn, gptq or awq", {"quantize_method": "gptq"}),
        ({"activations": "int8", "quantize": "w8a8"}, "quantize=w8a8 does so already", "leave it out, or choose",
         {"quantize": "int8"}),
        ({"activations": "int8", "quantize": "w8a8"}, "does so already", "leave it out", {"quantize_head": "int8"}),
        ({"activations": "int8", "quantize": "w8a8"}, "does so already", "leave it out", {"speculative": "draft"}),
        ({"group_size": 64}, "group_size given", "leave it out", {"group_size": 32}),
        ({"group_size": 64, "speculative": "self"}, "quantizes nothing", "or draft_quantize",
         {"draft_quantize": "int4"}),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_cannot_work_together_is_refused_with_the_cure(switches, wrong, cure, cured):
    """Catches a switch without effect, and a cure that does not help: with it the same switches are taken."""
    sentence = refusal(**switches)
    assert wrong in sentence
    assert cure in sentence
    assert any(name in sentence for name in switches)
    EngineConfig(**switches | cured)


@pytest.mark.parametrize("value", [["head int8"], {}, 3, b"head int8", True], ids=repr)
def test_rules_are_text(value):
    """Catches an AttributeError out of the middle of loading."""
    why = f"quantize_rules={value!r} must be text, as 'layers.*.down int8 g64, layers.0.* off'"
    assert refusal(quantize="int4", quantize_rules=value) == why


@pytest.mark.parametrize("value", ["", ",,,", " , \n"], ids=repr)
def test_rules_that_hold_no_rule_are_refused(value):
    """A variable of a shell that was not set; the model would silently be another one."""
    for switches in ({}, {"quantize": "int4"}):
        assert f"quantize_rules={value!r} holds no rule; write one" in refusal(quantize_rules=value, **switches)


@pytest.mark.parametrize("value", [3, b"x", ["x"], Path("x"), True], ids=repr)
def test_the_calibration_text_is_named_by_its_path(value):
    """Catches a TypeError out of the middle of loading."""
    why = f"calibration={value!r} must be the path of a text file, as a str"
    assert refusal(quantize="w8a8", calibration=value) == why


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "calibration='' names no file; give the path of a text file, or leave it out"),
        ("a\0b", r"calibration='a\x00b' is no path, as it holds a zero byte"),
        ("The rain.\nThe hills.\n", r"calibration='The rain.\nThe hills.\n' looks like the text itself; write it into"),
        ("The rain in the spring " * 5000,
         "calibration='The rain in the spring The rain in the spring The rain in … looks like the text itself"),
    ],
)  # fmt: skip
def test_a_calibration_that_is_no_path_is_shown_by_its_beginning(value, why):
    """Not 100,000 characters, of which the last words say what is wrong."""
    assert why in refusal(quantize="w8a8", calibration=value)
    EngineConfig(quantize="w8a8", calibration="/".join(["folder"] * 100))


def test_a_part_is_checked_by_itself():
    """Quantization's code takes quantization's switches, without an engine; they have the same sentences."""
    assert QuantizationSwitches(quantize="int4").quantizes
    assert not KVCacheSwitches().prefix_cache
    with pytest.raises(SwitchError, match="group_size given, but quantize=off quantizes nothing"):
        QuantizationSwitches(group_size=64)
    with pytest.raises(SwitchError, match="kv_bits=3 is not known; choose one of off, 8, 4, 2"):
        KVCacheSwitches(kv_bits=3)


def test_a_new_idea_is_one_more_base():
    """Its fields, their values and its refusals are checked beside the others; no other file has to know of it."""

    @dataclass(frozen=True)
    class PruningSwitches(Switches):
        prune: str = switch("off", choices=("off", "2:4"), help="weights set to zero")

        def refusals(self) -> Iterator[SwitchError]:
            yield from super().refusals()
            if self.prune != "off":
                yield SwitchError("prune", self.prune, "{field}={value} has no weights", "add {quantize}=int8")

    @dataclass(frozen=True)
    class Config(PruningSwitches, EngineConfig):
        pass

    assert Config.from_switches(kv_cache="paged", prefix_cache=True).prune == "off"
    for switches, why in [({"prune": "2:4"}, "prune=2:4 has no weights; add quantize=int8"),
                          ({"prune": "1:2"}, "prune='1:2' is not known; choose one of off, 2:4"),
                          ({"prefix_cache": True}, "add kv_cache=paged")]:  # fmt: skip
        with pytest.raises(SwitchError, match=why):
            Config.from_switches(**switches)


def test_a_bigger_budget_needs_no_chunks():
    """kv_cache=none refuses a smaller budget, not the word."""
    EngineConfig(kv_cache="none", max_num_batched_tokens=4096)


@pytest.mark.parametrize("name", ["kvcache", "prefix-cache", "KV_CACHE", "temperature", "num_block"])
def test_a_misspelt_switch_is_refused_with_the_list(name):
    """Catches unknown keyword arguments dropped in silence: the user would measure the wrong thing."""
    with pytest.raises(ValueError, match=f"there is no switch '{name}'; the switches are kv_cache, block_size, ") as e:
        EngineConfig.from_switches(**{name: 1})
    assert all(switch in str(e.value) for switch in DEFAULTS)


def test_llm_refuses_a_switch_before_it_looks_for_the_model():
    """A mistake costs no download."""
    with pytest.raises(ValueError, match="there is no switch 'cache'"):
        LLM("no such model", cache="paged")
    with pytest.raises(ValueError, match="kv_cache='page' is not known"):
        LLM("no such model", kv_cache="page")


def test_a_context_longer_than_the_models_is_refused():
    """Positions that the model never saw give nonsense; found out before any work."""
    with pytest.raises(ValueError, match="max_model_len=65 is more than the 64 positions"):
        make_engine(small_config(), max_model_len=65)
    assert make_engine(small_config(), max_model_len=64).cache.capacity == 64


@pytest.mark.parametrize("value", [8.0, 4.0, True])
def test_a_number_of_bits_is_a_whole_number(value):
    """8.0 equals 8 and is found among the choices, but what counts bits would then compute with floats."""
    with pytest.raises(ValueError, match="kv_bits"):
        EngineConfig(kv_bits=value)


def test_a_draft_model_without_a_name_is_refused():
    """An empty name is no model, and must not be taken for the default."""
    with pytest.raises(ValueError, match="draft_model"):
        EngineConfig(speculative="draft", draft_model="")
