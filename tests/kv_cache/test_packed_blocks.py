"""Packing keys and values: how far numbers may be off, that codes survive packing, and why keys go by channel."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import make_engine, small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.packing import pack, unpack
from tinyinfer.cli import arguments
from tinyinfer.engine.config import EngineConfig
from tinyinfer.kv_cache.base import CacheSpec
from tinyinfer.kv_cache.memory import group_size
from tinyinfer.kv_cache.packed_blocks import PackedBlocks, dequantize, quantize
from tinyinfer.ledger import Ledger
from tinyinfer.measure.evaluate import SETTINGS
from tinyinfer.model.config import Rows

BITS = (8, 4, 2)


def restored(x: np.ndarray, bits: int) -> np.ndarray:
    """x quantized along its last axis and back."""
    codes, scale, minimum = quantize(x, bits, np)
    out = np.empty(x.shape, np.float32)
    dequantize(codes, scale.astype(np.float32), minimum.astype(np.float32), out, np)
    return out


def error(found: np.ndarray, x: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - x) ** 2)))


@settings(max_examples=60)
@given(
    bits=st.sampled_from(BITS), n=st.integers(1, 40), seed=st.integers(0, 10**6), shift=st.floats(-300, 300),
    spread=st.floats(1e-3, 100),
)  # fmt: skip
def test_no_number_is_off_by_more_than_half_a_scale(bits, n, seed, shift, spread):
    """Also at the ends of the range. Catches: a minimum or scale rounded the wrong way, truncation instead of rounding,
    and (the scale is at most a 2^bits - 1'th of the range, and what float16 costs) one code too few.
    """
    x = (shift + spread * np.random.default_rng(seed).standard_normal((3, n))).astype(np.float32)
    codes, scale, minimum = quantize(x, bits, np)
    exact = codes * scale.astype(np.float64) + minimum.astype(np.float64)
    assert (np.abs(exact - x) <= scale.astype(np.float64) / 2 * (1 + 1e-5) + 1e-12).all()
    lost = np.abs(x).max(axis=-1, keepdims=True) / 1024  # one unit in float16's last place, at most
    most = 2**bits - 1
    assert (scale <= (np.ptp(x, axis=-1, keepdims=True) + lost) / most * (1 + 1 / 1024) + 1e-7).all()
    assert codes.dtype == np.uint8
    assert codes.max() <= most
    assert scale.dtype == minimum.dtype == np.float16


@pytest.mark.parametrize("bits", BITS)
def test_constants_and_grids_are_exact(bits):
    """Division by a scale of 0 would give NaN; and numbers that lie on the codes' own scale must not move."""
    assert np.array_equal(restored(np.full((2, 5), -1.75, np.float32), bits), np.full((2, 5), -1.75))
    assert not restored(np.zeros((1, 3), np.float32), bits).any()
    exact = np.arange(2**bits, dtype=np.float32)[None] * 0.25 - 3
    assert np.array_equal(restored(exact, bits), exact)


@pytest.mark.parametrize("bits", BITS)
def test_every_code_is_used(bits):
    """Catches: a range divided by 2^bits (the last code is never used) and by 2^bits - 2."""
    codes, *_ = quantize(np.linspace(-1, 1, 1000, dtype=np.float32)[None], bits, np)
    assert sorted(set(codes[0].tolist())) == list(range(2**bits))


def test_numbers_beyond_float16_are_cut_off_and_stay_finite():
    """One overflow to infinity would turn all logits into NaN."""
    found = restored(np.array([[-1e9, 0.0, 1e9], [1e6, 1e6, 1e6]], np.float32), 8)
    assert np.isfinite(found).all()
    assert found[0, 0] == -65504
    assert found[0, 2] > 65504


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 24, 31])
def test_codes_survive_packing(bits, n):
    """At sizes that fill no whole byte, too; and they are really packed."""
    codes = np.random.default_rng(n).integers(0, 2**bits, (2, 3, n)).astype(np.uint8)
    packed = pack(codes, bits, np)
    assert packed.dtype == np.uint8
    assert packed.shape == (2, 3, -(-n * bits // 8))
    assert np.array_equal(unpack(packed, bits, n, np), codes)


def test_a_packed_byte_by_hand():
    """Five codes of two bits: the first byte holds codes 0, 2 and 4 from its low bits on, the second 1 and 3."""
    packed = pack(np.array([1, 2, 3, 0, 2], np.uint8), 2, np)
    assert packed.tolist() == [0b00_10_11_01, 0b00_00_00_10]


CONFIG = small_config(num_layers=3, num_kv_heads=2, head_dim=6)
SIZE = 5  # of a block: 30 codes, which fill no whole byte at 2 bits


def blocks(bits: int, count: int = 6, group: int = 3) -> PackedBlocks:
    spec = CacheSpec(CONFIG.memory, count * SIZE, SIZE, kv_bits=bits, kv_group_size=group)
    return PackedBlocks(spec, count, NumpyOps(Ledger()))


def read(packed: PackedBlocks, layer: int, where: slice | list[int], count: int) -> np.ndarray:
    out = np.full((2, 2, count, SIZE, 6), np.nan, np.float32)
    packed.read(layer, where, *out)
    return out


@pytest.mark.parametrize("bits", BITS)
def test_blocks_come_back_from_where_they_were_written(bits):
    """Scattered and in a row. Catches: heads, layers, keys and values or blocks mixed up, others overwritten."""
    rng, packed = np.random.default_rng(0), blocks(bits)
    x = rng.standard_normal((3, 2, 2, 6, SIZE, 6)).astype(np.float32) + np.arange(6)[:, None, None] * 10
    for layer in range(3):
        packed.write(layer, [4, 1], *x[layer][:, :, [4, 1]])
        packed.write(layer, slice(2, 4), *x[layer][:, :, 2:4])
    keys = restored(x[:, 0].swapaxes(-1, -2), bits).swapaxes(-1, -2)  # by channel over the block
    values = restored(x[:, 1].reshape(3, 2, 6, SIZE, 2, 3), bits).reshape(x[:, 1].shape)  # by token, in groups of 3
    for layer in range(3):
        expected = np.stack([keys[layer], values[layer]])
        assert np.array_equal(read(packed, layer, slice(1, 5), 4), expected[:, :, 1:5])
        assert np.array_equal(read(packed, layer, [3, 1, 4], 3), expected[:, :, [3, 1, 4]])
        assert not read(packed, layer, [0, 5], 2).any(), "blocks that were never written"


def test_an_outlier_costs_only_its_own_group():
    """A large channel of the keys leaves the others as they are, a large value the other groups and tokens."""
    x = np.random.default_rng(1).standard_normal((2, 2, 1, SIZE, 6)).astype(np.float32)
    large = x.copy()
    large[0, 0, 0, :, 2] *= 1000  # a channel of the keys, at every position
    large[1, 1, 0, 3, 4] *= 1000  # one number among the values
    calm, wild = blocks(4), blocks(4)
    calm.write(0, [0], *x)
    wild.write(0, [0], *large)
    changed = read(calm, 0, [0], 1) != read(wild, 0, [0], 1)
    assert changed[0].any(axis=(1, 2)).tolist() == [[False, False, True, False, False, False], [False] * 6]
    assert changed[1].sum() == changed[1, 1, 0, 3, 3:].sum() > 0


@pytest.mark.parametrize("bits", [4, 2])
def test_keys_by_channel_beat_keys_by_token_where_channels_stand_out(bits):
    """KIVI's reason (Liu et al. 2024, table 2): keys with a few large channels lose most when quantized by token.

    Without such channels the two are alike, so that it is the outliers and nothing else that decides.
    """
    rng = np.random.default_rng(2)
    keys = rng.standard_normal((64, 32, 32)).astype(np.float32)  # blocks of 32 positions of 32 channels

    def errors() -> tuple[float, float]:
        by_channel = restored(keys.swapaxes(1, 2), bits).swapaxes(1, 2)
        return error(by_channel, keys), error(restored(keys, bits), keys)

    by_channel, by_token = errors()
    assert by_channel == pytest.approx(by_token, rel=0.05)
    keys[:, :, [3, 17]] += 20
    by_channel, by_token = errors()
    assert by_channel < by_token / 3


@pytest.mark.parametrize(
    ("head_dim", "size"), [(64, 32), (128, 32), (32, 32), (20, 20), (6, 6), (1, 1), (80, 20), (96, 32), (37, 1)]
)
def test_the_default_group_is_the_largest_divisor_up_to_32(head_dim, size):
    """32, or the whole of a smaller head; a head of 80 has no group of 32."""
    assert group_size((Rows(1, 7, head_dim),), None) == size


def test_groups_that_do_not_fit_are_refused_with_those_that_do():
    """Else the last group would quietly reach into the next token."""
    assert group_size((Rows(1, 7, 64),), 16) == 16
    with pytest.raises(ValueError, match=r"kv_group_size=4 .* head size of 6; choose one of 1, 2, 3, 6$"):
        make_engine(CONFIG, kv_bits=8, kv_group_size=4)
    with pytest.raises(ValueError, match="kv_group_size=12 "):
        group_size((Rows(1, 7, 6),), 12)


@pytest.mark.parametrize(
    ("switches", "why"),
    [
        ({"kv_bits": 3}, "kv_bits=3 is not known; choose one of off, 8, 4, 2"),
        ({"kv_bits": 8, "kv_cache": "none"}, "kv_cache=none keeps nothing; choose contiguous or paged"),
        ({"kv_group_size": 32}, "kv_bits=off quantizes nothing; add kv_bits"),
        ({"kv_bits": 4, "kv_group_size": 0}, "kv_group_size=0 must be a whole number of at least 1"),
    ],
)
def test_switches_that_cannot_work_are_refused(switches, why):
    """In a sentence that names the cure, before anything is loaded."""
    with pytest.raises(ValueError, match=why):
        EngineConfig(**switches)


def test_the_command_line_has_both_switches():
    """The number on the command line is the number in Python, and the word stays a word."""
    parser = arguments.Parser()
    arguments.add_switches(parser)

    def taken(*flags: str) -> list:
        found = arguments.switches(parser.parse_args(list(flags)))
        return [found["kv_bits"], found["kv_group_size"]]

    assert taken() == ["off", None]
    assert taken("--kv-bits", "off") == ["off", None]
    assert taken("--kv-bits", "4", "--kv-group-size", "16") == [4, 16]
    with pytest.raises(arguments.UsageError, match="--kv-bits: invalid choice: 3"):
        taken("--kv-bits", "3")


def test_eval_compares_them_by_name():
    """`eval --compare float32,kv8,kv4,kv2` is the command behind the lesson's table."""
    for bits in BITS:
        assert EngineConfig(**SETTINGS[f"kv{bits}"]).kv_bits == bits
