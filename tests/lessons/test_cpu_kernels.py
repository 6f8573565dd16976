"""Lesson 17: its judges know the right layout and loops and the usual slips; no sentence knows a time beforehand.

Nothing is compiled here: kernels run as plain Python. What numba makes of them is in test_compiled_kernels.py.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyinfer.backends.packed import Packed
from tinyinfer.lessons import kernel_found as found
from tinyinfer.lessons import kernel_judge
from tinyinfer.lessons.cpu_kernels import ADDED, EXERCISES, NUMBERS, PLACE, READ, predicted, token_bytes
from tinyinfer.lessons.kernel_judge import cases, judge_product, numbered
from tinyinfer.lessons.kernel_ladder import block_product, float_rows, in_blocks
from tinyinfer.lessons.kernel_products import OwnProducts, Products, decoded, halved, in_turn, packed, products
from tinyinfer.lessons.kernel_reads import lines_fetched, noted_reads
from tinyinfer.lessons.lesson import Lesson
from tinyinfer.llm import LLM
from tinyinfer.model.visit import matrices
from tinyinfer.model.weights import Linear

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "src" / "17_cpu_kernels.py"
EXERCISE = {one.name: one for one in EXERCISES}
LOOPS = inspect.getsource(block_product).partition("-> None:")[2]


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge as it is where numba is not installed."""
    monkeypatch.setattr(kernel_judge, "find_spec", lambda name: None)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return Lesson("17_cpu_kernels").tiny(backend="numpy", quantize="int8", quantize_head="int8", group_size=32)


@pytest.fixture(scope="module")
def rows(llm: LLM) -> Products:
    return products(llm)


def changed(*changes: tuple[str, str]) -> Callable[..., Any]:
    """Our kernel with some places changed, as a student may have written it."""
    text = f"def block_product(codes, scale, x, y):{LOOPS}"
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    names: dict[str, Any] = {"np": np}
    exec(text, names)
    return names["block_product"]  # type: ignore[no-any-return]


def told(name: str, answer: object) -> str:
    """What a wrong answer is told, sentence and hint."""
    wrong = EXERCISE[name].judged(answer)
    assert wrong is not None
    return f"{wrong.sentence} {wrong.hint}"


# What memory allows.


def test_the_bytes_of_a_token_are_those_that_the_library_holds(rows: Products, llm: LLM) -> None:
    """Catches a formula without scales, or with scales of four bytes."""
    assert NUMBERS == 30 * (576 * 960 + 576 * 576 + 576 * 3072 + 1536 * 576) + 49152 * 576
    assert token_bytes() == NUMBERS + NUMBERS / 16
    whole = [held for _, held in matrices(llm.model) if isinstance(held, Linear) and held.weight.shape[0] % 64 == 0]
    kept = {id(held.weight) for held in whole}
    assert kept
    counted = Products(tuple(part for part in rows.parts if id(part.weight) in kept))
    assert counted.nbytes == sum(held.weight.nbytes for held in whole)


def test_no_usual_guess_is_the_truth() -> None:
    """Catches a misconception that would be told to who is right."""
    truth, usual = predicted()
    assert truth == pytest.approx(37e9 / (134_479_872 * 1.0625))
    assert all(abs(value / truth - 1) > 0.01 for value in usual)


# The layout.


def test_blocks_are_the_librarys(rows: Products) -> None:
    """Catches blocks that a kernel could read, but that are not what the lesson says of the library."""
    blocks = packed(rows, in_blocks)
    assert len(blocks.parts) == 9
    for part in blocks.parts:
        assert isinstance(part.weight, Packed)
        assert np.array_equal(part.codes.view(np.uint8) ^ 128, part.weight.codes)
        assert np.array_equal(part.scale, part.weight.scale)


