"""The rotation of each layer: both dialects, every kind of stretching in every family, and how tables can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configurations import DEFAULTS, GEMMA3, GPT2, LLAMA, MINIMAL, Config, read, refusal, write
from golden import FAMILIES, dialect4, load_golden

from tinyinfer.loading.rotations import frequencies
from tinyinfer.model.config import RopeConfig

LLAMA3: Config = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN: Config = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
TWO_TABLES = ("gemma3_text", "olmo3")  # a table for layers that see all, and one for those with a window
STRETCHED = [name for name, case in DEFAULTS.items() if "rotation" in case and not name.endswith(", nested")]
ROTATING = [name for name in FAMILIES if "rope_parameters" in load_golden(name).config]


def rope_of(folder: Path, config: Config) -> RopeConfig:
    """The rotation of the layers that see all, or of any where none does."""
    c = read(folder, config)
    turned = [(rope, window) for rope, window in zip(c.rope, c.windows, strict=True) if rope]
    return next((rope for rope, window in turned if window is None), turned[0][0])


def longrope(kind: str, pairs: int | None = None, **more: object) -> Config:
    """A table with lists of so many divisors; None: as many as the family's heads of 16, or their own size, need."""
    heads = {"qwen3": 128, "gemma2": 256, "gemma3_text": 256, "gpt_neox": 4, "gpt_oss": 64}.get(kind, 16)
    short = [1.0 + i for i in range(heads // 2 if pairs is None else pairs)]
    table = {"rope_type": "longrope", "short_factor": short, "long_factor": short[::-1]}
    return table | ({} if kind == "phi3" else {"original_max_position_embeddings": 32}) | more


def with_rope(kind: str, table: Config, dialect: int) -> Config:
    """The least file of a family with this rotation in the layers that see all."""
    layers = {"num_hidden_layers": 7} if kind in TWO_TABLES else {}
    fields = MINIMAL[kind] | layers | ({"original_max_position_embeddings": 32} if kind == "phi3" else {})
    if dialect == 4:
        return fields | {"rope_scaling": table}
    return fields | {"rope_parameters": {"full_attention": table} if kind in TWO_TABLES else table}


# --- what files mean ---


@pytest.mark.parametrize("case", STRETCHED)
def test_frequencies_and_amplitude_are_those_of_transformers(tmp_path: Path, case: str) -> None:
    """Each spelling of yarn and longrope; catches a factor, an end of the blend or an amplitude that is another one.

    The amplitude multiplies cosine and sine, so scores by its square: squared here, it would count four times.
    """
    c, expected = read(tmp_path, DEFAULTS[case]["given"]), DEFAULTS[case]["rotation"]
    rope = rope_of(tmp_path, DEFAULTS[case]["given"])
    found = frequencies(rope, rope.size or c.head_dim)
    np.testing.assert_allclose(found[0], expected["frequencies"], rtol=1e-5)
    np.testing.assert_allclose(found[-1], expected["long_frequencies"], rtol=1e-5)
    assert rope.amplitude == pytest.approx(expected["amplitude"], rel=1e-12)


@pytest.mark.parametrize("name", ROTATING)
def test_both_dialects_in_one_file_may_agree(tmp_path: Path, name: str) -> None:
    """transformers 5.23 gives the same logits; catches rope_theta, which only one of the two tables holds, compared."""
    new = load_golden(name).config
    old = dialect4(new)
    names = ("rope_theta", "rope_scaling", "rope_local_base_freq", "rotary_emb_base", "rotary_pct")
    both = {key: old[key] for key in (*names, "partial_rotary_factor") if key in old}
    assert read(tmp_path, new | both) == read(tmp_path, new)
    if old["rope_scaling"]:
        wrong = both | {"rope_scaling": {"rope_type": "linear", "factor": 3.5}}
        assert "'rope_scaling'" in refusal(write(tmp_path, new | wrong))


@pytest.mark.parametrize("dialect", [4, 5])
@pytest.mark.parametrize("kind", [kind for kind in MINIMAL if kind != "phi3"])
def test_yarn_in_every_family(tmp_path: Path, kind: str, dialect: int) -> None:
    rope = rope_of(tmp_path, with_rope(kind, YARN, dialect))
    assert (rope.scaling, rope.factor, rope.original_max_position, rope.truncate) == ("yarn", 4.0, 32, True)
    assert rope.amplitude == pytest.approx(1.1386294361119891)  # 0.1 ln 4 + 1


@pytest.mark.parametrize("dialect", [4, 5])
@pytest.mark.parametrize("kind", MINIMAL)
def test_longrope_in_every_family(tmp_path: Path, kind: str, dialect: int) -> None:
    c = read(tmp_path, with_rope(kind, longrope(kind), dialect))
    rope = rope_of(tmp_path, with_rope(kind, longrope(kind), dialect))
    assert (c.rotation_sets.boundary, rope.scaling, rope.original_max_position) == (32, "longrope", 32)
    assert rope.divisors == tuple(reversed(rope.long_divisors or ()))
    assert rope.amplitude == pytest.approx((1 + np.log(c.max_position / 32) / np.log(32)) ** 0.5)


@pytest.mark.parametrize("name", ["su", "yarn", "longrope"])
@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_phi_3_calls_longrope_by_three_names(tmp_path: Path, key: str, name: str) -> None:
    """Catches yarn's blend, which Phi-3 never means; and the `su` that transformers 5 writes beside its longrope."""
    named = {"rope_type": None, key: name, **longrope("phi3")} | {key: name}
    table = {field: value for field, value in named.items() if value is not None}
    if key == "type":
        del table["rope_type"]
    expected = rope_of(tmp_path, with_rope("phi3", longrope("phi3"), 4))
    assert rope_of(tmp_path, with_rope("phi3", table, 4)) == expected
    assert rope_of(tmp_path, with_rope("phi3", {"type": name, **longrope("phi3")}, 5)) == expected


@pytest.mark.parametrize("kind", TWO_TABLES)
def test_a_stretched_rotation_is_that_of_the_layers_that_see_all(tmp_path: Path, kind: str) -> None:
    """Stretched in the layers with a window too, every near position would be shifted."""
    c = read(tmp_path, MINIMAL[kind] | {"num_hidden_layers": 7, "rope_scaling": YARN})
    stretched = [rope.scaling if rope else None for rope in c.rope]
    assert stretched == ["none" if window else "yarn" for window in c.windows]
    assert set(stretched) == {"none", "yarn"}


def test_gemma_3_scales_only_the_layers_that_see_all(tmp_path: Path) -> None:
    """And has another base in each kind of layer."""
    c = read(tmp_path, GEMMA3 | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}})
    assert c.rope[5] == RopeConfig(1e6, "linear", 8.0)
    assert c.rope[4] == c.rope[6] == RopeConfig(1e4)


