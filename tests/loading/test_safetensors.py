"""safetensors files and folders of them: every tile is the library's numbers, every refusal is one sentence."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from golden import load_golden, write_hf_folder
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from tinyinfer.errors import ModelError, ModelWarning
from tinyinfer.loading import safetensors
from tinyinfer.loading.hf_folder import load_folder, read_tensors
from tinyinfer.loading.safetensors import read_header

GoldenFolder = Callable[[str], Path]
TENSORS: dict[str, np.ndarray] = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.linspace(-3, 3, 6, dtype=np.float16),
    "brain": np.linspace(-9, 9, 10).astype(ml_dtypes.bfloat16).reshape(5, 2),
}


def write_file(path: Path, header: object, data: bytes = b"") -> Path:
    """A safetensors file with any header, as object or as bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(*shape: Any, dtype: Any = "F32", at: Any = (0, 8)) -> dict[str, Any]:
    """A tensor's description in a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(at)}


def refusal(read: Callable[[Path], object], path: Path) -> str:
    """The message of the ModelError, one line that names the path."""
    with pytest.raises(ModelError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- numbers ---


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_numbers_are_the_librarys(tmp_path: Path, dtype: type) -> None:
    """A wrong offset, byte order or conversion; random bits include infinities, NaNs, subnormals and -0."""
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 1 << 8 * np.dtype(dtype).itemsize, 3 * 5 * 7).astype(f"u{np.dtype(dtype).itemsize}")
    arrays = {"first": np.ones(3, dtype), "second": bits.view(dtype).reshape(3, 5, 7), "third": bits.view(dtype)[::-1]}
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, tmp_path / "x.safetensors")
    for name, stored in read_header(tmp_path / "x.safetensors").items():
        with safe_open(tmp_path / "x.safetensors", "np") as file:
            expected = file.get_tensor(name).astype(np.float32)
        whole = stored.rows(0, len(expected))
        assert whole.dtype == np.float32
        np.testing.assert_array_equal(whole, expected)
        np.testing.assert_array_equal(stored.rows(1, 3), expected[1:3])
        assert stored.nbytes == arrays[name].nbytes


def test_tiles_and_columns_are_parts_of_the_whole(tmp_path: Path) -> None:
    """An offset in bytes instead of numbers, or rows taken for columns, shows only in later tiles."""
    whole = np.random.default_rng(8).normal(size=(11, 6)).astype(np.float16)
    save_file({"before": np.ones(5, np.float16), "x": whole}, tmp_path / "x.safetensors")
    stored = read_header(tmp_path / "x.safetensors")["x"]
    tiles = list(stored.lazy().tiles(elements=18))
    assert [start for start, _ in tiles] == [0, 3, 6, 9]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in tiles]), whole.astype(np.float32))
    np.testing.assert_array_equal(stored.columns(2, 5), whole[:, 2:5].T)
    assert stored.columns(2, 5).flags.c_contiguous


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_reading_a_file_leaves_none_of_it_in_memory(tmp_path: Path) -> None:
    """A file that stays mapped counts as resident page by page: 200 MB read would be 200 MB more."""
    path = write_file(tmp_path / "x.safetensors", {"x": entry(50, 1 << 20, at=(0, 50 << 22))})
    os.truncate(path, path.stat().st_size + (50 << 22))  # all zeros, and no room on disk

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    most = max(resident() for _ in read_header(path)["x"].lazy().tiles())
    assert most - before < 40 << 20


# --- headers that lie ---

BAD_HEADERS: dict[str, tuple[object, str]] = {
    "not JSON": (b"{nonsense", "invalid JSON in header"),
    "not text": (b"\xff\xff\xff\xff", "invalid UTF-8 in header"),
    "a list": ([1, 2], "invalid type: sequence"),
    "nested too deep": (b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}", "recursion limit exceeded"),
    "a tensor twice": (b'{"x":%s,"x":%s}' % ((json.dumps(entry(2)).encode(),) * 2), "'x' is given twice"),
    "a tensor that is no object": ({"x": 7}, "invalid type: integer `7`"),
    "no type": ({"x": {"shape": [2], "data_offsets": [0, 8]}}, "missing field `dtype`"),
    "no shape": ({"x": {"dtype": "F32", "data_offsets": [0, 8]}}, "missing field `shape`"),
    "no place": ({"x": {"dtype": "F32", "shape": [2]}}, "missing field `data_offsets`"),
    "a type that is a list": ({"x": entry(2, dtype=["F32"])}, "expected string or map"),
    "an unknown type": ({"x": entry(2, dtype="F31")}, "unknown variant `F31`"),
    "a type with half bytes": ({"x": entry(16, dtype="F4")}, "'x' has type 'F4'"),
    "a negative size": ({"x": entry(-2, -1)}, "integer `-2`, expected usize"),
    "a size that is a float": ({"x": entry(2.0)}, "floating point `2.0`, expected usize"),
    "a size that is a string": ({"x": entry("2")}, 'string "2", expected usize'),
    "a size that is a truth value": ({"x": entry(2, True)}, "boolean `true`, expected usize"),
    "a hundred axes": ({"x": entry(2, *[1] * 100)}, "'x' has shape"),
    "a size beyond all memory": ({"x": entry(1 << 40, 1 << 40)}, "overflow computing buffer size"),
    "nothing times too much": ({"x": entry(0, 1 << 70, at=(0, 0))}, "expected usize"),
    "a shape larger than its place": ({"x": entry(3)}, "invalid shape, data type, or offset"),
    "a shape smaller than its place": ({"x": entry(1)}, "invalid shape, data type, or offset"),
    "one end of a place": ({"x": entry(2, at=(0,))}, "invalid length 1"),
    "a place that ends before it begins": ({"x": entry(2, at=(8, 0))}, "invalid offset for tensor `x`"),
    "a place before the data": ({"x": entry(2, at=(-8, 0))}, "integer `-8`, expected usize"),
    "a place beyond the file": ({"x": entry(4, at=(0, 16))}, "file not fully covered"),
    "a place far beyond the file": ({"x": entry(2, at=(1 << 60, (1 << 60) + 8))}, "invalid offset for tensor `x`"),
    "a gap": ({"x": entry(1, at=(4, 8))}, "invalid offset for tensor `x`"),
    "an overlap": ({"x": entry(2), "y": entry(1, at=(4, 8))}, "invalid offset for tensor `y`"),
    "data without a tensor": ({"x": entry(1, at=(0, 4))}, "file not fully covered"),
    "no tensors, but data": ({}, "file not fully covered"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_header_that_lies_is_refused(tmp_path: Path, case: str) -> None:
    """Catches a reader that gives another tensor's numbers, or asks for more memory than there is."""
    header, named = BAD_HEADERS[case]
    assert named in refusal(read_header, write_file(tmp_path / "x.safetensors", header, bytes(8)))


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_the_library_refuses_the_same_headers(tmp_path: Path, case: str) -> None:
    """Three refusals are ours: a repeated name, half bytes, a hundred axes. Others read such files."""
    path = write_file(tmp_path / "x.safetensors", BAD_HEADERS[case][0], bytes(8))
    if case in ("a tensor twice", "a type with half bytes", "a hundred axes"):
        safe_open(path, "np").__enter__()
    else:
        with pytest.raises(SafetensorError):
            safe_open(path, "np").__enter__()