LAYOUTS = {
    "in the old order": lambda codes: codes.reshape(-1, 64, codes.shape[1]).swapaxes(1, 2),
    "only cut into other pieces": lambda codes: codes.reshape(-1, codes.shape[1], 64),
    "exchange the last two axes": lambda codes: codes.reshape(-1, 64, codes.shape[1]),
    "every J-th output": lambda c: np.ascontiguousarray(c.reshape(64, -1, c.shape[1]).transpose(1, 2, 0)),
    "change none": lambda codes: in_blocks(codes).astype(np.float32),
    "The shape is": lambda codes: in_blocks(codes)[0],
    "end it with `return`": lambda codes: None,
    "return an array": lambda codes: in_blocks(codes).tolist(),
    "the code of output": lambda codes: in_blocks(codes[::-1]),
}


@pytest.mark.parametrize("said", LAYOUTS)
def test_a_slip_in_the_layout_is_named(said: str) -> None:
    """Catches a hint that fits another mistake, or a view that counts as moved."""
    assert said in told("in blocks", LAYOUTS[said])


# The kernel.

SUM, SCALED = "part[r] += codes[j, k, r] * x[k]", "y[j, r] += scale[j, g, r] * part[r]"
ZERO = "            part[:] = 0\n"
LANES = "for r in range(64):\n                    "
KERNELS = {
    "The scales are missing": [(SCALED, "y[j, r] += part[r]")],
    "Only the last group": [(SCALED, "y[j, r] = scale[j, g, r] * part[r]")],
    "still holds those of the groups before it": [(ZERO, ""), ("        y[j] = 0\n", "        y[j] = part[:] = 0\n")],
    "the first group's scales": [("scale[j, g, r]", "scale[j, 0, r]")],
    "the scale of its first one": [("scale[j, g, r]", "scale[j, g, 0]")],
    "holds what it held before the call": [("        y[j] = 0\n", "")],
    "all get a sum": [("for j in range(J)", "for j in range(J - 1)")],
    "With 2 blocks, 12 inputs, 3 groups": [(SUM, "part[r] += codes[j, k, r] * x[0]")],
    "has changed codes, scale or x": [(SCALED, "scale[j, g, r] *= part[r]\n                y[j, r] += scale[j, g, r]")],
    "runs on and on": [("for j in range(J)", "for j in range(0) or iter(int, 1)"), ("y[j] = 0", "y[0] = 0")],
}


@pytest.mark.parametrize("said", KERNELS)
def test_a_slip_in_the_kernel_is_named(said: str) -> None:
    """Catches one hint for all mistakes."""
    assert said in told("block product", changed(*KERNELS[said]))


def test_one_scale_for_all_groups_is_named() -> None:
    """Catches a kernel that sums up all inputs first."""
    def kernel(codes: Any, scale: Any, x: Any, y: Any) -> None:
        for j in range(len(codes)):
            y[j] = sum(codes[j, k] * x[k] for k in range(len(x))) * scale[j, -1]

    assert "before one scale is applied" in told("block product", kernel)


def test_an_index_out_of_range_is_said_before_anything_is_compiled() -> None:
    """Compiled, such a kernel would write over other memory, and the notebook would be gone."""
    beyond = changed((LANES + SUM, LANES.replace("64", "65") + SUM))
    assert "out of bounds" in told("block product", beyond)


