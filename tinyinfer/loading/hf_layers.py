"""What config.json says of single layers: which have a window, a rotation, experts.

A file lists the layers (layer_types, no_rope_layers, mlp_only_layers) or leaves that to the rule of its family, which
is that of transformers' configuration class. A list that contradicts the other fields is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from tinyinfer.loading.json_fields import Fields
from tinyinfer.units import show

Windows = tuple[int | None, ...]
WindowRule = Callable[[Fields, int, int | None], Windows]  # the file, how many layers, the window that it leaves out


def no_window(f: Fields, layers: int, window: int | None) -> Windows:
    """Llama and others: every layer sees all positions."""
    return (None,) * layers


def same_window(f: Fields, layers: int, window: int | None) -> Windows:
    """Mistral, Mixtral, Phi-3: a window in every layer, unless the field is null."""
    return (f.optional_size("sliding_window", window),) * layers


def late_windows(f: Fields, layers: int, window: int | None) -> Windows:
    """Qwen 2 and 3: if use_sliding_window, in the layers from max_window_layers on or as layer_types says."""
    window, first = _switched(f, window), f.size("max_window_layers", 28, least=0)
    return _placed(f, layers, window, lambda i: window is not None and i >= first)


def early_windows(f: Fields, layers: int, window: int | None) -> Windows:
    """Qwen 2 MoE: if use_sliding_window, in every second layer before max_window_layers or as layer_types says."""
    window, end = _switched(f, window), f.size("max_window_layers", 28, least=0)
    return _placed(f, layers, window, lambda i: window is not None and i % 2 == 0 and i < end)


def switched_window(f: Fields, layers: int, window: int | None) -> Windows:
    """Qwen 3 MoE: if use_sliding_window, in every layer (transformers 4: from max_window_layers on; 5 ignores that)."""
    window, first = _switched(f, window), f.size("max_window_layers", 0, least=0)
    if window is not None and first:
        f.refuse("max_window_layers", f"is {first}, which transformers 4 and 5 understand differently; set it to 0")
    return (window,) * layers


def unrotated_windows(f: Fields, layers: int, window: int | None) -> Windows:
    """SmolLM3: if use_sliding_window, in the layers without rotation or as layer_types says."""
    window, rotated = _switched(f, window), some_rotated(f, layers)
    f.optional_size("max_window_layers", least=0)  # left from Qwen 2; transformers does not use it here
    return _placed(f, layers, window, lambda i: window is not None and not rotated[i])


def gemma3_windows(f: Fields, layers: int, window: int | None) -> Windows:
    """Gemma 3: in all layers but every sixth, or as layer_types says."""
    pattern = f.size("sliding_window_pattern", 6)
    private = f.size("_sliding_window_pattern", pattern)
    if f.get("layer_types") is None and private != pattern:
        f.refuse("_sliding_window_pattern", f"is {private} without layer_types; call it sliding_window_pattern")
    return windows_but_every(pattern)(f, layers, window)


def windows_but_every(period: int) -> WindowRule:
    """Gemma 2 and gpt-oss (2), OLMo-3 (4): in all layers but every second or fourth, or as layer_types says."""

    def rule(f: Fields, layers: int, window: int | None) -> Windows:
        width = f.optional_size("sliding_window", window)
        if f.optional_size("sliding_window_size", width) != width:  # Gemma 2 has both, and only the other counts
            f.refuse("sliding_window_size", f"differs from sliding_window, which is {width}; correct one of them")
        return _placed(f, layers, width, lambda i: (i + 1) % period != 0)

    return rule


def _switched(f: Fields, window: int | None) -> int | None:
    """The window of a file that may switch it off; transformers 5 writes 0 for one that is off."""
    on = f.flag("use_sliding_window", False)
    window = f.optional_size("sliding_window", window, least=1 if on else 0)
    return window if on else None


def _placed(f: Fields, layers: int, window: int | None, usual: Callable[[int], bool]) -> Windows:
    """The window in the layers that layer_types lists; where the file has no list, in those that are usual."""
    listed = _local_layers(f, layers)
    local = [usual(i) for i in range(layers)] if listed is None else listed
    if window is None and any(local):
        name = "sliding_window" if listed is None else "layer_types"
        f.refuse(name, "leaves layers of sliding_attention without a window, or it is switched off; correct the fields")
    return tuple(window if here else None for here in local)


def _local_layers(f: Fields, layers: int) -> list[bool] | None:
    """Which layers have a window, if the file lists it."""
    kinds = f.get("layer_types")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or any(kind not in ("full_attention", "sliding_attention") for kind in kinds):
        f.refuse("layer_types", f"is {show(kinds)}, but full_attention and sliding_attention are all that is supported")
    _one_a_layer(f, "layer_types", kinds, layers)
    return [kind == "sliding_attention" for kind in kinds]


def _one_a_layer(f: Fields, name: str, entries: list[object], layers: int) -> None:
    if len(entries) != layers:
        f.refuse(name, f"has {len(entries)} entries, but num_hidden_layers is {layers}; correct one of them")


def all_rotated(f: Fields, layers: int) -> list[bool]:
    """Nearly every family: the heads of every layer are rotated."""
    return [True] * layers


def some_rotated(f: Fields, layers: int) -> list[bool]:
    """SmolLM3: all layers but every fourth, or as no_rope_layers says, where 1 means that a rotation *is* there."""
    period, listed = f.size("no_rope_layer_interval", 4), f.get("no_rope_layers")
    if listed is None:
        return [(i + 1) % period != 0 for i in range(layers)]
    if not isinstance(listed, list) or any(not isinstance(entry, int) or entry not in (0, 1) for entry in listed):
        f.refuse("no_rope_layers", f"is {show(listed)}, but must be a list of 0 and 1; correct it")
    _one_a_layer(f, "no_rope_layers", listed, layers)
    return [entry == 1 for entry in listed]


def no_dense(f: Fields, layers: int) -> tuple[int, ...]:
    """Mixtral and others: every layer has experts."""
    return ()


def some_dense(f: Fields, layers: int) -> tuple[int, ...]:
    """Qwen's mixtures: mlp_only_layers and those between the steps of decoder_sparse_step; all, without any expert."""
    step, listed = f.size("decoder_sparse_step", 1), f.get("mlp_only_layers")
    listed = [] if listed is None else listed
    if not isinstance(listed, list) or any(type(i) is not int or not 0 <= i < layers for i in listed):
        f.refuse("mlp_only_layers", f"is {show(listed)}, but must list layers from 0 to {layers - 1}; correct it")
    none = 0 in (f.get("num_local_experts"), f.get("num_experts"))
    return tuple(i for i in range(layers) if none or (i + 1) % step or i in listed)
