"""Which layers have a window, a rotation, experts: the rule of each family, the lists of a file, and their faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from configurations import MINIMAL, Config, read, refusal, write

LOCAL, GLOBAL = "sliding_attention", "full_attention"
SWITCHED = ["qwen2", "qwen3", "smollm3", "qwen2_moe"]  # families that read layer_types and have a switch for windows
LISTED = [*SWITCHED, "gemma2", "gemma3_text", "olmo3", "gpt_oss"]  # all that read layer_types


def layers(kind: str, number: int, **fields: object) -> Config:
    """A file of this family with so many layers, and the window of 7 on where it has a switch."""
    on = {"use_sliding_window": True} if kind in SWITCHED else {}
    return MINIMAL[kind] | {"num_hidden_layers": number, "sliding_window": 7} | on | fields


def where(folder: Path, config: Config) -> str:
    """A letter for each layer: w for a window of 7, a dot for none."""
    windows = read(folder, config).windows
    assert set(windows) <= {7, None}
    return "".join("w" if window else "." for window in windows)


# --- windows ---

RULES: dict[str, tuple[str, Config]] = {
    "gemma2": ("w.w.w.w.", {}),
    "gemma3_text": ("wwwww.ww", {}),
    "gpt_oss": ("w.w.w.w.", {}),
    "mistral": ("wwwwwwww", {}),
    "mixtral": ("wwwwwwww", {}),
    "olmo3": ("www.www.", {}),
    "phi3": ("wwwwwwww", {}),
    "qwen2": ("...wwwww", {"max_window_layers": 3}),
    "qwen2_moe": ("w.w.....", {"max_window_layers": 4}),
    "qwen3": ("...wwwww", {"max_window_layers": 3}),
    "qwen3_moe": ("wwwwwwww", {"use_sliding_window": True, "max_window_layers": 0}),
    "smollm3": ("...w...w", {}),
}


@pytest.mark.parametrize("kind", RULES)
def test_where_a_familys_windows_are_when_no_list_says_it(tmp_path: Path, kind: str) -> None:
    """Catches a window on the wrong half of the layers: logits differ only in texts longer than the window."""
    expected, fields = RULES[kind]
    assert where(tmp_path, layers(kind, 8, **fields)) == expected


@pytest.mark.parametrize("kind", LISTED)
def test_a_list_of_layers_is_stronger_than_the_rule(tmp_path: Path, kind: str) -> None:
    config = layers(kind, 6, layer_types=[GLOBAL, LOCAL, LOCAL, GLOBAL, GLOBAL, LOCAL], max_window_layers=0)
    if kind in ("gemma2", "gemma3_text", "olmo3", "gpt_oss"):
        del config["max_window_layers"]
    assert where(tmp_path, config) == ".ww..w"


@pytest.mark.parametrize("kind", [*SWITCHED, "qwen3_moe"])
@pytest.mark.parametrize("width", [7, 0, None])
def test_a_window_needs_its_switch(tmp_path: Path, kind: str, width: int | None) -> None:
    """Hub files name a window that use_sliding_window turns off; obeying it would forget the prompt's start.

    transformers 5 writes a 0 for it (Qwen2-MoE).
    """
    for switch in ({}, {"use_sliding_window": False}):
        config = MINIMAL[kind] | {"sliding_window": width, "max_window_layers": 1} | switch
        assert where(tmp_path, config) == ".."


@pytest.mark.parametrize("kind", ["mistral", "mixtral", "phi3"])
def test_a_window_in_every_layer_is_off_when_null(tmp_path: Path, kind: str) -> None:
    """Mistral 7B v0.2 writes null; a file without the field means 4096, but Phi-3's means none."""
    assert where(tmp_path, layers(kind, 3, sliding_window=None)) == "..."
    assert read(tmp_path, MINIMAL[kind]).windows == ({"mistral": 4096}.get(kind),) * 2


def test_gemma_3_with_its_layers_listed(tmp_path: Path) -> None:
    """gemma-3-270m gives both layer_types and the private pattern; the list decides."""
    listed = [GLOBAL] + [LOCAL] * 6
    c = read(tmp_path, layers("gemma3_text", 7, layer_types=listed, _sliding_window_pattern=2))
    assert c.windows == (None,) + (7,) * 6
    assert [rope.theta for rope in c.rope if rope] == [1e6] + [1e4] * 6


# --- rotations ---


def turned(folder: Path, config: Config) -> str:
    """A letter for each layer: r for a rotation, a dot for none."""
    return "".join("." if rope is None else "r" for rope in read(folder, config).rope)


def test_smollm3_turns_all_layers_but_every_fourth(tmp_path: Path) -> None:
    """A 1 in no_rope_layers, whatever the name says, means that a rotation is there."""
    assert turned(tmp_path, layers("smollm3", 9)) == "rrr.rrr.r"
    assert turned(tmp_path, layers("smollm3", 9, no_rope_layer_interval=2)) == "r.r.r.r.r"
    assert turned(tmp_path, layers("smollm3", 4, no_rope_layers=[0, 1, 1, 0])) == ".rr."
    assert where(tmp_path, layers("smollm3", 4, no_rope_layers=[0, 1, 1, 0])) == "w..w"


# --- experts ---