def test_olmo_3_has_one_base_in_transformers_4(tmp_path: Path) -> None:
    """There rope_theta is the base of both kinds of layer; in transformers 5 each table has its own."""
    olmo3 = MINIMAL["olmo3"] | {"num_hidden_layers": 4}
    assert read(tmp_path, olmo3 | {"rope_theta": 5e5}).rope == (RopeConfig(5e5),) * 4
    seeing_all = olmo3 | {"rope_theta": 7e4, "layer_types": ["full_attention"] * 4}
    assert read(tmp_path, seeing_all).rope == (RopeConfig(7e4),) * 4
    tables = {"full_attention": {"rope_theta": 2e4}, "sliding_attention": {"rope_theta": 3e4}}
    both = read(tmp_path, olmo3 | {"rope_parameters": tables}).rope
    assert both == (RopeConfig(3e4),) * 3 + (RopeConfig(2e4),)


@pytest.mark.parametrize(("share", "size"), [(0.25, 4), (0.5, 8), (0.75, 12), (0.8, 12), (1.0, None), (1, None)])
@pytest.mark.parametrize("kind", ["phi3", "gpt_neox"])
def test_a_share_of_each_head_is_turned(tmp_path: Path, kind: str, share: float, size: int | None) -> None:
    """The share is rounded down, as in transformers: 0.8 of 16 numbers are 12."""
    field = {"phi3": "partial_rotary_factor", "gpt_neox": "rotary_pct"}[kind]
    assert rope_of(tmp_path, MINIMAL[kind] | {field: share}).size == size
    assert rope_of(tmp_path, MINIMAL[kind] | {"rope_parameters": {"partial_rotary_factor": share}}).size == size


def test_gpt_oss_has_yarn_unless_it_says_another(tmp_path: Path) -> None:
    """Catches rope_scaling null taken for the plain rotation, which is not what gpt-oss was trained with."""
    for fields in ({}, {"rope_scaling": None}, {"rope_scaling": {}}, {"rope_parameters": None}):
        assert rope_of(tmp_path, MINIMAL["gpt_oss"] | fields).scaling == "yarn"
    assert rope_of(tmp_path, MINIMAL["gpt_oss"] | {"rope_parameters": {"rope_theta": 1e4}}) == RopeConfig(1e4)


