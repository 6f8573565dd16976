"""The routes of the server, as one ASGI application."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from tinyinfer.server.answer import Endpoint
from tinyinfer.server.chat import Chat
from tinyinfer.server.completions import Completions
from tinyinfer.server.endpoints import Endpoints
from tinyinfer.server.errors import APIError
from tinyinfer.server.gate import Gate
from tinyinfer.server.openapi import described
from tinyinfer.server.responses import Responses
from tinyinfer.server.service import Service


def make_app(service: Service) -> Starlette:
    """The application that serves a model."""
    small = Endpoints(service)
    told = described(service.version, service.name, with_key=bool(service.switches.api_key))

    async def description(request: Request) -> Response:
        """What is here, for programs."""
        return JSONResponse(told)

    routes = [
        Route("/v1/chat/completions", Endpoint(service, Chat), methods=["POST"]),
        Route("/v1/completions", Endpoint(service, Completions), methods=["POST"]),
        Route("/v1/responses", Endpoint(service, Responses), methods=["POST"]),
        Route("/v1/models", small.models, methods=["GET"]),
        Route("/v1/models/{name:path}", small.model, methods=["GET"]),
        Route("/tokenize", small.tokenize, methods=["POST"]),
        Route("/detokenize", small.detokenize, methods=["POST"]),
        Route("/tokenizer_info", small.tokenizer_info, methods=["GET"]),
        Route("/health", small.health, methods=["GET"]),
        Route("/ready", small.ready, methods=["GET"]),
        Route("/version", small.version, methods=["GET"]),
        Route("/metrics", small.metrics, methods=["GET"]),
        Route("/openapi.json", description, methods=["GET"]),
    ]
    there = ", ".join(f"{min(route.methods or {'ANY'}, key=unlike_head)} {route.path}" for route in routes)

    async def elsewhere(request: Request, error: Exception) -> Response:
        """A path or a method that is not there, in OpenAI's form."""
        assert isinstance(error, HTTPException)
        message = f"there is no {request.method} {request.url.path[:200]} here; there are {there}"
        told = APIError(error.status_code, message)
        return JSONResponse(told.as_dict(), told.status, error.headers)

    gate = Middleware(Gate, service=service)
    return Exact(routes, [gate], {HTTPException: elsewhere})


class Exact(Starlette):
    """Paths are there as they are spelled: Starlette would redirect one with a slash behind it, and that by http, also
    behind a proxy with TLS.
    """

    def __init__(self, routes: list[Route], middleware: list[Middleware], exception_handlers: dict[Any, Any]) -> None:
        super().__init__(middleware=middleware, exception_handlers=exception_handlers)
        self.router = Router(routes, redirect_slashes=False)


def unlike_head(method: str) -> tuple[bool, str]:
    """Sorts HEAD, which comes with every GET, behind the others."""
    return method == "HEAD", method
