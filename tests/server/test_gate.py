"""Who gets in: a key for every path but /health, no foreign page, no body that a page could send unasked."""

from __future__ import annotations

import hmac
from typing import Any

import pytest
from http_calls import JSON, Served
from starlette.routing import Route

from tinyinfer import LLM
from tinyinfer.errors import SwitchError
from tinyinfer.server import gate
from tinyinfer.server.switches import ServerSwitches

KEY = "open-sesame"


def paths(served: Served) -> list[tuple[str, str]]:
    """(method, path) of every route."""
    routes = [route for route in served.app.routes if isinstance(route, Route)]
    assert len(routes) > 9
    return [(min((route.methods or set()) - {"HEAD"}), route.path.replace("{name:path}", "tiny")) for route in routes]


def ask(served: Served, method: str, path: str, **headers: str) -> int:
    """The status of a request."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = served.get(path, **named) if method == "GET" else served.post(path, {}, **headers)
    return answer.status


def test_20_a_key_guards_every_path_but_health(served_llm: LLM) -> None:
    """Also paths that are not there, which would tell what is. Catches a key asked for under /v1 alone."""
    served = Served(served_llm, api_key=(KEY,))
    for method, path in [*paths(served), ("GET", "/nothing"), ("GET", "/health/../metrics")]:
        wanted = {200} if path == "/health" else {401}
        assert ask(served, method, path) in wanted
        for wrong in (f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer ", "Bearer", KEY, f"Basic {KEY}", "Bearer \xe9"):
            assert ask(served, method, path, authorization=wrong) in wanted
        assert ask(served, method, path, authorization=f"Bearer {KEY}") != 401
    answer = served.get("/v1/models")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.error["code"] == "invalid_api_key"
    assert not any(KEY in line for line in served.lines)


def test_20_a_key_is_compared_in_constant_time(served_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches `==`, which stops at the first wrong letter."""
    compared: list[Any] = []

    def watched(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return hmac.compare_digest(a, b)

    monkeypatch.setattr(gate, "compare_digest", watched)
    assert ask(Served(served_llm, api_key=(KEY,)), "GET", "/version", authorization="Bearer wrong") == 401
    assert compared == [(b"wrong", KEY.encode())]


def test_20_each_of_several_keys_gets_in_and_all_are_compared(
    served_llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a search that ends at the right key: its time would tell which one it is."""
    compared: list[bytes] = []

    def watched(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return hmac.compare_digest(a, b)

    monkeypatch.setattr(gate, "compare_digest", watched)
    served = Served(served_llm, api_key=(KEY, "other"))
    found = [ask(served, "GET", "/version", authorization=f"Bearer {key}") for key in (KEY, "other", "x")]
    assert found == [200, 200, 401]
    assert compared == [KEY.encode(), b"other"] * 3


def test_21_callers_of_different_keys_or_salts_share_no_prefix(served_llm: LLM) -> None:
    """By the ledger's hits. Catches one tree for all: the time to a first token tells what another caller asked
    (CVE-2025-46570).
    """
    served_llm.engine.forget_prefixes()
    served, long = Served(served_llm, api_key=(KEY, "other")), [0, *range(5, 45)]

    def hits(key: str, **fields: Any) -> int:
        before, body = served_llm.ledger.copy(), {"prompt": long, "max_tokens": 1, "temperature": 0, **fields}
        assert served.post("/v1/completions", body, authorization=f"Bearer {key}").status == 200
        return (served_llm.ledger - before).tokens_cached

    assert [hits(KEY), hits("other"), hits(KEY), hits("other")] == [0, 0, 32, 32]
    assert [hits(KEY, cache_salt=salt) for salt in ("a", "b", "a", None)] == [0, 0, 32, 32]
    assert hits("other", cache_salt="a") == 0, "a caller cannot name another key's tree"


FOREIGN = ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "",
           "localhost@evil.example", "evil.example/127.0.0.1", "[::1", "localhost:x", "localhost:99999"]  # fmt: skip


@pytest.mark.parametrize("host", FOREIGN)
def test_a_foreign_host_is_403_on_loopback(served: Served, host: str) -> None:
    """A page whose name points at 127.0.0.1 sends its own name. Catches DNS rebinding."""
    assert ask(served, "GET", "/v1/models", host=host) == 403
    assert ask(served, "GET", "/health", host=host) == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "LOCALHOST", "box.local"])
def test_a_host_of_this_machine_gets_in(served_llm: LLM, host: str) -> None:
    served = Served(served_llm, allowed_host=("Box.local",))
    assert ask(served, "GET", "/v1/models", host=host) == 200


def test_an_open_address_is_known_by_any_name(served_llm: LLM) -> None:
    served = Served(served_llm, host="0.0.0.0", api_key=(KEY,))
    assert ask(served, "GET", "/version", host="model.example", authorization=f"Bearer {KEY}") == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "https://[", "",
                                    f"file://{JSON['host']}", f"//{JSON['host']}"])  # fmt: skip
def test_a_foreign_origin_is_403_and_no_answer_has_a_cors_header(served: Served, origin: str) -> None:
    assert ask(served, "GET", "/v1/models", origin=origin) == 403
    answer = served.post("/v1/completions", {"prompt": "x", "max_tokens": 1}, origin=origin)
    assert answer.status == 403
    assert not any(name.startswith("access-control") for name in answer.headers)
    own = served.post("/v1/completions", {"prompt": "x", "max_tokens": 1}, origin=f"http://{JSON['host']}")
    assert own.status == 200
    assert not any(name.startswith("access-control") for name in own.headers)


def test_an_origin_is_this_server_in_any_case_of_its_letters(served: Served) -> None:
    """Names of hosts have none. Catches a page of this server that is taken for a foreign one."""
    assert ask(served, "GET", "/v1/models", host="localhost:8000", origin="HTTP://LOCALHOST:8000") == 200
    assert ask(served, "GET", "/v1/models", host="LocalHost:8000", origin="https://localhost:8000") == 200


def test_a_body_of_two_lengths_is_400(served: Served) -> None:
    """A proxy that reads the other one sees other requests than this server (RFC 9112, 6.1: request smuggling)."""
    answer = served.post("/v1/completions", {"prompt": "x"}, content_length="15", transfer_encoding="chunked")
    assert (answer.status, answer.headers["connection"]) == (400, "close")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "",
                                  "application/jsonp", "text/plain; application/json"])  # fmt: skip
def test_a_body_that_is_not_declared_as_json_is_415(served: Served, kind: str) -> None:
    """A form of any page may post such bodies without being asked first."""
    body = {"prompt": "x", "max_tokens": 1}
    assert served.post("/v1/completions", body, content_type=kind).status == 415
    assert served.post("/v1/completions", body, content_type="Application/JSON; charset=utf-8").status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "model.example"])
def test_an_open_address_needs_a_key_or_a_word(host: str) -> None:
    with pytest.raises(SwitchError, match="there is no key; add api_key, or without_key"):
        ServerSwitches(host=host)
    assert ServerSwitches(host=host, api_key=(KEY,)).any_host
    assert ServerSwitches(host=host, without_key=True).any_host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert not ServerSwitches(host=host).any_host


WRONG = [{"port": 70_000}, {"api_key": (" ",)}, {"api_key": (KEY, "schlüssel")}, {"request_timeout": 0.0},
         {"body_timeout": float("nan")}, {"max_queue": 0}]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_switches_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SwitchError, match=next(iter(wrong))):
        ServerSwitches(**wrong)


def test_an_error_of_ours_is_500_in_one_form_and_the_log_names_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a traceback in an answer, and an error that no log has."""

    def broken() -> bytes:
        raise KeyError("secret detail")

    monkeypatch.setattr(served.service.metrics, "text", broken)
    answer = served.get("/metrics")
    assert (answer.status, answer.error["type"]) == (500, "server_error")
    assert "secret detail" not in answer.error["message"]
    assert "KeyError: 'secret detail'" in served.lines[-1]
    assert served.get("/health").status == 200


def test_log_lines_have_no_text_of_a_prompt_also_where_it_is_refused(served: Served) -> None:
    """The caller's sentence quotes what was wrong. Catches a log that repeats it."""
    secret = "my secret text"
    for path, body in [
        ("/v1/completions", {"prompt": [secret, 5]}), ("/v1/completions", {"prompt": "x", "stop": {secret: 1}}),
        ("/v1/chat/completions", {"messages": secret}), ("/v1/completions", {"prompt": "x", "suffix": secret}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": {"t": secret}}]}),
        ("/tokenize", {"prompt": [secret]}), ("/detokenize", {"tokens": secret}),
    ]:  # fmt: skip
        assert served.post(path, body).status == 400
    assert len(served.lines) == 7
    assert not any("secret" in line for line in served.lines)
    assert all("is refused" in line for line in served.lines)


def test_a_path_cannot_write_fields_of_a_log_line(served: Served) -> None:
    served.get("/x status=200 request=deadbeef")
    assert "path=/x%20status%3D200%20request%3Ddeadbeef status=404" in served.lines[-1]


def test_a_log_that_can_not_be_written_ends_no_request(served: Served) -> None:
    """Its reader is gone. Catches a request that fails because its log line does."""

    def gone(line: str) -> None:
        raise BrokenPipeError

    served.service._write = gone
    assert served.complete(max_tokens=2, zebra=1).status == 200


def test_a_path_with_a_slash_behind_it_is_not_there(served: Served) -> None:
    """Catches a redirect: it would be by http, also behind a proxy with TLS."""
    assert served.post("/v1/completions/", {"prompt": "x"}).status == 404


@pytest.mark.parametrize("key", ["", " ", "key\n", "key\r", " key", "k\u00e9y", "a\tb"])
def test_a_key_that_no_header_brings_is_refused(key: str) -> None:
    """Catches a server that starts, and lets no one in."""
    with pytest.raises(SwitchError, match="without accents or spaces around"):
        ServerSwitches(api_key=(key,))
