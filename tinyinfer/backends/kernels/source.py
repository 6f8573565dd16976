"""From a kernel's file to the text that is compiled: the constants of the model come first, headers are put in place.

    constexpr int D = 576;              constants {"D": 576, "EPS": 1e-5, "Weight": "Dense<bfloat16>"}
    constexpr float EPS = 1e-05f;
    using Weight = Dense<bfloat16>;     after the headers, which define Dense

Sizes that a compiler knows are loops that it unrolls and divisions that it turns into shifts. A model has its own text,
therefore, and the text is all that is needed: NVRTC finds no files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).parent
INCLUDE = re.compile(r'^#include\s+(.*?)\s*(?://.*)?$', re.MULTILINE)
KERNEL = re.compile(r'^extern "C" __global__ .*$', re.MULTILINE)  # a kernel that is included gives its body only
NAME = re.compile(r"[A-Za-z_]\w*")
TYPE = re.compile(r"[A-Za-z_][\w<>:, ]*")

Constant = int | float | str


def kernel_source(name: str, constants: Mapping[str, Constant], folder: Path = FOLDER) -> str:
    """The whole text of NAME.cu: values, headers, types, kernels."""
    if not NAME.fullmatch(name) or not (folder / f"{name}.cu").is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.cu")))
        raise ValueError(f"there is no kernel {name!r}: {known}")
    values = [declared(key, value) for key, value in constants.items() if not isinstance(value, str)]
    types = [declared(key, value) for key, value in constants.items() if isinstance(value, str)]
    headers: dict[str, str] = {}
    body = with_headers(f"{name}.cu", folder, headers)
    return "\n".join([*values, *headers.values(), *types, body])


def declared(key: str, value: Constant) -> str:
    """The line of C++ that gives a constant its value, or a type its name."""
    if not NAME.fullmatch(key):
        raise ValueError(f"{key!r} cannot name a constant of a kernel: letters, digits and _ only")
    if isinstance(value, str):
        if not TYPE.fullmatch(value):
            raise ValueError(f"{key}={value!r} is no type of the kernels: give one such as Dense<float16>")
        return f"using {key} = {value};"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{key}={value!r} must be an int, a float or the name of a type")
    if isinstance(value, int):
        if not -(2**31) <= value < 2**31:
            raise ValueError(f"{key}={value} does not fit a kernel's int of 32 bits")
        return f"constexpr int {key} = {value};"
    if not math.isfinite(value) or abs(value) > 3.4e38:
        raise ValueError(f"{key}={value} is no finite float of 32 bits")
    return f"constexpr float {key} = {float(value)!r}f;"


def with_headers(name: str, folder: Path, headers: dict[str, str]) -> str:
    """A file's text without its includes; the headers, each once and after those that it needs, go to `headers`.

    persistent.cu includes other kernels' files as headers: their bodies, which it calls, without the kernels.
    """
    text = (folder / name).read_text(encoding="utf-8")
    for included in INCLUDE.findall(text):
        header = included.strip('"')
        if not re.fullmatch(r'"\w+\.cuh?"', included) or not (folder / header).is_file():
            raise ValueError(f"{name} includes {included}, but a kernel has only the headers in {folder.name}")
        if header not in headers:
            headers[header] = ""  # its place is taken, so that a header that includes itself ends
            inner = with_headers(header, folder, headers)
            del headers[header]
            headers[header] = KERNEL.sub("", inner)
    return INCLUDE.sub("", text)
