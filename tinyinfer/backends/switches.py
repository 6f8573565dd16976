"""The switches of the backend: what multiplies, in which type floats are stored, on how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinyinfer.errors import SwitchError
from tinyinfer.switches import Switches, resolve, switch

if TYPE_CHECKING:
    from tinyinfer.ledger import Ledger
    from tinyinfer.model.interfaces import Ops

BACKENDS = {
    "numpy": "tinyinfer.backends.numpy_ops:NumpyOps",
    "reference": "tinyinfer.backends.reference:ReferenceOps",
    "numba": "tinyinfer.backends.numba_device:numba_ops",
    "cupy": "tinyinfer.backends.cupy_ops:CupyOps",
    "auto": "tinyinfer.backends.auto:auto_ops",
}
DTYPES = {"float32": "numpy:float32", "bfloat16": "ml_dtypes:bfloat16", "float16": "numpy:float16"}
ACTIVATIONS = ("float", "int8")
GPU_DECODES = ("graph", "kernels", "eager", "persistent")


@dataclass(frozen=True)
class BackendSwitches(Switches):
    """Which backend runs the operations, and how it stores floats."""

    dtype: str = switch("float32", choices=DTYPES, help="how weights that are floats are stored; arithmetic is float32")
    backend: str = switch(
        "numpy", choices=BACKENDS,
        help="what computes; reference: the plain formulas, slower; numba: compiled kernels; cupy: a GPU; auto: the "
        "fastest that can be used here",
    )  # fmt: skip
    activations: str = switch(
        "float", choices=ACTIVATIONS,
        help="how the inputs of quantized matrices are held; int8: rounded to 8 bits, in the groups of the weights",
    )  # fmt: skip
    gpu_decode: str = switch(
        "graph", choices=GPU_DECODES,
        help="how a step runs on a GPU; graph: own kernels, replayed; kernels: launched one by one; eager: CuPy's "
        "operations alone; persistent: one kernel for the whole step",
    )  # fmt: skip
    threads: int | None = switch(
        None, flags=("-t",),
        help="threads of a matrix product (default: OMP_NUM_THREADS, else the cores that the process may use)",
    )  # fmt: skip

    def refusals(self) -> Iterator[SwitchError]:
        """What one backend has and another has not."""
        if self.given("gpu_decode") and self.backend != "cupy":
            reason = "{field}={value} says how a GPU runs a step, and {backend}={own} may have none"
            yield SwitchError("gpu_decode", self.gpu_decode, reason, "add {backend}=cupy", own=self.backend)
        if self.threads is not None and self.backend == "cupy":
            reason = "{field}={value} is the number of the CPU's threads, and {backend}=cupy multiplies on a GPU"
            yield SwitchError("threads", self.threads, reason, "leave it out")
        yield from super().refusals()


def make_ops(c: BackendSwitches, ledger: Ledger) -> Ops:
    """The operations that the switches choose. Raises SwitchError for a backend that cannot run here."""
    own: dict[str, Any] = {"activations": c.activations} | ({"decode": c.gpu_decode} if c.backend == "cupy" else {})
    ops: Ops = resolve(BACKENDS, c.backend)(ledger, resolve(DTYPES, c.dtype), c.threads, **own)
    return ops