def outputs_outside(codes: Any, scale: Any, x: Any, y: Any) -> None:
    """The right numbers, output by output: each step reads 64 bytes further."""
    size = len(x) // scale.shape[1]
    for j in range(len(codes)):
        for r in range(64):
            y[j, r] = 0
            for k in range(len(x)):
                y[j, r] += scale[j, k // size, r] * codes[j, k, r] * x[k]


def test_the_order_of_the_textbook_is_no_answer() -> None:
    """Catches a judge that looks at the numbers alone: 24 lines of memory, and each is fetched for 64 bytes of it."""
    assert "24 lines of memory" in told("block product", outputs_outside)
    assert "1536" in told("block product", outputs_outside)


def by_slices(codes: Any, scale: Any, x: Any, y: Any) -> None:
    """64 outputs by one operation on arrays, which numba compiles as well."""
    size = len(x) // scale.shape[1]
    for j in range(len(codes)):
        y[j] = 0
        for k in range(len(x)):
            y[j] += scale[j, k // size] * codes[j, k] * x[k]


def two_inputs(codes: Any, scale: Any, x: Any, y: Any) -> None:
    """Two inputs at a time, as the lesson's next step does."""
    size = len(x) // scale.shape[1]
    for j in range(len(codes)):
        y[j] = 0
        for k in range(0, len(x), 2):
            for r in range(64):
                y[j, r] += scale[j, k // size, r] * (codes[j, k, r] * x[k] + codes[j, k + 1, r] * x[k + 1])


def by_views(codes: Any, scale: Any, x: Any, y: Any) -> None:
    """Views of blocks and inputs, indexed one after the other."""
    size = len(x) // scale.shape[1]
    for j, block in enumerate(codes):
        y[j] = 0
        for k in range(codes.shape[1]):
            line = block[k].astype(np.float32)
            for r in range(64):
                y[j, r] += scale[j, k // size, r] * line[r] * x[k]


@pytest.mark.parametrize("kernel", [by_slices, two_inputs, by_views])
def test_another_kernel_in_the_right_order_is_right(kernel: Callable[..., None]) -> None:
    """Catches a judge that knows only our own lines."""
    assert judge_product(kernel) is None


@pytest.mark.parametrize(("places", "fetched"), [
    (list(range(256)), 4),
    (list(range(0, 256, 64)) * 3, 4),
    ([64 * (i % 9) for i in range(27)], 27),
    ([0, 64 * 8, 0, 64, 128], 4),
])  # fmt: skip
def test_lines_are_fetched_once_while_they_are_in_the_cache(places: list[int], fetched: int) -> None:
    """Catches a cache that forgets too early, or never: it has eight lines."""
    assert lines_fetched(places) == fetched


def test_every_way_to_read_is_noted() -> None:
    """Catches reads by slices or views that no one counts, so that any order would seem right."""
    array = noted_reads(np.arange(24, dtype=np.int8).reshape(2, 3, 4))
    assert array[1, 2, 3] == 23
    assert array[0][1][2] == 6
    assert (array[1, 0] * np.float32(2)).tolist() == [24, 26, 28, 30]
    assert array[0, 0].astype(np.int32).sum() == 6
    assert array.noted == [23, 6, 12, 13, 14, 15, 0, 1, 2, 3]
    assert (len(array), array.shape, array.ndim) == (2, (2, 3, 4), 3)


def test_rows_are_computed_as_one_by_one() -> None:
    """Catches a kernel for several rows that mixes them up."""
    codes, scale, _ = next(cases())
    x = np.random.default_rng(3).standard_normal((3, codes.shape[1]), dtype=np.float32)
    y, one = np.empty((3, len(codes), 64), np.float32), np.empty((len(codes), 64), np.float32)
    float_rows(codes, scale, x, y)
    for row, got in zip(x, y, strict=True):
        block_product(codes, scale, row, one)
        assert np.allclose(got, one, rtol=1e-5, atol=1e-3)


# In the engine.


def test_the_model_writes_the_same_with_a_students_kernel(llm: LLM, rows: Products) -> None:
    """Catches products that go past the kernel, bytes that are not those of its arrays, and a padded last block."""
    blocks, calls = packed(rows, in_blocks), []
    held = sum(linear.weight.nbytes for _, linear in matrices(llm.model) if isinstance(linear, Linear))

    def kernel(*arrays: np.ndarray) -> None:
        calls.append(1)
        block_product(*arrays)

    theirs, own = decoded(llm, "Once", 4), decoded(llm, "Once", 4, OwnProducts(llm.ops, kernel, blocks.parts))
    assert own.tokens == theirs.tokens
    assert len(calls) == 3 * len(rows.parts) + 1  # of the prompt's rows only the last one goes into the head, alone
    assert own.weight_bytes - theirs.weight_bytes == blocks.held - held


def test_products_are_compared_by_their_results(rows: Products) -> None:
    """Catches a comparison that sees the padding, or that sees nothing."""
    blocks = packed(rows, in_blocks)
    blocks.run(block_product)
    rows.run(lambda codes, scale, x, y: np.copyto(y, (codes * np.repeat(scale, 32, axis=1)) @ x))
    assert blocks.furthest(rows) < 1e-5
    blocks.parts[3].y[0, 5] += 1
    assert blocks.furthest(rows) > 1e-3


def test_a_scale_of_two_bytes_is_the_same_number(rows: Products) -> None:
    """Catches scales that are not what the format holds."""
    small = halved(packed(rows, in_blocks))
    for part in small.parts:
        assert isinstance(part.weight, Packed)
        assert np.array_equal(part.scale.view(np.float16), part.weight.scale)
    words = np.arange(0x7C00, dtype=np.int32)  # every float16 from 0 on that is finite
    floats = (words << 13).view(np.float32) * np.float32(2.0**112)  # as the notebook widens them
    assert np.array_equal(floats, words.astype(np.uint16).view(np.float16).astype(np.float32))


def test_kernels_take_turns(rows: Products) -> None:
    """Catches all rounds of one kernel before those of another: other load would hit one of them alone."""
    ran: list[str] = []
    one = rows.first(3)
    times = in_turn({name: (one, lambda *arrays, name=name: ran.append(name)) for name in ("a", "b")}, rounds=2)
    assert ran == ["a", "b", "a", "b"]
    assert {*times} == {"a", "b"}
    assert one.parts[0].codes.shape[0] == one.parts[0].outputs == 3


# Sentences, by the numbers.


def test_sentences_follow_the_numbers() -> None:
    """Catches a claim about speed that no measurement of this machine has made."""
    assert found.promise(100_000_000, (20e9, 30e9), 2).endswith("2 threads together read 30 GB/s.")
    assert found.promise(100_000_000, (20e9, 20e9), 1).endswith("at most 200 tokens a second.**")
    assert "slower than NumPy's way" in found.compiled_said(1e6, 2e9, 1e9, 30e9)
    assert "slower than" not in found.compiled_said(1e6, 1e9, 2e9, 30e9)
    assert "no obstacle" in found.compiled_said(1e6, 1e9, 25e9, 30e9)
    assert "most of what is left" in found.fastmath_said(2.0, 1.0)
    assert "too short for that" in found.fastmath_said(1.0, 1.0)
    assert "no gain here" in found.order_said(0.1, 0.1, 143_000_000, 37e9)
    assert "only now do codes win" in found.order_said(0.1, 0.01, 143_000_000, 37e9)
    assert "save memory alone" in found.order_said(0.1, 0.02, 143_000_000, 37e9)
    assert "2.0 times slower" in found.wider_said(1.0, 2.0)
    assert "no difference" in found.wider_said(1.0, 1.0)
    assert "**1.50 times as fast" in found.pairs_said(1.5, 1.0)
    assert "not what this processor waits for" in found.pairs_said(1.0, 1.0)
    assert "takes no time" in found.halves_said(1.06, 1.05)
    assert "the time is not" in found.halves_said(1.06, 0.99)
    assert "only take turns" in found.threads_said(1e9, 1e9, (1e9, 1e9), 1)
    assert "Nothing was gained" in found.threads_said(1e9, 1e9, (1e9, 1e9), 2)
    assert "more of these" in found.threads_said(1e9, 1.8e9, (30e9, 33e9), 2)
    assert "1.90 times as much as one" in found.threads_said(1e9, 1.8e9, (10e9, 19e9), 2)


def test_sentences_about_rows_and_losses_follow_the_numbers() -> None:
    """Catches a loss that is told where the kernel wins, and the other way round."""
    floats, dots = {1: 1.0, 4: 3.0}, {1: 1.0, 4: 1.25}
    assert found.gain(dots, 4) == 3.2
    said = found.rows_said(floats, dots, 4, True)
    assert "1.3 times, with whole numbers 3.2 times: 4 rows take 3000 ms and 1250 ms" in said
    assert "stand in" in found.rows_said(floats, dots, 4, False)
    assert "no larger" in found.rows_said(floats, floats, 4, True)
    assert "fewer than 9 tokens" in found.compile_said(0.9, 0.11, 0.01)
    assert "second token" in found.compile_said(0.1, 0.11, 0.01)
    assert "nothing ever pays" in found.compile_said(0.9, 0.01, 0.01)
    assert "loses, 2.0 times" in found.prompt_said(256, 2.0, 1.0)
    assert "its own" in found.prompt_said(256, 1.0, 1.0)
    assert "**The largest error is 30%" in found.shared_said(0.3, 2)
    assert "Nothing promises that" in found.shared_said(1e-6, 2)
    assert "shares with none" in found.shared_said(1e-6, 1)


def test_tables_hold_each_rate_and_each_gain() -> None:
    """Catches a share or a gain of another line."""
    _, rows = found.beside({"a": 1e9, "b": 5e9}, 10e9)
    assert rows == [["a", "1 GB/s", "10.00%", ""], ["b", "5 GB/s", "50.00%", "5.0"]]
    headings, [line] = found.rows_table({"floats": {1: 0.01, 4: 0.02}})
    assert headings[1:] == ["1 row", "4 rows"]
    assert line == ["floats", "10.0 ms, 1.0x", "20.0 ms, 2.0x"]


# The exercises.

WRONG = [
    ("place", 200 * 576 + 10, "textbook's order"),
    ("place", 10 * 960 + 200, "all outputs of an input"),
    ("place", 10 * 64 + 8, "inside its block"),
    ("place", PLACE - 8, "where input 10 of the block begins"),
    ("place", PLACE - 8 + 200, "in the whole matrix"),
    ("place", PLACE + 1, "too high"),
    ("float limit", 16, "arithmetic took no time"),
    ("float limit", 1, "More rows do gain"),
    ("float limit", READ / ADDED, "the inverse"),
    ("float limit", 16 * READ / ADDED, "how much longer"),
    ("float limit", ADDED / READ / 16, "each of the sixteen"),
    ("without shift", lambda total, a: total, "Nothing was subtracted"),
    ("without shift", lambda total, a: total - 128, "subtracted once"),
    ("without shift", lambda total, a: total - 128 * len(a), "for each input"),
    ("without shift", lambda total, a: total + 128 * a.sum(), "added once more"),
    ("without shift", lambda total, a: total - 128 * int(a.sum(dtype=np.int8)), "range of int8"),
    ("without shift", lambda total, a: total - 127 * a.sum(), "The first sum is"),
    ("without shift", lambda total, a: 3, "an array of the shape"),
]


@pytest.mark.parametrize(("name", "answer", "said"), WRONG)
def test_a_usual_wrong_answer_gets_its_own_hint(name: str, answer: object, said: str) -> None:
    """Catches one hint for all mistakes."""
    assert said in told(name, answer)


def test_the_place_is_that_of_the_layout() -> None:
    """Catches a formula that is not the layout's."""
    codes = np.arange(960 * 576, dtype=np.int32).reshape(960, 576)
    assert in_blocks(codes).reshape(-1)[PLACE] == codes[200, 10]


def test_numbers_of_the_cases_are_unlike_their_neighbours() -> None:
    """Else a wrong order could give the right numbers."""
    assert (np.diff(numbered(2, 12, np.int8).astype(int), axis=0) != 0).mean() > 0.9


# numba is not there.


def test_a_missing_numba_is_one_sentence_with_its_cure() -> None:
    """Catches a traceback in the notebook's first cell, and a judge of the lesson that needs numba."""
    [setup] = [cell for cell in NOTEBOOK.read_text("utf-8").split("# %%") if cell.startswith(' tags=["setup"]')]
    imports = "\n".join(line for line in setup.splitlines() if line.startswith("from tinyinfer"))
    code = (
        "import sys\nsys.modules['numba'] = None\nimport tinyinfer.lessons.cpu_kernels\n"
        f"try:\n    exec({imports!r})\nexcept ImportError as error:\n"
        "    [line] = error._render_traceback_()\n    print(line == str(error), line)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("True this lesson compiles its loops with numba, which is missing"), done.stderr
    assert "pip install 'tinyinfer[cpu]'" in done.stdout
