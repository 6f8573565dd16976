"""The goldens have teeth: typical bugs, and every left-out line of the transformer, make a named golden fail."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from golden import BARE, FAMILIES, load_golden, write_hf_folder
from helpers import TOLERANCE, distance, golden_distance
from mutants import MUTANTS, deletions, planted

from tinyinfer.loading import load
from tinyinfer.model.attention import full_attention
from tinyinfer.model.heads import Heads, Sinks, SoftCap

# Functions that no golden runs, or not all of it, and the test that would notice instead.
# Some seconds each: run with -m full.
LARGE = ("loading.build", "loading.rotations", "backends.reference", "backends.numpy_ops")
TESTED_ELSEWHERE = {
    "model.transformer": {"nbytes": "test_build.py", "pass_nbytes": "test_draft_quantize.py"},
    "model.layers": {"nbytes": "test_build.py"},
    "model.heads": {"nbytes": "test_build.py"},
    "model.attention": {"nbytes": "test_build.py", "full_attention": "test_attention.py"},
    "model.moe": {"nbytes": "test_build.py"},
    "model.mlp": {"nbytes": "test_build.py"},
    "loading.build": {"build_model": "test_build.py (progress)", "as_floats": "the type",
                      "as_stored": "test_apply.py", "load_model": "test_apply.py",
                      "keeps_file_quantization": "test_apply.py", "note_floats": "test_gguf_blocks.py"},
    "loading.rotations": {"rotated = np.repeat": "test_rotations.py"},
    "backends.reference": {"__init__": "test_operations.py", "counting": "test_calibration.py",
                           "reserve": "test_fake_cupy.py", "take": "test_operations.py",
                           "compile": "the type", "relative_cost": "test_operations.py",
                           "available_memory": "test_limits.py", "sample": "test_choosing.py",
                           "check_range": "test_loading.py (half precision)",
                           "embed": "test_operations.py", "experts": "test_moe.py",
                           "use_blas_threads": "test_cpu.py"},
    "backends.numpy_ops": {"__init__": "test_numpy_ops.py", "relative_cost": "test_numpy_ops.py",
                           "reserve": "test_cpu.py", "allocate": "test_numpy_ops.py",
                           "dense_product": "test_numpy_ops.py (half precision)", "multiply": "test_numpy_ops.py",
                           "multiply_tiles": "test_numpy_ops.py (half precision)", "packed_product": "test_packed.py",
                           "w8a8_product": "test_w8a8.py", "integer_product": "test_w8a8.py",
                           "grouped_product": "test_int8_inputs.py",
                           "add": "test_numpy_ops.py"},
}  # fmt: skip
# The goldens that use most of the code come first, which saves time.
RICHEST = ["gpt_oss", "qwen2_moe", "gpt_neox", "gemma2", "gpt2", "olmoe"]
STRETCHED = ["phi3_long", "qwen2_yarn", "llama_yarn", "llama3", "llama_linear", "gpt_neox"]
UNLIKE_FIRST = {"loading.rotations": [*STRETCHED, *FAMILIES]}


@pytest.fixture(scope="module")
def goldens(golden_folder):
    return {name: (load(golden_folder(name)), load_golden(name)) for name in FAMILIES}


def off(package: str, goldens, family: str, file: str = "") -> float:
    """How far this golden is off when `package` computes it; infinite when it cannot."""
    checkpoint, golden = goldens[family]
    try:
        with np.errstate(all="ignore"):
            backend = "reference" if file == "backends.reference" else "numpy"
            return golden_distance(package, checkpoint, golden.tokens, golden.logits, backend)
    except Exception:  # a test that raises fails just as well
        return np.inf


def test_an_unchanged_copy_passes_every_golden(goldens, tmp_path):
    """Else the mutants below would be caught by the copying and not by the goldens."""
    with planted(tmp_path) as package:
        assert all(off(package, goldens, family) <= TOLERANCE for family in FAMILIES)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_golden_notices(mutant, goldens, tmp_path):
    """The named golden would fail with this bug."""
    with planted(tmp_path, {mutant.file: mutant.source}) as package:
        assert off(package, goldens, mutant.family, mutant.file) > TOLERANCE


FILES = [pytest.param(f, marks=pytest.mark.full) if f in LARGE else f for f in TESTED_ELSEWHERE]


@pytest.mark.parametrize("file", FILES)
def test_no_line_can_be_left_out(file, goldens, tmp_path):
    """Some golden fails whichever statement of these files is deleted."""
    unnoticed = []
    for line, text, source in deletions(file, spared=TESTED_ELSEWHERE[file]):
        with planted(tmp_path, {file: source}) as package:
            if all(
                off(package, goldens, family, file) <= TOLERANCE
                for family in UNLIKE_FIRST.get(file, [*RICHEST, *FAMILIES])
            ):
                unnoticed.append(f"{file}.py:{line}: {text}")
    assert not unnoticed, "\n".join(unnoticed)


# What a loader's line decides shows in the configuration or in a tensor, without running the model. Statements that
# begin so are noticed by the test beside them instead.
LOADERS: dict[str, dict[str, str]] = {
    "loading.hf_rope": {"return {'divisors'": "test_hf_writer.py", "self._repeats(PARTIAL, share)": "test_hf_rope.py",
                        "why = ": "test_hf_rope.py", "wrong = ": "test_hf_rope.py", "where, name = ": "test_hf_rope.py",
                        "self._refuse_ambiguous(": "test_hf_rope.py", "lengths = ": "test_hf_rope.py"},
    "loading.hf_layers": {"name = ": "test_hf_layers.py"},
    "loading.hf_storage": {"heads = ": "test_hf_storage.py", "wrong = ": "test_hf_storage.py",
                           "half = ": "test_hf_storage.py (experts fused by transformers 5)",
                           "return _gate_and_up(name, tensor.lazy(), slice(half)": "test_hf_storage.py"},
    "loading.reorder": {"first, last = covering(index": "test_reorder.py (codes)",
                        "return tensor.codes(first, last)": "test_reorder.py"},
}  # fmt: skip
SAYING_NO = ("f.refuse", "r.refuse", "t.r.refuse", "self.r.refuse", "self.f.refuse", "where.refuse", "_check_axes",
             "_one_a_layer", "r.refuse_unread", "both.refuse_unread", "t.factor", "neighbour_pairs_order")  # fmt: skip


def spellings(name: str) -> list[dict[str, Any]]:
    """Ways to write a golden's folder. Kinds of rotation called `type` are older than families with several of them."""
    golden = load_golden(name)
    old = golden.config["model_type"] not in ("gemma3_text", "olmo3")
    bare: list[dict[str, Any]] = [{"bare": True}] if golden.omissible else []
    return [{}, {"dialect": 4}, *bare, *([{"dialect": 4, "rope_type_key": "type"}] if old else [])]


