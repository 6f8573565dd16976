"""backend=numba from outside: what is imported when, who is told that it compiles, and what stands in its way."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from cli_helpers import terminal

from tinyinfer.backends import numba_device
from tinyinfer.backends.compiling import Compiling
from tinyinfer.backends.limits import available_cores
from tinyinfer.cli import main
from tinyinfer.cli.arguments import told
from tinyinfer.cli.console import progress_bar
from tinyinfer.errors import ModelWarning
from tinyinfer.ledger import Ledger


def test_numba_is_imported_by_the_backend_that_is_numbas_and_by_nothing_else() -> None:
    """Not by `import tinyinfer`, by a model on NumPy, or by the command line. Catches a second at each start."""
    program = (
        "import sys, tinyinfer, tinyinfer.llm, tinyinfer.cli.arguments, tinyinfer.backends.numpy_ops, "
        "tinyinfer.backends.numba_device, tinyinfer.backends.auto\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('numba', 'llvmlite')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_the_command_line_without_numba_says_one_line(monkeypatch, golden_folder, capsys) -> None:
    """Status 2, the cure, and no answer of another backend."""

    def load(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    find = numba_device.find_numba
    monkeypatch.setattr(numba_device, "find_numba", lambda: find(load))
    status = main(["generate", "-m", str(golden_folder("llama")), "--backend", "numba", "-n", "2", "Hello"])
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err == (
        "tinyinfer: error: --backend=numba needs numba, which is not installed; install it: pip install "
        "'tinyinfer[cpu]', in a checkout pip install -e '.[cpu]', or choose another --backend\n"
    )


def test_more_threads_than_cores_are_as_many_as_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that spins without a core holds the others up. Catches a hundred of them, and silence about it."""
    made = []
    monkeypatch.setattr(numba_device, "find_numba", lambda: None)
    fake = SimpleNamespace(NumbaOps=lambda *given: made.append(given))
    monkeypatch.setitem(sys.modules, "tinyinfer.backends.numba_ops", fake)
    cores = available_cores()
    with pytest.warns(ModelWarning, match=f"backend=numba computes on {cores} of {1 << 70} threads, for this process"):
        numba_device.numba_ops(Ledger(), threads=1 << 70)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numba_device.numba_ops(Ledger(), threads=1)
    assert [threads for _, _, threads, _ in made] == [cores, 1]


def compiled(compiling: Compiling, *missing: bool) -> None:
    """As many kernels as there are values; those that are not on disk begin to be compiled."""
    for one in compiling.each(missing):
        if one:
            compiling.begin("some/folder")


def test_a_program_gets_one_note_that_kernels_are_compiled() -> None:
    """Where machine code is found there is none; catches a note for each kernel."""
    compiling = Compiling()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(compiling, False, False)
    with pytest.warns(ModelWarning, match="compiles its kernels for this CPU.* are kept in some/folder") as notes:
        compiled(compiling, True, False, True)
    assert len(notes) == 1


def test_who_opens_a_model_is_told_how_many_kernels_are_left() -> None:
    compiling, told_of = Compiling(), []
    with compiling.told(lambda done, total: told_of.append((done, total))):
        compiled(compiling, True, False, True)
    assert told_of == [(0, 3), (2, 3)]
    with pytest.warns(ModelWarning):
        compiled(compiling, True)
    assert told_of == [(0, 3), (2, 3)]


def test_the_command_line_shows_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    compiling = Compiling()
    with terminal(monkeypatch, "stderr") as seen:
        with progress_bar("loading llama") as show, compiling.told(told(show, quiet=False)):
            compiled(compiling, True, True)
        sys.stderr.close()
    assert "] 1/2, compiling kernels" in seen()
    assert "\n" not in seen()


@pytest.mark.parametrize("quiet", [False, True])
def test_elsewhere_it_writes_one_line_at_once(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Into a file; with -q nothing. Catches the silence of ten seconds, and a line for each kernel."""
    compiling = Compiling()
    with progress_bar("loading llama", shown=not quiet) as show, compiling.told(told(show, quiet)):
        compiled(compiling, True, True)
        line = "" if quiet else "tinyinfer: compiling kernels for this CPU, once; some seconds\n"
        assert capsys.readouterr() == ("", line)


@pytest.mark.cpu
@pytest.mark.skipif(find_spec("numba") is None, reason="needs numba")
@pytest.mark.parametrize("flag", ["-q", "--json", ""])
def test_what_a_first_run_and_a_second_one_say(flag, golden_folder, tmp_path) -> None:
    """Catches a line in what another program reads, and one where nothing is compiled."""
    command = [sys.executable, "-m", "tinyinfer", "generate", "-m", str(golden_folder("llama")), "--backend", "numba"]
    command += ["-n", "2", "Hello", *[flag] * bool(flag)]
    environ = os.environ | {"TINYINFER_HOME": str(tmp_path)}
    both = [subprocess.run(command, capture_output=True, text=True, env=environ, timeout=400) for _ in range(2)]
    assert [one.returncode for one in both] == [0, 0], both
    assert ["compiling kernels" in one.stderr for one in both] == [flag != "-q", False]
    assert "compiling" not in both[0].stdout
