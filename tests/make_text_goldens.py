"""Makes golden/vocabularies.json, chat_templates.json and conversations.json: what others make of small vocabularies.

Needs the `oracle` extra, llama-cpp-python and sentencepiece. The byte-level vocabulary has merges across the borders of
words, digits and lines, so that every rule for splitting text into words gives different ids; llama.cpp, which has its
own code for each, is the oracle. The SentencePiece vocabularies are trained by sentencepiece itself, and both oracles
must agree on them. Chat templates are rendered, and conversations tokenized, by transformers; an attack is tokenized
between the control tokens of the same conversation without it, with `split_special_tokens`.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import sentencepiece
from conversations import EVIL, MODELS, attacks, conversations, evil, tokenizer
from llama_cpp import Llama
from smollm2_texts import CHATS, PROMPTS, TOKENIZER_TEXTS
from thinking_templates import QWEN3
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

Fields = dict[str, Any]
RULES = [
    "default", "gpt-2", "olmo", "smollm", "llama-bpe", "smaug-bpe", "minicpm5", "qwen2", "megrez", "seed-coder",
    "tekken", "gpt-4o", "deepseek-coder", "deepseek-llm", "deepseek-v3", "viking",
]  # fmt: skip
MORE_TEXTS = [
    "<s>", "</s>", " <s> a", "<s>Hello</s> world", "a<|end|>b", "<unk>", "<|end|> \n", "<0x41>", "▁▁a", "a ▁b",
    "<|bos|>a", "x<tool>1", "a  \tb", "[PAD0]",
    "camelCase HTTPServer iPhone", "12345 1234567", "a//b/\n/\nc", "!\r\n\r\nx",
]  # fmt: skip
TEXTS = [text for text in TOKENIZER_TEXTS + MORE_TEXTS if "\0" not in text and len(text) < 50]  # NUL ends a C string
TRAINING = [
    *[text for text in TOKENIZER_TEXTS if "</s>" not in text],  # llama.cpp would take it for a control token
    *[prompt for prompt in PROMPTS if isinstance(prompt, str)],
    *[message["content"] for chat in CHATS for message in chat],
] * 2
TEMPLATES = {
    "blocks": "{% for m in messages %}\n    {% if m.role == 'user' %}\nU: {{ m.content }}\n    {%- endif %}"
    "\n{% endfor %}\nend",
    "whitespace": "  {% set x = 1 %}\n\n{{- x }} {#- none -#} \n {% if true %}\n  a\n  {% endif %}\n\tb {{ 'c' }}\n",
    "loop controls": "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{{ loop.index }}/"
    "{{ loop.length }}{{ m['content'] }}{% if m.role == 'assistant' %}{% break %}{% endif %}{% endfor %}",
    "loop variables": "{% for m in messages %}{{ loop.first }}{{ loop.last }}{{ loop.revindex }}"
    "{{ loop.previtem is defined }};{% endfor %}{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% else %}x"
    "{% endfor %}{% for m in messages if m.role == 'user' %}{{ loop.length }}{{ m.content }}{% endfor %}"
    "{% for m in messages | selectattr('role', 'equalto', 'user') %}{{ loop.last }}{% endfor %}"
    "{% for m in missing %}x{% else %}none{% endfor %}{% for i in range(3) %}{{ i }}{% endfor %}",
    "generation": "{% for m in messages %}{{ m.role }}{% generation %}\n{% set x = 1 %}{{ m.content }}\n"
    "{% endgeneration %}{{ x is defined }}{% endfor %}",
    "tojson": "{{ messages | tojson }}|{{ {'b': '<é&\\'>', 'a': [1, 2.5, none, true]} | tojson(indent=2) }}"
    "|{{ {'b': 1, 'a': 'é'} | tojson(sort_keys=true, ensure_ascii=true, separators=(',', ':')) }}",
    "special tokens": "{{ bos_token }}{{ eos_token }}[{{ pad_token }}]{{ bos_token + 'x' }}",
    "tools": "{{ tools is none }}{{ documents is none }}{{ tools is defined }}{% if tools %}x{% endif %}"
    "{{ add_generation_prompt }}",
    "namespace": "{% set ns = namespace(found=false) %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }}{{ dict(a=1).a }}",
    "macros": "{% macro turn(m, depth=0) %}<{{ m.role }}>{{ m.content | trim | upper }}{{ caller is defined }}"
    "{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}{{ 'a,b'.split(',')[-1] }}"
    "{{ messages[1:] | length }}{{ messages[0].content is string }}{{ '%s' % 1 }}{{ 'x'.startswith('x') }}",
    "html": "<b>{{ messages[0].content }}</b> &amp; '\"",
}
MESSAGES = [
    {"role": "system", "content": "  Be <brief> & 'kind'.\n"},
    {"role": "user", "content": 'Grüße 😀 "x"'},
    {"role": "assistant", "content": "ok"},
    {"role": "user", "content": "{{ bos_token }}{% if %}"},
]
HELLO = [{"role": "user", "content": "Hi"}]
THOUGHT = [*HELLO, {"role": "assistant", "content": "Hello", "reasoning_content": "A greeting."}]
VARIED: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {  # template, conversation, variables
    "thinking on": (QWEN3, HELLO, {"enable_thinking": True}),
    "thinking off": (QWEN3, HELLO, {"enable_thinking": False}),
    "thinking kept": (QWEN3, THOUGHT, {}),
    "thinking dropped": (QWEN3, [*THOUGHT, *HELLO], {}),
    "variables": (
        "{{ bos_token }}{{ eos_token }}{{ tools | tojson }}{{ documents is none }}{{ x.a[0] }}{{ y is defined }}",
        HELLO,
        {"bos_token": "B", "tools": [{"type": "function"}], "x": {"a": ["ä", None]}},
    ),
    "message fields": (
        "{% for m in messages %}{{ m | tojson(sort_keys=true) }}{{ m.content is defined }}{% endfor %}",
        [
            *HELLO,
            {"role": "assistant", "content": None, "thinking": "t"},
            {"role": "assistant", "content": "c", "reasoning": "r"},
            {"role": "assistant", "content": "c", "reasoning_content": "rc", "thinking": "t", "tool_calls": None},
        ],
        {},
    ),
}


def byte_level() -> Fields:
    """A byte-level vocabulary trained without words, and whole words that no merges lead to."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, min_frequency=2, max_token_length=6, show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merges = [" ".join(merge) for merge in model["merges"]]
    words = [word for word in ["Hello", "Ġgravity", "Ġbrown", "123", "Ġ!!!", "Ġis"] if word not in model["vocab"]]
    added = [("<|bos|>", 3), ("<|end|>", 3), ("<tool>", 4), ("  \t", 4), ("[PAD0]", 5)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens + words + [token for token, _ in added],
        "tokenizer.ggml.token_type": [1] * (len(tokens) + len(words)) + [kind for _, kind in added],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": len(tokens) + len(words),
        "tokenizer.ggml.eos_token_id": len(tokens) + len(words) + 1,
    }


