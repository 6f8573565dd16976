"""A file executed as a module of its own; and what numba does to the functions in it, switched for a while."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from tinyinfer.course.errors import CourseError


def load_source(name: str, path: Path) -> ModuleType:
    """The module in a file, executed anew. Raises what its code raises, CourseError where there is no file.

    Python's own import would keep bytecode beside the file, and take it for a file that is changed within a second.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or not path.is_file():
        raise CourseError(f"{path} is missing; `course start` writes it")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), vars(module))
    return module


def interpreted(name: str, path: Path) -> ModuleType:
    """The module in a file, with numba's decorators left out: Python itself runs its loops. Raises as `load_source`."""
    with numba_setting("DISABLE_JIT", 1):
        return load_source(name, path)


@contextmanager
def numba_setting(name: str, value: int) -> Iterator[None]:
    """Within the block a setting of numba has this value; nothing where numba is not loaded."""
    config = getattr(sys.modules.get("numba"), "config", None)
    if config is None:
        yield
        return
    before = getattr(config, name)
    setattr(config, name, value)
    try:
        yield
    finally:
        setattr(config, name, before)
