"""A kernel's text: values first, then headers and the bodies of other kernels, then types, then the kernel."""

from __future__ import annotations

import re

import pytest

from tinyinfer.backends import kernels
from tinyinfer.backends.kernels.source import FOLDER, kernel_source

FILES = {
    "a.cuh": "struct A { int a[D]; };\n",
    "b.cuh": '#include "a.cuh"\nstruct B { A a; };\n',
    "one.cu": '#include "b.cuh"\nvoid one_body(B b) {}\nextern "C" __global__ void one(B b) { one_body(b); }\n',
    "two.cu": '#include "a.cuh"\n#include "one.cu"\nextern "C" __global__ void two(B b) { one_body(b); }\n',
}


@pytest.fixture
def folder(tmp_path):
    """A folder of kernels."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_each_header_comes_once_before_those_that_need_it(folder):
    """Values before headers, types behind them, because headers use values and types are made of headers."""
    text = kernel_source("one", {"D": 3, "EPS": 1e-5, "Weight": "A"}, folder)
    parts = ["int D = 3;", "float EPS = 1e-05f;", "struct A", "struct B", "using Weight = A;", "one_body"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert text.count("struct A") == 1
    assert "#include" not in text


def test_a_kernel_that_is_included_gives_its_body_only(folder):
    """A kernel that calls others' bodies does not hold the others: each would need constants of its own."""
    text = kernel_source("two", {"D": 3}, folder)
    assert text.count("one_body(B b)") == 1
    assert text.count("__global__") == 1
    assert "void two(" in text


@pytest.mark.parametrize(
    ("constants", "words"),
    [
        ({"D": 2**31}, "does not fit"), ({"EPS": float("inf")}, "no finite float"), ({"Weight": "A; int b"}, "no type"),
        ({"D D": 1}, "cannot name a constant"), ({"D": True}, "must be an int"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_constant_is_named(folder, constants, words):
    """Before a compiler sees it, and in the words of Python."""
    with pytest.raises((ValueError, TypeError), match=words):
        kernel_source("one", constants, folder)


def test_kernels_and_headers_that_do_not_exist_are_named(folder):
    """With the kernels that there are."""
    with pytest.raises(ValueError, match=r"no kernel 'three': one, two"):
        kernel_source("three", {}, folder)
    (folder / "four.cu").write_text("#include <cuda_fp16.h>\n")
    with pytest.raises(ValueError, match=r"four\.cu includes <cuda_fp16\.h>"):
        kernel_source("four", {}, folder)


def test_the_page_lists_every_kernel_and_header():
    """In reading order; catches a kernel that was added, renamed or removed without a word on the section's page."""
    listed = re.findall(r"^    (\w+\.cuh?)  ", kernels.__doc__ or "", re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in FOLDER.glob("*.cu*"))
