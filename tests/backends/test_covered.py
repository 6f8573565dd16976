"""What the kernels leave to CuPy's operations, and that the user is told why."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from golden import BARE, FAMILIES
from helpers import make_engine, small_config
from on_device import gpu_engine
from packed_matrices import random_matrix

from tinyinfer.backends.kernels.covered import for_tensor_cores, of_a_weight, uncovered, weight_type
from tinyinfer.backends.packed_rows import PackedRows
from tinyinfer.backends.stacked import Stacked
from tinyinfer.errors import ModelWarning
from tinyinfer.loading import load
from tinyinfer.model.config import MoEConfig
from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.model.weights import Dense

LAYER_NORM = {"norm": "layer", "gated": False}
REASONS = {
    "a mixture of experts": small_config(experts=MoEConfig(5, 2, 12)),
    "an MLP without a gate": small_config(gated=False),
    "no RMSNorm stands before attention": small_config(norm="layer"),
    "the same rows": small_config(**LAYER_NORM, parallel=True),
    "learned vectors": small_config(**LAYER_NORM, learned_positions=True, rope=(None, None)),
    "over all heads of a row together": small_config(qk_norm="full"),
    "17 query heads of 6 numbers share": small_config(num_heads=17, num_kv_heads=1),
    "9 query heads of 136 numbers share": small_config(num_heads=9, num_kv_heads=1, head_dim=136),
    "no RMSNorm stands before": small_config(pre_norms=False, post_norms=True),
}
LEFT = {  # golden families, without their bare twins, that CuPy's operations compute
    "gpt2", "gpt2_inner", "mixtral", "qwen3_moe", "qwen3_moe_raw", "olmoe", "olmo2", "olmo3", "gpt_neox",
    "gpt_neox_serial", "qwen2_moe", "qwen3_moe_mixed", "gpt_oss",
}  # fmt: skip


@pytest.mark.parametrize("reason", REASONS)
def test_each_reason_is_a_sentence(reason):
    """Catches a layer that a kernel would compute as if it were another kind."""
    engine = make_engine(REASONS[reason])
    assert reason in uncovered(engine.model, engine.cache)


@pytest.mark.parametrize(
    ("switches", "reason"),
    [
        ({"kv_cache": "none"}, "kv_cache=none"), ({"quantize": "int8"}, "for a CPU"),
        ({"kv_bits": 8, "kv_group_size": 2, "block_size": 2049}, "block_size=2049 gives a packed block more scales"),
    ],
)
def test_caches_and_weights(switches, reason):
    """Kernels read keys and values in place, and codes row by row; pack_block has its scales in shared memory."""
    engine = make_engine(small_config(), **switches)
    assert reason in uncovered(engine.model, engine.cache)
    if "block_size" in switches:
        engine = make_engine(small_config(), **{**switches, "block_size": 2048})
        assert uncovered(engine.model, engine.cache) == ""


@pytest.mark.cuda
@pytest.mark.parametrize("name", [*FAMILIES, *BARE])
def test_every_golden_family(name, golden_folder):
    """Either the kernels compute a family, or it is on the list of those that they leave."""
    engine = make_engine(load(golden_folder(name)))
    assert bool(uncovered(engine.model, engine.cache)) == (name.removesuffix("_bare") in LEFT)


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (PackedRows.pack(random_matrix(4, 64, QuantScheme(5, 32, True)), np), "codes of 5 bits are no type"),
        (PackedRows.pack(random_matrix(4, 256, QuantScheme(4, 32, False, nested=8)), np), "4 bits with nested scales"),
        (Stacked((Dense(np.zeros((4, 3), np.float32)),), np), "tensors in different types"),
    ],
)
def test_what_a_file_brings_and_kernels_do_not_know(weight, reason):
    """Catches a K-quant whose scales a kernel would read as float16."""
    assert reason in of_a_weight(weight)


def test_the_user_is_told():
    """One note that names the switch, the reason and what happens instead; none where the user asked for no kernels."""
    with pytest.warns(ModelWarning, match="gpu_decode=graph: .* without a gate, so CuPy's operations"):
        assert gpu_engine(small_config(gated=False)).compiled is None
    assert gpu_engine(small_config(gated=False), "eager").compiled is None


def test_the_types_of_weights():
    """Names as in weights.cuh; tensor cores multiply everything but float32."""
    kinds = {np.float32: "float32", np.float16: "float16", ml_dtypes.bfloat16: "bfloat16"}
    for kind, name in kinds.items():
        weight = Dense(np.zeros((4, 3), kind))
        assert weight_type(weight) == f"Dense<{name}>"
        assert for_tensor_cores(weight) == (name != "float32")
    for quantize, name in (("int8", "Packed<8, 32, true>"), ("int4", "Packed<4, 32, false>")):
        engine = gpu_engine(small_config(), quantize=quantize)
        assert weight_type(engine.model.layers[0].mixer.qkv.weight) == name
