"""The rotation of each layer, from both dialects of config.json.

    transformers 5    rope_parameters: rope_type, rope_theta, partial_rotary_factor and what the type needs; families
                      with another rotation in layers with a window have one such table for each kind of layer
    transformers 4    rope_scaling: the type and what it needs; the rest are fields of the file: rope_theta and
                      partial_rotary_factor (GPT-NeoX: rotary_emb_base and rotary_pct), rope_local_base_freq

Where a file has both, they must agree. original_max_position_embeddings lies in the table or, as in Phi-3, beside it.
The amplitude, by which yarn and longrope multiply cosine and sine, is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinyinfer.loading.hf_families import Family
from tinyinfer.loading.hf_fields import HARMLESS
from tinyinfer.loading.hf_layers import Windows
from tinyinfer.loading.json_fields import Fields
from tinyinfer.model.config import RopeConfig
from tinyinfer.units import show

ORIGINAL, PARTIAL = "original_max_position_embeddings", "partial_rotary_factor"
_NOTES = ("finetuned",)  # in a table, and no setting: the authors of yarn wrote it


@dataclass(frozen=True)
class RopeFields:
    """The rotations of one config.json: the file, its family, and the two sizes that they depend on."""

    f: Fields
    family: Family
    head_dim: int
    max_position: int

    def layers(self, windows: Windows) -> tuple[RopeConfig | None, ...]:
        """The rotation of each layer; None for a layer without one."""
        f, family = self.f, self.family
        f.alias(family.theta_field, "rope_theta")
        old, new = f.get("rope_scaling"), f.get("rope_parameters")
        if new is None and old in (None, {}):
            old = family.rope
        if family.local_theta is None:
            everywhere = windowed = self._agreed("rope_parameters", new, old)
        else:
            both = f.table("rope_parameters", new)  # one table for the layers that see all, one for those with a window
            whole, local = both.get("full_attention"), both.get("sliding_attention")
            both.refuse_unread((), {})
            everywhere = self._agreed("full_attention", whole, old)
            windowed = self._rope("sliding_attention", local, *family.local_theta)
            self._refuse_ambiguous(old, local, windowed, any(windows))
        boundaries = {rope.original_max_position for rope in (everywhere, windowed) if rope.long_divisors}
        if len(boundaries) > 1:
            lengths = " and ".join(map(str, sorted(boundaries)))
            f.refuse("rope_parameters", f"has longrope for texts beyond {lengths}; one length is supported, give one")
        of_kind = [everywhere if window is None else windowed for window in windows]
        rotated = family.rotated(f, len(windows))
        return tuple(rope if here else None for rope, here in zip(of_kind, rotated, strict=True))

    def _refuse_ambiguous(self, old: Any, local: Any, windowed: RopeConfig, used: bool) -> None:
        """Raises ModelError for a spelling of transformers 4 that 5 understands differently in these families.

        used: whether there are layers with a window.
        """
        assert self.family.local_theta is not None
        field, usual = self.family.local_theta
        if isinstance(old, dict) and "type" in old and "rope_type" not in old:
            self.f.refuse("rope_scaling", "names its kind 'type', which transformers 5 overlooks; call it 'rope_type'")
        if used and field == self.family.theta_field and "rope_theta" not in (local or {}) and windowed.theta != usual:
            why = f"is {windowed.theta}, and in layers with a window transformers 5 has {usual} instead, unlike 4"
            self.f.refuse(field, f"{why}; give rope_parameters, which has a base for each kind of layer")

    def _agreed(self, name: str, new: Any, old: Any) -> RopeConfig:
        """The rotation of `new`, transformers 5's table `name`, and of `old`, transformers 4's rope_scaling."""
        field, theta = self.family.theta_field, self.family.theta
        if new is None:
            return self._rope("rope_scaling", old, field, theta)
        rope = self._rope(name, new, field, theta)
        if old is not None and self._rope("rope_scaling", old, field, rope.theta) != rope:
            self.f.refuse("rope_scaling", f"differs from {name}, which means the same; remove one of them")
        return rope

    def _rope(self, name: str, table: Any, theta_field: str, theta: float) -> RopeConfig:
        """One rotation, from its table and the fields of the file that belong to it."""
        r = self.f.table(name, self._renamed(table))
        r.alias("rope_type", "type")
        theta, size = _said(self.f, theta_field, r, "rope_theta", theta), self._size(r)
        kind = r.text("rope_type", "default")
        if kind not in KINDS:
            r.refuse("rope_type", f"is {show(kind)}, which is not supported; supported are {', '.join(KINDS)}")
        original = self.f.optional_size(ORIGINAL, self.family.original)
        settings = KINDS[kind](_Table(r, theta, size, original, self.max_position))
        if self.family.local_theta and not settings.get("truncate", True):
            r.refuse("truncate", "is false, which transformers 5 overlooks in this family, unlike 4; set it to true")
        r.refuse_unread(_NOTES, HARMLESS)
        return RopeConfig(theta, size=size if size < self.head_dim else None, **settings)

    def _renamed(self, table: Any) -> Any:
        """The table with its kind by the usual name; both may be there, for transformers 5 writes it beside the old."""
        if not isinstance(table, dict):
            return table
        kinds = {key: table[key] for key in ("rope_type", "type") if isinstance(table.get(key), str)}
        return table | {key: self.family.rope_names.get(kind, kind) for key, kind in kinds.items()}

    def _size(self, r: Fields) -> int:
        """How many numbers of a head are rotated."""
        if self.family.partial is None:
            return self.head_dim
        field, absent = self.family.partial
        self.f.alias(field, PARTIAL)
        share = _said(self.f, field, r, PARTIAL, absent)
        size = int(self.head_dim * share)
        if size % 2 or not 2 <= size <= self.head_dim:
            why = f"rotates {size} of the {self.head_dim} numbers of a head, but they are rotated in pairs; correct it"
            where, name = (self.f, field) if field in self.f.values else (r, PARTIAL)
            where.refuse(name, f"is {share}, which {why}")
        return size


def _said(f: Fields, name: str, r: Fields, inside: str, absent: float) -> float:
    """A number that the table says (transformers 5) or the file beside it (4); if both do, they must agree."""
    if name in f.values:
        absent = f.number(name)
        if r.number(inside, absent) != absent:
            r.refuse(inside, f"differs from {name} ({absent}) beside it; remove one of them")
    return r.number(inside, absent)


@dataclass(frozen=True)
class _Table:
    """The table of one rotation. size: how many numbers of a head it rotates; original: the field beside the table."""

    r: Fields
    theta: float
    size: int
    original: int | None
    max_position: int

    def original_max(self) -> int:
        """How long the texts were before the rotation was stretched; the model's own length where nothing says it."""
        inside = self.r.size(ORIGINAL, self.original or self.max_position)
        if self.original is None:
            return inside
        if inside not in (self.original, self.max_position):  # the model's own length transformers 5 writes unasked
            self.r.refuse(ORIGINAL, f"is {inside}, but the file's own is {self.original}; correct one of them")
        return self.original

    def factor(self) -> float:
        """How many times longer the texts became."""
        value = self.r.number("factor")
        if value < 1:
            self.r.refuse("factor", f"is {value}, but positions are stretched by 1 or more; correct it")
        return value

    def implied_factor(self, original: int) -> float:
        """The factor; where it is null, the model's length divided by the original one."""
        return self.max_position / original if self.r.get("factor") is None else self.factor()

    def per_pair(self, name: str) -> tuple[float, ...]:
        """A list with a number for each pair that is rotated."""
        values, pairs = self.r.numbers(name), self.size // 2
        if len(values) != pairs:
            wrong = f"has {len(values)} entries, but {self.size} rotated numbers are {pairs} pairs; correct it"
            self.r.refuse(name, wrong)
        return values

    def amplitude(self, usual: float) -> float:
        """What cosine and sine are multiplied by."""
        return usual if self.r.get("attention_factor") is None else self.r.number("attention_factor")

    def nonzero(self, name: str, absent: float) -> float:
        """A number of which 0 and null mean that it is absent."""
        value = self.r.get(name)
        unset = value is None or (value == 0 and not isinstance(value, bool))
        return absent if unset else self.r.number(name)


