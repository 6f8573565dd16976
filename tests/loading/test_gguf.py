"""loading/gguf.py: the gguf package's reader and dequantizer are the oracles; then files that lie in every way."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_writer import add_tensor, finish

from tinyinfer.errors import ModelError
from tinyinfer.loading import gguf as ours
from tinyinfer.loading.gguf import MAX_TEXTS, read_gguf

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10  # the specification's codes of metadata types


def can_dequantize(kind: gguf.GGMLQuantizationType) -> bool:
    try:
        gguf.quants.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


QUANTIZABLE = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "F16", "TQ1_0", "TQ2_0", "MXFP4"]
KINDS = [kind for kind in gguf.GGMLQuantizationType if can_dequantize(kind)]


def random_blocks(kind: gguf.GGMLQuantizationType, count: int) -> np.ndarray:
    """Random bytes of `count` blocks that mean finite numbers; (count, bytes of a block)."""
    rng = np.random.default_rng(int(kind))
    raw = rng.integers(0, 256, (8 * count, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
    with np.errstate(all="ignore"):
        finite = np.isfinite(gguf.quants.dequantize(raw, kind)).all(axis=1)
    assert finite.sum() >= count
    return raw[finite][:count]


def write_blocks(path: Path, kind: gguf.GGMLQuantizationType, shape: tuple[int, ...]) -> Path:
    """A file with one tensor "x" of random blocks behind another one, so that its data does not begin at 0."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("before", np.arange(3, dtype=np.float32))
    raw = random_blocks(kind, int(np.prod(shape)) // block).reshape(*shape[:-1], shape[-1] // block * size)
    writer.add_tensor("x", raw, raw_shape=raw.shape, raw_dtype=kind)
    finish(writer)
    return path


def oracle(path: Path, name: str) -> np.ndarray:
    """The whole tensor, by the gguf package alone."""
    tensor = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)
    numbers = gguf.quants.dequantize(np.array(tensor.data), tensor.tensor_type)
    return numbers.reshape(tensor.shape[::-1].tolist())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("leading", [(7,), (3, 5)], ids=["matrix", "experts"])
def test_any_rows_of_any_type_equal_the_oracles(kind: Any, leading: tuple[int, ...], tmp_path: Path) -> None:
    """Catches a wrong row size, dimensions left in the file's order, and a tile that begins at the wrong block."""
    shape = (*leading, 2 * gguf.GGML_QUANT_SIZES[kind][0])
    path = write_blocks(tmp_path / "x.gguf", kind, shape)
    tensor, expected = read_gguf(str(path)).tensors["x"], oracle(path, "x")
    assert tensor.shape == expected.shape == shape
    for start, stop in [(0, 1), (1, 3), (2, 3), (0, leading[0])]:
        rows = tensor.read(start, stop)
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, expected[start:stop])


@pytest.mark.parametrize("kind", ["F32", "BF16", "Q8_0", "Q6_K"])
def test_elements_of_a_vector_need_not_begin_at_a_block(kind: str, tmp_path: Path) -> None:
    """Catches reading a bias or a norm, whose "rows" are single numbers, by whole blocks only."""
    path = write_blocks(tmp_path / "x.gguf", gguf.GGMLQuantizationType[kind], (512,))
    tensor, expected = read_gguf(str(path)).tensors["x"], oracle(path, "x")
    for start, stop in [(0, 512), (5, 6), (31, 33), (255, 300)]:
        np.testing.assert_array_equal(tensor.read(start, stop), expected[start:stop])


