"""Values cross as bytes, and come out as values: equal where they are data, and nothing else at all."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.course.sandbox.frames import LENGTH, MOST_ARRAY_BYTES, MOST_HEADER, WireError, read_frame
from tinyinfer.course.sandbox.records import Handle, Kept, Received
from tinyinfer.course.sandbox.stand_ins import DeviceView, SequenceView
from tinyinfer.course.sandbox.wire import pack, unpack
from tinyinfer.kv_cache.base import LayerRows
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import Rows
from tinyinfer.model.heads import Heads, NoCap, NoSinks, Sinks, SoftCap
from tinyinfer.sampling import Choice
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import Draft, RequestSpec, Sequence, make_batch


def sequence(id: int = 3, new: tuple[int, ...] = ()) -> Sequence:
    seq = Sequence(RequestSpec(id, [1, 2], SamplingParams(top_k=4), 7, 5, frozenset()), FakeText)
    for token in new:
        seq.append(Choice(token), 0.0)
    return seq


class FakeText:
    """Text of no interest."""

    def push(self, token: int) -> bool:
        return False

    def finish(self) -> None:
        """Nothing is shown."""


def frame(header: object, data: bytes = b"") -> bytes:
    """A frame with any header: JSON of an object, or the bytes themselves."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return LENGTH.pack(len(text)) + text + data


def told(value: object) -> str:
    """The sentence with which a value is refused."""
    with pytest.raises(WireError) as error:
        pack(value)
    return str(error.value)


# Values that cross.

PLAIN = [None, True, False, 0, -(2**63), 2**64, 1.5, "", "ä\n\x1b[2J", [], [1, [2.0, None]], (), (1, (2,)), {},
         {"a": [1], "b": {"c": ()}}, {1: 0.5}]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_values_come_out_equal_and_of_the_same_type(value):
    """Catches a tuple that becomes a list, and a key that becomes a string."""
    assert repr(unpack(pack(value))) == repr(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -0.0])
def test_numbers_that_json_lacks_come_out(value):
    """Catches NaN written as a word of JavaScript, and a lost sign."""
    out = unpack(pack([value]))[0]
    assert np.array(out).tobytes() == np.array(value).tobytes()


read_only = np.arange(6, dtype=np.int16)
read_only.flags.writeable = False
ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3), "no axis": np.array(2.5),
    "empty": np.zeros((0, 5), np.int8), "transposed": np.arange(6).reshape(2, 3).T,
    "every other": np.arange(9)[::-2], "read-only": read_only,
    "repeated": np.broadcast_to(np.float16(1), (3, 2)), "bool": np.array([True, False]),
    "metadata": np.zeros(2, np.dtype("f4", metadata={"a": 1})),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_out_as_fresh_copies(name):
    """Catches an array by its memory's order, a view of the frame, and a view of the other side's memory."""
    array = ARRAYS[name]
    out, again = (unpack(data)["a"] for data in [pack({"a": array})] * 2)
    assert out.dtype == array.dtype
    assert out.shape == array.shape
    assert out.tobytes() == array.tobytes()
    assert out.flags.writeable
    assert out.flags.owndata
    assert out.dtype.metadata is None
    assert not np.shares_memory(out, array)
    assert not np.shares_memory(out, again)


def test_an_array_on_disk_comes_out(tmp_path):
    """Catches the weights of a model, which are mapped, taken for an unknown class."""
    np.save(tmp_path / "a.npy", np.arange(4))
    assert unpack(pack(np.load(tmp_path / "a.npy", mmap_mode="r"))).tolist() == [0, 1, 2, 3]


def test_numpy_s_scalars_become_python_s():
    """A student's float64 is a number as any other."""
    assert repr(unpack(pack([np.float32(0.5), np.int64(3), np.bool_(True)]))) == "[0.5, 3, True]"


def test_a_dtype_and_numpy_itself_cross_by_name():
    """Arguments of array code: which dtype, which array module."""
    assert unpack(pack([np.float16, np.dtype("int8"), np])) == [np.dtype("float16"), np.dtype("int8"), np]


def test_the_child_builds_records_by_class_and_the_grader_does_not():
    """Catches a child that makes the grader construct objects."""
    layer, choice = LayerRows(np.ones(1), np.zeros(2)), Choice(3, top={5: 0.1})
    value = [Rows(2, 4, 4), SamplingParams(temperature=0.5), layer, choice]
    there = unpack(pack(value), Kept())
    assert there[:2] == value[:2]
    assert there[3] == value[3]
    assert isinstance(there[2], LayerRows)
    back = unpack(pack(there, Kept()))
    assert [type(record) for record in back] == [Received] * 4
    assert [record.kind for record in back] == ["Rows", "SamplingParams", "LayerRows", "Choice"]
    assert back[1].temperature == 0.5
    keys, values = back[2]
    assert (keys.tolist(), values.tolist()) == ([1.0], [0.0, 0.0])
    with pytest.raises(AttributeError, match=r"Rows has no field 'size'; its fields are heads, key_size, value_size"):
        back[0].size  # noqa: B018


