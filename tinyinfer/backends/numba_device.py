"""numba: what must be there for backend=numba, and what to do where it is not.

numba is imported here, when a backend is made and not before, and by the modules of the compiled backend, which are
loaded only then: `import tinyinfer` stays as fast as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from tinyinfer.errors import SwitchError
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
    """The operations of backend=numba. Raises SwitchError where numba is not there."""
    find_numba()
    from tinyinfer.backends.numba_ops import NumbaOps  # here: it imports numba

    return NumbaOps(ledger, dtype, threads, activations)