def test_tensors_larger_than_a_piece_are_dequantized_whole(tmp_path: Path) -> None:
    """Catches a last piece of a tile that is lost or written to the wrong place."""
    shape = (3, ours.PIECE // 2 + 32)
    path = write_blocks(tmp_path / "x.gguf", gguf.GGMLQuantizationType.Q5_1, shape)
    tensor = read_gguf(str(path)).tensors["x"]
    np.testing.assert_array_equal(tensor.numpy(), oracle(path, "x"))
    assert tensor.nbytes == np.prod(shape) // 32 * 24


@pytest.mark.parametrize("qtype", QUANTIZABLE)
def test_what_gguf_quantized_comes_back(qtype: str, tmp_path: Path) -> None:
    """Catches an oracle that is fed the same wrong bytes as we are: here the numbers are known beforehand."""
    weights = np.random.default_rng(5).normal(size=(6, 512)).astype(np.float32)
    if qtype.startswith("TQ"):
        weights = np.sign(weights)  # ternary types hold nothing else
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    add_tensor(writer, "x", weights, qtype)
    finish(writer)
    found = read_gguf(str(tmp_path / "x.gguf")).tensors["x"].numpy()
    error = np.sqrt(np.mean((found - weights) ** 2))
    bound = {"Q4_0": 0.13, "Q4_1": 0.1, "Q5_0": 0.07, "Q5_1": 0.05, "MXFP4": 0.15}  # about step / sqrt(12), in sigmas
    assert error < bound.get(qtype, 0.01)


def test_metadata_of_every_type(tmp_path: Path) -> None:
    """Catches a wrong width or sign of any metadata type, lost Unicode and a value taken for the next one's."""
    values: dict[str, Any] = {
        "uint8": 200, "uint16": 60000, "uint32": 4 * 10**9, "uint64": 2**64 - 1, "bool": True,
        "int8": -100, "int16": -30000, "int32": -2 * 10**9, "int64": -(2**63),
        "float32": 1.5, "float64": 0.1, "string": "Grüße, 世界 🙂",
    }  # fmt: skip
    arrays: dict[str, Any] = {"ints": [-3, 4], "floats": [0.5, 2.0], "bools": [True, False], "texts": ["a", "", "ß"]}
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    for name, value in values.items():
        getattr(writer, f"add_{name}")(f"x.{name}", value)
    for name, value in arrays.items():
        writer.add_array(f"x.{name}", value)
    finish(writer)
    fields = read_gguf(str(tmp_path / "x.gguf")).fields
    assert {f"x.{name}": value for name, value in values.items()} | {"general.architecture": "llama"} == {
        key: value for key, value in fields.items() if key.removeprefix("x.") not in arrays
    }
    assert type(fields["x.bool"]) is bool
    assert {name: list(fields[f"x.{name}"]) for name in arrays} == arrays


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def info(name: str = "x", shape: tuple[int, ...] = (4, 2), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, offset)


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def raw_file(
    pairs: list[bytes],
    infos: list[bytes],
    data: bytes = bytes(64),
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """A GGUF file made by hand, from the specification."""
    tensors, metadata = counts or (len(infos), len(pairs))
    header = b"GGUF" + struct.pack("<IQQ", version, tensors, metadata) + b"".join(pairs + infos)
    return header + bytes(-len(header) % 32) + data


LIST = array(U32, 2, struct.pack("<2I", 7, 8))
SMALL = raw_file([pair("a.text", STRING, text("abc")), pair("a.list", ARRAY, LIST)], [info()])


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_made_by_hand(version: int, tmp_path: Path) -> None:
    """Catches a misreading of the format that GGUFWriter and GGUFReader might share with us; both versions."""
    data = np.arange(8, dtype="<f4").tobytes()
    path = tmp_path / "x.gguf"
    path.write_bytes(raw_file([pair("n", U32, struct.pack("<I", 9))], [info(shape=(4, 2))], data, version))
    file = read_gguf(str(path))
    assert file.fields == {"n": 9}
    np.testing.assert_array_equal(file.tensors["x"].numpy(), np.arange(8).reshape(4, 2))


def test_the_alignment_of_the_file_holds(tmp_path: Path) -> None:
    """Catches an alignment of 32 taken for granted."""
    pairs = [pair("general.alignment", U32, struct.pack("<I", 256))]
    header = raw_file(pairs, [info(shape=(2, 2))], b"")
    path = tmp_path / "x.gguf"
    path.write_bytes(header + bytes(256 - len(header)) + np.array([1, 2, 3, 4], "<f4").tobytes())
    np.testing.assert_array_equal(read_gguf(str(path)).tensors["x"].numpy(), [[1, 2], [3, 4]])


LIES = {
    "text longer than the file": (raw_file([pair("k", STRING, struct.pack("<Q", 2**60))], []), "truncated"),
    "text of 2**64-1 bytes": (raw_file([pair("k", STRING, struct.pack("<Q", 2**64 - 1))], []), "truncated"),
    "key longer than the file": (raw_file([struct.pack("<Q", 2**40)], []), "truncated"),
    "array of 2**60 numbers": (raw_file([pair("k", ARRAY, array(U32, 2**60))], []), "truncated"),
    "array of 2**60 texts": (raw_file([pair("k", ARRAY, array(STRING, 2**60))], []), "truncated"),
    "array of a text and a lie": (
        raw_file([pair("k", ARRAY, array(STRING, 2, text("abc") + struct.pack("<Q", 999)))], []), "truncated"
    ),
    "2**63 metadata": (raw_file([], [], counts=(0, 2**63)), "truncated"),
    "2**63 tensors": (raw_file([], [], counts=(2**63, 0)), "truncated"),
    "20,000 keys": (
        raw_file([pair("", BOOL, b"\1")] * 20_000, []), "has 20000 metadata keys and 0 tensors, and 16384 of each"
    ),
    "20,000 tensors": (raw_file([], [info()] * 20_000), "has 0 metadata keys and 20000 tensors"),
    "more metadata than there are": (raw_file([pair("k", BOOL, b"\1")], [], b"", counts=(0, 4)), "truncated"),
    "2**40 dimensions of elements": (raw_file([], [info(shape=(2**40, 2**23))]), "truncated"),
    "elements whose number is beyond 64 bits": (raw_file([], [info(shape=(2**63, 2**63))]), "truncated"),
    "a name that fills the screen": (raw_file([], [info("x" * 300)]), "name of 300 characters"),
    "no dimensions": (raw_file([], [info(shape=())]), "0 dimensions"),
    "five dimensions": (raw_file([], [info(shape=(1, 1, 1, 1, 2))]), "5 dimensions"),
    "an empty tensor": (raw_file([], [info(shape=(0, 4))]), "no elements"),
    "rows of half a block": (raw_file([], [info(shape=(2, 48), kind=2)]), "rows of 48"),
    "an unknown tensor type": (raw_file([], [info("odd.weight", kind=99)]), "'odd.weight' is of type number 99"),
    "a type without float32": (raw_file([], [info("ids", kind=26)]), "'ids' is of type I32"),
    "a tensor behind the end": (raw_file([], [info(offset=64)]), "truncated"),
    "a tensor far behind the end": (raw_file([], [info(offset=2**64 - 32)]), "truncated"),
    "a tensor off its alignment": (raw_file([], [info(offset=8)]), "alignment"),
    "a tensor over another": (raw_file([], [info("x"), info("y")]), "puts tensor"),
    "two tensors of a name": (raw_file([], [info(), info(offset=32)]), "two tensors"),
    "two metadata of a key": (raw_file([pair("k", BOOL, b"\0")] * 2, []), "'k' twice"),
    "an unknown type of metadata": (raw_file([pair("k", 13, b"")], []), "unknown type"),
    "an array of arrays": (raw_file([pair("k", ARRAY, array(ARRAY, 1))], []), "array of arrays"),
    "a truth value of 2": (raw_file([pair("k", BOOL, b"\2")], []), "truth value"),
    "text that is not UTF-8": (raw_file([pair("k", STRING, text(b"\xff\xfe"))], []), "UTF-8 in 'k'"),
    "a key that is not UTF-8": (raw_file([pair(b"\xff", BOOL, b"\0")], []), "UTF-8"),
    "alignment 0": (raw_file([pair("general.alignment", U32, struct.pack("<I", 0))], []), "alignment"),
    "alignment 24": (raw_file([pair("general.alignment", U32, struct.pack("<I", 24))], []), "alignment"),
    "alignment 32.0": (raw_file([pair("general.alignment", F32, struct.pack("<f", 32))], []), "alignment"),
    "alignment 2**40": (raw_file([pair("general.alignment", U64, struct.pack("<Q", 2**40))], []), "alignment"),
    "version 1": (raw_file([], [], version=1), "version 1"),
    "version 4": (raw_file([], [], version=4), "version 4"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "another format": (b"PK\3\4" + bytes(100), "not a GGUF file"),
    "nothing": (b"", "truncated"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_lying_file_is_refused_in_one_line_before_memory_is_taken(name: str, tmp_path: Path) -> None:
    """Catches a length that is believed, and any exception but ModelError."""
    content, expected = LIES[name]
    path = tmp_path / "lie.gguf"
    path.write_bytes(content)
    try:
        tracemalloc.start()
        with pytest.raises(ModelError) as error:
            read_gguf(str(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(error.value)
    assert peak < 100_000
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert "\n" not in message


def test_more_texts_than_any_vocabulary_has(tmp_path: Path) -> None:
    """Catches 30 million empty texts of 8 bytes each, which took 6 s to read."""
    path = tmp_path / "texts.gguf"
    path.write_bytes(raw_file([pair("k", ARRAY, array(STRING, MAX_TEXTS + 1))], []))
    os.truncate(path, 8 * MAX_TEXTS + 1000)
    with pytest.raises(ModelError, match=r"the file is damaged: it holds \d+ texts up to 'k', more than 4194304"):
        read_gguf(str(path))


def test_a_file_cut_anywhere_is_called_truncated(tmp_path: Path) -> None:
    """Catches a reader that takes what it finds at the end of a file for what it wanted."""
    path = tmp_path / "cut.gguf"
    path.write_bytes(SMALL)
    assert read_gguf(str(path)).tensors["x"].shape == (4, 2)
    end_of_tensor = len(SMALL) - 32  # the data is 64 bytes long and the tensor 32
    for cut in range(end_of_tensor):
        path.write_bytes(SMALL[:cut])
        with pytest.raises(ModelError, match=r"truncated.*download it again"):
            read_gguf(str(path))


def test_a_file_cut_after_it_was_opened_is_called_truncated(tmp_path: Path) -> None:
    """Catches rows made of fewer bytes than asked for."""
    path = tmp_path / "x.gguf"
    path.write_bytes(SMALL)
    tensor = read_gguf(str(path)).tensors["x"]
    path.write_bytes(SMALL[:-50])
    with pytest.raises(ModelError, match=r"truncated.*'x'"):
        tensor.numpy()
    path.unlink()
    with pytest.raises(ModelError, match="'x' cannot be read"):
        tensor.numpy()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    """Catches a damaged scale that would turn every answer into NaN, and NumPy's warnings about it on stderr."""
    path = tmp_path / "x.gguf"
    block = np.float16(value).tobytes() + b"\x88" * 16  # Q4_0 stores 0 as 8, and 0 * infinity makes NumPy warn
    path.write_bytes(raw_file([], [info(shape=(2, 32), kind=2)], bytes(18) + block + bytes(28)))
    tensor = read_gguf(str(path)).tensors["x"]
    np.testing.assert_array_equal(tensor.read(0, 1), np.zeros((1, 32)))
    with pytest.raises(ModelError, match=r"x\.gguf: tensor 'x' holds NaN or infinity"):
        tensor.numpy()


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    """Catches an OSError that reaches the user as a traceback."""
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ModelError, match="cannot be read"):
            read_gguf(str(path))
