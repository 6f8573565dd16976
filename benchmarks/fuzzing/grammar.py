"""Parts of a tokenizer.json and of a chat template, put together anew: each is known, their company is not."""

from __future__ import annotations

import random
import re
from typing import Any

TEXT_PARTS = ("a", " ", "", "\u2581", "th", "\u00e9", "aa", "x" * 50, "\n", "$", "\\", "(")
PATTERNS = (
    r"\s+", r"\p{L}+", ".", "", "(", "a*", r"(?<=a)b", r"(a|aa)+$", r"\d{1,3}", "[^x]", r"(?i:'s)|\p{N}", "$", "^", "|"
)  # fmt: skip
NORMALIZERS: tuple[dict[str, Any], ...] = (
    {"type": "NFC"}, {"type": "NFKD"}, {"type": "NFKC"}, {"type": "NFD"}, {"type": "Lowercase"}, {"type": "Nmt"},
    {"type": "StripAccents"}, {"type": "ByteLevel"}, {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
     "lowercase": True},
    {"type": "Prepend", "prepend": "TEXT"}, {"type": "Replace", "pattern": {"String": "TEXT"}, "content": "TEXT"},
    {"type": "Replace", "pattern": {"Regex": "PATTERN"}, "content": "TEXT"},
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
)  # fmt: skip
SPLITTERS: tuple[dict[str, Any], ...] = (
    {"type": "ByteLevel", "add_prefix_space": "FLAG", "trim_offsets": True, "use_regex": "FLAG"},
    {"type": "Whitespace"}, {"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "BEHAVIOUR"},
    {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "SCHEME", "split": "FLAG"},
    {"type": "Digits", "individual_digits": "FLAG"}, {"type": "BertPreTokenizer"}, {"type": "UnicodeScripts"},
    {"type": "CharDelimiterSplit", "delimiter": "a"}, {"type": "FixedLength", "length": "SIZE"},
    {"type": "Split", "pattern": {"Regex": "PATTERN"}, "behavior": "BEHAVIOUR", "invert": "FLAG"},
    {"type": "Split", "pattern": {"String": "TEXT"}, "behavior": "BEHAVIOUR", "invert": "FLAG"},
)  # fmt: skip
DECODERS: tuple[dict[str, Any], ...] = (
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}, {"type": "Fuse"},
    {"type": "ByteFallback"}, {"type": "Replace", "pattern": {"String": "TEXT"}, "content": "TEXT"},
    {"type": "Replace", "pattern": {"Regex": "PATTERN"}, "content": "TEXT"},
    {"type": "Strip", "content": " ", "start": "SIZE", "stop": "SIZE"},
    {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "SCHEME", "split": "FLAG"},
    {"type": "WordPiece", "prefix": "##", "cleanup": "FLAG"}, {"type": "BPEDecoder", "suffix": "TEXT"},
    {"type": "CTC", "pad_token": "TEXT", "word_delimiter_token": "|", "cleanup": "FLAG"},
)  # fmt: skip
POST: tuple[dict[str, Any], ...] = (
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": "FLAG", "use_regex": True},
    {"type": "RobertaProcessing", "sep": ["</s>", "SIZE"], "cls": ["<s>", "SIZE"], "trim_offsets": True,
     "add_prefix_space": True},
    {"type": "BertProcessing", "sep": ["</s>", "SIZE"], "cls": ["<s>", "SIZE"]},
    {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a", "type_id": "SIZE"}},
     {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
     "special_tokens": {"a": {"id": "a", "ids": ["SIZE"], "tokens": ["a"]}}},
)  # fmt: skip
MODELS: tuple[dict[str, Any], ...] = (
    {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "TEXT"},
    {"type": "WordPiece", "unk_token": "TEXT", "continuing_subword_prefix": "##", "max_input_chars_per_word": "SIZE",
     "vocab": {"a": 0, "##b": 1}},
    {"type": "Unigram", "unk_id": "SIZE", "vocab": [["<unk>", 0.0], ["a", -1.0], ["b",
     "SIZE"]], "byte_fallback": "FLAG"},
    {"type": "BPE", "dropout": None, "unk_token": "TEXT", "continuing_subword_prefix": None, "end_of_word_suffix": None,
     "fuse_unk": "FLAG", "byte_fallback": "FLAG", "ignore_merges": "FLAG", "vocab": {"a": 0, "b": 1, "ab": 2},
     "merges": [["a", "b"]]},
)  # fmt: skip
SEQUENCES = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
PARTS = {
    "normalizer": NORMALIZERS, "pre_tokenizer": SPLITTERS, "decoder": DECODERS, "post_processor": POST, "model": MODELS
}  # fmt: skip
HOLES = {
    "TEXT": TEXT_PARTS, "PATTERN": PATTERNS, "FLAG": (True, False), "SIZE": (0, 1, 2, 300, 2**31, 2**32, 2**63, -1),
    "BEHAVIOUR": ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous", "Other"),
    "SCHEME": ("always", "first", "never", "other"),
}  # fmt: skip


def changed_parts(rng: random.Random, tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer with one of its parts made anew, or none in its place."""
    key = rng.choice(list(PARTS))
    made = [_filled(rng, rng.choice(PARTS[key])) for _ in range(rng.choice((1, 1, 2, 3, 5)))]
    if key in SEQUENCES and len(made) > 1:
        return tokenizer | {key: {"type": "Sequence", SEQUENCES[key]: made}}
    return tokenizer | {key: made[0] if rng.random() < 0.95 or key == "model" else None}


def _filled(rng: random.Random, part: Any) -> Any:
    """The part with a value in each hole."""
    if isinstance(part, dict):
        return {key: _filled(rng, value) for key, value in part.items()}
    if isinstance(part, list):
        return [_filled(rng, value) for value in part]
    return rng.choice(HOLES[part]) if isinstance(part, str) and part in HOLES else part


FILTERS = (
    "trim", "upper", "tojson", "length", "first", "last", "list", "string", "int", "float", "items", "dictsort", "sum",
    "join(' ')", "replace('a', 'b')", "default('x')", "map('upper')|list", "selectattr('role')|list", "safe", "escape",
    "indent(4)", "batch(2)|list", "tojson(indent=2)", "round", "abs", "sort", "unique|list", "reverse|list", "title",
    "xmlattr", "wordwrap(9)", "format(1)", "attr('x')", "nofilter", "groupby('role')|list", "random", "center(9)",
)  # fmt: skip
EXPRESSIONS = (
    "messages", "messages[0]", "messages[-1].content", "messages[9]", "bos_token", "eos_token", "x", "none", "true",
    "'a'", "1", "1/0", "[1, 2][5]", "{'a': 1}.b", "messages.x.y", "loop.index", "namespace(a=1).a", "dict(a=1)",
    "'a' ~ 1", "'a' + 1", "messages + 1", "-messages", "not x", "x is defined", "1 in 1",
    "messages[0]['role'] == 'user'",
    "raise_exception('no')", "strftime_now('%Y')", "strftime_now(1)", "cycler('a', 'b').next()", "joiner(', ')()",
    "range(3)", "range(-1)", "''.join(1)", "'%d' % 'a'", "'{}'.format(1)", "messages.append(1)", "x.x", "self.x()",
    "caller()", "messages[1:]", "messages['a':]", "().__class__", "messages|attr('__class__')", "1 if x", "2 ** -1",
    "int('a')", "'a'.encode()", "'\\ud800'", "'a'.zfill('b')", "content", "tools", "enable_thinking",
    "add_generation_prompt",
)  # fmt: skip
STATEMENTS = (
    "{% for m in EXPR %}BODY{% endfor %}", "{% if EXPR %}BODY{% else %}BODY{% endif %}", "{% set x = EXPR %}",
    "{% set x %}BODY{% endset %}", "{% macro f(a, b=1) %}BODY{% endmacro %}{{ f(EXPR) }}",
    "{% raw %}{{ x }}{% endraw %}",
    "{% filter upper %}BODY{% endfilter %}", "{% with x = EXPR %}BODY{% endwith %}",
    "{% generation %}BODY{% endgeneration %}",
    "{% for k, v in EXPR %}BODY{% else %}BODY{% endfor %}", "{% break %}", "{% continue %}", "{% do EXPR %}", "{# x #}",
    "{% set n = namespace(a=EXPR) %}{% set n.a = EXPR %}", "{% block b %}BODY{% endblock %}", "{% include 'x' %}",
    "{% import 'x' as y %}", "{% extends 'x' %}", "{% endif %}", "{% for %}", "{{", "{%", "}}", "{{ }}",
    "{% call f() %}x{% endcall %}",
    "{%- if EXPR -%} BODY {%- endif -%}", "{{ EXPR }}", "{{- EXPR -}}", "{{ EXPR | FILTER }}",
    "{{ EXPR | FILTER | FILTER }}",
)  # fmt: skip


def made_template(rng: random.Random, depth: int = 0) -> str:
    """A template of pieces that cannot run long: loops are over what a conversation holds."""
    text = "".join(rng.choice((*STATEMENTS, "text ", "\n")) for _ in range(rng.randrange(1, 5 - depth)))
    while "BODY" in text:
        body = made_template(rng, depth + 1) if depth < 2 else rng.choice(("x", "{{ m }}", "{{ x }}", "{% break %}"))
        text = text.replace("BODY", body, 1)
    text = re.sub("EXPR", lambda _: rng.choice(EXPRESSIONS), text)
    return re.sub("FILTER", lambda _: rng.choice(FILTERS), text)


def changed_template(rng: random.Random, template: str) -> str:
    """A template made anew, or a known one with pieces of it deleted, doubled, exchanged or replaced."""
    if rng.random() < 0.4:
        return made_template(rng)
    pieces = [piece for piece in re.split(r"(\{[{%#].*?[}%#]\})", template, flags=re.DOTALL) if piece]
    for _ in range(rng.choice((1, 1, 2, 4))):
        i, other = rng.randrange(len(pieces)), rng.choice(pieces)
        new = made_template(rng, 2)
        pieces[i : i + 1] = rng.choice(([], [pieces[i]] * 2, [other], [other, pieces[i]], [new], [pieces[i], new]))
        pieces = pieces or [""]
    return "".join(pieces)