def test_divisors_that_a_gguf_gave(tmp_path: Path) -> None:
    """A dialect of ours, in folders made from GGUF files; without it Llama 3's stretched rotation would be lost."""
    table = {"rope_type": "divisors", "rope_theta": 5e5, "divisors": [1, 1, 1.5, 2, 8, 8, 8, 8]}
    assert rope_of(tmp_path, LLAMA | {"rope_parameters": table}) == RopeConfig(
        5e5, divisors=(1.0, 1.0, 1.5, 2.0, 8.0, 8.0, 8.0, 8.0)
    )


@pytest.mark.parametrize("kind", ["llama3", "yarn", "longrope"])
@pytest.mark.parametrize("dialect", [4, 5])
def test_the_original_length_is_said_by_the_table_or_the_file_or_is_the_models_own(
    tmp_path: Path, kind: str, dialect: int
) -> None:
    """A field of the file is stronger than the model's own length, which transformers 5 writes into such a table."""
    table = {"llama3": LLAMA3, "yarn": YARN, "longrope": longrope("llama")}[kind]
    unsaid = {key: value for key, value in table.items() if key != "original_max_position_embeddings"}
    beside = {"original_max_position_embeddings": 64}
    for inside, outside, expected in (
        (unsaid, {}, 128), (unsaid, beside, 64), (table | beside, {}, 64), (table | beside, beside, 64),
        (unsaid | {"original_max_position_embeddings": 128}, beside, 64),
    ):  # fmt: skip
        assert rope_of(tmp_path, with_rope("llama", inside, dialect) | outside).original_max_position == expected


# --- what is refused ---

