"""tinyinfer: an LLM inference engine to learn from: one readable file per optimization, one switch per file."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyinfer.errors import ModelError, ModelWarning
    from tinyinfer.llm import LLM
    from tinyinfer.request import Delta, Request, RequestOutput
    from tinyinfer.sampling_params import SamplingParams

__version__ = "0.1.0"
__all__ = ["LLM", "Delta", "ModelError", "ModelWarning", "Request", "RequestOutput", "SamplingParams", "__version__"]

_HOMES = {
    "LLM": "tinyinfer.llm",
    "Delta": "tinyinfer.request",
    "Request": "tinyinfer.request",
    "RequestOutput": "tinyinfer.request",
    "SamplingParams": "tinyinfer.sampling_params",
    "ModelError": "tinyinfer.errors",
    "ModelWarning": "tinyinfer.errors",
}


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that `import tinyinfer` and `--help` take no time."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tinyinfer' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
