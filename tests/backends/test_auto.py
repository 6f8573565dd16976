"""backend=auto: the fastest backend that is found, with a note that says which and why not the others."""

from __future__ import annotations

import pytest
from fake_cupy import fake_cupy

from tinyinfer.backends import auto
from tinyinfer.backends.cupy_device import find_cupy
from tinyinfer.backends.cupy_ops import CupyOps
from tinyinfer.backends.numba_device import find_numba
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.errors import ModelWarning, SwitchError
from tinyinfer.ledger import Ledger


def without(name: str, wanted: str):
    """Imports nothing: what a machine without `wanted` does."""
    raise ModuleNotFoundError(f"No module named {wanted!r}", name=wanted)


def no_cupy() -> None:
    find_cupy(lambda name: without(name, "cupy"), lambda wheel: False)


def no_numba() -> None:
    find_numba(lambda name: without(name, "numba"))


def test_a_gpu_comes_first():
    """Catches a CPU that is taken beside a GPU, in silence."""
    with pytest.warns(ModelWarning, match="backend=auto takes cupy$"):
        ops = auto.auto_ops(Ledger(), find={"cupy": lambda: fake_cupy, "numba": lambda: None})
    assert isinstance(ops, CupyOps)
    assert ops.xp is fake_cupy


def test_without_a_gpu_and_without_numba_numpy_is_taken_and_says_why():
    """Catches a slow run for which the user sees no reason."""
    sentence = (
        "backend=auto takes numpy: backend=cupy needs CuPy, which is not installed, and backend=numba needs numba, "
        "which is not installed"
    )
    with pytest.warns(ModelWarning, match=f"{sentence}$"):
        ops = auto.auto_ops(Ledger(), find={"cupy": no_cupy, "numba": no_numba})
    assert isinstance(ops, NumpyOps)


def test_numba_that_is_missing_is_named_with_its_cure():
    with pytest.raises(SwitchError) as refused:
        no_numba()
    assert str(refused.value) == (
        "backend=numba needs numba, which is not installed; install it: pip install 'tinyinfer[cpu]', in a checkout "
        "pip install -e '.[cpu]', or choose another backend"
    )


def test_numba_that_cannot_be_imported_says_its_own_words():
    """numba refuses a NumPy that is newer than it knows; catches a sentence that tells to install what is there."""

    def refuse(name: str):
        raise ImportError("Numba needs NumPy 2.4 or less. Got NumPy 2.9.")

    with pytest.raises(SwitchError, match=r"cannot import numba: Numba needs NumPy 2.4 or less. Got NumPy 2.9.; upd"):
        find_numba(refuse)
