"""numba: what must be there for backend=numba, and what to do where it is not.

numba is imported here, when a backend is made and not before, and by the modules of the compiled backend, which are
loaded only then: `import tinyinfer` stays as fast as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from tinyinfer.backends.cpu import default_threads
from tinyinfer.backends.limits import available_cores
from tinyinfer.errors import SwitchError, note
from tinyinfer.ledger import Ledger
from tinyinfer.model.interfaces import Ops

INSTALL = "install it: pip install 'tinyinfer[cpu]', in a checkout pip install -e '.[cpu]'"


def find_numba(load: Callable[[str], Any] = import_module) -> None:
    """Imports numba. Raises SwitchError, which says what is missing. load: imports a module by its name."""
    try:
        load("numba")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "numba":
            reason = "{field}={value} needs numba, which is not installed"
            cure = INSTALL + ", or choose another {field}"
        else:  # such as a NumPy that is newer than numba knows
            reason, cure = "{field}={value} cannot import numba: {words}", "update numba, or choose another {field}"
        words = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SwitchError("backend", "numba", reason, cure, words=words) from error


def numba_ops(
    ledger: Ledger, dtype: Any = np.float32, threads: int | None = None, activations: str = "float"
) -> Ops:
    """The operations of backend=numba. Raises SwitchError where numba is not there.

    Threads that compute a plan wait for each other by spinning, so more of them than cores can only be slower.
    """
    find_numba()
    threads, cores = threads or default_threads(), available_cores()
    if threads > cores:
        note(f"backend=numba computes on {cores} of {threads} threads, for this process may use no more cores")
    from tinyinfer.backends.numba_ops import NumbaOps  # here: it imports numba

    return NumbaOps(ledger, dtype, min(threads, cores), activations)
