"""The small endpoints: what is served, whether it is alive, and texts to tokens and back.

Alive and ready are two questions. /health says that the process answers, also while a long prompt is computed: a
supervisor that ends a busy server makes the load worse. /ready says that it takes new requests, and is 503 while it
drains.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tinyinfer.prompts import check_ids
from tinyinfer.server import template_fields
from tinyinfer.server.errors import APIError, as_api_error, wrong
from tinyinfer.server.events import encoded
from tinyinfer.server.fields import read_fields
from tinyinfer.server.messages import check_messages, for_template
from tinyinfer.server.running import in_pool
from tinyinfer.server.sampling import check_model
from tinyinfer.server.service import Service
from tinyinfer.server.tools import read_tools

TOKENIZE = {
    "model": "text", "prompt": "text", "messages": "objects", "add_special_tokens": "bool", "return_token_strs": "bool",
    **template_fields.KINDS, "tools": "objects",
}  # fmt: skip
DETOKENIZE = {"model": "text", "tokens": "ids"}


class Endpoints:
    """The endpoints that answer at once."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def health(self, request: Request) -> Response:
        """The process answers: no more is asked."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """The server takes new requests; 503 while it drains."""
        draining = self.service.admission.draining
        return JSONResponse({"status": "draining" if draining else "ready"}, 503 if draining else 200)

    async def version(self, request: Request) -> Response:
        """The version of tinyinfer."""
        return JSONResponse({"version": self.service.version})

    async def metrics(self, request: Request) -> Response:
        """All numbers, as Prometheus reads them."""
        return Response(self.service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self, request: Request) -> Response:
        """The one model that is served, in a list."""
        return JSONResponse({"object": "list", "data": [self._model]})

    async def model(self, request: Request) -> Response:
        """The model of this name. Raises APIError, 404, for another one."""
        check_model({"model": request.path_params["name"]}, self.service.name)
        return JSONResponse(self._model)

    async def tokenize(self, request: Request) -> Response:
        """The tokens of a text, or of a conversation as the chat template writes it. Raises APIError."""
        return await self._answered(request, TOKENIZE, self._tokens)

    async def detokenize(self, request: Request) -> Response:
        """The text of tokens; special tokens are no text. Raises APIError."""
        return await self._answered(request, DETOKENIZE, self._text)

    async def tokenizer_info(self, request: Request) -> Response:
        """What a client needs to write prompts as the model does: special tokens by their names, and the template.

        bos_token, eos_token and pad_token are there, also where the model has none.
        """
        llm = self.service.llm
        told: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": llm.max_model_len}
        told |= dict.fromkeys(("bos_token", "eos_token", "pad_token")) | llm.tokenizer.special_tokens
        ends = llm.config.eos_token_ids
        if told["eos_token"] is None and ends:
            told["eos_token"] = llm.tokenizer.names(max(ends) + 1)[ends[0]]
        return JSONResponse({**told, "chat_template": llm.tokenizer.chat_template})

    @property
    def _model(self) -> dict[str, Any]:
        own = {"created": self.service.created, "owned_by": "tinyinfer"}
        return {"id": self.service.name, "object": "model", **own, "max_model_len": self.service.llm.max_model_len}

    def _tokens(self, given: dict[str, Any]) -> dict[str, Any]:
        llm = self.service.llm
        if "messages" in given:
            check_messages(given["messages"])
            offered = read_tools(given, self.service).offered
            tools = {"tools": list(offered)} if offered else {}
            variables = template_fields.template_variables(given) | tools
            tokens: list[int] = llm.chat_prompt(for_template(given["messages"]), variables)
        elif "prompt" in given:
            tokens = llm.tokenizer.encode(given["prompt"], given.get("add_special_tokens", True))
        else:
            raise wrong("prompt", "give a prompt (a text) or messages (a conversation)")
        answer: dict[str, Any] = {"count": len(tokens), "max_model_len": llm.max_model_len, "tokens": tokens}
        if given.get("return_token_strs"):
            answer["token_strs"] = [self.service.speller.text(token) for token in tokens]
        return answer

    def _text(self, given: dict[str, Any]) -> dict[str, Any]:
        llm = self.service.llm
        if "tokens" not in given:
            raise wrong("tokens", "tokens is missing; give a list of token ids")
        check_ids([], llm.config.vocab_size, tokens=given["tokens"])
        return {"prompt": llm.tokenizer.decode(given["tokens"])}

    async def _answered(
        self, request: Request, kinds: dict[str, str], work: Callable[[dict[str, Any]], Any]
    ) -> Response:
        """What the work makes of a body's fields, on the thread aside: also to write a million tokens as JSON takes
        its time. Raises APIError.
        """
        service = self.service
        service.admission.check_open()
        service.small.check()
        make = partial(read_fields, kinds=kinds, lacking={})
        given, unknown = await service.read(service.small, request.headers, request.receive, make)
        service.log_unknown(request.url.path, unknown)
        check_model(given, service.name)
        with service.small.enter(1, service.clock):
            try:
                body = await in_pool(service.aside, lambda: encoded(work(given)))
            except APIError:
                raise
            except Exception as error:
                raise as_api_error(error) from error
        return Response(body, media_type="application/json")
