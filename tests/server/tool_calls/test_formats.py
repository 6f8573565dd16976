"""The parser of a model, read off its chat template."""

from __future__ import annotations

import conversations
import pytest

from tinyinfer.server.tool_calls.formats import FORMATS, parser_of

LLAMA4 = '[func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]'


@pytest.mark.parametrize(
    ("template", "name"),
    [(conversations.QWEN3, "hermes"), (conversations.LLAMA3, "llama3_json"), (conversations.MISTRAL, "mistral"),
     (LLAMA4, "pythonic"), (conversations.SMOLLM2, None), (conversations.GEMMA, None),
     (conversations.QWEN3 + "<function=example>", None)],
)  # fmt: skip
def test_each_family_has_its_parser(template: str, name: str | None) -> None:
    """Qwen 3 Coder writes XML between Hermes' marks: catches a parser that would find no call in it."""
    assert parser_of(template) == name
    assert name is None or name in FORMATS