@pytest.mark.parametrize("kind", ["qwen2_moe", "qwen3_moe"])
@pytest.mark.parametrize(
    ("fields", "dense"),
    [
        ({}, ()), ({"mlp_only_layers": [4, 1]}, (1, 4)), ({"decoder_sparse_step": 2}, (0, 2, 4)),
        ({"decoder_sparse_step": 3, "mlp_only_layers": [2]}, (0, 1, 2, 3, 4)), ({"mlp_only_layers": None}, ()),
    ],
)  # fmt: skip
def test_which_layers_have_no_experts(tmp_path: Path, kind: str, fields: Config, dense: tuple[int, ...]) -> None:
    """Layer i has experts if step divides i + 1 and it is not listed; catches a step counted from layer 0."""
    c = read(tmp_path, MINIMAL[kind] | {"num_hidden_layers": 6} | fields)
    assert c.experts is not None
    assert c.experts.dense_layers == dense


@pytest.mark.parametrize("kind", ["qwen2_moe", "qwen3_moe"])
@pytest.mark.parametrize("fields", [{"num_experts": 0}, {"mlp_only_layers": [0, 1]}, {"decoder_sparse_step": 3}])
def test_a_mixture_in_no_layer_is_none(tmp_path: Path, kind: str, fields: Config) -> None:
    c = read(tmp_path, MINIMAL[kind] | fields)
    assert (c.experts, c.intermediate_size) == (None, 96)


# --- what is refused ---

LISTS: dict[str, tuple[object, str]] = {
    "too short": ([GLOBAL], "has 1 entries, but num_hidden_layers is 6"),
    "too long": ([GLOBAL] * 7, "has 7 entries, but num_hidden_layers is 6"),
    "empty": ([], "has 0 entries, but num_hidden_layers is 6"),
    "another kind": ([GLOBAL, "chunked_attention"] * 3, "are all that is supported"),
    "a list in it": ([[GLOBAL]] * 6, "are all that is supported"),
    "a word": (GLOBAL, "are all that is supported"),
}


@pytest.mark.parametrize("kind", LISTED)
@pytest.mark.parametrize("case", LISTS)
def test_a_list_that_contradicts_the_layers_is_refused(tmp_path: Path, case: str, kind: str) -> None:
    """Catches a list cut to the layers or repeated, with windows in other layers than those of the model."""
    kinds, named = LISTS[case]
    said = refusal(write(tmp_path, layers(kind, 6, layer_types=kinds)))
    assert "'layer_types'" in said
    assert named in said


@pytest.mark.parametrize("kind", LISTED)
def test_a_listed_window_that_is_nowhere_said_is_refused(tmp_path: Path, kind: str) -> None:
    off = {"use_sliding_window": False} if kind in SWITCHED else {}
    config = layers(kind, 2, layer_types=[LOCAL, GLOBAL], sliding_window=None)
    assert "'layer_types' leaves layers of sliding_attention without a window" in refusal(write(tmp_path, config | off))


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text", "olmo3", "gpt_oss"])
def test_a_rule_without_its_window_is_refused(tmp_path: Path, kind: str) -> None:
    """transformers builds a mask of a window that is null, and fails; no windows at all would be another model."""
    assert "'sliding_window' leaves layers" in refusal(write(tmp_path, layers(kind, 2, sliding_window=None)))


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("width", [0, -1, 2.5, "7", True])
def test_a_window_of_no_width_is_refused(tmp_path: Path, kind: str, width: object) -> None:
    on = {"use_sliding_window": True} if kind == "qwen3_moe" else {}
    assert "'sliding_window'" in refusal(write(tmp_path, layers(kind, 2, sliding_window=width, **on)))


WRONG: dict[str, tuple[str, Config, str]] = {
    "too few layers that turn": ("smollm3", {"no_rope_layers": [1]}, "'no_rope_layers' has 1 entries"),
    "too many layers that turn": ("smollm3", {"no_rope_layers": [1] * 3}, "'no_rope_layers' has 3 entries"),
    "a layer that turns twice": ("smollm3", {"no_rope_layers": [1, 2]}, "must be a list of 0 and 1"),
    "layers that turn by a word": ("smollm3", {"no_rope_layers": "all"}, "must be a list of 0 and 1"),
    "every layer of none": ("smollm3", {"no_rope_layer_interval": 0}, "'no_rope_layer_interval' is 0"),
    "a dense layer that is not there": ("qwen3_moe", {"mlp_only_layers": [2]}, "must list layers from 0 to 1"),
    "a dense layer from the end": ("qwen2_moe", {"mlp_only_layers": [-1]}, "must list layers from 0 to 1"),
    "dense layers by truth values": ("qwen2_moe", {"mlp_only_layers": [True]}, "must list layers from 0 to 1"),
    "dense layers as a number": ("qwen3_moe", {"mlp_only_layers": 1}, "must list layers from 0 to 1"),
    "a step of zero": ("qwen2_moe", {"decoder_sparse_step": 0}, "'decoder_sparse_step' is 0"),
    "a window that two versions read differently": (
        "qwen3_moe", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}, "'max_window_layers'"
    ),
    "a pattern that is never read": ("gemma3_text", {"_sliding_window_pattern": 2}, "'_sliding_window_pattern'"),
    "a pattern of none": ("gemma3_text", {"sliding_window_pattern": 0}, "'sliding_window_pattern'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_says_nothing_of_these_layers_is_refused_by_name(tmp_path: Path, case: str) -> None:
    kind, fields, named = WRONG[case]
    assert named in refusal(write(tmp_path, MINIMAL[kind] | fields))
