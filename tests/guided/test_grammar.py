"""guided/grammar.py: answers are texts of their grammar, over every kind of vocabulary; what explodes ends alone."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import write_hf_folder
from jsonschema import Draft202012Validator
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from tinyinfer import LLM, SamplingParams
from tinyinfer.errors import GrammarError, SwitchError
from tinyinfer.guided import grammar
from tinyinfer.guided.bars import Bars
from tinyinfer.guided.grammar import MAX_TEXT, Spelled, bars, compiled, on_large_stack, shortened
from tinyinfer.sampling import Choice
from tinyinfer.text.tokenizer import Tokenizer, Vocabulary

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["a", "é", None]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
EXPLODING = "((a{1,1000}){1,1000}){1,1000}"


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return LLM(str(write_hf_folder("llama", tmp_path_factory.mktemp("guided"))))


def said(llm: LLM, seed: int = 0, temperature: float = 1.0, max_tokens: int = 200, **form: Any) -> str:
    """A drawn answer that has come to its end."""
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed, **form)
    [out] = llm.generate("hello", params)
    assert out.finish_reason == "stop"
    return out.text


def test_an_answer_is_json_of_its_schema(llm: LLM) -> None:
    """Drawn from a model with random weights, which would write nothing of the kind."""
    for seed in range(5):
        person = json.loads(said(llm, seed, json_schema=PERSON))
        assert {"name", "age"} <= set(person) <= {"name", "age", "tags"}
        assert len(person["name"]) <= 6
        assert 0 <= person["age"] <= 130
        assert all(tag in ("a", "é", None) for tag in person.get("tags", []))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_matches_all_of_its_regex(llm: LLM, temperature: float) -> None:
    pattern = r"(yes|no), é[0-9]{2}/x?"
    assert re.fullmatch(pattern, said(llm, temperature=temperature, regex=pattern))


def test_an_answer_is_a_text_of_its_grammar(llm: LLM) -> None:
    """Brackets in brackets, which no regex reads."""
    text = said(llm, grammar='start: "(" start ")" | "é" | /[0-9]/', logit_bias={})
    assert re.fullmatch(r"\(*[é0-9]\)*", text)
    assert text.count("(") == text.count(")")


def test_a_grammar_that_is_complete_ends_a_text_that_ignores_the_end_token(llm: LLM) -> None:
    [out] = llm.generate("hello", SamplingParams(regex="[a-c]{9}", ignore_eos=True))
    assert (out.finish_reason, len(out.text)) == ("stop", 9)
    assert out.token_ids[-1] not in llm.config.eos_token_ids


def test_log_probabilities_are_those_before_anything_is_barred(llm: LLM) -> None:
    """Catches the log-probabilities of masked logits, of which the chosen one's is 0 where nothing else may come."""
    [free] = llm.generate("hello", SamplingParams(max_tokens=1, logprobs=3))
    [out] = llm.generate("hello", SamplingParams(max_tokens=1, logprobs=3, regex="q"))
    assert free.logprobs is not None
    assert out.logprobs is not None
    assert out.text == "q"
    assert out.logprobs[0].top == free.logprobs[0].top
    assert out.logprobs[0].logprob < min(free.logprobs[0].top.values())


def test_min_tokens_lets_neither_an_end_token_nor_a_stop_string_end_the_text(llm: LLM) -> None:
    [greedy] = llm.generate("hello", SamplingParams(max_tokens=20, ignore_eos=True))
    stops = {"stop": [greedy.text[:1], greedy.text[3:5]], "stop_token_ids": greedy.token_ids[:2]}
    for least in (0, 1, 7):
        [out] = llm.generate("hello", SamplingParams(max_tokens=20, min_tokens=least, **stops))
        assert (out.finish_reason == "length") or len(out.token_ids) > least
        assert len(out.token_ids) >= least
        assert not set(out.token_ids[:least]) & {*greedy.token_ids[:2], *llm.config.eos_token_ids}
    [first] = llm.generate("hello", SamplingParams(max_tokens=20, **stops))
    assert len(first.token_ids) == 1


