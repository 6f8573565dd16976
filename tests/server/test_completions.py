"""/v1/completions: forms of a prompt, log-probabilities, echo, and streams that say what a whole answer says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from http_calls import Served, eventually
from scripted import scripted
from thinking_templates import PLAIN

from tinyinfer import LLM, SamplingParams

EMOJI = "Hé 👩‍🚀 ok"


def text_of(answer: Any) -> str:
    return "".join(choice["text"] for choice in answer.choices)


def test_an_answer_is_the_engines_own(served: Served, served_llm: LLM) -> None:
    """Catches another prompt, another default or another end than the engine's."""
    [out] = served_llm.generate(["hello"], SamplingParams(max_tokens=5))
    found = served.complete(max_tokens=5).json
    assert found["object"] == "text_completion"
    assert found["id"].startswith("cmpl-")
    assert found["model"] == "tiny"
    [choice] = found["choices"]
    assert choice == {"index": 0, "text": out.text, "logprobs": None, "finish_reason": "length"}


def test_the_longest_answer_is_openais_default(served: Served) -> None:
    assert served.complete(ignore_eos=True).json["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("prompt", ["hello", ["hello"], [0, 7, 8], [[0, 7, 8], [0, 9]], ["hello", "world", "hello"]])
def test_every_form_of_a_prompt_is_read(served: Served, served_llm: LLM, prompt: Any) -> None:
    """Text, texts, ids, lists of ids. Catches answers out of order, and ids that are taken for texts."""
    several = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
    outs = served_llm.generate(several, SamplingParams(max_tokens=4))
    for stream in (False, True):
        answer = served.complete(prompt, max_tokens=4, stream=stream)
        choices = answer.choices if stream else answer.json["choices"]
        texts = ["".join(one["text"] for one in choices if one["index"] == i) for i in range(len(several))]
        assert texts == [out.text for out in outs]
        assert {one["index"] for one in choices} == set(range(len(several)))


@pytest.mark.parametrize("prompt", [None, [], 5, {}, [1, "a"], ["a", 1], [[]], [["a"]], [True], [1.5], True])
def test_no_prompt_is_told_as_a_mistake_in_prompt(served: Served, prompt: Any) -> None:
    answer = served.complete(prompt)
    assert (answer.status, answer.error["param"]) == (400, "prompt")


@pytest.mark.parametrize("prompt", ["", [10**30], [-1], [100_000], "\ud800"])
def test_a_prompt_that_cannot_be_run_is_400(served: Served, prompt: Any) -> None:
    """No text, ids outside the vocabulary, half of a surrogate pair. Catches a 500, and a dead engine."""
    assert served.complete(prompt).status == 400
    assert served.complete().status == 200


@pytest.mark.parametrize("template", ["stop", "length", "natural"])
def test_1_a_stream_ends_with_a_reason_and_done(template: str, tmp_path: Path) -> None:
    """Of a stop string, of max_tokens, of the model's own end. Catches a last chunk without a finish_reason."""
    served = Served(scripted(tmp_path, PLAIN, "one two three"))
    fields = {"stop": {"stop": ["two"]}, "length": {"max_tokens": 3}, "natural": {}}[template]
    choices = served.complete("x", **{"max_tokens": 50, **fields}, stream=True).choices
    reasons = [choice["finish_reason"] for choice in choices]
    assert reasons == [None] * (len(reasons) - 1) + ["length" if template == "length" else "stop"]
    assert all("finish_reason" in choice for choice in choices)  # 3: null is there, too


@pytest.mark.parametrize("drafts", [False, True])
def test_10_a_stop_string_across_tokens_is_not_shown_and_nothing_is_lost(drafts: bool, tmp_path: Path) -> None:
    """The stop string begins in one token and ends in another. Catches its first letters in a chunk, and text lost."""
    served = Served(scripted(tmp_path, PLAIN, "a STOO b STOP c", drafts))
    for stream in (False, True):
        answer = served.complete("x", max_tokens=50, stop="STOP", stream=stream)
        assert (text_of(answer) if stream else answer.json["choices"][0]["text"]) == "a STOO b "


def test_11_a_stream_joined_is_the_whole_for_every_length(tmp_path: Path) -> None:
    """Catches U+FFFD where a character is split among tokens, and text held back that never comes."""
    served = Served(scripted(tmp_path, PLAIN, EMOJI))
    total = len(served.llm.tokenizer.encode(EMOJI, add_special_tokens=False))
    for n in range(1, total + 2):
        whole = served.complete("x", max_tokens=n).json["choices"][0]["text"]
        chunks = [choice["text"] for choice in served.complete("x", max_tokens=n, stream=True).choices]
        assert "".join(chunks) == whole
        assert not any("\ufffd" in chunk for chunk in chunks[:-2])  # only what max_tokens cuts is no character
    assert whole == EMOJI


@pytest.mark.parametrize("drafts", [False, True])
def test_12_text_ids_and_logprobs_of_a_chunk_belong_together(drafts: bool, tmp_path: Path) -> None:
    """Catches log-probabilities that are sent a chunk late, and tokens without text that are left out."""
    served = Served(scripted(tmp_path, PLAIN, EMOJI, drafts))
    fields = {"max_tokens": 50, "logprobs": 1, "return_token_ids": True}
    [whole] = served.complete("x", **fields).json["choices"]
    chunks = served.complete("x", **fields, stream=True).choices
    lists = [chunk["logprobs"] for chunk in chunks if chunk["logprobs"]]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [one for part in lists for one in part[name]] == whole["logprobs"][name]
    assert [token for chunk in chunks for token in chunk.get("token_ids", [])] == whole["token_ids"]
    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    for chunk in chunks:
        if chunk["logprobs"]:
            assert len(chunk["token_ids"]) == len(chunk["logprobs"]["tokens"])


def test_logprobs_are_side_by_side_and_the_engines_own(served: Served, served_llm: LLM) -> None:
    params = SamplingParams(max_tokens=6, logprobs=2, ignore_eos=True)
    [out] = served_llm.generate(["hello"], params)
    found = served.complete(max_tokens=6, logprobs=2, ignore_eos=True).json["choices"][0]["logprobs"]
    assert out.logprobs is not None
    assert found["token_logprobs"] == pytest.approx([one.logprob for one in out.logprobs], abs=1e-4)
    assert [len(top) for top in found["top_logprobs"]] == [2] * 6  # greedy: the chosen one is among them


def test_offsets_point_into_the_text(tmp_path: Path) -> None:
    """Catches offsets that count bytes, or the letters by which a part of a character is written."""
    served = Served(scripted(tmp_path, PLAIN, EMOJI))
    [choice] = served.complete("x y", max_tokens=50, logprobs=0).json["choices"]
    found, whole = choice["logprobs"], 0
    for token, place in zip(found["tokens"], found["text_offset"], strict=True):
        if not token.startswith(("bytes:", "<|")):
            assert choice["text"][place:].startswith(token)
            whole += 1
    assert 5 < whole < len(found["tokens"]) - 4  # letters, and parts of characters between them


def test_echo_stands_before_the_answer_streamed_and_whole(served: Served) -> None:
    """Also for ids, whose text is their own; offsets count from the prompt's start."""
    plain = served.complete(max_tokens=3).json["choices"][0]["text"]
    assert served.complete(max_tokens=3, echo=True).json["choices"][0]["text"] == "hello" + plain
    assert text_of(served.complete(max_tokens=3, echo=True, stream=True)) == "hello" + plain
    ids = served.llm.tokenizer.encode("hello")
    assert served.complete(ids, max_tokens=3, echo=True).json["choices"][0]["text"] == "hello" + plain


def test_24_n_answers_have_indexes_and_one_prompt_in_the_usage(served: Served) -> None:
    """Those of single calls with the seeds that follow, prompt by prompt, streamed and whole. Catches a prompt that is
    computed or counted n times, and choices that mix up the prompts.
    """
    drawn = {"temperature": 1.3, "max_tokens": 6, "ignore_eos": True}
    prompts = ["a longer prompt " * 3, "hello"]
    single = [served.complete(prompt, seed=7 + i, **drawn).json for prompt in prompts for i in range(3)]
    alone = [one["choices"][0]["text"] for one in single]
    served.llm.engine.forget_prefixes()
    before = served.llm.ledger.copy()
    whole = served.complete(prompts, seed=7, n=3, best_of=3, **drawn).json
    tokens = [single[0]["usage"]["prompt_tokens"], single[3]["usage"]["prompt_tokens"]]
    assert (served.llm.ledger - before).tokens_computed == sum(tokens) + 2 * 2 + 6 * 5
    assert [(one["index"], one["text"]) for one in whole["choices"]] == list(enumerate(alone))
    usage = {"prompt_tokens": sum(tokens), "completion_tokens": 36, "total_tokens": sum(tokens) + 36}
    assert whole["usage"].items() >= usage.items()
    fields = {"stream": True, "stream_options": {"include_usage": True}, "echo": True}
    answer = served.complete(prompts, seed=7, n=3, **fields, **drawn)
    texts = ["".join(one["text"] for one in answer.choices if one["index"] == i) for i in range(6)]
    assert texts == [prompts[i // 3] + text for i, text in enumerate(alone)]
    assert answer.chunks[-1]["usage"].items() >= usage.items()
    assert served.number("prompt_tokens_total") == 4 * sum(tokens) + sum(tokens)


def test_24_one_answer_that_ends_early_leaves_the_others_alone(served: Served) -> None:
    """Catches a call that ends with its first answer, and a finish_reason that is another answer's."""
    fields = {"temperature": 1.3, "seed": 7, "max_tokens": 6, "ignore_eos": True, "return_token_ids": True}
    first, *others = (served.complete(n=1, **{**fields, "seed": 7 + i}).json["choices"][0] for i in range(3))
    known = {token for one in others for token in one["token_ids"]}
    stop = next(token for token in first["token_ids"] if token not in known)
    found = served.complete(n=3, stop_token_ids=[stop], **fields).json["choices"]
    assert [one["finish_reason"] for one in found] == ["stop", "length", "length"]
    assert [one["token_ids"] for one in found[1:]] == [one["token_ids"] for one in others]


@pytest.mark.parametrize("most", [0, 1, 4])
def test_echo_with_logprobs_has_those_of_the_prompt(served: Served, most: int) -> None:
    """As lm-evaluation-harness asks for them, with a token behind the prompt or none. Catches a first token that has
    one, and offsets of the answer that count from its own start.
    """
    ids = served.llm.tokenizer.encode("hello world")
    fields = {"max_tokens": most, "logprobs": 2, "echo": True, "ignore_eos": True}
    whole = served.complete(ids, **fields).json
    [choice], found = whole["choices"], whole["choices"][0]["logprobs"]
    new = served.complete(ids, max_tokens=4, ignore_eos=True, return_token_ids=True).json["choices"][0]["token_ids"]
    score = served.llm.score([*ids, *new])
    assert (found["token_logprobs"][0], found["top_logprobs"][0]) == (None, None)
    assert found["token_logprobs"][1:] == pytest.approx(score[: len(ids) - 1 + most], abs=1e-4)
    tops = zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True)
    assert all(top[token] == logprob and len(top) >= 2 for token, logprob, top in [*tops][1:])
    assert whole["usage"]["completion_tokens"] == most
    assert choice["text"].startswith("hello world")
    chunks = served.complete(ids, stream=True, **fields).choices
    for name in found:
        assert [one for chunk in chunks if chunk["logprobs"] for one in chunk["logprobs"][name]] == found[name]
    assert "".join(chunk["text"] for chunk in chunks) == choice["text"]
    places = [*zip(found["tokens"], found["text_offset"], strict=True)][1 : len(ids) + 1]
    assert all(choice["text"][place:].startswith(token) for token, place in places[: len(ids) - 1])
    assert [place for _, place in places[len(ids) - 1 :]] == [len("hello world")] * min(most, 1)
    assert served.number("prompt_tokens_total") == 3 * len(ids)


def test_an_echo_and_prompt_logprobs_have_each_their_own_number(served: Served) -> None:
    """Right: what each gives alone. Catches the larger number in both."""
    for echo, scores in ((1, 4), (4, 1), (0, 2)):
        asked = {"max_tokens": 1, "echo": True, "temperature": 0}
        both = served.complete("hello", logprobs=echo, prompt_logprobs=scores, **asked).json["choices"][0]
        alone = served.complete("hello", logprobs=echo, **asked).json["choices"][0]
        assert both["logprobs"]["top_logprobs"] == alone["logprobs"]["top_logprobs"]
        alone = served.complete("hello", prompt_logprobs=scores, **asked).json["choices"][0]
        assert both["prompt_logprobs"] == alone["prompt_logprobs"]


def test_prompt_logprobs_are_vllms(served: Served) -> None:
    """Of each token by its id, the best and its own. Catches a field that is read and then left out."""
    ids = served.llm.tokenizer.encode("hello")
    [choice] = served.complete(ids, max_tokens=0, prompt_logprobs=1).json["choices"]
    first, *rest = choice["prompt_logprobs"]
    assert first is None
    own = [one[str(token)] for one, token in zip(rest, ids[1:], strict=True)]
    assert [one["logprob"] for one in own] == pytest.approx(served.llm.score(ids), abs=1e-4)
    assert [{one["rank"] for one in every.values()} <= {1, None} for every in rest] == [True] * len(rest)
    assert (choice["text"], choice["finish_reason"]) == ("", "length")
    assert served.complete(ids, max_tokens=0).error["param"] == "max_tokens"
    assert served.chat(prompt_logprobs=1).error["param"] == "prompt_logprobs"


def test_special_tokens_may_be_left_out(served: Served) -> None:
    ids = [served.complete(max_tokens=1, add_special_tokens=on, return_token_ids=True) for on in (True, False)]
    first, second = (one.json["choices"][0]["prompt_token_ids"] for one in ids)
    assert first == [0, *second]


@pytest.mark.parametrize("bad", [[99_999], "x" * 30_000, "\ud800", []], ids=["id", "long", "surrogate", "empty"])
def test_of_several_prompts_the_message_says_which_one_is_wrong(served: Served, bad: Any) -> None:
    """Catches a caller with a hundred prompts who has to try each. One prompt alone needs no number."""
    answer = served.complete([[5, 6], [7], bad])
    assert (answer.status, answer.error["param"]) == (400, "prompt")
    assert answer.error["message"].startswith("prompt[2]: ")
    alone = served.complete([bad])
    assert alone.status == 400
    assert "prompt[" not in alone.error["message"]
    assert eventually(served.at_rest)


def test_a_parameter_of_all_prompts_is_no_matter_of_one(served: Served) -> None:
    answer = served.complete(["a", "b"], stop_token_ids=[99_999])
    assert answer.error["param"] == "stop_token_ids"
    assert "prompt[" not in answer.error["message"]
