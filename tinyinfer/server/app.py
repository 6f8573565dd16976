"""The routes of the server, as one ASGI application."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tinyinfer.server.answer import Endpoint
from tinyinfer.server.chat import Chat
from tinyinfer.server.completions import Completions
from tinyinfer.server.endpoints import Endpoints
from tinyinfer.server.errors import APIError
from tinyinfer.server.gate import Gate
from tinyinfer.server.service import Service


def make_app(service: Service) -> Starlette:
    """The application that serves a model."""
    small = Endpoints(service)
    routes = [
        Route("/v1/chat/completions", Endpoint(service, Chat), methods=["POST"]),
        Route("/v1/completions", Endpoint(service, Completions), methods=["POST"]),
        Route("/v1/models", small.models, methods=["GET"]),
        Route("/v1/models/{name:path}", small.model, methods=["GET"]),
        Route("/tokenize", small.tokenize, methods=["POST"]),
        Route("/detokenize", small.detokenize, methods=["POST"]),
        Route("/health", small.health, methods=["GET"]),
        Route("/ready", small.ready, methods=["GET"]),
        Route("/version", small.version, methods=["GET"]),
        Route("/metrics", small.metrics, methods=["GET"]),
    ]
    there = ", ".join(f"{min(route.methods or {'ANY'}, key=unlike_head)} {route.path}" for route in routes)

    async def elsewhere(request: Request, error: Exception) -> Response:
        """A path or a method that is not there, in OpenAI's form."""
        assert isinstance(error, HTTPException)
        message = f"there is no {request.method} {request.url.path[:200]} here; there are {there}"
        told = APIError(error.status_code, message)
        return JSONResponse(told.as_dict(), told.status, error.headers)

    gate = Middleware(Gate, service=service)
    app = Starlette(routes=routes, middleware=[gate], exception_handlers={HTTPException: elsewhere})
    app.router.redirect_slashes = False  # a redirect of a prompt would go out by http, also behind a proxy with TLS
    return app


def unlike_head(method: str) -> tuple[bool, str]:
    """Sorts HEAD, which comes with every GET, behind the others."""
    return method == "HEAD", method