def test_a_bias_bars_a_token_or_leaves_no_other(llm: LLM) -> None:
    for temperature in (0.0, 1.0):
        params = SamplingParams(max_tokens=9, temperature=temperature, logit_bias={40: 100}, seed=3, ignore_eos=True)
        assert llm.generate("hello", params)[0].token_ids == [40] * 9
    [greedy] = llm.generate("hello", SamplingParams(max_tokens=1))
    params = SamplingParams(max_tokens=50, temperature=1.0, logit_bias={greedy.token_ids[0]: -100}, seed=3)
    assert greedy.token_ids[0] not in llm.generate("hello", params)[0].token_ids


@pytest.mark.parametrize(("field", "value"), [("logit_bias", {277: 1.0}), ("stop_token_ids", [277])])
def test_a_token_outside_the_vocabulary_is_refused(llm: LLM, field: str, value: Any) -> None:
    with pytest.raises(SwitchError, match=f"{field}=277 is outside the vocabulary of 277"):
        llm.generate("hello", SamplingParams(**{field: value}))


# --- what cannot be followed ---

REFUSED = [
    ({"json_schema": {"type": "array", "uniqueItems": True, "minItems": 2}}, 'Unimplemented keys: ["uniqueItems"]'),
    ({"json_schema": {"not": {"pattern": "a"}}}, 'Unimplemented keys: ["not"]'),
    ({"json_schema": {"not": {}}}, "Unsatisfiable schema"),
    ({"json_schema": {"contains": 5, "required": 5}}, "json_schema cannot be followed"),  # no schema, and so no crash
    ({"json_schema": {"type": "strang"}}, "Invalid type: strang"),
    ({"json_schema": {"$ref": "http://x.example/y"}}, "Default retriever does not fetch"),
    ({"json_schema": {"enum": []}}, "json_schema cannot be followed"),
    ({"json_schema": {"allOf": 5, "dependentRequired": {"a": ["b"]}}}, "the schema is malformed"),
    ({"json_schema": {"propertyNames": {"pattern": ["x"]}}}, "the schema is malformed"),
    ({"json_schema": {"propertyNames": {"pattern": 5}}}, "the schema is malformed"),  # and not the regex "5"
    ({"json_schema": '{"items": ' * 3000 + "true" + "}" * 3000}, "json_schema"),
    ({"json_schema": '{"items": ' * 400 + "true" + "}" * 400}, "recursion"),
    ({"regex": "(a"}, "unclosed group"),
    ({"regex": "(?=a)b"}, "look-around"),
    ({"regex": "(" * 30_000 + "a" + ")" * 30_000}, "regex cannot be followed"),
    ({"regex": "a" * (MAX_TEXT + 1)}, f"regex has {MAX_TEXT + 1} letters, and may have {MAX_TEXT}"),
    ({"grammar": "start: nothing"}, 'unknown name: "nothing"'),
    ({"grammar": "start: start"}, "no token of the vocabulary goes on"),
    ({"grammar": "start: " + "(" * 30_000 + '"a"' + ")" * 30_000}, "too deeply nested"),
]


NARROWED = [
    {"type": "array", "contains": {"const": "a"}, "items": {"enum": ["a", 1, 2]}, "maxContains": 1, "maxItems": 4},
    {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "unevaluatedProperties": False,
     "anyOf": [{"properties": {"b": {"type": "boolean"}}, "required": ["b"]}, {"properties": {"c": {"const": 3}}}]},
    {"enum": ["US", "CA", 5], "not": {"const": "US"}},
]  # fmt: skip


@pytest.mark.parametrize("schema", NARROWED, ids=["contains", "unevaluated", "not"])
def test_an_answer_is_of_a_schema_that_cannot_be_followed_exactly(llm: LLM, schema: dict[str, Any]) -> None:
    """The judge is another package. Catches a library that reads a narrowed schema otherwise than its author meant."""
    for seed in range(5):
        Draft202012Validator(schema).validate(json.loads(said(llm, seed, max_tokens=400, json_schema=schema)))