def sentencepiece_model(prefix: bool, user_defined: list[str]) -> tuple[Fields, sentencepiece.SentencePieceProcessor]:
    """A vocabulary trained by sentencepiece with Llama's settings, and as GGUF fields."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAINING), model_writer=model, model_type="bpe", vocab_size=640, byte_fallback=True,
        character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=prefix, split_digits=True, allow_whitespace_only_pieces=True, hard_vocab_limit=False,
        user_defined_symbols=user_defined, minloglevel=2, max_sentence_length=100000,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    tokens, scores, types = [], [], []
    for i in range(processor.get_piece_size()):
        piece, kind = processor.id_to_piece(i), 1
        if processor.is_unknown(i):
            kind = 2
        elif processor.is_control(i):
            kind = 3
        elif piece in user_defined:
            piece, kind = piece.replace("▁", " "), 4  # as llama.cpp's conversion writes them
        elif processor.is_byte(i):
            kind = 6
        tokens.append(piece)
        scores.append(processor.get_score(i))
        types.append(kind)
    fields = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_space_prefix": prefix,
    }
    return fields, processor


def llama_cpp_ids(fields: Fields, texts: list[str]) -> Iterator[list[int]]:
    """llama.cpp's ids of texts, special tokens recognised and added, with a vocabulary of these fields."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "vocabulary.gguf")
        writer = gguf.GGUFWriter(path, "llama")
        for key, value in fields.items():
            write = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, list: writer.add_array}
            write[type(value)](key, value)
        for key in ("context_length", "embedding_length", "feed_forward_length", "block_count", "attention.head_count"):
            writer.add_uint32(f"llama.{key}", 8)
        writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        model = Llama(path, vocab_only=True, verbose=False)
        for text in texts:
            yield model.tokenize(text.encode(), add_bos=True, special=True)


