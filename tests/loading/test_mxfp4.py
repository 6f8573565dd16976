"""gpt-oss's experts in 4 bits: the numbers by hand, and two halves that belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden import load_golden, write_hf_folder
from helpers import TOLERANCE, distance, small_config
from safetensors.numpy import save_file

from tinyinfer import LLM
from tinyinfer.errors import ModelError
from tinyinfer.loading import load
from tinyinfer.loading.checkpoint import LazyTensor
from tinyinfer.loading.hf_names import canonical_tensors
from tinyinfer.loading.mxfp4 import NUMBERS, is_mxfp4
from tinyinfer.loading.safetensors import read_header
from tinyinfer.loading.saving import save_model
from tinyinfer.model.config import MoEConfig

EXPERTS = "model.layers.0.mlp.experts."
CONFIG = small_config(architecture="gpt_oss", hidden_size=64, experts=MoEConfig(3, 2, 5))
VALUES = [0, 0.5, 1, 1.5, 2, 3, 4, 6]  # of e2m1: two bits of exponent, one of fraction; then the same, negative
Arrays = dict[str, np.ndarray]


def random_pair(outputs: int, groups: int) -> Arrays:
    rng = np.random.default_rng(outputs)
    blocks = rng.integers(0, 256, (3, outputs, groups, 16), dtype=np.uint8)
    return {"blocks": blocks, "scales": rng.integers(120, 135, (3, outputs, groups), dtype=np.uint8)}


def one_number(pair: Arrays, expert: int, output: int, i: int) -> float:
    """Input i of an output, read as the format says it, one number at a time."""
    byte = int(pair["blocks"][expert, output, i // 32, i % 32 // 2])
    code = byte >> 4 if i % 2 else byte & 15
    return (-1 if code & 8 else 1) * VALUES[code & 7] * 2.0 ** (int(pair["scales"][expert, output, i // 32]) - 127)


def read(folder: Path, arrays: Arrays) -> dict[str, LazyTensor]:
    save_file({f"{EXPERTS}{name}": array for name, array in arrays.items()}, folder / "model.safetensors")
    return canonical_tensors(str(folder), CONFIG, read_header(folder / "model.safetensors"))


def refusal(folder: Path, arrays: Arrays) -> str:
    with pytest.raises(ModelError) as caught:
        read(folder, arrays)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_number_is_the_one_that_its_bits_say(tmp_path: Path) -> None:
    """Catches the halves of a byte exchanged, an exponent off by one, and outputs in the place of inputs."""
    pair = random_pair(10, 2)
    tensors = read(tmp_path, {f"gate_up_proj_{kind}": array for kind, array in pair.items()})
    whole = np.array([[[one_number(pair, x, o, i) for i in range(64)] for o in range(10)] for x in range(3)])
    for name, first in (("gate", 0), ("up", 1)):
        tensor = tensors[f"layers.0.{name}"]
        assert (tensor.shape, tensor.nbytes) == ((3, 5, 64), 3 * 5 * 2 * 17)
        np.testing.assert_array_equal(tensor.numpy(), whole[:, first::2].astype(np.float32))
        np.testing.assert_array_equal(tensor.read(1, 2), whole[1:2, first::2].astype(np.float32))


def test_all_sixteen_numbers() -> None:
    """Catches a wrong entry of the table, which random codes at a loose tolerance would hide."""
    assert NUMBERS.tolist() == VALUES + [-value for value in VALUES]
    assert np.signbit(NUMBERS[8])


def test_a_scale_that_no_number_has_is_refused(tmp_path: Path) -> None:
    """Catches exponent 128, which the format keeps for NaN, read as a number: 0 times it would be 0."""
    pair = random_pair(64, 1)
    pair["scales"][1, 2, 0], pair["blocks"][1, 2, 0, 0] = 255, 0x77
    tensors = read(tmp_path, {f"down_proj_{kind}": array for kind, array in pair.items()})
    with pytest.raises(ModelError, match="down_proj_blocks' holds NaN or infinity"):
        tensors["layers.0.down"].numpy()


PAIR = random_pair(64, 1)
WRONG: dict[str, tuple[Arrays, str]] = {
    "scales are missing": ({"down_proj_blocks": PAIR["blocks"]}, "down_proj_scales' is missing"),
    "blocks are missing": ({"down_proj_scales": PAIR["scales"]}, "down_proj_blocks' is missing"),
    "of other groups": (
        {"down_proj_blocks": PAIR["blocks"], "down_proj_scales": PAIR["scales"][:, :, [0, 0]]}, "(3, 64, 2)"
    ),
    "of other numbers a block": (
        {"down_proj_blocks": PAIR["blocks"][..., :8], "down_proj_scales": PAIR["scales"]}, "(3, 64, 1, 8)"
    ),
    "scales as floats": (
        {"down_proj_blocks": PAIR["blocks"], "down_proj_scales": PAIR["scales"].astype(np.float32)}, "and F32 of shape"
    ),
    "the floats beside them": (
        {"down_proj_blocks": PAIR["blocks"], "down_proj_scales": PAIR["scales"],
         "down_proj": np.zeros((3, 32, 64), np.float32)}, "are the same weight"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_halves_that_do_not_belong_together_are_refused(tmp_path: Path, case: str) -> None:
    """Catches one half read by itself, and floats or codes of one weight that win over the other without a word."""
    arrays, named = WRONG[case]
    assert named in refusal(tmp_path, {name: np.ascontiguousarray(array) for name, array in arrays.items()})


GIVEN = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}


def test_a_folder_that_says_so_loads_and_is_no_folder_of_ours(tmp_path: Path) -> None:
    """Catches the field refused as another tool's, taken for ours, or in the way when the model is quantized anew."""
    golden = load_golden("gpt_oss")
    folder = write_hf_folder(golden, tmp_path / "gpt_oss", changes={"quantization_config": GIVEN})
    assert load(folder).quantization is None
    llm, tokens = LLM(str(folder), quantize="int8"), golden.tokens.tolist()
    save_model(tmp_path / "int8", llm.model, load(folder), {"method": "rtn"})
    assert distance(LLM(str(folder)).logits(tokens), golden.logits) < TOLERANCE
    np.testing.assert_array_equal(LLM(str(tmp_path / "int8")).logits(tokens), llm.logits(tokens))


def test_no_other_family_is_published_so(tmp_path: Path) -> None:
    """Catches a Llama in 4 bits of which only the floats would be looked at."""
    with pytest.raises(ModelError, match="the weights are quantized by 'mxfp4'"):
        load(write_hf_folder("llama", tmp_path, changes={"quantization_config": GIVEN}))


def test_whose_quantization_it_is() -> None:
    """Catches another tool's quantization taken for this one, and a field that is no table."""
    assert is_mxfp4(GIVEN)
    assert not any(map(is_mxfp4, (None, "mxfp4", {"quant_method": "gptq"}, {})))
