"""OpenAI's own client, sync and async, runs tools and Responses against a model whose answers a test has written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tool_templates
from http_calls import Served
from listening import listening
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from scripted import scripted

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
ANSWER = f"<think>\nHm.\n</think>\n\nI look. {CALL}"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
              "additionalProperties": False}  # fmt: skip
FUNCTION = {"name": "weather", "description": "x", "parameters": PARAMETERS, "strict": True}
TOOLS: Any = [{"type": "function", "function": FUNCTION}]
OWN_TOOLS: Any = [{"type": "function", **FUNCTION}]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("openai")
    with listening(Served(scripted(folder, tool_templates.HERMES_THINKING, ANSWER))) as address:
        yield f"{address}/v1"


@pytest.fixture
def client(address: str) -> OpenAI:
    return OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60)


def test_the_loop_of_tools_goes_round(client: OpenAI) -> None:
    """Ask, run, give back, ask again, with the client's own objects. Catches a field that the client cannot send."""
    messages: list[Any] = [{"role": "user", "content": "How is the weather?"}]
    for _ in range(2):
        whole = client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS, temperature=0)
        [choice] = whole.choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look.")
        [call] = choice.message.tool_calls or []
        assert call.type == "function"
        assert json.loads(call.function.arguments) == {"city": "Paris"}
        messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "It rains."}]


def test_the_clients_own_helper_puts_a_stream_together(client: OpenAI) -> None:
    """It checks each chunk against the ones before. Right: what a whole answer has; and arguments are parsed."""
    asked: Any = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "tools": TOOLS, "temperature": 0}
    with client.chat.completions.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        found = stream.get_final_completion().choices[0]
    assert {"content.delta", "tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert (found.finish_reason, found.message.content) == ("tool_calls", "I look.")
    [call] = found.message.tool_calls or []
    assert call.function.parsed_arguments == {"city": "Paris"}


def test_responses_loop_whole_and_streamed(client: OpenAI) -> None:
    """Items go back as they came, reasoning too. Right: whole and streamed are one but for ids."""
    items: list[Any] = [{"role": "user", "content": "How is the weather?"}]
    for _ in range(2):
        whole = client.responses.create(model="tiny", input=items, tools=OWN_TOOLS, temperature=0)
        assert [item.type for item in whole.output] == ["reasoning", "message", "function_call"]
        assert (whole.status, whole.output_text) == ("completed", "I look.")
        call: Any = whole.output[-1]
        assert (call.name, json.loads(call.arguments), call.status) == ("weather", {"city": "Paris"}, "completed")
        items += [*whole.output, {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}]
    with client.responses.stream(model="tiny", input=items[:1], tools=OWN_TOOLS, temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.output_text == whole.output_text
    [parsed] = [item for item in final.output if item.type == "function_call"]
    assert parsed.parsed_arguments == {"city": "Paris"}
    assert final.usage is not None
    assert final.usage.output_tokens_details.reasoning_tokens > 0
    assert final.usage.total_tokens == final.usage.input_tokens + final.usage.output_tokens


class City(BaseModel):
    """What `parse` is to make of an answer."""

    name: bool


def test_an_answer_is_parsed_by_both_apis(client: OpenAI) -> None:
    """The client sends the schema of a class and reads the answer as one. The model would rather say something else,
    and thinks first.
    """
    parsed = client.responses.parse(model="tiny", input="x", text_format=City, temperature=0, max_output_tokens=200)
    assert isinstance(parsed.output_parsed, City)
    assert [item.type for item in parsed.output] == ["reasoning", "message"]
    messages: Any = [{"role": "user", "content": "x"}]
    chat = client.chat.completions.parse(model="tiny", messages=messages, response_format=City, temperature=0)
    assert isinstance(chat.choices[0].message.parsed, City)


def test_the_async_client_does_the_same(address: str) -> None:
    async def story() -> tuple[str, str, list[str], str]:
        async with AsyncOpenAI(base_url=address, api_key="none", max_retries=0) as client:
            messages: Any = [{"role": "user", "content": "x"}]
            chat = await client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS, temperature=0)
            whole = await client.responses.create(model="tiny", input="x", tools=OWN_TOOLS, temperature=0)
            stream = await client.responses.create(model="tiny", input="x", tools=OWN_TOOLS, temperature=0, stream=True)
            kinds, text = list[str](), ""
            async for event in stream:
                kinds.append(event.type)
                text += event.delta if event.type == "response.output_text.delta" else ""
            return chat.choices[0].finish_reason, whole.output_text, kinds, text

    reason, whole, kinds, text = asyncio.run(story())
    assert (reason, whole, text) == ("tool_calls", "I look.", "I look.")
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
