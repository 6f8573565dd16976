"""Which format a model writes calls in: named by who starts the server, or read off the model's chat template.

A template shows the model how calls look, in its instructions or where it writes earlier calls again. The words below
are in the templates of the families that each parser is for, and in those of no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tinyinfer.server.tool_calls.hermes import HERMES
from tinyinfer.server.tool_calls.llama3_json import LLAMA3_JSON
from tinyinfer.server.tool_calls.mistral import MISTRAL, NEWER_MISTRAL
from tinyinfer.server.tool_calls.pythonic import PYTHONIC
from tinyinfer.server.tool_calls.splitter import Format

FORMATS: Mapping[str, Format] = MappingProxyType(
    {"hermes": HERMES, "llama3_json": LLAMA3_JSON, "mistral": MISTRAL, "pythonic": PYTHONIC}
)
OTHERS = ("<function=", "<arg_key>")  # XML inside <tool_call> (Qwen 3 Coder, GLM 4.5): no parser here reads it
SIGNS = {  # parser -> words of which all are in a template
    "mistral": ("[TOOL_CALLS]",),
    "hermes": ("<tool_call>",),
    "llama3_json": ('"parameters": ', "ipython"),
    "pythonic": ("func_name1(",),
}


def format_of(template: str, told: str = "auto") -> Format | None:
    """The format of a template's calls; None where no parser reads them. told: a name of FORMATS, or auto."""
    name = told if told != "auto" else parser_of(template)
    return NEWER_MISTRAL if name == "mistral" and "[ARGS]" in template else FORMATS.get(name or "")


def parser_of(template: str) -> str | None:
    """The name of the parser for the calls of a template; None where there is none."""
    if any(word in template for word in OTHERS):
        return None
    return next((name for name, words in SIGNS.items() if all(word in template for word in words)), None)
