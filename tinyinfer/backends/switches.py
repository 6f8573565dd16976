"""The switches of the backend: what multiplies, in which type floats are stored, on how many threads."""

from __future__ import annotations

from dataclasses import dataclass

from tinyinfer.switches import Switches, switch

BACKENDS = {
    "numpy": "tinyinfer.backends.numpy_ops:NumpyOps",
    "reference": "tinyinfer.backends.reference:ReferenceOps",
}
DTYPES = {"float32": "numpy:float32", "bfloat16": "ml_dtypes:bfloat16", "float16": "numpy:float16"}


@dataclass(frozen=True)
class BackendSwitches(Switches):
    """Which backend runs the operations, and how it stores floats."""

    dtype: str = switch("float32", choices=DTYPES, help="how weights that are floats are stored; arithmetic is float32")
    backend: str = switch("numpy", choices=BACKENDS, help="what computes; reference: the plain formulas, slower")
    threads: int | None = switch(
        None, flags=("-t",),
        help="threads of a matrix product (default: OMP_NUM_THREADS, else the cores that the process may use)",
    )  # fmt: skip