ANY: dict[str, tuple[Config, str]] = {
    "linear, a factor below 1": ({"rope_type": "linear", "factor": 0.5}, "'factor' is 0.5, but"),
    "llama3, a factor below 1": (LLAMA3 | {"factor": 0.99}, "'factor' is 0.99, but"),
    "linear without a factor": ({"rope_type": "linear"}, "'factor' is missing"),
    "another kind": ({"rope_type": "dynamic", "factor": 2.0}, "'dynamic', which is not supported"),
    "an unknown part": ({"rope_type": "default", "beta_fast": 32}, "'beta_fast'"),
    "a part for images": ({"rope_type": "default", "mrope_section": [1, 2]}, "'mrope_section'"),
    "a negative base": ({"rope_theta": -1e4}, "'rope_theta' is -10000.0"),
    "divisors of another head": ({"rope_type": "divisors", "divisors": [1.0] * 3}, "'divisors' has 3 entries"),
    "a kind that is a list": ({"rope_type": ["yarn"]}, "'rope_type'"),
    "longrope, a list of another length": (longrope("", 5), "'short_factor' has 5 entries"),
    "longrope, a list that is none": (longrope("", 5, short_factor=None), "'short_factor' is None"),
}
OF_YARN: dict[str, tuple[Config, str]] = {
    "a factor below 1": ({"factor": 0.5}, "'factor' is 0.5, but"),
    "a factor in words": ({"factor": "4"}, "'factor' is '4'"),
    "an original longer than the model": (
        {"factor": None, "original_max_position_embeddings": 1000},
        "is 1000, more than max_position_embeddings (128)",
    ),
    "betas the wrong way round": ({"beta_fast": 1, "beta_slow": 32}, "'beta_fast' is 1.0, but must be above beta_slow"),
    "a beta below the other's default": ({"beta_fast": 0.5}, "'beta_fast' is 0.5, but must be above beta_slow (1.0)"),
    "a base of 1": ({"rope_theta": 1}, "yarn needs a base above 1"),
    "an amplitude of zero": ({"attention_factor": 0}, "'attention_factor' is 0"),
    "a negative mscale": ({"mscale": -1.0, "mscale_all_dim": 1.0}, "'mscale' is -1.0"),
    "an mscale by a truth value": ({"mscale": False}, "'mscale' is False"),
    "a blend cut by a number": ({"truncate": 0}, "'truncate' is 0"),
    "a list of longrope": ({"short_factor": [1.0]}, "'short_factor'"),
}
OF_LONGROPE: dict[str, tuple[Config, str]] = {
    "a factor below 1": ({"factor": 0.5}, "'factor' is 0.5, but"),
    "a long list of another length": ({"long_factor": [1.0] * 7}, "'long_factor' has 7 entries"),
    "a short list of another length": ({"short_factor": [1.0] * 9}, "'short_factor' has 9 entries"),
    "an empty list": ({"long_factor": []}, "'long_factor' is []"),
    "a divisor of zero": ({"long_factor": [0.0] * 8}, "long_factor: the field '0' is 0.0"),
    "a divisor that is no number": ({"short_factor": ["1"] * 8}, "short_factor: the field '0' is '1'"),
    "an original length of 1": ({"original_max_position_embeddings": 1}, "'original_max_position_embeddings' is 1"),
    "an amplitude in words": ({"attention_factor": "1.19"}, "'attention_factor'"),
    "an end of yarn's blend": ({"beta_fast": 32}, "'beta_fast'"),
}
WRONG: dict[str, tuple[Config, str]] = {
    "llama3 without a factor": (LLAMA | {"rope_scaling": LLAMA3 | {"factor": None}}, "'factor' is missing"),
    "yarn without a factor": (LLAMA | {"rope_scaling": {"rope_type": "yarn"}}, "'factor' is missing"),
    "llama3 the wrong way round": (LLAMA | {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, "'low_freq_factor'"),
    "rope_scaling as a string": (LLAMA | {"rope_scaling": "linear"}, "'rope_scaling'"),
    "rope_parameters as a list": (LLAMA | {"rope_parameters": [1]}, "'rope_parameters'"),
    "divisors without any": (LLAMA | {"rope_scaling": {"rope_type": "divisors"}}, "'divisors' is None, but must be a"),
    "a divisor of zero": (LLAMA | {"rope_scaling": {"rope_type": "divisors", "divisors": [1.0, 0]}}, "'1' is 0, but"),
    "Phi-3's old name elsewhere": (LLAMA | {"rope_scaling": {"type": "su", "factor": 2.0}}, "'su', which is not supp"),
    "two kinds of rope": (LLAMA | {"rope_scaling": {"rope_type": "linear", "type": "llama3", "factor": 2.0}}, "'type'"),
    "two bases": (LLAMA | {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e4}}, "'rope_theta'"),
    "two bases of GPT-NeoX": (MINIMAL["gpt_neox"] | {"rotary_emb_base": 5e5, "rope_theta": 1e4}, "'rope_theta'"),
    "two shares of GPT-NeoX": (MINIMAL["gpt_neox"] | {"rotary_pct": 0.5, "partial_rotary_factor": 1.0}, "'partial_rot"),
    "two shares of Phi-3": (
        MINIMAL["phi3"] | {"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 1.0}},
        "'partial_rotary_factor' differs from partial_rotary_factor (0.5) beside it",
    ),
    "two ropes": (
        LLAMA | {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        "'rope_scaling'",
    ),
    "an original length of 1 beside the table": (
        LLAMA | {"rope_scaling": longrope("", original_max_position_embeddings=128)} | {
            "original_max_position_embeddings": 1
        },
        "divides by its logarithm",
    ),
    "longrope with two original lengths": (
        MINIMAL["gemma3_text"] | {"rope_parameters": {
            kind: longrope("gemma3_text", original_max_position_embeddings=length)
            for kind, length in (("full_attention", 32), ("sliding_attention", 64))
        }},
        "longrope for texts beyond 32 and 64",
    ),
    "two original lengths": (
        LLAMA | {"rope_scaling": YARN, "original_max_position_embeddings": 64}, "is 32, but the file's own is 64"
    ),
    "an original length that is not Phi-3's default": (
        MINIMAL["phi3"] | {"rope_scaling": longrope("phi3", original_max_position_embeddings=32)}, "file's own is 4096"
    ),
    "an original length in words": (LLAMA | {"original_max_position_embeddings": "4k"}, "'original_max_position_emb"),
    "a flat rope for Gemma's two": (GEMMA3 | {"rope_parameters": {"rope_theta": 1e6}}, "'rope_theta'"),
    "a rope for another kind of layer": (
        MINIMAL["olmo3"] | {"rope_parameters": {"chunked_attention": {"rope_theta": 1e6}}}, "'chunked_attention'"
    ),
    "a base of OLMo-3 that transformers 5 gives to one kind of layer only": (
        MINIMAL["olmo3"] | {"rope_theta": 7e4}, "'rope_theta' is 70000.0, and in layers with a window"
    ),
    "a kind by its old name that transformers 5 overlooks": (
        GEMMA3 | {"rope_scaling": {"type": "linear", "factor": 8.0}}, "names its kind 'type', which transformers 5"
    ),
    "a blend that transformers 5 cuts all the same": (
        MINIMAL["olmo3"] | {"rope_parameters": {"full_attention": YARN | {"truncate": False}}}, "'truncate' is false"
    ),
    "heads turned in part": (LLAMA | {"partial_rotary_factor": 0.5}, "'partial_rotary_factor'"),
    "heads turned in part, inside": (
        LLAMA | {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "'partial_rotary_factor'"
    ),
    "a rotation in GPT-2": (GPT2 | {"rope_scaling": YARN}, "'rope_scaling'"),
}  # fmt: skip


@pytest.mark.parametrize("dialect", [4, 5])
@pytest.mark.parametrize("kind", MINIMAL)
@pytest.mark.parametrize("case", ANY)
def test_a_wrong_table_is_one_sentence_in_every_family(tmp_path: Path, case: str, kind: str, dialect: int) -> None:
    """Catches a family, or one of the two kinds of layers, whose table takes a path past the checks."""
    table, named = ANY[case]
    said = refusal(write(tmp_path, with_rope(kind, table, dialect)))
    assert named in said
    assert ("rope_scaling" in said) == (dialect == 4)


@pytest.mark.parametrize("table", ["full_attention", "sliding_attention"])
@pytest.mark.parametrize("kind", TWO_TABLES)
@pytest.mark.parametrize("case", ANY)
def test_a_wrong_table_of_one_kind_of_layer_is_named(tmp_path: Path, case: str, kind: str, table: str) -> None:
    wrong, named = ANY[case]
    said = refusal(write(tmp_path, MINIMAL[kind] | {"rope_parameters": {table: wrong}}))
    assert f"{table}: the field" in said or f"{table}, " in said
    assert named in said


@pytest.mark.parametrize("kind", ["llama", "qwen2", "olmo3", "gpt_oss", "gpt_neox"])
@pytest.mark.parametrize("case", OF_YARN)
def test_what_yarn_cannot_mean_is_refused_by_name(tmp_path: Path, case: str, kind: str) -> None:
    changes, named = OF_YARN[case]
    dialect = 5 if "rope_theta" in changes else 4
    assert named in refusal(write(tmp_path, with_rope(kind, YARN | changes, dialect)))


@pytest.mark.parametrize("kind", ["llama", "phi3", "qwen2", "granite"])
@pytest.mark.parametrize("case", OF_LONGROPE)
def test_what_longrope_cannot_mean_is_refused_by_name(tmp_path: Path, case: str, kind: str) -> None:
    changes, named = OF_LONGROPE[case]
    config = with_rope(kind, longrope(kind) | changes, 4)
    if kind == "phi3" and "original_max_position_embeddings" in changes:
        config |= changes
    assert named in refusal(write(tmp_path, config))


@pytest.mark.parametrize("case", WRONG)
def test_a_rotation_that_is_not_clear_is_refused_by_name(tmp_path: Path, case: str) -> None:
    config, named = WRONG[case]
    assert named in refusal(write(tmp_path, config))


@pytest.mark.parametrize("kind", ["phi3", "gpt_neox"])
@pytest.mark.parametrize(
    ("share", "named"),
    [(0.2, "rotates 3 of the 16"), (0.1, "rotates 1 of the 16"), (0.01, "rotates 0 of the 16"),
     (1.5, "rotates 24 of the 16"), (0, "must be a positive number"), ("0.5", "must be a positive number")],
)  # fmt: skip
def test_a_share_that_is_no_pairs_is_refused(tmp_path: Path, kind: str, share: Any, named: str) -> None:
    """Numbers of a head are rotated in pairs; catches half a pair dropped, or completed by a number that stays."""
    field = {"phi3": "partial_rotary_factor", "gpt_neox": "rotary_pct"}[kind]
    said = refusal(write(tmp_path, MINIMAL[kind] | {field: share}))
    assert f"'{field}'" in said
    assert named in said
    inside = refusal(write(tmp_path, MINIMAL[kind] | {"rope_parameters": {"partial_rotary_factor": share}}))
    assert "rope_parameters: the field 'partial_rotary_factor'" in inside
