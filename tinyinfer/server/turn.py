"""A turn: a conversation becomes a prompt, and its next message text and calls, whatever the form of the API.

Chat completions and Responses say the same in two ways. Both are read into this, so that there is one way to the
engine: the chat template writes the messages and the tools, and where the answer has a form (a call that must come, a
JSON schema), a grammar says which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tinyinfer.errors import SwitchError
from tinyinfer.guided.grammar import bars
from tinyinfer.llm import LLM
from tinyinfer.request import Request
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.server.collected import Collected
from tinyinfer.server.errors import wrong
from tinyinfer.server.messages import for_template
from tinyinfer.server.tool_calls.forced import Asked, grammar_of
from tinyinfer.server.tools import Tools
from tinyinfer.text.reasoning import ChatPrompt


@dataclass(frozen=True)
class Turn:
    """messages: checked ones. variables: the chat template's own. tools: what the model may call."""

    llm: LLM
    messages: list[dict[str, Any]]
    variables: Mapping[str, Any]
    tools: Tools

    def prepared(self, params: SamplingParams) -> tuple[ChatPrompt, SamplingParams]:
        """What the engine is given; takes time. Raises APIError, SwitchError, and what a chat template raises.

        Beside a call that must come, a JSON schema is for the answers of later turns; a regex or a grammar is refused.
        """
        for name in ("regex", "grammar") if self.tools.forced else ():
            if getattr(params, name) is not None:
                value, reason = getattr(params, name), "a call must come, which {field} does not describe"
                raise SwitchError(name, value, reason, "leave out one of the two")
        variables = dict(self.variables)
        if self.tools.offered:
            variables["tools"] = list(self.tools.offered)
        prompt = self.llm.chat_prompt(for_template(self.messages), variables)
        either = params.json_schema is not None and self.tools.offered
        if either and not self.tools.forced:
            bars(self.llm.tokenizer, params, frozenset())  # a fault of the schema alone names the schema
        if self.tools.forced or either:
            params = replace(params, grammar=self._grammar(params.json_schema), json_schema=None)
        marks = self.tools.format.names if self.tools.format else ()
        return ChatPrompt(prompt, prompt.thinking, marks), params

    def _grammar(self, schema: Any) -> str:
        """What an answer looks like: a call that must come, else a call or JSON of the schema.

        schema: JSON text. Raises APIError for parameters that the format of calls cannot hold.
        """
        format = self.tools.format
        tokens, marks = self.llm.tokenizer.specials_in, format.names if format else ()
        special = {name: id for mark in marks for id, name in tokens(mark).items() if name == mark}
        functions = self.tools.forced or tuple(tool["function"] for tool in self.tools.offered)
        form = None if self.tools.forced else json.loads(schema)
        try:
            return grammar_of(Asked(functions, self.tools.one, form, special), format)
        except ValueError as error:
            raise wrong("tools", str(error)) from None

    def collect(self, request: Request) -> Collected:
        """What gathers an answer: text and calls apart."""
        return Collected(request, self.tools.format, self.tools.one)