@pytest.mark.parametrize("cap", [NoCap(), SoftCap(1.5)], ids=repr)
@pytest.mark.parametrize("sinks", [NoSinks(), Sinks(np.float32([[[0.5], [-2.0]]]))], ids=["no sinks", "sinks"])
def test_heads_work_in_the_child_with_their_cap_and_sinks(cap, sinks):
    """Catches a record within a record that arrives without its functions, or with half of its numbers."""
    heads = Heads(2, 1, 4, 0.5, 3, cap, sinks)
    there, scores = unpack(pack(heads), Kept()), np.float32([[[-3.0], [0.25]]])  # (K, H/K, T) for T = 1
    assert (there.queries, there.keys, there.size, there.scale, there.window) == (2, 1, 4, 0.5, 3)
    for mine, theirs in zip(used(heads, scores), used(there, scores), strict=True):
        assert theirs.dtype == np.float32
        assert np.array_equal(mine, theirs)
    back = unpack(pack(there, Kept()))
    assert (back.cap.kind, back.sinks.kind) == (type(cap).__name__, type(sinks).__name__)


def used(heads: Heads, scores: np.ndarray) -> tuple[np.ndarray, ...]:
    """What attention asks of its heads."""
    largest = heads.sinks.largest(scores, np)
    return heads.cap(scores, np), largest, heads.sinks.total(np.exp(scores - largest), largest, np)


def test_only_the_package_s_classes_are_built():
    """The grader sends no others; a name from elsewhere is a fault of the grader."""
    with pytest.raises(WireError, match="no class of the package"):
        unpack(frame({"arrays": [], "value": {"record": ["subprocess:Popen", {"args": "true"}]}}), Kept())


def test_a_sequence_is_one_view_for_the_child_however_often_it_is_sent():
    """Catches a cache that keeps rows by the sequence itself and finds none in the next call."""
    kept, seq = Kept(), sequence(new=(8,))
    seq.set_drafts([Draft(9)])
    batch = unpack(pack(make_batch([(seq, 0, 3)])), kept)
    view = batch.spans[0].seq
    assert isinstance(view, SequenceView)
    assert (view.id, view.tokens, view.most_positions, view.drafts) == (3, [1, 2, 8], 7, [Draft(9)])
    assert view.sampling == (SamplingParams(top_k=4), [1, 2], [8], 7)
    seq.append(Choice(9), 0.0)
    assert unpack(pack(seq), kept) is view
    assert view.tokens == [1, 2, 8, 9]
    assert unpack(pack(sequence(4)), kept) is not view


def test_a_backend_becomes_a_device_whose_memory_promises_nothing():
    """Catches a cache that counts on zeros, and counts that leave the grader."""
    device = unpack(pack(ReferenceOps(Ledger(flops=5))), Kept())
    assert isinstance(device, DeviceView)
    assert (device.ledger, device.xp) == (Ledger(), np)
    assert np.isnan(device.reserve((2, 3))).all()
    assert device.reserve((2,), np.int8).tolist() == [0, 0]
    assert device.to_host(ARRAYS["matrix"]) is ARRAYS["matrix"]


def test_an_object_crosses_as_its_number_if_the_child_keeps_it():
    """Catches any object as a result: only what a request has made stays with the child."""
    kept, made = Kept(), object()
    handle = kept.keep(made)
    assert unpack(pack([made], kept)) == [handle]
    assert unpack(pack([handle]), kept) == [made]
    assert kept.keep(made) == handle
    with pytest.raises(WireError, match="a broken object"):
        unpack(pack(Handle(7)), kept)


keys = st.text() | st.integers(1 - 2**63, 2**63 - 1)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=20,
)


@given(values)
@settings(max_examples=60, deadline=None)
def test_whatever_is_plain_comes_out_equal(value):
    """Catches a combination that is in no table."""
    assert repr(unpack(pack(value))) == repr(value)


# Values that do not cross, in a sentence for the student.


@dataclass
class Cache:
    """A record that holds something odd."""

    rows: object


