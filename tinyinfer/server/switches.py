"""The server's own switches: where it listens, who gets in, and how much it takes at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from tinyinfer.errors import SwitchError
from tinyinfer.switches import Switches, switch


@dataclass(frozen=True)
class ServerSwitches(Switches):
    """How a model is served. Raises SwitchError for an open address without a key."""

    host: str = switch("127.0.0.1", help="address to listen at; others than this machine's own need a key")
    port: int = switch(8000, help="port to listen at")
    api_key: tuple[str, ...] = switch(
        (), metavar="KEY", help="what every call but /health must bring; repeated, any of them, each with prefixes of "
        "its own; better in TINYINFER_API_KEY, which no process list shows",
    )  # fmt: skip
    without_key: bool = switch(False, bare=True, help="an open address lets everyone in, without a key")
    allowed_host: tuple[str, ...] = switch(
        (), metavar="NAME", help="a further name by which clients may call this server (repeatable)"
    )
    served_model_name: str | None = switch(None, help="the model's name in the API (default: as it was given)")
    max_queue: int = switch(128, help="requests that may wait beside those that run; more are told to come later")
    max_body: int = switch(4 << 20, help="longest body of a request, in bytes")
    body_timeout: float = switch(30.0, help="seconds in which a body must be here")
    request_timeout: float | None = switch(None, help="seconds after which a request is ended (default: never)")
    log_json: bool = switch(False, bare=True, help="log lines are JSON")

    def refusals(self) -> Iterator[SwitchError]:
        """An address that others can reach without a key, and numbers that are none."""
        if self.port > 65535:
            yield SwitchError("port", self.port, "{field}={value} is no port", "choose a number up to 65535")
        if not (self.api_key or self.without_key or is_loopback(self.host)):
            reason = "{field}={value} can be reached from other machines, and there is no key"
            yield SwitchError("host", self.host, reason, "add {api_key}, or {without_key} to let everyone in")
        if not all(map(fits_a_header, self.api_key)):
            reason = "{field} must be letters and digits without accents or spaces around, since it travels in a header"
            yield SwitchError("api_key", "", reason, "choose another one")
        for name in ("body_timeout", "request_timeout"):
            seconds = getattr(self, name)
            if seconds is not None and not 0 < seconds < 1e9:
                yield SwitchError(name, seconds, "{field}={value} must be a number of seconds above 0")

    @property
    def any_host(self) -> bool:
        """Whether any Host is fine: clients know an open address by names that this machine cannot know."""
        return not is_loopback(self.host)


def fits_a_header(text: str) -> bool:
    """Whether a header brings the text as it is."""
    return bool(text) and text.isascii() and text.isprintable() and text == text.strip()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address; of a name, only `localhost` is known to be so."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
