"""What a body gives to the chat template: its `chat_template_kwargs`, and the fields that have the same names.

A template's own variables, such as Qwen3's `enable_thinking`, are taken as they are. What the endpoint itself gives to
the template (the messages, the tools) has a field in the body, where it is checked; inside chat_template_kwargs it
would pass by those checks, so it is refused there, as vLLM refuses `chat_template` and `tokenize`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyinfer.server.errors import wrong

KINDS = {"chat_template_kwargs": "object", "add_generation_prompt": "bool", "reasoning_effort": "text"}
OF_THE_BODY = ("messages", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message")
OF_A_LIBRARY = ("conversation", "tokenize", "return_tensors", "return_dict", "padding", "truncation", "max_length")


def template_variables(given: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the chat template. Raises APIError for those that the endpoint sets."""
    inside = given.get("chat_template_kwargs", {})
    for name in (*OF_THE_BODY, *OF_A_LIBRARY):
        if name in inside:
            cure = f"give {name} as a field of the body" if name in OF_THE_BODY else "leave it out"
            raise wrong("chat_template_kwargs", f"chat_template_kwargs may not hold {name!r}; {cure}")
    return {**inside, **{name: given[name] for name in KINDS if name in given and name != "chat_template_kwargs"}}
