"""The small endpoints, paths that are not there, and the log."""

from __future__ import annotations

import json
import re

import pytest
from http_calls import Served

import tinyinfer
from tinyinfer import LLM


def test_health_ready_and_version(served: Served) -> None:
    assert served.get("/health").json == {"status": "ok"}
    assert served.get("/ready").json == {"status": "ready"}
    assert served.get("/version").json == {"version": tinyinfer.__version__}


def test_the_model_is_listed_by_its_name(served: Served, served_llm: LLM) -> None:
    [model] = served.get("/v1/models").json["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("tiny", "model", served_llm.max_model_len)
    assert served.get("/v1/models/tiny").json == model
    named = Served(served_llm, served_model_name="owner/name")
    assert named.get("/v1/models/owner/name").json["id"] == "owner/name"
    assert named.complete(max_tokens=1, model="owner/name").json["model"] == "owner/name"


@pytest.mark.parametrize("path", ["/v1/models/other", "/v1/models/tiny/x"])
def test_another_model_is_404_and_says_what_there_is(served: Served, path: str) -> None:
    for answer in (served.get(path), served.chat(model=path[11:])):
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
        assert "'tiny'" in answer.error["message"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/embeddings", "/v1/responses/resp_1", "/v2/completions", "/docs"])
def test_another_path_is_404_in_openais_form_and_says_what_there_is(served: Served, path: str) -> None:
    for answer in (served.get(path), served.post(path, {})):
        assert (answer.status, answer.error["type"]) == (404, "not_found_error")
        assert "POST /v1/chat/completions" in answer.error["message"]
        assert "GET /v1/models" in answer.error["message"]


def test_another_method_is_405_and_says_which_there_is(served: Served) -> None:
    answer = served.get("/v1/completions")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert "POST /v1/completions" in answer.error["message"]
    assert served.post("/health", {}).status == 405


def test_text_to_tokens_and_back(served: Served, served_llm: LLM) -> None:
    """Catches a beginning token that is left out, and a conversation that is tokenized as other than it is run."""
    ids = served_llm.tokenizer.encode("héllo the")
    found = served.post("/tokenize", {"prompt": "héllo the", "return_token_strs": True}).json
    assert (found["tokens"], found["count"], found["max_model_len"]) == (ids, len(ids), served_llm.max_model_len)
    assert found["token_strs"][0] == "<|bos|>"
    assert "".join(found["token_strs"][1:]).replace("bytes:\\xc3bytes:\\xa9", "é") == "héllo the"
    assert served.post("/tokenize", {"prompt": "x", "add_special_tokens": False}).json["count"] == 1
    messages = [{"role": "user", "content": "hello"}]
    conversation = served.post("/tokenize", {"messages": messages}).json["count"]
    assert conversation == served.chat(max_tokens=1).json["usage"]["prompt_tokens"]
    assert served.post("/detokenize", {"tokens": ids}).json == {"prompt": "héllo the"}


def test_a_client_finds_what_its_tokenizer_needs(served: Served, served_llm: LLM) -> None:
    """What lm-evaluation-harness asks for: catches an end token whose id is not the model's, or no template."""
    told = served.get("/tokenizer_info").json
    assert {"tokenizer_class", "pad_token", "model_max_length"} <= told.keys()
    assert told["chat_template"] == served_llm.tokenizer.chat_template
    found = served.post("/tokenize", {"prompt": told["eos_token"], "add_special_tokens": False}).json["tokens"]
    assert found == [served_llm.config.eos_token_ids[0]]
    assert told["bos_token"] == "<|bos|>"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": 5}, "prompt"),
     ("/tokenize", {"messages": [{}]}, "messages[0].role"), ("/detokenize", {}, "tokens"),
     ("/detokenize", {"tokens": "x"}, "tokens"), ("/detokenize", {"tokens": [-1]}, "tokens"),
     ("/detokenize", {"tokens": [10**30]}, "tokens"), ("/tokenize", {"prompt": "x", "model": "other"}, "model")],
)  # fmt: skip
def test_what_cannot_be_is_told_by_its_field(served: Served, path: str, body: object, param: str) -> None:
    answer = served.post(path, body)
    assert answer.status in (400, 404)
    assert answer.error["param"] == param


LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d method=POST path=/v1/completions status=200 ms=[\d.]+ request=\w+ "
                  r"prompt_tokens=\d+ completion_tokens=2 finished=length")  # fmt: skip


def test_a_request_is_one_line_without_its_text(served: Served) -> None:
    answer = served.complete("my secret", max_tokens=2, ignore_eos=True)
    [line] = served.lines
    assert LINE.fullmatch(line)
    assert f"request={answer.headers['x-request-id']}" in line


def test_log_lines_may_be_json(served_llm: LLM) -> None:
    served = Served(served_llm, log_json=True)
    served.complete("my secret", max_tokens=2, ignore_eos=True)
    served.complete("my secret", max_tokens=0)
    first, second = map(json.loads, served.lines)
    assert (first["status"], first["completion_tokens"], first["finished"]) == (200, 2, "length")
    assert second["status"] == 400
    assert "max_tokens" in second["error"]
    assert "secret" not in "".join(served.lines)


def test_a_path_cannot_write_a_line_of_its_own(served: Served) -> None:
    """Catches a log in which a caller forges another's line, or tells the terminal what to do."""
    served.get("/x\n2026-01-01 00:00:00 method=GET\x1b[2J")
    [line] = served.lines
    assert "\n" not in line
    assert "\x1b" not in line
