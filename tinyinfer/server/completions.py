"""/v1/completions: texts or token ids go on, each as an answer of its own.

lm-evaluation-harness and load generators speak this form, because it adds nothing: no template, and token ids are taken
as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from tinyinfer.llm import LLM
from tinyinfer.prompts import Prompt
from tinyinfer.request import Delta
from tinyinfer.server.collected import Collected
from tinyinfer.server.errors import APIError, wrong
from tinyinfer.server.fields import Lacking, is_list_of, is_text, is_whole, read_fields
from tinyinfer.server.logprobs import Offsets, Speller
from tinyinfer.server.running import naming
from tinyinfer.server.sampling import (
    IGNORED,
    LACKING,
    SHARED,
    check_model,
    sampling_params,
    stream_options,
)
from tinyinfer.units import show

KINDS = {**SHARED, **IGNORED, "prompt": "any", "logprobs": "whole", "echo": "bool", "add_special_tokens": "bool"}
OWN_LACKING = {
    **LACKING,
    "suffix": Lacking(("",), "the model only goes on from the end of a text"),
    "prompt_embeds": Lacking((), "a prompt is text or token ids"),
}
MAX_TOKENS = 16  # OpenAI's default, and a reason to say how much is wanted


class Completions:
    """One call of /v1/completions. Raises APIError for what it cannot be."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl-"

    def __init__(self, llm: LLM, speller: Speller, name: str, body: Mapping[str, Any]) -> None:
        given, self.unknown = read_fields(body, KINDS, OWN_LACKING)
        check_model(given, name)
        self._llm, self._speller = llm, speller
        self._given = given
        self._asked = prompts_of(given.get("prompt"))
        self.stream, (self.usage_last, self.usage_always) = given.get("stream", False), stream_options(given)
        self.names: dict[str, str] = {"": "prompt"}
        extra = {"logprobs": given["logprobs"]} if "logprobs" in given else {}
        self.params = sampling_params(given, self.names, max_tokens=MAX_TOKENS, **extra)
        if given.get("echo") and extra:
            message = "echo=true with logprobs wants log-probabilities of the prompt, which the server does not give"
            raise APIError(400, message + "; leave one of them out", "echo", "unsupported_parameter")
        self._echoed = [""] * len(self._asked)
        self._offsets: dict[int, Offsets] = {}

    @property
    def count(self) -> int:
        """How many prompts there are."""
        return len(self._asked)

    def prompts(self) -> list[Prompt]:
        """What the engine is given; takes time."""
        encode = partial(self._llm.tokenizer.encode, add_special_tokens=self._given.get("add_special_tokens", True))
        if self._given.get("echo"):
            decode = self._llm.tokenizer.decode
            self._echoed = [one if isinstance(one, str) else decode(one) for one in self._asked]
        found: list[Prompt] = []
        for place, one in enumerate(self._asked):
            with naming(place, self.count):
                found.append(encode(one) if isinstance(one, str) and one else one)
        return found

    def whole(self, index: int, answer: Collected) -> dict[str, Any]:
        """An answer that has ended."""
        own = {"prompt_token_ids": answer.prompt, "token_ids": answer.token_ids} if self._wants_ids else {}
        logprobs = self._logprobs(index, answer, answer.logprobs)
        return self._choice(index, self._echoed[index] + answer.text, logprobs, answer.finish_reason) | own

    def opening(self, index: int, answer: Collected) -> list[dict[str, Any]]:
        """What stands before the first piece of an answer: an echoed prompt."""
        own = {"prompt_token_ids": answer.prompt, "token_ids": []} if self._wants_ids else {}
        return [self._choice(index, self._echoed[index]) | own] if self._echoed[index] or own else []

    def pieces(self, index: int, answer: Collected, delta: Delta) -> list[dict[str, Any]]:
        """The parts of a stream that a delta becomes; the last one has the finish_reason and nothing else."""
        found = []
        if delta.text or (delta.token_ids and (self._wants_ids or delta.logprobs)):
            own = {"token_ids": delta.token_ids} if self._wants_ids else {}
            found.append(self._choice(index, delta.text, self._logprobs(index, answer, delta.logprobs or [])) | own)
        if delta.finish_reason:
            found.append(self._choice(index, "", finish_reason=delta.finish_reason))
        return found

    @property
    def _wants_ids(self) -> bool:
        return bool(self._given.get("return_token_ids"))

    def _logprobs(self, index: int, answer: Collected, logprobs: list[Any]) -> dict[str, Any] | None:
        if self.params.logprobs is None:
            return None
        if index not in self._offsets:
            self._offsets[index] = Offsets(self._llm.tokenizer, answer.prompt, len(self._echoed[index]))
        return self._speller.completion(logprobs, self._offsets[index].of(one.token for one in logprobs))

    def _choice(
        self, index: int, text: str, logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def prompts_of(given: Any) -> list[Prompt]:
    """The prompts of a call: one or a list of them, each a text or token ids. Raises APIError for anything else."""
    if given is None:
        raise wrong("prompt", "prompt is missing; give a text, or a list of token ids")
    if isinstance(given, str) or (given and is_list_of(is_whole)(given)):
        return [given]
    if isinstance(given, list) and given and all(is_text(one) or is_list_of(is_whole)(one) for one in given):
        return given
    message = f"prompt={show(given)} must be a text, a list of token ids, or a list of several of either"
    raise wrong("prompt", message)