REFUSED = {
    "big-endian": (np.zeros(2, ">f4"), "the result is an array of dtype '>f4': wrong byte order for this machine"),
    "objects": (np.array([None]), "the result is an array of dtype object; give one of bool, float16"),
    "structured": (np.zeros(2, "i4,f4"), "the result is an array of dtype [('f0'"),
    "complex": (np.zeros(2, complex), "the result is an array of dtype complex128"),
    "masked": (np.ma.masked_array([1]), "the result is a MaskedArray; give a plain array"),
    "text array": (np.array(["a"]), "the result is an array of dtype <U1"),
    "set": ({1}, "the result is a set; give numbers"),
    "generator": ([(x for x in ())], "the result[0] is a generator"),
    "function": ({"f": len}, "the result['f'] is a builtin_function_or_method"),
    "class": (Cache, "the result is the class Cache"),
    "object": (Cache(object()), "the result.rows is an object"),
    "long number": (1 << 300, "the result is a whole number of 301 bits"),
    "key": ({(1,): 2}, "the result is a dict with the key a tuple"),
    "half a character": ("\ud800", "the result is a string with half a character"),
    "many": ([0] * 100_001, "more than 100,000 values; give numbers as an array"),
    "long text": ("a" * MOST_HEADER, "the result needs 1,048,6"),
    "large": (np.broadcast_to(np.float64(0), (1 << 30,)), "the result has the shape (1073741824,); 64 MB of arrays"),
    "many arrays": ([np.zeros(1)] * 257, "more than 256 arrays at once"),
    "long double": (np.longdouble(1), "the result is a"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_cross_is_refused_in_a_sentence(name):
    """Catches a result that would be converted in silence, and a message that names neither place nor type."""
    value, sentence = REFUSED[name]
    assert sentence in told(value)


def test_a_value_within_itself_is_refused():
    """Catches an endless descent."""
    value: list[object] = []
    value.append(value)
    assert "nested more than 20 deep" in told(value)


def test_the_value_is_named_in_the_error():
    """An argument of the grader's is no result of the student's."""
    with pytest.raises(WireError, match=r"^argument 2\[0\]\.rows is a set; give"):
        pack([Cache({1})], what="argument 2")


# Frames that lie.


def forged() -> Iterator[tuple[str, bytes]]:
    """Frames that `pack` does not make."""
    good = pack({"a": np.arange(3)})
    yield from (("nothing", b""), ("half", good[:-1]), ("trailing", good + b"\0"), ("no header", good[:4]))
    yield from (("no JSON", frame(b"{")), ("no text", frame(b"\xff{}")))
    yield "huge header", LENGTH.pack(0xFFFFFFFF) + b"{}"
    yield "deep", frame(b"[" * 500_000)
    yield "twice", frame(b'{"arrays":[],"arrays":[],"value":1}')
    yield "constant", frame(b'{"arrays":[],"value":NaN}')
    yield "long number", frame(b'{"arrays":[],"value":' + b"9" * 5000 + b"}")
    yield "wide number", frame({"arrays": [], "value": 1 << 300})
    for header in (1, [], {}, {"arrays": []}, {"arrays": {}, "value": 1}, {"arrays": [], "value": 1, "more": 2}):
        yield f"header {header}", frame(header)
    for entry in (1, ["f4"], ["object", [1]], ["float32", [-1]], ["float32", [1.5]], ["float32", ["1"]], ["float32", 3],
                  ["float32", [True]], ["float32", [1] * 17], ["float64", [1 << 40, 1 << 40]], ["int8", [0, 1 << 62]],
                  ["float32", [MOST_ARRAY_BYTES]], [["float32"], [1]]):  # fmt: skip
        yield f"array {entry}", frame({"arrays": [entry], "value": {"array": 0}}, bytes(4))
    one = {"arrays": [["int8", [1]]]}
    for value in ({"array": 1}, {"array": -1}, {"array": True}, {"array": "0"}, [{"array": 0}, {"array": 0}], None):
        yield f"used as {value}", frame(one | {"value": value}, b"\0")
    for value in ({}, {"a": 1, "b": 2}, {"pickle": "x"}, {"float": 1}, {"float": []}, {"tuple": 3}, {"dict": [[1]]},
                  {"dict": [["a", 1], ["a", 2]]}, {"dict": [[None, 1]]}, {"record": ["x"]}, {"record": [1, {}]},
                  {"record": ["a:B", {"not a name": 1}]}, {"object": "1"}, {"dtype": "object"}, {"dtype": []},
                  {"module": "os"}):  # fmt: skip
        yield f"value {value}", frame({"arrays": [], "value": value})
    yield "surrogate", frame(b'{"arrays":[],"value":"\\ud800"}')
    yield "many values", frame({"arrays": [], "value": [0] * 100_001})
    yield "many arrays", frame({"arrays": [["int8", [0]]] * 257, "value": None})


FORGED = dict(forged())


@pytest.mark.parametrize("name", FORGED)
def test_a_frame_that_lies_is_an_error_of_the_wire(name):
    """Catches any other exception: it would be a fault of the grader. Nothing is allocated for absurd sizes."""
    with pytest.raises(WireError):
        unpack(FORGED[name])


@given(st.binary(max_size=60), st.integers(0, 200))
@settings(max_examples=150, deadline=None)
def test_no_bytes_break_the_grader(junk, at):
    """Catches a crash by bytes of no known kind: a good frame with junk in its middle."""
    good = pack([{"a": np.arange(3)}, (1, 2.5), Choice(3)])
    with_junk = good[:at] + junk + good[at + len(junk) :]
    with suppress(WireError):
        unpack(with_junk)


def test_a_stream_gives_frame_after_frame_and_ends_with_nothing():
    """Catches a reader that waits for more than a frame, and half a frame taken for a whole one."""
    frames = [pack(1), pack(np.arange(5)), pack("a")]
    stream = io.BytesIO(b"".join(frames) + frames[1][:-1])
    assert [read_frame(stream) for _ in range(5)] == [*frames, b"", b""]
