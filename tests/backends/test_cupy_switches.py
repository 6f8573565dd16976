"""`--backend cupy` where it cannot run: each thing that can be missing, in one sentence that says what to do."""

from __future__ import annotations

import re
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fake_cuda import RawModule
from fake_cupy import fake_cupy
from helpers import checkpoint_of, finish, make_engine, random_tensors, request, small_config

from tinyinfer.backends.cupy_device import INSTALL, OTHERWISE, find_cupy, first_line, is_installed, kernel_error
from tinyinfer.backends.cupy_ops import CupyOps
from tinyinfer.cli import main
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.room import check_fits
from tinyinfer.errors import ModelError, RoomError, SwitchError
from tinyinfer.ledger import Ledger

runtime = fake_cupy.cuda.runtime


def missing(load: Any = lambda name: fake_cupy, installed: tuple[str, ...] = ("cupy-cuda12x",)) -> str:
    """The sentence of a search for CuPy that fails, as the command line writes it."""
    with pytest.raises(SwitchError) as caught:
        find_cupy(load, lambda wheel: wheel in installed)
    sentence = caught.value.sentence(lambda name: "--" + name.replace("_", "-"))
    assert sentence.startswith("--backend=cupy ")
    assert "\n" not in sentence
    assert len(sentence) < 300
    return sentence.removeprefix("--backend=cupy ").replace("{backend}", "--backend")


def failing(error: Exception) -> Any:
    def load(name: str) -> ModuleType:
        raise error

    return load


# What is missing


def test_with_everything_in_place_cupy_is_found():
    """Else the refusals below would prove nothing. A driver of a newer CUDA and one of the same are right."""
    assert find_cupy(lambda name: fake_cupy, lambda wheel: False) is fake_cupy


def test_without_cupy_the_extras_are_named():
    found = missing(failing(ModuleNotFoundError("No module named 'cupy'", name="cupy")), ())
    assert found == f"needs CuPy, which is not installed; {INSTALL}{OTHERWISE}".replace("{backend}", "--backend")


def test_a_cupy_that_cannot_be_imported_is_not_called_missing():
    """Its own words are kept, in one line."""
    found = missing(failing(ImportError("\n\nlibcuda is broken\n  at line 3")))
    assert found.startswith("cannot import CuPy: libcuda is broken; install it again")


def test_two_wheels_are_refused_since_cupy_only_warns():
    """Before CuPy is imported: whichever of them wrote its files last would be imported."""
    found = missing(failing(AssertionError("imported")), ("cupy-cuda12x", "cupy-cuda13x"))
    assert "cupy-cuda12x and cupy-cuda13x installed" in found
    assert "pip uninstall cupy-cuda12x cupy-cuda13x" in found


def test_without_a_driver(monkeypatch):
    """CuPy's own words are cudaErrorInsufficientDriver, though no driver is there at all."""
    monkeypatch.setattr(runtime, "status", 35)
    assert missing().startswith("finds no NVIDIA driver on this machine; install the driver")


@pytest.mark.parametrize(("status", "devices"), [(100, 1), (0, 0)])
def test_without_a_device(monkeypatch, status, devices):
    """The runtime says so by an error or by a count of 0."""
    monkeypatch.setattr(runtime, "status", status)
    monkeypatch.setattr(runtime, "devices", devices)
    assert missing().startswith("finds a driver and no device; check nvidia-smi and CUDA_VISIBLE_DEVICES")


def test_another_fault_of_the_gpu_is_told_in_its_own_words(monkeypatch):
    monkeypatch.setattr(runtime, "status", 101)
    assert missing().startswith("cannot use the GPU: cudaErrorInvalidDevice: invalid device ordinal; check nvidia-smi")