def _default(t: _Table) -> dict[str, Any]:
    return {}


def _linear(t: _Table) -> dict[str, Any]:
    return {"scaling": "linear", "factor": t.factor()}


def _llama3(t: _Table) -> dict[str, Any]:
    low, high = t.r.number("low_freq_factor"), t.r.number("high_freq_factor")
    if low >= high:
        t.r.refuse("low_freq_factor", f"is {low}, but must be below high_freq_factor ({high}); correct one of them")
    settings = {"low_freq_factor": low, "high_freq_factor": high, "original_max_position": t.original_max()}
    return {"scaling": "llama3", "factor": t.factor()} | settings


def _yarn(t: _Table) -> dict[str, Any]:
    """Peng et al. 2023, YaRN. The amplitude follows from mscale and mscale_all_dim where both are set (DeepSeek)."""
    original = t.original_max()
    if "factor" not in t.r.values:
        t.factor()  # refuses: only a null means the lengths' ratio
    factor, fast, slow = t.implied_factor(original), t.nonzero("beta_fast", 32.0), t.nonzero("beta_slow", 1.0)
    if factor < 1:
        t.r.refuse(ORIGINAL, f"is {original}, more than max_position_embeddings ({t.max_position}); correct one")
    if fast <= slow:
        t.r.refuse("beta_fast", f"is {fast}, but must be above beta_slow ({slow}); correct one of them")
    if t.theta <= 1:
        t.r.refuse("rope_theta", f"is {t.theta}, but yarn needs a base above 1; correct it")
    mscale, all_dim = t.nonzero("mscale", 0.0), t.nonzero("mscale_all_dim", 0.0)
    grown = [0.1 * scale * math.log(factor) + 1 for scale in ((mscale, all_dim) if mscale and all_dim else (1.0, 0.0))]
    settings = {"beta_fast": fast, "beta_slow": slow, "truncate": t.r.flag("truncate", True)}
    stretch = {"factor": factor, "original_max_position": original, "amplitude": t.amplitude(grown[0] / grown[1])}
    return {"scaling": "yarn"} | stretch | settings


def _longrope(t: _Table) -> dict[str, Any]:
    """Ding et al. 2024, LongRoPE: a divisor for each frequency, one list for short sequences and one for long ones."""
    original = t.original_max()
    if original == 1:
        t.r.refuse(ORIGINAL, "is 1, but longrope divides by its logarithm; correct it")
    factor = max(1.0, t.implied_factor(original))
    amplitude = t.amplitude(math.sqrt(1 + math.log(factor) / math.log(original)))
    lists = {"divisors": t.per_pair("short_factor"), "long_divisors": t.per_pair("long_factor")}
    return {"scaling": "longrope", "original_max_position": original, "amplitude": amplitude} | lists


def _divisors(t: _Table) -> dict[str, Any]:
    """Written by hf_writer.py for a folder made of a GGUF file."""
    return {"divisors": t.per_pair("divisors")}


KINDS: dict[str, Callable[[_Table], dict[str, Any]]] = {
    "default": _default, "linear": _linear, "llama3": _llama3, "yarn": _yarn, "longrope": _longrope,
    "divisors": _divisors,
}  # fmt: skip