def loaded(package: str, folder: Path) -> tuple[str, dict[str, int]]:
    """A folder as `package` loads it: the configuration in words, and the checksum of each tensor."""
    found = import_module(f"{package}.loading").load(folder)
    return repr(found.config), {name: crc32(tensor.numpy().tobytes()) for name, tensor in found.tensors.items()}


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # of a copy of the package, which no other process can import by its name
@pytest.mark.parametrize("file", LOADERS)
def test_no_line_of_the_loaders_can_be_left_out(file, tmp_path):
    """Some golden, in one of its spellings, is another model whichever statement of these files is deleted."""
    order = [*STRETCHED, *RICHEST, *FAMILIES, *BARE] if file == "loading.hf_rope" else [*RICHEST, *BARE, *FAMILIES]
    folders = {
        (name, i): write_hf_folder(name, tmp_path / f"{name}{i}", **spelling)
        for name in dict.fromkeys(order)
        for i, spelling in enumerate(spellings(name))
    }
    expected = {key: loaded("tinyinfer", folder) for key, folder in folders.items()}
    unnoticed = []
    for line, text, source in deletions(file, spared=SAYING_NO):
        if text.startswith(tuple(LOADERS[file])):
            continue
        with planted(tmp_path, {file: source}) as package:
            if all(same(package, folder, expected[key]) for key, folder in folders.items()):
                unnoticed.append(f"{file}.py:{line}: {text}")
    assert not unnoticed, "\n".join(unnoticed)


def same(package: str, folder: Path, expected: tuple[str, dict[str, int]]) -> bool:
    """Whether the copy loads the very same model; not when it cannot."""
    try:
        return loaded(package, folder) == expected
    except Exception:  # a test that raises fails just as well
        return False


def test_no_line_of_the_online_softmax_can_be_left_out(tmp_path):
    """Goldens are shorter than a tile of keys, so these lines are compared with the plain form of attention.

    Scores reach into the hundreds, where exp overflows without the running maximum.
    """
    rng = np.random.default_rng(6)
    q, (k, v) = 3 * rng.standard_normal((12, 4, 8)), 5 * rng.standard_normal((2, 33, 2, 8))
    sinks = Sinks(9 * rng.standard_normal((2, 2, 1)))
    place = {"first": 21, "start": 0, "heads": Heads(4, 2, 8, 1.0, None, SoftCap(300.0), sinks), "xp": np}
    expected, unnoticed = full_attention(q, k, v, **place), []
    for line, text, source in deletions("backends.flash", only=["attend_tile"]):
        # a test that raises fails just as well
        with planted(tmp_path, {"backends.flash": source}) as package, np.errstate(all="ignore"), suppress(Exception):
            found = import_module(f"{package}.backends.flash").attend_tile(q, k, v, **place, key_tile=len(q))
            if distance(found, expected) < 1e-9:
                unnoticed.append(f"flash.py:{line}: {text}")
    assert not unnoticed, "\n".join(unnoticed)