@pytest.mark.parametrize(("form", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_followed_is_refused_with_the_librarys_words(llm: LLM, form: dict[str, Any], words: str) -> None:
    """Before the engine sees it, in one sentence that names the field."""
    with pytest.raises(SwitchError) as caught:
        llm.submit("hello", SamplingParams(**form))
    assert words in str(caught.value)
    assert caught.value.field == next(iter(form))
    assert len(str(caught.value)) < 600


CHAIN = """
from golden import write_hf_folder
from tinyinfer import LLM, SamplingParams
from tinyinfer.errors import SwitchError
llm = LLM({folder!r})
rules = "start: r0\\n" + "\\n".join(f"r{{i}}: r{{i + 1}}" for i in range(4000)) + '\\nr4000: "a"'
print(llm.generate("x", SamplingParams(grammar=rules))[0].text)
links = {{f"a{{i}}": {{"properties": {{"a": {{"$ref": f"#/$defs/a{{i + 1}}"}}}}}} for i in range(1100)}}
schema = {{"$defs": links | {{"a1100": {{"type": "string"}}}}, "$ref": "#/$defs/a0"}}
llm.generate("x", SamplingParams(json_schema=schema, max_tokens=2))
print("alive")
"""


def test_a_chain_of_rules_does_not_end_the_process(llm: LLM) -> None:
    """A thread's usual stack overflows in the library, by a schema of 40 KB: no exception, but SIGSEGV."""
    folder = Path(__file__).parents[1]
    program = f"import sys; sys.path.insert(0, {str(folder)!r})" + CHAIN.format(folder=str(llm.path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, ["a", "alive"]), done.stderr


def test_a_grammar_that_explodes_in_a_step_ends_its_request_alone(llm: LLM) -> None:
    """Catches a step whose other requests end, too, and an engine that is dead or busy for seconds afterwards."""
    [alone] = llm.generate("hello", SamplingParams(max_tokens=60, ignore_eos=True))
    other = llm.submit("hello", SamplingParams(max_tokens=60, ignore_eos=True))
    exploding = llm.submit("hello", SamplingParams(max_tokens=200, regex=EXPLODING, ignore_eos=True))
    with pytest.raises(GrammarError, match="cannot be followed any more"):
        exploding.result()
    assert other.result().token_ids == alone.token_ids
    assert (llm.engine.ledger.preemptions, llm.engine.ledger.tokens_recomputed) == (0, 0)
    assert said(llm, regex="ab") == "ab"


def test_an_answer_that_explodes_leaves_its_grammar_to_others(llm: LLM) -> None:
    """Answers share the library's lexer. Catches one full lexer, for which all later answers of the grammar end."""
    [a] = llm.tokenizer.encode("a", False)[-1:]
    form: dict[str, Any] = {"regex": EXPLODING + "|[b-z]{9}", "max_tokens": 40, "ignore_eos": True}
    with pytest.raises(GrammarError, match="cannot be followed any more"):
        llm.generate("hello", SamplingParams(logit_bias={a: 100}, **form))
    for seed in range(2):
        assert re.fullmatch("[b-z]{9}", said(llm, seed, logit_bias={a: -100}, **form))


EITHER = "c+|(a|b)*a(a|b){18}"  # two letters take a state of the lexer more for each letter, "c" takes none


def few_states(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> tuple[Bars, list[int]]:
    """What bars the tokens of an answer in a lexer of few states; "a", "b" and "c" as tokens."""
    monkeypatch.setattr(grammar, "MAX_LEXER_STATES", 60)
    compiled.cache_clear()
    tokens = [llm.tokenizer.encode(letter, False)[-1] for letter in "abc"]
    return bars(llm.tokenizer, SamplingParams(regex=EITHER), frozenset()), tokens


def test_the_limit_of_states_is_for_each_answer(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches states that add up: the lexer is full after some good answers, and all later ones end."""
    _, tokens = few_states(llm, monkeypatch)
    for seed in range(12):
        letters = np.random.default_rng(seed).choice(tokens[:2], 20).tolist()
        one = bars(llm.tokenizer, SamplingParams(regex=EITHER), frozenset()).matcher
        assert one is not None
        for letter in letters:
            assert one.allowed().tokens[letter], one.fault
            one.follow(letter)
        assert one.fault == ""
    compiled.cache_clear()


def test_drafts_that_explode_and_are_rejected_end_nothing(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library keeps an error when tokens are taken back. Catches a request that ends by what it never said."""
    one, (a, b, c) = few_states(llm, monkeypatch)
    drafts = np.random.default_rng(1).choice([a, b], 60).tolist()
    logits = np.zeros((61, 277), np.float32)
    assert 0 < one.over(logits, 0, drafts, 7).good < 61
    for new in (1, 2):
        one.follow(c)
        [row] = one.over(logits[:1], new, [], 7).rows
        assert np.flatnonzero(row > -np.inf).tolist() == [c]
    compiled.cache_clear()


def test_compilations_at_the_same_time_leave_the_size_of_stacks() -> None:
    """The size is the process's. Catches 256 MiB for every later thread: one restores what another one has set."""
    size = threading.stack_size()
    interval = sys.getswitchinterval()
    try:
        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: on_large_stack(lambda: n), range(400)))
        assert threading.stack_size() == size
    finally:
        sys.setswitchinterval(interval)
        threading.stack_size(size)


def test_without_the_library_one_sentence_names_the_extra(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(SwitchError, match=r"regex needs the module llguidance.*; pip install 'tinyinfer\[guided\]'"):
        llm.generate("hello", SamplingParams(regex="never compiled before"))
    assert llm.generate("hello", SamplingParams(max_tokens=3, min_tokens=3, logit_bias={5: 1.0}))[0].token_ids


def test_importing_tinyinfer_loads_no_llguidance() -> None:
    program = "import sys, tinyinfer, tinyinfer.llm; sys.exit('llguidance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_a_grammar_is_compiled_once(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a compilation for every request of an agent, or for every repair."""
    before = compiled.cache_info().misses
    for _ in range(3):
        said(llm, regex="a compiled one")
    assert compiled.cache_info().misses == before + 1
    [seq] = llm.sequences(["hello"], SamplingParams(regex="a compiled one"))
    compiled.cache_clear()  # of more grammars in flight than are kept
    monkeypatch.setattr(grammar, "begun", None)
    seq.append(Choice(llm.tokenizer.encode("a", False)[-1]), 0.0)
    allowed = seq.open(np.zeros((1, 277), np.float32)).rows
    seq.repair()
    assert seq.open(np.zeros((1, 277), np.float32)).rows.tolist() == allowed.tolist()


def test_a_model_is_copied_after_an_answer_of_a_grammar_and_not_during_one(llm: LLM) -> None:
    """The newest step keeps its sequences. Catches TypeError: cannot pickle 'LLMatcher'."""
    said(llm, regex="ab")
    assert said(pickle.loads(pickle.dumps(llm)), regex="ab") == "ab"
    open_ = llm.submit("hello", SamplingParams(regex="[ab]+", ignore_eos=True, max_tokens=400))
    next(iter(open_))
    with pytest.raises(RuntimeError, match="requests in flight cannot be copied"):
        pickle.dumps(llm)
    open_.cancel()
    open_.result()


def test_a_copy_of_a_matcher_stands_where_it_does(llm: LLM) -> None:
    """Catches a copy at the beginning of its grammar."""
    one = bars(llm.tokenizer, SamplingParams(regex="abc"), frozenset()).matcher
    assert one is not None
    one.follow(llm.tokenizer.encode("a", False)[-1])
    assert pickle.loads(pickle.dumps(one)).allowed().tokens.tolist() == one.allowed().tokens.tolist()


def test_two_answers_of_one_grammar_go_their_own_ways(llm: LLM) -> None:
    """Catches one matcher for both."""
    params = [SamplingParams(regex="[ab]{8}|c{9}", logit_bias={llm.tokenizer.encode(first, False)[-1]: 50})
              for first in ("a", "b", "c")]  # fmt: skip
    texts = [out.text for out in llm.generate(["x"] * 3, params)]
    assert texts == ["a" * 8, "b" * 8, "c" * 9]


# --- vocabularies ---


def sentencepiece() -> Backend:
    """Words with a mark for a space before them, and bytes."""
    tokens = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", '"', "▁{", "{", "}", ":"]
    backend = Backend(models.BPE({token: i for i, token in enumerate(tokens)}, [], byte_fallback=True, unk_token="<s>"))
    backend.add_special_tokens(["<s>", "</s>"])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return backend


def words() -> Backend:
    """Whole words, with a space between them, and none for most of what could be written."""
    return Backend(models.WordLevel({"yes": 0, "no": 1, "[UNK]": 2, "maybe": 3}, "[UNK]"))


@pytest.mark.parametrize(("make", "tokens"), [
    (sentencepiece, ["a", "b", "<0xC3>", "<0xA9>"]), (words, ["yes"]),
], ids=["sentencepiece", "words"])  # fmt: skip
def test_tokens_are_read_as_the_bytes_that_they_are_in_a_text(make: Callable[[], Backend], tokens: list[str]) -> None:
    """Catches letters of the vocabulary (▁, <0x0A>) taken for the text. Each token is the one that was to come."""
    tokenizer = Tokenizer(Vocabulary(make()), "x")
    ids = [tokenizer._backend.token_to_id(token) for token in tokens]
    text = b"".join(map(tokenizer.bytes_of, ids)).decode()
    regex = text + "(!|z)?" if make is sentencepiece else text
    matcher = bars(tokenizer, SamplingParams(regex=regex), frozenset()).matcher
    assert matcher is not None
    for id in ids:
        assert matcher.allowed().tokens[id]
        matcher.follow(id)
    assert matcher.fault == ""
    assert matcher.allowed().end


def test_a_text_that_a_tokenizer_changes_is_cut_by_the_longest_tokens() -> None:
    """SentencePiece puts a space before a text. Catches a forced token that is not of the grammar's text."""
    spelled = Spelled(Tokenizer(Vocabulary(sentencepiece()), "x"))
    assert b"".join(spelled.tokens[id] for id in spelled(b'{a"b')) == b'{a"b'
    assert b"".join(spelled.tokens[id] for id in spelled("é".encode())) == "é".encode()


def test_a_vocabulary_that_cannot_write_the_grammar_is_refused() -> None:
    tokenizer = Tokenizer(Vocabulary(words()), "x")
    with pytest.raises(SwitchError, match="no token of the vocabulary goes on"):
        bars(tokenizer, SamplingParams(regex="[0-9]+"), frozenset())


def test_special_tokens_are_no_text_of_a_grammar_unless_it_names_them(llm: LLM) -> None:
    """Catches <|im_start|> written where any text may stand: a control token, letter by letter allowed."""
    specials = set(llm.tokenizer.special_ids)
    matcher = bars(llm.tokenizer, SamplingParams(regex="(?s).*"), frozenset()).matcher
    assert matcher is not None
    assert not specials & set(matcher.allowed().tokens.nonzero()[0])
    [out] = llm.generate("x", SamplingParams(grammar='start: <|im_start|> "a"'))
    assert out.token_ids[0] == 1


def test_a_message_of_the_library_is_one_short_line() -> None:
    assert shortened("bad\n  thing <state>\nall of it") == "bad thing"
    assert len(shortened("x" * 5000)) < 310
    assert grammar.STACK >= 500 * MAX_TEXT
