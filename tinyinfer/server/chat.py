"""/v1/chat/completions: a conversation, written as the model's chat template writes it, and its next message.

What a model thinks before its answer comes apart from the text, under both names that clients read
(`reasoning_content`, `reasoning`). A stream begins with a chunk that names the role and holds no token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyinfer.llm import LLM
from tinyinfer.prompts import Prompt
from tinyinfer.request import Delta, TokenLogprob
from tinyinfer.server.collected import Collected
from tinyinfer.server.errors import wrong
from tinyinfer.server.fields import Lacking, read_fields
from tinyinfer.server.logprobs import Speller
from tinyinfer.server.sampling import (
    IGNORED,
    LACKING,
    SHARED,
    check_model,
    sampling_params,
    stream_options,
)
from tinyinfer.units import show

KINDS = {
    **SHARED, **IGNORED, "messages": "objects", "max_completion_tokens": "whole", "logprobs": "bool",
    "top_logprobs": "whole", "chat_template_kwargs": "object", "reasoning_effort": "text", "include_reasoning": "bool",
    "parallel_tool_calls": "bool",
}  # fmt: skip
NO_TOOLS = "tools are not rendered or parsed; describe them in a message, and read the calls from the text"
OWN_LACKING = {
    **LACKING,
    "tools": Lacking(([],), NO_TOOLS),
    "tool_choice": Lacking(("none", "auto"), NO_TOOLS),
    "functions": Lacking(([],), NO_TOOLS),
    "function_call": Lacking(("none", "auto"), NO_TOOLS),
    "modalities": Lacking((["text"],), "the model writes text alone"),
    "audio": Lacking((), "the model writes text alone"),
    "prediction": Lacking((), "drafts are chosen where the server is started, by --speculative"),
    "web_search_options": Lacking((), "the server reaches nothing outside"),
    "add_special_tokens": Lacking((False,), "the chat template writes the special tokens"),
    "add_generation_prompt": Lacking((True,), "a conversation is always followed by an answer"),
    "continue_final_message": Lacking((False,), "/v1/completions continues a text"),
    "echo": Lacking((False,), "/v1/completions has it"),
    "prompt_logprobs": Lacking((), "/v1/completions has it; /tokenize gives the tokens of a conversation"),
    "chat_template": Lacking((), "the model's own chat template is used"),
    "documents": Lacking(([],), "write the documents into a message"),
}


class Chat:
    """One call of /v1/chat/completions. Raises APIError for what it cannot be."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl-"

    def __init__(self, llm: LLM, speller: Speller, name: str, body: Mapping[str, Any]) -> None:
        given, self.unknown = read_fields(body, KINDS, OWN_LACKING)
        check_model(given, name)
        self._llm, self._speller, self._given = llm, speller, given
        check_messages(given.get("messages"))
        self.stream, (self.usage_last, self.usage_always) = given.get("stream", False), stream_options(given)
        self.names = {"": "messages", "logprobs": "top_logprobs"}
        longest = {"max_tokens": None}
        if "max_completion_tokens" in given:
            self.names["max_tokens"] = "max_completion_tokens"
            given["max_tokens"] = given["max_completion_tokens"]
        self.params = sampling_params(given, self.names, **longest, **top_logprobs(given))

    @property
    def count(self) -> int:
        """How many answers there will be."""
        return self.params.n

    def prompts(self) -> list[Prompt]:
        """What the engine is given: the conversation as the chat template writes it; takes time."""
        variables = dict(self._given.get("chat_template_kwargs", {}))
        if "reasoning_effort" in self._given:
            variables = {"reasoning_effort": self._given["reasoning_effort"], **variables}
        return [self._llm.chat_prompt(self._given["messages"], variables)]

    def whole(self, index: int, answer: Collected) -> dict[str, Any]:
        """An answer that has ended."""
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        message |= dict.fromkeys(("reasoning_content", "reasoning"), self._thought(answer.reasoning) or None)
        choice = {"index": index, "message": message, "logprobs": self._logprobs(answer.logprobs)}
        own = {"token_ids": answer.token_ids} if self._wants_ids else {}
        return choice | {"finish_reason": answer.finish_reason} | own

    def opening(self, index: int, answer: Collected) -> list[dict[str, Any]]:
        """What stands before the first piece of an answer: whose it is."""
        own = {"prompt_token_ids": answer.prompt} if self._wants_ids else {}
        return [self._piece(index, {"role": "assistant", "content": ""}) | own]

    def pieces(self, index: int, answer: Collected, delta: Delta) -> list[dict[str, Any]]:
        """The parts of a stream that a delta becomes; the last one has the finish_reason and nothing else."""
        found: list[dict[str, Any]] = []
        new: dict[str, str] = {}
        if thought := self._thought(delta.reasoning):
            new |= {"reasoning_content": thought, "reasoning": thought}
        if delta.text:
            new["content"] = delta.text
        if new or (delta.token_ids and (self._wants_ids or delta.logprobs)):
            own = {"token_ids": delta.token_ids} if self._wants_ids else {}
            found.append(self._piece(index, new, self._logprobs(delta.logprobs or [])) | own)
        if delta.finish_reason:
            found.append(self._piece(index, {}, finish_reason=delta.finish_reason))
        return found

    @property
    def _wants_ids(self) -> bool:
        return bool(self._given.get("return_token_ids"))

    def _thought(self, reasoning: str) -> str:
        return reasoning if self._given.get("include_reasoning", True) else ""

    def _logprobs(self, logprobs: list[TokenLogprob]) -> dict[str, Any] | None:
        return None if self.params.logprobs is None else self._speller.chat(logprobs)

    def _piece(
        self, index: int, new: dict[str, str], logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": index, "delta": new, "logprobs": logprobs, "finish_reason": finish_reason}


def top_logprobs(given: Mapping[str, Any]) -> dict[str, int]:
    """SamplingParams' logprobs, which chat completions ask for in two fields. Raises APIError."""
    if given.get("logprobs"):
        return {"logprobs": given.get("top_logprobs", 0)}
    if given.get("top_logprobs"):
        raise wrong("top_logprobs", "top_logprobs needs logprobs=true; add it, or leave top_logprobs out")
    return {}


def check_messages(messages: Any) -> None:
    """Raises APIError, which names the place, for messages that are no conversation in text."""
    if not messages:
        raise wrong("messages", 'messages must be a list of at least one {"role": ..., "content": ...}')
    for n, message in enumerate(messages):
        place = f"messages[{n}]"
        if not isinstance(message.get("role"), str):
            raise wrong(f"{place}.role", f"{place}.role={show(message.get('role'))} must be a text, such as 'user'")
        content = message.get("content")
        if isinstance(content, list):
            for i, part in enumerate(content):
                check_part(part, f"{place}.content[{i}]")
        elif content is not None and not isinstance(content, str):
            raise wrong(f"{place}.content", f"{place}.content={show(content)} must be a text or a list of parts")


def check_part(part: Any, place: str) -> None:
    """Raises APIError for a part of a content that is no text, such as an image."""
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        kind = part.get("type") if isinstance(part, dict) else part
        message = f'{place} of type {show(kind)} is not read here; the model reads {{"type": "text", "text": ...}}'
        raise wrong(place, message)
