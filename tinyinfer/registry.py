"""Every switch's values by name, in one place: the engine takes its parts from here and the command line lists them.

Values are "module:attribute", resolved on use, so that listing the choices imports nothing and a part that nobody
switched on is never loaded (its file may even be deleted).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

CACHES = {"contiguous": "tinyinfer.kv_cache:ContiguousCache", "none": "tinyinfer.kv_cache:NoCache"}
BACKENDS = {"numpy": "tinyinfer.backends.numpy_ops:NumpyOps"}
DTYPES = {"float32": "numpy:float32", "bfloat16": "ml_dtypes:bfloat16", "float16": "numpy:float16"}


def resolve(table: dict[str, str], name: str) -> Any:
    """The object that `name` stands for in `table`."""
    module, attribute = table[name].split(":")
    return getattr(import_module(module), attribute)