def sentencepiece_golden(prefix: bool, user_defined: list[str]) -> dict[str, Any]:
    """Both oracles agree, but for special tokens in a text, which sentencepiece does not look for."""
    fields, processor = sentencepiece_model(prefix, user_defined)
    expected = list(llama_cpp_ids(fields, TEXTS))
    for text, ids in zip(TEXTS, expected, strict=True):
        assert ids[0] == processor.bos_id()
        if not any(token in text for token in ("<unk>", "<s>", "</s>", "▁")):
            assert ids[1:] == processor.encode(text), text
            assert processor.decode(ids) == text, text
    return {"fields": fields, "ids": expected}


def byte_level_golden() -> dict[str, Any]:
    """Qwen's and GPT-NeoX's texts are composed here: their tokenizer.json says NFC, llama.cpp leaves that out.

    Rules that know cases take marks for letters, which llama.cpp does not: no ids (null) for texts with marks.
    """
    fields, expected = byte_level(), {}
    for rule in RULES:
        texts = [unicodedata.normalize("NFC", text) if rule in ("qwen2", "olmo") else text for text in TEXTS]
        ids = list(llama_cpp_ids(fields | {"tokenizer.ggml.pre": rule}, texts))
        unsure = [rule in ("tekken", "gpt-4o") and any(unicodedata.category(c)[0] == "M" for c in t) for t in texts]
        expected[rule] = [None if doubt else found for found, doubt in zip(ids, unsure, strict=True)]
    return {"fields": fields, "ids": expected}


def chat_template_goldens() -> list[dict[str, Any]]:
    cases = []
    for name, template in TEMPLATES.items():
        (text,), _ = render_jinja_template(
            [MESSAGES], chat_template=template, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
        )
        cases.append({"name": name, "template": template, "text": text})
    for name, (template, messages, variables) in VARIED.items():
        kept = [{key: value for key, value in m.items() if value is not None} for m in messages]  # apply_chat_template
        special = {"bos_token": "<s>", "eos_token": "</s>"} | variables
        (text,), _ = render_jinja_template([kept], chat_template=template, add_generation_prompt=True, **special)
        case = {"name": name, "template": template, "text": text, "messages": messages, "variables": variables}
        cases.append(case)
    return cases


def conversation_goldens(name: str) -> dict[str, list[list[int]]]:
    """The ids of conversations, and of attacks, whose control tokens are only those of the template."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer(name).save(folder)
        peer = PreTrainedTokenizerFast.from_pretrained(folder)
    talks = [
        peer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False, **variables)
        for talk, variables in conversations(name)
    ]
    names = "|".join(re.escape(token.content) for token in peer.added_tokens_decoder.values() if token.special)
    found = []
    for talk, variables in attacks(name):
        text = peer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True, **variables)
        words = json.dumps(evil(name), ensure_ascii=False)[1:-1] if f'"{EVIL}"' in text else evil(name)
        ids = []
        for part in filter(None, re.split(f"({names})", text)):
            plain = not re.fullmatch(names, part)
            ids += peer.encode(part.replace(EVIL, words), add_special_tokens=False, split_special_tokens=plain)
        found.append(ids)
    return {"talks": talks, "attacks": found}


def write(name: str, lines: list[str], brackets: str) -> None:
    path = Path(__file__).parent / "golden" / name
    path.write_text(brackets[0] + ",\n".join(lines) + brackets[1] + "\n", encoding="ascii")
    print(name, path.stat().st_size)


if __name__ == "__main__":
    compact = json.JSONEncoder(separators=(",", ":")).encode
    goldens = {
        "texts": TEXTS,
        "byte_level": byte_level_golden(),
        "llama": sentencepiece_golden(True, []),
        "gemma": sentencepiece_golden(False, ["\n", "\n\n", "▁▁", "▁▁▁▁", "<b>"]),
    }
    write("vocabularies.json", [f"{compact(key)}:{compact(value)}" for key, value in goldens.items()], "{}")
    lines = [f"{compact(name)}:{compact(conversation_goldens(name))}" for name in MODELS]
    write("conversations.json", lines, "{}")
    write("chat_templates.json", [compact(case) for case in [{"messages": MESSAGES}, *chat_template_goldens()]], "[]")
