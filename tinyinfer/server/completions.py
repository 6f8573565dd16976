"""/v1/completions: texts or token ids go on, each as an answer of its own.

lm-evaluation-harness and load generators speak this form, because it adds nothing: no template, and token ids are taken
as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from tinyinfer.prompts import Prompt
from tinyinfer.request import Delta, Request, TokenLogprob, prompt_logprobs
from tinyinfer.server.chunks import Chunks
from tinyinfer.server.collected import Collected
from tinyinfer.server.errors import wrong
from tinyinfer.server.fields import Lacking, is_list_of, is_text, is_whole, read_fields
from tinyinfer.server.logprobs import Offsets
from tinyinfer.server.running import naming
from tinyinfer.server.sampling import IGNORED, LACKING, SHARED, check_model, sampling_params, stream_options
from tinyinfer.server.service import Service
from tinyinfer.server.structured import asked_form, form_names
from tinyinfer.units import show

KINDS = {
    **SHARED, **IGNORED, "prompt": "any", "logprobs": "whole", "echo": "bool", "add_special_tokens": "bool",
    "prompt_logprobs": "whole",
}  # fmt: skip
OWN_LACKING = {
    **LACKING,
    "suffix": Lacking(("",), "the model only goes on from the end of a text"),
    "prompt_embeds": Lacking((), "a prompt is text or token ids"),
}
MAX_TOKENS = 16  # OpenAI's default, and a reason to say how much is wanted


class Completions(Chunks):
    """One call of /v1/completions. Raises APIError for what it cannot be."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl-"

    def __init__(self, service: Service, body: Mapping[str, Any]) -> None:
        given, self.unknown = read_fields(body, KINDS, OWN_LACKING)
        check_model(given, service.name)
        super().__init__(service)
        self._llm, self._speller = service.llm, service.speller
        self._given = given
        self._asked = prompts_of(given.get("prompt"))
        self.stream, (self.usage_last, self.usage_always) = given.get("stream", False), stream_options(given)
        form = asked_form(given)
        self.names: dict[str, str] = {"": "prompt", **form_names(form)}
        extra = {name: given[name] for name in ("logprobs", "prompt_logprobs") if name in given}
        self._echoes_logprobs = given.get("echo", False) and "logprobs" in given
        if self._echoes_logprobs:
            extra["prompt_logprobs"] = max(extra.values())
        self.params = sampling_params(given, form, self.names, max_tokens=MAX_TOKENS, **extra)
        self._echoed = [""] * len(self._asked)
        self._offsets: dict[int, Offsets] = {}

    @property
    def count(self) -> int:
        """How many answers there will be: n to each prompt, numbered prompt by prompt."""
        return len(self._asked) * self.params.n

    def prompts(self) -> list[Prompt]:
        """What the engine is given; takes time."""
        encode = partial(self._llm.tokenizer.encode, add_special_tokens=self._given.get("add_special_tokens", True))
        if self._given.get("echo"):
            decode = self._llm.tokenizer.decode
            self._echoed = [one if isinstance(one, str) else decode(one) for one in self._asked]
        found: list[Prompt] = []
        for place, one in enumerate(self._asked):
            with naming(place, len(self._asked)):
                found.append(encode(one) if isinstance(one, str) and one else one)
        return found

    def collect(self, request: Request) -> Collected:
        """What gathers the answer of a request."""
        return Collected(request)

    def whole(self, index: int, answer: Collected) -> dict[str, Any]:
        """An answer that has ended."""
        own = {"prompt_token_ids": answer.prompt, "token_ids": answer.token_ids} if self._wants_ids else {}
        logprobs, before = self._logprobs(index, answer, answer.logprobs), self._prompts_own(answer)
        if logprobs and before:
            logprobs = {name: before[name] + logprobs[name] for name in before}
        choice = self._choice(index, self._echo(index) + answer.text, logprobs, answer.finish_reason)
        return choice | own | self._scores(answer)

    def opening(self, index: int, answer: Collected) -> list[dict[str, Any]]:
        """What stands before the first piece of an answer: an echoed prompt."""
        own = {"prompt_token_ids": answer.prompt, "token_ids": []} if self._wants_ids else {}
        own |= self._scores(answer)
        before = self._prompts_own(answer)
        return [self._choice(index, self._echo(index), before) | own] if self._echo(index) or own or before else []

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

    def _echo(self, index: int) -> str:
        """The prompt's text before the answer of this number; empty when none is asked for."""
        return self._echoed[index // self.params.n]

    def _scores(self, answer: Collected) -> dict[str, Any]:
        """vLLM's field for the prompt's log-probabilities, where it was asked for."""
        if "prompt_logprobs" not in self._given:
            return {}
        known = prompt_logprobs(answer.source.seq)
        count = self._given["prompt_logprobs"]
        return {} if known is None else {"prompt_logprobs": self._speller.prompt(best(known, count))}

    def _prompts_own(self, answer: Collected) -> dict[str, list[Any]] | None:
        """The log-probabilities of an echoed prompt, which stand before those of the answer."""
        known = prompt_logprobs(answer.source.seq) if self._echoes_logprobs else None
        places = Offsets(self._llm.tokenizer, [], 0).of(answer.prompt) if known else []
        return self._speller.completion(answer.prompt, best(known, self._given["logprobs"]), places) if known else None

    def _logprobs(self, index: int, answer: Collected, logprobs: list[TokenLogprob]) -> dict[str, list[Any]] | None:
        if self.params.logprobs is None:
            return None
        if index not in self._offsets:
            self._offsets[index] = Offsets(self._llm.tokenizer, answer.prompt, len(self._echo(index)))
        tokens = [one.token for one in logprobs]
        return self._speller.completion(tokens, logprobs, self._offsets[index].of(tokens))

    def _choice(
        self, index: int, text: str, logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def best(known: Sequence[TokenLogprob | None], count: int) -> list[TokenLogprob | None]:
    """A prompt's log-probabilities with so many of the best ones: a call may ask for two numbers of them."""
    return [one and replace(one, top=dict(islice(one.top.items(), count))) for one in known]


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