@pytest.mark.parametrize(
    ("driver", "needed", "cure"),
    [(12040, 13000, "or install the older wheel: pip install 'cupy-cuda12x[ctk]'"), (11080, 12090, "update the")],
)
def test_a_driver_of_an_older_cuda(monkeypatch, driver, needed, cure):
    """Catches an error in the middle of the first operation; a newer wheel of the same CUDA runs."""
    monkeypatch.setattr(runtime, "driver", driver)
    monkeypatch.setattr(runtime, "version", needed)
    found = missing()
    assert f"needs a driver of CUDA {needed // 1000}.{needed % 1000 // 10}, and this machine's is of CUDA" in found
    assert cure in found
    monkeypatch.setattr(runtime, "driver", needed // 1000 * 1000)
    assert find_cupy(lambda name: fake_cupy, lambda wheel: False) is fake_cupy


def test_without_cublas_the_wheel_that_brings_it_is_named():
    """A bare CuPy wheel finds no libraries of CUDA; its first product would fail."""

    class Cuda(SimpleNamespace):
        @property
        def cublas(self) -> Any:
            raise ImportError("Failure finding libcublasLt.so.13")

    bare: Any = SimpleNamespace(cuda=Cuda(runtime=runtime))
    found = missing(lambda name: bare, ("cupy-cuda13x",))
    assert found.startswith("needs cuBLAS, which is not there: Failure finding libcublasLt.so.13; ")
    assert found.endswith("pip install 'cupy-cuda13x[ctk]'")


def test_what_is_installed_is_asked_of_pip():
    assert is_installed("numpy")
    assert not is_installed("cupy-cuda99x")


def test_the_command_line_says_it_in_one_line(golden_folder, capsys):
    """Exit status 2, and nothing computed: on this machine there is no CuPy, or no device."""
    sentence = ""
    try:
        find_cupy()
    except SwitchError as error:
        sentence = f"tinyinfer: error: {error.sentence(lambda name: '--' + name)}\n"
    status = main(["generate", "-m", str(golden_folder("llama")), "-q", "-p", "x", "--backend", "cupy"])
    assert status == (2 if sentence else 0)
    assert capsys.readouterr().err == sentence


def test_nothing_imports_cupy_before_it_is_asked_for():
    """Catches an import at the top of a module: everything else works without CuPy."""
    program = "import sys, tinyinfer.llm, tinyinfer.backends.cupy_ops; print([m for m in sys.modules if 'cupy' == m])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Switches that do not suit


@pytest.mark.parametrize("backend", ["numpy", "reference", "auto"])
def test_gpu_decode_belongs_to_cupy(backend):
    with pytest.raises(SwitchError, match=rf"gpu_decode=eager says how a GPU .* backend={backend} .* add backend=cupy"):
        EngineConfig(backend=backend, gpu_decode="eager")
    assert EngineConfig(backend="cupy", gpu_decode="eager").gpu_decode == "eager"


def test_threads_belong_to_the_cpu():
    with pytest.raises(SwitchError, match=r"threads=2 is the number of the CPU's threads, .*; leave it out"):
        EngineConfig(backend="cupy", threads=2)


# A kernel that does not compile


def test_a_kernel_that_does_not_compile_is_named_with_the_compilers_words():
    """Catches a fall back in silence, which would be slow for no reason that anyone sees."""
    error = kernel_error("rms_product", ValueError("\nrms_product.cu(7): error: no such type\n1 error detected"))
    assert isinstance(error, ModelError)
    assert str(error) == (
        "the kernel rms_product.cu does not compile on this device: rms_product.cu(7): error: no such type; add "
        "--gpu-decode eager to run without kernels of our own, and report these words"
    )
    assert first_line(ValueError()) == "ValueError"


def test_an_engine_whose_kernel_does_not_compile_says_which(monkeypatch):
    monkeypatch.setattr(RawModule, "broken", {"rms_gate_up": "rms_gate_up.cu(3): error: no such type"})
    sentence = r"the kernel rms_gate_up\.cu does not compile .*: no such type; add --gpu-decode eager"
    with pytest.raises(ModelError, match=sentence):
        finish(make_engine(small_config(), ops=CupyOps(Ledger(), decode="kernels", xp=fake_cupy)), request([1, 2], 3))


# Too little memory for a model


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        ({}, r"the weights need 30.32 kB, and the GPU has 1 kB free; add {dtype}=bfloat16 or {quantize}=int8"),
        ({"dtype": "bfloat16"}, r"need 15.36 kB, and the GPU .*; add {quantize}=int8"),
        ({"quantize": "int4", "quantize_head": "int8", "dtype": "bfloat16"}, r"; use a smaller model"),
        ({"max_model_len": 50}, r"and the cache that is asked for 9.6 kB, .*int8 or {kv_bits}=8 or give a smaller "
                                r"{max_model_len}"),
        ({"kv_cache": "paged", "num_blocks": 9, "kv_bits": 8}, r"or give a smaller {num_blocks}"),
    ],
)  # fmt: skip
def test_a_model_without_room_is_refused_by_numbers(monkeypatch, switches, words):
    """Before a weight is read: what is needed, what is free, and the switches that are not yet set and would help."""
    checkpoint = checkpoint_of(small_config(), random_tensors(small_config()))
    pool = fake_cupy.get_default_memory_pool()
    ops = CupyOps(Ledger(), decode="eager", xp=fake_cupy)
    check_fits(checkpoint, ops, EngineConfig(**switches))
    monkeypatch.setattr(pool, "limit", pool.used_bytes() + 1000)
    with pytest.raises(RoomError) as caught:
        check_fits(checkpoint, ops, EngineConfig(**switches))
    sentence = caught.value.sentence(lambda name: "{" + name + "}")
    assert re.search(words, sentence), sentence


def test_a_model_that_quantized_fits_is_not_refused(monkeypatch):
    """Catches float weights counted where codes will be."""
    checkpoint = checkpoint_of(small_config(), random_tensors(small_config()))
    pool, ops = fake_cupy.get_default_memory_pool(), CupyOps(Ledger(), decode="eager", xp=fake_cupy)
    monkeypatch.setattr(pool, "limit", pool.used_bytes() + 20_000)
    check_fits(checkpoint, ops, EngineConfig(quantize="int8", quantize_head="int8"))
    with pytest.raises(RoomError):
        check_fits(checkpoint, ops, EngineConfig())


def test_a_cache_that_is_asked_for_counts_beside_the_weights(monkeypatch):
    """Each of them alone would fit. Catches: weights compared alone."""
    checkpoint = checkpoint_of(small_config(), random_tensors(small_config()))
    pool, ops = fake_cupy.get_default_memory_pool(), CupyOps(Ledger(), decode="eager", xp=fake_cupy)
    monkeypatch.setattr(pool, "limit", pool.used_bytes() + 35_000)
    check_fits(checkpoint, ops, EngineConfig())
    with pytest.raises(RoomError):
        check_fits(checkpoint, ops, EngineConfig(max_model_len=50))
