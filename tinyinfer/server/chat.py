"""/v1/chat/completions: a conversation, written as the model's chat template writes it, and its next message.

What a model thinks before its answer comes apart from the text, under both names that clients read
(`reasoning_content`, `reasoning`). A stream begins with a chunk that names the role and holds no token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyinfer.prompts import Prompt
from tinyinfer.request import Delta, Request, TokenLogprob
from tinyinfer.server import template_fields
from tinyinfer.server.chunks import Chunks
from tinyinfer.server.collected import Collected
from tinyinfer.server.errors import wrong
from tinyinfer.server.fields import Lacking, read_fields
from tinyinfer.server.messages import check_messages
from tinyinfer.server.sampling import IGNORED, LACKING, SHARED, check_model, sampling_params, stream_options
from tinyinfer.server.service import Service
from tinyinfer.server.structured import asked_form, form_names
from tinyinfer.server.tool_calls.calls import Piece
from tinyinfer.server.tools import read_tools
from tinyinfer.server.turn import Turn

KINDS = {
    **SHARED, **IGNORED, "messages": "objects", "max_completion_tokens": "whole", "logprobs": "bool",
    "top_logprobs": "whole", **template_fields.KINDS, "include_reasoning": "bool", "tools": "objects",
    "tool_choice": "any", "parallel_tool_calls": "bool",
}  # fmt: skip
NO_FUNCTIONS = "tools and tool_choice have replaced it"
OWN_LACKING = {
    **LACKING,
    "functions": Lacking(([],), NO_FUNCTIONS),
    "function_call": Lacking(("none", "auto"), NO_FUNCTIONS),
    "modalities": Lacking((["text"],), "the model writes text alone"),
    "audio": Lacking((), "the model writes text alone"),
    "prediction": Lacking((), "drafts are chosen where the server is started, by --speculative"),
    "web_search_options": Lacking((), "the server reaches nothing outside"),
    "add_special_tokens": Lacking((False,), "the chat template writes the special tokens"),
    "continue_final_message": Lacking((False,), "/v1/completions continues a text"),
    "echo": Lacking((False,), "/v1/completions has it"),
    "prompt_logprobs": Lacking((), "/v1/completions has it; /tokenize gives the tokens of a conversation"),
    "chat_template": Lacking((), "the model's own chat template is used"),
    "documents": Lacking(([],), "write the documents into a message"),
}


class Chat(Chunks):
    """One call of /v1/chat/completions. Raises APIError for what it cannot be."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl-"

    def __init__(self, service: Service, body: Mapping[str, Any]) -> None:
        given, self.unknown = read_fields(body, KINDS, OWN_LACKING)
        check_model(given, service.name)
        super().__init__(service)
        self._speller, self._given = service.speller, given
        check_messages(given.get("messages"))
        variables = template_fields.template_variables(given)
        tools = read_tools(given, service)
        self._turn = Turn(service.llm, given["messages"], variables, tools)
        self.stream, (self.usage_last, self.usage_always) = given.get("stream", False), stream_options(given)
        form = asked_form(given)
        place = form_names(form)
        grammar = "tools" if tools.offered else place.get("json_schema", "response_format")
        self.names = {"": "messages", "logprobs": "top_logprobs", "grammar": grammar, **place}
        longest = {"max_tokens": None}
        if "max_completion_tokens" in given:
            self.names["max_tokens"] = "max_completion_tokens"
            given["max_tokens"] = given["max_completion_tokens"]
        self.params = sampling_params(given, form, self.names, **longest, **top_logprobs(given))

    @property
    def count(self) -> int:
        """How many answers there will be."""
        return self.params.n

    def prompts(self) -> list[Prompt]:
        """What the engine is given: the conversation as the chat template writes it; takes time."""
        prompt, self.params = self._turn.prepared(self.params)
        return [prompt]

    def collect(self, request: Request) -> Collected:
        """What gathers the answer of a request."""
        return self._turn.collect(request)

    def whole(self, index: int, answer: Collected) -> dict[str, Any]:
        """An answer that has ended."""
        content = answer.text or (None if answer.calls else "")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        message |= dict.fromkeys(("reasoning_content", "reasoning"), self._thought(answer.reasoning) or None)
        if answer.calls:
            message["tool_calls"] = [called(one.id, one.name, one.arguments) for one in answer.calls]
        choice = {"index": index, "message": message, "logprobs": self._logprobs(answer.logprobs)}
        own = {"token_ids": answer.token_ids} if self._wants_ids else {}
        return choice | {"finish_reason": answer.ended} | own

    def opening(self, index: int, answer: Collected) -> list[dict[str, Any]]:
        """What stands before the first piece of an answer: whose it is."""
        own = {"prompt_token_ids": answer.prompt} if self._wants_ids else {}
        return [self._piece(index, {"role": "assistant", "content": ""}) | own]

    def pieces(self, index: int, answer: Collected, delta: Delta) -> list[dict[str, Any]]:
        """The parts of a stream that a delta becomes; the last one has the finish_reason and nothing else."""
        found: list[dict[str, Any]] = []
        new: dict[str, Any] = {}
        if thought := self._thought(delta.reasoning):
            new |= {"reasoning_content": thought, "reasoning": thought}
        if text := "".join(piece.text for piece in answer.new if piece.call is None):
            new["content"] = text
        if new or (delta.token_ids and (self._wants_ids or delta.logprobs)):
            own = {"token_ids": delta.token_ids} if self._wants_ids else {}
            found.append(self._piece(index, new, self._logprobs(delta.logprobs or [])) | own)
        calls = (called_piece(piece, answer) for piece in answer.new if piece.call is not None)
        found += [self._piece(index, {"tool_calls": [call]}) for call in calls]
        if delta.finish_reason:
            found.append(self._piece(index, {}, finish_reason=answer.ended))
        return found

    @property
    def _wants_ids(self) -> bool:
        return bool(self._given.get("return_token_ids"))

    def _thought(self, reasoning: str) -> str:
        return reasoning if self._given.get("include_reasoning", True) else ""

    def _logprobs(self, logprobs: list[TokenLogprob]) -> dict[str, Any] | None:
        return None if self.params.logprobs is None else self._speller.chat(logprobs)

    def _piece(
        self, index: int, new: dict[str, Any], logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": index, "delta": new, "logprobs": logprobs, "finish_reason": finish_reason}


def called(id: str, name: str, arguments: str) -> dict[str, Any]:
    """A call in the form of chat completions."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def called_piece(piece: Piece, answer: Collected) -> dict[str, Any]:
    """A part of a call in a stream: id, type and name once, then pieces of its arguments."""
    assert piece.call is not None
    if piece.name is not None:
        return {"index": piece.call} | called(answer.calls[piece.call].id, piece.name, "")
    return {"index": piece.call, "function": {"arguments": piece.text}}


def top_logprobs(given: Mapping[str, Any]) -> dict[str, int]:
    """SamplingParams' logprobs, which chat completions ask for in two fields. Raises APIError."""
    if given.get("logprobs"):
        return {"logprobs": given.get("top_logprobs", 0)}
    if given.get("top_logprobs"):
        raise wrong("top_logprobs", "top_logprobs needs logprobs=true; add it, or leave top_logprobs out")
    return {}
