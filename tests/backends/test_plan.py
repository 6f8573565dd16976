"""The launches of a step: which kernels, in which order, for which rows; and how a launch is made."""

from __future__ import annotations

from collections import Counter
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from fake_cupy import fake_cupy
from helpers import make_engine, small_config

from tinyinfer.backends.cupy_ops import CupyOps
from tinyinfer.backends.kernels import launch
from tinyinfer.backends.kernels.buffers import Fields, Seats, Staging, row_fields
from tinyinfer.backends.kernels.launch import Cost, Kernels, Launch, Plan, names_in, threads_of, used
from tinyinfer.backends.kernels.memory import Sizes, allocate, fields_of, tile_of
from tinyinfer.backends.kernels.plan import decode_plan
from tinyinfer.backends.kernels.prompt_pass import shared_bytes as prompt_bytes
from tinyinfer.backends.kernels.source import FOLDER
from tinyinfer.errors import ModelError
from tinyinfer.kv_cache.base import LayerRows, Pools
from tinyinfer.kv_cache.in_place import PackedPools
from tinyinfer.kv_cache.packed_blocks import PackedLayer
from tinyinfer.ledger import Ledger

FUSED = ["rms_qkv_rope_append", "attention_decode", "projection_residual", "rms_gate_up", "projection_residual"]


def plan_of(model: Any, rows: int, filters: bool = False, dtype: Any = np.float32) -> Plan:
    """The plan of a model, made without a kernel being compiled."""
    loaded = make_engine(model, ops=CupyOps(Ledger(), dtype, decode="eager", xp=fake_cupy)).model
    sizes = Sizes(rows, rows, 8, 4)
    fields = fields_of(loaded, sizes)
    row = fields.over(np.zeros(fields.nbytes, np.uint8))
    return decode_plan(loaded, allocate(loaded, sizes, np, row, np.zeros(1)), filters)


def names(plan: Plan) -> list[str]:
    return [launch.name for launch in plan.launches]


def test_five_launches_a_layer():
    """The commonest layer, up to 8 rows; the head chooses the token on its way."""
    for rows in (1, 8):
        assert names(plan_of(small_config(), rows)) == ["embed", *FUSED * 2, "rms_head_sample"]


def test_norms_that_cannot_go_along():
    """Of each head before the rotation, after a sub-layer before the addition: a launch more each."""
    layer = ["rms_product", "qk_norm_rope_append", "attention_decode", "rms_product", "norm_add", "rms_gate_up",
             "rms_product", "norm_add"]  # fmt: skip
    plan = plan_of(small_config(qk_norm="head", post_norms=True), 2)
    assert names(plan) == ["embed", *layer * 2, "rms_head_sample"]


def test_filters_and_caps():
    """Filters need whole rows of logits; then the cap and the factor of the logits are a kernel of their own."""
    assert names(plan_of(small_config(), 2, filters=True))[-2:] == ["rms_product", "sample"]
    capped = plan_of(small_config(logit_cap=9.0, logit_scale=0.5), 2, filters=True)
    assert names(capped)[-3:] == ["rms_product", "cap_logits", "sample"]
    [cap] = [launch for launch in capped.launches if launch.name == "cap_logits"]
    assert cap.args[1:] == (np.float32(0.5), np.float32(9.0))


def test_more_than_8_rows():
    """Tensor cores in half precision, all rows at once; float32 in groups of 8, each with its own rows."""
    half = Counter(names(plan_of(small_config(), 16, dtype=ml_dtypes.bfloat16)))
    assert half == {"embed": 1, "small_batch_product": 4 * 2 + 1, "qk_norm_rope_append": 2, "attention_decode": 2,
                    "sample": 1}  # fmt: skip
    single = plan_of(small_config(), 16)
    groups = [launch for launch in single.launches if launch.name == "rms_gate_up"]
    assert len(groups) == 2 * 2
    first, second = groups[0].args[0], groups[1].args[0]
    assert second.ctypes.data - first.ctypes.data == 8 * 20 * 4
    assert groups[0].constants["T"] == 8


def test_costs_add_up():
    """A step reads every weight once, or once for each group of rows; attention by the positions that are seen."""
    engine = make_engine(small_config())
    weights = engine.model.nbytes - engine.model.embedding.table.nbytes
    once, twice = (plan_of(small_config(), rows).cost for rows in (8, 16))
    assert weights <= once.read <= 1.6 * weights
    assert twice.read > 1.8 * once.read
    assert once.launches == 12
    assert once.position_bytes == 2 * 8 * (2 * 2 * 6 * 4)  # layers, rows, keys and values of 2 heads of 6 numbers
    assert once.at(100).read == once.read + 100 * once.position_bytes
    assert Cost(1, 2, 3) + Cost(4, 5, 6) == Cost(5, 7, 9, launches=2)


def test_every_kernel_says_how_many_threads_a_block_has():
    """Catches a kernel whose launch bounds the host could not read, and one of other threads than whole warps."""
    for path in FOLDER.glob("*.cu"):
        assert threads_of(path.stem) % 32 == 0


