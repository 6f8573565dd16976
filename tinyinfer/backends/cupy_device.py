"""CuPy and the device below it: what must be there, and what to do where it is not.

CuPy is imported here and nowhere else, when a backend is made and not before; the rest of the package takes the array
module as `xp`. Everything that can be missing is asked for at once, because CuPy itself tells of most of it only in the
middle of the first operation, and of two wheels in one environment only by a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from tinyinfer.arrays import Xp
from tinyinfer.errors import ModelError, SwitchError

WHEELS = "cupy-cuda12x", "cupy-cuda13x"
NO_DRIVER, NO_DEVICE = 35, 100  # cudaErrorInsufficientDriver, cudaErrorNoDevice
INSTALL = "install one of them: pip install 'cupy-cuda13x[ctk]' (drivers of CUDA 13) or 'cupy-cuda12x[ctk]'"
OUT_OF_MEMORY = "cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY"  # of the runtime and of the driver
OTHERWISE = ", or choose another {backend}"


def is_installed(wheel: str) -> bool:
    """Whether pip knows a wheel."""
    try:
        return bool(version(wheel))
    except PackageNotFoundError:
        return False


def refusal(reason: str, cure: str, **texts: object) -> SwitchError:
    """The error of a backend=cupy that cannot be."""
    return SwitchError("backend", "cupy", "{field}={value} " + reason, cure, **texts)


def find_cupy(
    load: Callable[[str], Xp] = import_module, installed: Callable[[str], bool] = is_installed
) -> Xp:
    """CuPy, with a device that it can use. Raises SwitchError, which says what is missing.

    load: imports a module by its name; installed: whether a wheel is there.
    """
    if all(map(installed, WHEELS)):
        reason = "finds cupy-cuda12x and cupy-cuda13x installed, which overwrite each other's files"
        raise refusal(reason, "run pip uninstall cupy-cuda12x cupy-cuda13x, then " + INSTALL)
    try:
        cupy = load("cupy")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            raise refusal("needs CuPy, which is not installed", INSTALL + OTHERWISE) from error
        raise refusal("cannot import CuPy: {words}", "install it again" + OTHERWISE, words=first_line(error)) from error
    check_driver(cupy)
    try:
        cupy.cuda.cublas  # noqa: B018 - CuPy loads it on first use
    except ImportError as error:
        wheel = next(filter(installed, WHEELS), "cupy-cuda13x")
        cure = f"install CUDA's libraries: pip install '{wheel}[ctk]'"
        raise refusal("needs cuBLAS, which is not there: {words}", cure, words=first_line(error)) from error
    return cupy


def check_driver(cupy: Xp) -> None:
    """Raises SwitchError where there is no device, no driver, or a driver of an older CUDA than the wheel's.

    A driver runs programs of its own CUDA version, of older ones and of newer ones with the same first number.
    """
    runtime = cupy.cuda.runtime
    try:
        driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if driver and driver // 1000 < needed // 1000:
            reason = "needs a driver of CUDA {needed}, and this machine's is of CUDA {driver}"
            older = "" if needed < 13000 else " or install the older wheel: pip install 'cupy-cuda12x[ctk]'"
            cure = "update the NVIDIA driver" + ("," + older if older else "") + OTHERWISE
            raise refusal(reason, cure, needed=cuda_version(needed), driver=cuda_version(driver))
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if error.status == NO_DEVICE:
            count = 0
        elif error.status == NO_DRIVER:
            cure = "install the driver, give the container its GPUs (docker run --gpus all)" + OTHERWISE
            raise refusal("finds no NVIDIA driver on this machine", cure) from error
        else:
            raise refusal("cannot use the GPU: {words}", "check nvidia-smi" + OTHERWISE, words=str(error)) from error
    if not count:
        cure = "check nvidia-smi and CUDA_VISIBLE_DEVICES" + OTHERWISE
        raise refusal("finds a driver and no device", cure)


def cuda_version(number: int) -> str:
    """12090 as people write it, 12.9."""
    return f"{number // 1000}.{number % 1000 // 10}"


def first_line(error: Exception) -> str:
    """The first line of an error's words."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def free_memory(cupy: Xp) -> int:
    """Bytes that new arrays may take: what the device has free, and what CuPy's pool keeps of freed arrays."""
    pool = cupy.get_default_memory_pool()
    free, limit = cupy.cuda.runtime.memGetInfo()[0] + pool.free_bytes(), pool.get_limit()
    return min(free, limit - pool.used_bytes()) if limit else free


@contextmanager
def memory_errors() -> Iterator[None]:
    """Wraps work on the device. Raises MemoryError also where CUDA itself finds no memory, beside CuPy's pool.

    Graphs, compiled kernels and pinned memory lie there, and CuPy raises a RuntimeError for them.
    """
    try:
        yield
    except RuntimeError as error:
        if any(name in str(error) for name in OUT_OF_MEMORY):
            raise MemoryError(first_line(error)) from error
        raise


def kernel_error(name: str, error: Exception) -> ModelError:
    """The error of a kernel that the compiler refuses, with the first words of the compiler."""
    return ModelError(
        f"the kernel {name}.cu does not compile on this device: {first_line(error)}; add --gpu-decode eager to run "
        "without kernels of our own, and report these words"
    )
