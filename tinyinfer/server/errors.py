"""An error in OpenAI's form: {"error": {"message", "type", "param", "code"}} and a status.

Clients read the status first (openai's own tries 429 and 5xx again), people the message. So a caller's mistake is
never a 5xx, and the message is the sentence that the engine has for it, with the fields as the caller wrote them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from tinyinfer.errors import GrammarError, NotFiniteError, RequestError, SwitchError, TextError, one_line

TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    429: "rate_limit_error", 503: "service_unavailable_error", 504: "timeout_error",
}  # fmt: skip
CLOSED = 503


class APIError(Exception):
    """What a call is answered with instead of what it asked for."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, **headers: str
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.message = one_line(message)
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    @property
    def logged(self) -> dict[str, str]:
        """What a log line says: of a caller's mistake the field alone, since the sentence quotes its value."""
        return {"error": f"{self.param} is refused" if self.status < 500 and self.param else self.message[:200]}

    def as_dict(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class UnknownError(APIError):
    """An error that is no caller's: its own words are for the log."""

    def __init__(self, error: BaseException) -> None:
        kind = type(error).__name__
        super().__init__(500, f"the server met an error that it does not know ({kind}); its log says more")
        self.exception = f"{kind}: {error}"

    @property
    def logged(self) -> dict[str, str]:
        return {"exception": self.exception, **super().logged}


def wrong(param: str, message: str) -> APIError:
    """A caller's mistake in one field."""
    return APIError(400, message, param)


def as_api_error(error: BaseException, names: Mapping[str, str] = MappingProxyType({})) -> APIError:
    """What an exception of the engine or of the tokenizer is for a caller.

    names: a field of SamplingParams -> the field of the body that it came from, where the two differ; "" stands for the
    prompt.
    """
    spell: Callable[[str], str] = lambda name: names.get(name, name)  # noqa: E731
    if isinstance(error, APIError):
        return error
    if isinstance(error, SwitchError):
        code = "context_length_exceeded" if "held" in error.texts else None
        return APIError(400, error.sentence(spell), spell(error.field) or None, code)
    if isinstance(error, RecursionError):
        return APIError(400, "the body is nested too deeply")  # any of its fields may be the cause
    if isinstance(error, GrammarError):  # the same call would fail again
        return APIError(400, error.sentence(spell))
    if isinstance(error, RequestError):
        return APIError(500 if isinstance(error, NotFiniteError) else CLOSED, error.sentence(spell))
    if isinstance(error, TextError):  # a chat template that refuses these messages; where it lies is the owner's matter
        return APIError(400, error.what, names.get(""))
    return APIError(400, str(error), names.get("")) if isinstance(error, ValueError) else UnknownError(error)