def test_a_kernel_is_compiled_for_what_it_names():
    """Two models that differ elsewhere share a kernel."""
    assert "V" not in names_in("attention_decode")
    assert used("attention_decode", {"E": 64, "V": 9}) == {"E": 64}


def test_a_kernel_that_does_not_compile_is_named(monkeypatch):
    """With the compiler's words and the way out."""
    monkeypatch.setattr(fake_cupy.RawModule, "broken", {"norm_add": "norm_add.cu(7): error: expected a ;"})
    broken = Launch("norm_add", {"T": 1, "D": 8, "EPS": 1e-5}, 1, 256, ())
    with pytest.raises(ModelError, match=r"norm_add.*expected a ;.*gpu-decode eager"):
        Kernels(fake_cupy).bind(broken)


def test_a_kernel_is_looked_up_without_its_text(monkeypatch):
    """A prompt asks for three kernels in each layer. Catches files that are read each time: 70 ms of a prompt."""
    kernels, constants = Kernels(fake_cupy), {"T": 1, "D": 8, "EPS": 1e-5, "unknown": 3}
    function = kernels.function("norm_add", constants)
    monkeypatch.setattr(launch, "kernel_source", None)
    assert kernels.function("norm_add", constants | {"unknown": 4}) is function


def test_fields_share_one_piece_of_memory():
    """One copy moves all of them; numbers of 8 bytes begin at multiples of 8."""
    fields = row_fields(3, 2, 5, 4)
    flat = np.zeros(fields.nbytes, np.uint8)
    views = fields.over(flat)
    for view in views.values():
        assert view.base is not None
        assert (view.ctypes.data - flat.ctypes.data) % view.itemsize == 0
    views["places"][...] = -1
    assert not any(views[name].any() for name in views if name != "places")
    assert flat[-1] == 255, "places are last, so that they can be sent alone"
    assert sum(view.nbytes for view in views.values()) == Fields(fields.shapes).nbytes == fields.nbytes


def test_seats_are_written_when_they_change():
    """A longer table, another table, other arrays; nothing where all is as before."""
    staging = Staging(fake_cupy, row_fields(2, 1, 2, 4))
    seats, host = Seats(staging), staging.host
    one, other = (LayerRows(*(fake_cupy.zeros((2, 12, 6), dtype=np.float32) for _ in range(2))) for _ in range(2))
    nothing = Pools((one,), (), 4)
    seats.take([nothing, Pools((one,), (2, 0), 4)])
    assert host["places"][1].tolist() == [12, 4, 2, 0, 0, 0]
    assert host["pools"][0, 1].tolist() == [one.keys.data.ptr, one.values.data.ptr]
    host["pools"][...] = 0
    seats.take([nothing, Pools((one,), (2, 0, 1), 4)])
    assert host["places"][1].tolist() == [12, 4, 2, 0, 1, 0]
    assert not host["pools"].any(), "the arrays are the same"
    seats.take([nothing, Pools((other,), (2, 0, 1), 4)])
    assert host["pools"][0, 1].tolist() == [other.keys.data.ptr, other.values.data.ptr]
    assert host["places"][0].tolist() == [12, 4, 0, 0, 0, 0]


def test_a_seat_that_was_half_written_is_written_again():
    """Ctrl-C while a slot is given away. Catches a slot that is believed to hold what it held before."""
    staging = Staging(fake_cupy, row_fields(1, 1, 1, 4))
    seats, host = Seats(staging), staging.host
    one, other = (LayerRows(*(fake_cupy.zeros((2, 12, 6), dtype=np.float32) for _ in range(2))) for _ in range(2))
    before = Pools((one,), (2, 0), 4)
    seats.take([before])
    staging.host = host | {"places": None}
    with pytest.raises(TypeError):
        seats.take([Pools((other,), (1,), 4)])
    staging.host = host
    seats.take([before])
    assert host["pools"][0, 0].tolist() == [one.keys.data.ptr, one.values.data.ptr]


def test_each_reservation_of_packed_blocks_is_looked_at():
    """Codes, scales and float rows are reserved apart. Catches new scales beside codes that lie where old ones lay."""
    codes, scales, others, floats = (fake_cupy.zeros((2, 3, 4), dtype=np.uint8) for _ in range(4))
    staging = Staging(fake_cupy, row_fields(1, 1, 1, 4, 5))
    seats, found = Seats(staging), []
    for own in (scales, others):
        seats.take([PackedPools([PackedLayer(codes, codes, own, own)], 3, floats, [2], 0, (1,), 4)])
        found.append(staging.host["pools"][0, 0].tolist())
    assert found[0] == [codes.data.ptr] * 2 + [scales.data.ptr] * 2 + [floats.data.ptr + 4 * 2]
    assert found[1][2:4] == [others.data.ptr] * 2


def test_a_prompts_tiles_fit_the_shared_memory_of_small_devices():
    """99 KB: heads of 256 numbers, Gemma's, took 102 KB in tiles of 32 rows, and a GeForce refuses such a launch."""
    assert max(prompt_bytes(size) for size in range(1, 257)) <= 99 << 10
    assert [tile_of(size) for size in (64, 128, 256)] == [64, 32, 16]
