"""A kernel: compiled when it is needed; one that cannot be compiled is named, with the compiler's words."""

from __future__ import annotations

import pytest

from tinyinfer.backends.cpu_kernels import rows
from tinyinfer.backends.cpu_kernels.kernel import Kernel, kernel
from tinyinfer.cli import main
from tinyinfer.errors import SwitchError

pytestmark = pytest.mark.cpu


@kernel
def broken(a, item, thread):
    """Asks for something that whole numbers do not have."""
    a[0] = item.nothing_that_numbers_have


def test_a_kernel_that_does_not_compile_is_named_with_the_compilers_words() -> None:
    with pytest.raises(SwitchError) as refused:
        assert broken.address
    assert "backend=numba: its kernel broken cannot be compiled: " in str(refused.value)
    assert "Unknown attribute 'nothing_that_numbers_have'" in str(refused.value)
    assert str(refused.value).endswith("choose backend=numpy, or update numba")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("backend", ["numba", "auto"])
def test_the_command_line_refuses_and_takes_no_other_backend(backend, golden_folder, monkeypatch, capsys) -> None:
    """Status 2 and one line; catches a run that is slow without a word."""
    monkeypatch.setattr(rows, "gather_row", Kernel(broken.function))
    status = main(["generate", "-q", "--backend", backend, "-m", str(golden_folder("llama")), "-n", "2", "Hello"])
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert "its kernel broken cannot be compiled" in err
    assert err.count("\n") == 1