def test_a_header_of_more_tensors_than_the_file_has_data_for(tmp_path: Path) -> None:
    """Catches L5: a header of 28 MB, all tensors without numbers, took 1.6 GB and 11 s."""
    many = {str(i): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(30_000)}
    path = write_file(tmp_path / "x.safetensors", many, b"")
    assert "header: holds about 330000 values in " in refusal(read_header, path)
    few = {name: entry for name, entry in many.items() if int(name) < 15_000}
    assert len(read_header(write_file(path, few, b""))) == 15_000


@pytest.mark.parametrize("claimed", [0, 1, 1 << 20, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_a_header_length_that_lies_is_refused(tmp_path: Path, claimed: int) -> None:
    """A MemoryError, or half a header."""
    path = write_file(tmp_path / "x.safetensors", {"x": entry(2)}, bytes(8))
    path.write_bytes(struct.pack("<Q", claimed) + path.read_bytes()[8:])
    expected = "invalid JSON" if claimed <= 1 else "header too large" if claimed > 1 << 20 else "invalid header length"
    assert expected in refusal(read_header, path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """An interrupted download."""
    save_file(TENSORS, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "x.safetensors").write_bytes(whole[:length])
        refusal(read_header, tmp_path / "x.safetensors")


def test_a_file_cut_while_in_use_is_refused(tmp_path: Path) -> None:
    """Catches numbers that are whatever the memory held before, and a mapping that outlives its file: it kills."""
    path = tmp_path / "x.safetensors"
    save_file({"x": np.ones((3, 4), np.float16)}, path)
    stored = read_header(path)["x"]
    np.testing.assert_array_equal(stored.rows(0, 2), np.ones((2, 4)))
    os.truncate(path, path.stat().st_size - 1)
    assert "became shorter while in use" in refusal(lambda _: stored.rows(2, 3), path)
    assert "became shorter while in use" in refusal(lambda _: stored.columns(3, 4), path)
    path.unlink()
    assert "cannot be read" in refusal(lambda _: stored.rows(0, 1), path)


def test_the_header_is_read_once_however_many_tensors_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mixture of experts has thousands of tensors; to open the file for each would be quadratic in their number."""
    save_file({f"x{i}": np.full((2, 3), i, np.float32) for i in range(50)}, tmp_path / "x.safetensors")
    opened = []
    monkeypatch.setattr(safetensors, "safe_open", lambda *args: opened.append(args) or safe_open(*args))
    for name, stored in read_header(tmp_path / "x.safetensors").items():
        np.testing.assert_array_equal(stored.rows(1, 2), np.full((1, 3), int(name[1:])))
    assert len(opened) == 1


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path]:
    """The bytes of a good file, and a path to write changed ones to."""
    folder = tmp_path_factory.mktemp("fuzz")
    save_file(TENSORS, folder / "good.safetensors", metadata={"format": "pt"})
    return (folder / "good.safetensors").read_bytes(), folder / "x.safetensors"


BYTES = st.integers(0, 255) | st.sampled_from(b'0123456789,[]{}"')


@settings(max_examples=300)
@given(changes=st.lists(st.tuples(st.integers(0, 400), BYTES), max_size=3))
@example(changes=[])
def test_no_bytes_end_in_another_error(small_file: tuple[bytes, Path], changes: list[tuple[int, int]]) -> None:
    """And whatever is accepted, the library accepts too, with the same numbers."""
    good, path = small_file
    content = bytearray(good)
    for place, value in changes:
        content[place % len(content)] = value
    path.write_bytes(content)
    try:
        tensors = read_header(path)
    except ModelError:
        return
    expected = load_file(path)
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        if array.dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
            np.testing.assert_array_equal(tensors[name].rows(0, len(array)), array.astype(np.float32))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_double_precision_is_rounded_to_single(tmp_path: Path, name: str) -> None:
    """As by transformers 5.23; catches a model refused for more digits than needed, and columns left double."""
    folder = write_hf_folder(name, tmp_path)
    weights = load_golden(name).weights()
    save_file({key: array.astype(np.float64) for key, array in weights.items()}, folder / "model.safetensors")
    usual = load_folder(write_hf_folder(name, tmp_path / "usual")).tensors
    for key, tensor in load_folder(folder).tensors.items():
        assert tensor.numpy().dtype == np.float32
        np.testing.assert_array_equal(tensor.numpy(), usual[key].numpy())


def test_a_number_beyond_single_precision_is_refused(tmp_path: Path) -> None:
    """Catches an infinity that the file does not hold, or NumPy's warning in place of a sentence."""
    save_file({"x": np.array([[1.0, 1e39]])}, tmp_path / "x.safetensors")
    tensor = read_header(tmp_path / "x.safetensors")["x"].lazy()
    assert "'x' holds NaN or infinity" in refusal(lambda path: tensor.numpy(), tmp_path / "x.safetensors")


@pytest.mark.parametrize("part", ["model.safetensors", "model.safetensors.index.json", "config.json"])
def test_a_pointer_in_place_of_a_file_is_told(tmp_path: Path, part: str) -> None:
    """Catches a clone without Git LFS blamed on the format: too few bytes for a header, no valid JSON."""
    folder = write_hf_folder("llama2", tmp_path / "model", shards=3 if "index" in part else 1)
    oid = "ab" * 32
    (folder / part).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 269060552\n")
    said = refusal(load_folder, folder)
    assert f"{part}: is a Git LFS pointer" in said
    assert "git lfs pull" in said


# --- folders ---


def test_shards_are_one_model(tmp_path: Path) -> None:
    """Each shard has offsets of its own."""
    one = load_folder(write_hf_folder("llama", tmp_path / "one"))
    three = load_folder(write_hf_folder("llama", tmp_path / "three", shards=3))
    assert one.config == three.config
    assert one.tensors.keys() == three.tensors.keys()
    for name, tensor in one.tensors.items():
        np.testing.assert_array_equal(tensor.numpy(), three.tensors[name].numpy())


def test_a_checkpoint_has_all_its_parts(golden_folder: GoldenFolder) -> None:
    folder = golden_folder("llama")
    checkpoint = load_folder(folder)
    golden = load_golden("llama")
    assert checkpoint.path == str(folder)
    assert checkpoint.config.vocab_size == golden.config["vocab_size"]
    assert checkpoint.tokenizer.encode("the") != []
    total = sum(array.nbytes for array in golden.weights().values())
    assert sum(tensor.nbytes for tensor in checkpoint.tensors.values()) == total


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A folder of three shards to break."""
    return write_hf_folder("llama2", tmp_path / "model", shards=3)


def change_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    return folder


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    assert "'model-00002-of-00003.safetensors', which is not there" in refusal(load_folder, sharded)


@pytest.mark.parametrize(
    "shard",
    ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "C:x.safetensors", "x.bin", "",
     "\x00.safetensors", "\ud800.safetensors", "a\nb.safetensors", "x" * 300 + ".safetensors", 7, None,
     ["x.safetensors"]],
)  # fmt: skip
def test_a_shard_that_is_no_file_name_is_refused(sharded: Path, shard: object) -> None:
    """An index from elsewhere must not make us open files outside its folder."""
    change_index(sharded, lambda index: index["weight_map"].update({"model.norm.weight": shard}))
    assert "index.json: its weight_map is not a table" in refusal(load_folder, sharded)


@pytest.mark.parametrize("weight_map", [None, {}, [], "model.safetensors", 3])
def test_an_index_without_a_table_is_refused(sharded: Path, weight_map: object) -> None:
    change_index(sharded, lambda index: index.update(weight_map=weight_map))
    assert "index.json: its weight_map is not a table" in refusal(load_folder, sharded)


def test_an_index_that_is_wrong_about_a_tensor_is_refused(sharded: Path) -> None:
    """One shard of another model among the right ones."""
    where = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    other = next(shard for shard in where.values() if shard != where["model.norm.weight"])
    change_index(sharded, lambda index: index["weight_map"].update({"model.norm.weight": other}))
    assert "'model.norm.weight' is in" in refusal(load_folder, sharded)
    change_index(sharded, lambda index: index["weight_map"].update({"model.norm.weight": where["model.norm.weight"]}))
    change_index(sharded, lambda index: index["weight_map"].update({"model.extra.weight": other}))
    assert "'model.extra.weight' is in" in refusal(load_folder, sharded)


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    """Catches a loader that takes one of the two at random."""
    first, second = (sharded / f"model-0000{i}-of-00003.safetensors" for i in (1, 2))
    shutil.copy(first, second)
    assert "is also in model-00001-of-00003.safetensors" in refusal(load_folder, sharded)


@pytest.mark.parametrize("broken", [False, True])
def test_one_file_beside_a_stale_index_is_read(sharded: Path, broken: bool) -> None:
    """As by transformers 5.23; catches an index of another checkpoint that wins, or that stops a whole model."""
    weights = load_golden("llama2").weights()
    save_file(weights | {"model.norm.weight": weights["model.norm.weight"] * 2}, sharded / "model.safetensors")
    if broken:
        (sharded / "model.safetensors.index.json").write_text("{")
    with pytest.warns(ModelWarning, match=r"model\.safetensors is read, and model\.safetensors\.index\.json"):
        norm = load_folder(sharded).tensors["final_norm"].numpy()
    np.testing.assert_array_equal(norm, weights["model.norm.weight"] * 2)


def test_an_index_may_name_the_one_file(golden_folder: GoldenFolder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(golden_folder("llama"), folder)
    where = dict.fromkeys(load_golden("llama").tensors, "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert read_tensors(folder).keys() == where.keys()


def test_what_was_looked_for_is_said(golden_folder: GoldenFolder, tmp_path: Path) -> None:
    """A folder that is not there, an empty one, one with a pickle only."""
    folder = tmp_path / "model"
    assert "no such folder; one with config.json and model.safetensors" in refusal(load_folder, folder)
    folder.mkdir()
    assert "config.json" in refusal(load_folder, folder)
    shutil.copy(golden_folder("llama") / "config.json", folder)
    missing = refusal(load_folder, folder)
    assert "neither model.safetensors nor model.safetensors.index.json" in missing
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert "it holds 'pytorch_model.bin': pickled weights" in refusal(load_folder, folder)


def test_weights_of_another_size_are_refused(golden_folder: GoldenFolder, tmp_path: Path) -> None:
    """config.json of one model beside the weights of another."""
    folder = tmp_path / "model"
    shutil.copytree(golden_folder("llama"), folder)
    shutil.copy(golden_folder("llama3") / "config.json", folder)
    assert "has shape (277, 60), but the configuration needs (277, 64)" in refusal(load_folder, folder)


def test_an_unreadable_file_is_named(golden_folder: GoldenFolder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(golden_folder("llama"), folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    assert "model.safetensors: cannot be read" in refusal(load_folder, folder)
