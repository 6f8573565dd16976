"""Chat templates render as in transformers, and a template from a stranger can neither escape nor run for ever."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyinfer.errors import ModelError
from tinyinfer.text.chat_template import ChatTemplate
from tinyinfer.text.sandbox import MAX_SIZE

GOLDENS = json.loads((Path(__file__).parents[1] / "golden" / "chat_templates.json").read_text(encoding="utf-8"))
MESSAGES: list[dict[str, Any]] = GOLDENS[0]["messages"]


def render(template: str, messages: list[dict[str, Any]] = MESSAGES, **more: Any) -> str:
    return ChatTemplate(template, "model.gguf", {"bos_token": "<s>", "eos_token": "</s>"}).render(messages, **more)


@pytest.mark.parametrize("case", GOLDENS[1:], ids=lambda case: case["name"])
def test_renders_as_transformers(case: dict[str, Any]) -> None:
    """Catches a difference of the environment: trimmed blocks, HTML escapes in tojson, loop variables, extensions.

    And a variable that is dropped, which leaves Qwen3's thinking on (bug A15), or a message's thinking that its
    template looks for under another name.
    """
    found = render(case["template"], case.get("messages", MESSAGES), **case.get("variables", {}))
    assert found == case["text"]


SMOLVLM = (
    "{% for m in messages %}{{ m.role | capitalize }}{% if m.content[0]['type'] == 'image' %}:{% else %}: {% endif %}"
    "{% for part in m.content %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<end>\n"
    "{% endfor %}"
)
LLAVA = (
    "{% for m in messages %}{% for part in m.content | selectattr('type', 'equalto', 'text') %}{{ part.text }} "
    "{% endfor %}{% endfor %}"
)
EITHER = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}parts{% endif %}{% endfor %}"
NEITHER = "{% for m in messages %}{{ m.role }},{% if m.content is not string %}parts{% endif %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (SMOLVLM, "User: hi<end>\nAssistant: ho<end>\n"),
        (LLAVA, "hi ho "),
        ("{% for m in messages %}{{ m.content[0].text }},{% endfor %}", "hi,ho,"),
        (EITHER, "hiho"),
        (NEITHER, "user,assistant,"),
    ],
)
def test_a_template_that_reads_parts_is_given_parts(template: str, text: str) -> None:
    """Catches a question that never reaches the model: templates of models that read images drop a plain text.

    llama.cpp's trial (requires_typed_content) and vLLM's format "openai" give such a template a list of parts.
    """
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    assert render(template, messages) == text
    if template != EITHER and template != NEITHER:
        parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        assert render(template, parts) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for m in messages %}<{{ m.content | trim }}>{% endfor %}", "<one\ntwo>"),  # Llama 3
        ("{% for m in messages %}{{ '<' + m['content'] + '>' }}{% endfor %}", "<one\ntwo>"),  # Qwen 2.5
        ("{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
         "{{ p.text }}{% endfor %}{% endif %}{% endfor %}", "onetwo"),  # Gemma 3
    ],
)  # fmt: skip
def test_a_template_that_reads_texts_is_given_a_text(template: str, text: str) -> None:
    """Catches "[{'type': 'text', ..." in the prompt: as programs write parts; vLLM joins them by lines."""
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert render(template, [{"role": "user", "content": parts}]) == text


def test_the_prompt_for_the_answer_is_optional() -> None:
    """Catches a flag that is dropped: an assistant turn would be opened in the middle of a conversation."""
    template = "{{ messages[0].role }}{% if add_generation_prompt %}?{% endif %}"
    assert (render(template), render(template, add_generation_prompt=False)) == ("system?", "system")


def test_unknown_special_tokens_are_empty() -> None:
    """Catches "None" in front of a prompt when the model has no BOS token."""
    assert ChatTemplate("{{ bos_token }}a{{ eos_token is defined }}", "f").render(MESSAGES) == "aFalse"


def test_the_date_is_a_function() -> None:
    """Catches a missing strftime_now, which Llama 3's templates call."""
    assert re.fullmatch(r"\d{4}-\d\d", render("{{ strftime_now('%Y-%m') }}"))


def test_ordinary_arithmetic_is_left_alone() -> None:
    """Catches a bound that refuses what honest templates do: padding, sums, powers, long messages."""
    assert render("{{ '-' * 20 ~ (2 ** 10 + 3 * -4) }}{{ 2.5 * 4 }}{{ 'a' + 'b' }}{{ [1] + [2] }}{{ 2 ** -1 }}") == (
        "-" * 20 + "101210.0ab[1, 2]0.5"
    )
    assert len(render("{{ messages[0].content }}", [{"role": "user", "content": "x" * 10**6}])) == 10**6


def test_a_template_is_used_again() -> None:
    """Catches steps that are counted over all conversations together: the second rendering would be refused."""
    template = ChatTemplate("{% for i in range(90000) %}{% endfor %}ok", "f")
    assert [template.render(MESSAGES) for _ in range(20)] == ["ok"] * 20


BROKEN = {
    "syntax": ("{% if %}", "Expected an expression"),
    "unclosed": ("{% for m in messages %}", "endfor"),
    "unknown tag": ("{% frobnicate %}", "frobnicate"),
    "unknown filter": ("{{ 1 | frobnicate }}", "frobnicate"),
    "raises": ("{{ raise_exception('Only user\n and assistant roles!') }}", "Only user and assistant roles!"),
    "missing message": ("{{ messages[9].content }}", "no element 9"),
    "division": ("{{ 1 / 0 }}", "division by zero"),
    "wrong type": ("{{ 'a' + 1 }}", "str"),
    "deep syntax": ("{{" + "(" * 20000 + "}}", "recursion"),
    "endless macro": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "huge range": ("{% for i in range(10 ** 6) %}{% endfor %}", "MAX_RANGE"),
    "endless loops": ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "steps"),
    "long text": ("{{ 'x' * 10 ** 7 * 10 ** 3 }}", "larger than"),
    "long text of a constant": ("{{ 10000000000 * 'x' }}", "larger than"),
    "long list": ("{{ ([1] * 10000000000) | length }}", "larger than"),
    "large power": ("{{ 10 ** 10 ** 10 }}", "larger than"),
    "negative power": ("{{ (-10) ** 10 ** 10 }}", "larger than"),
    "many products": ("{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
                      "larger than"),
    "doubled by +": ("{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
                     "larger than"),
    "doubled by ~": ("{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
                     "larger than"),
    "doubled by set": ("{% set n = namespace(x='x') %}{% for i in range(99) %}"
                       "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}", "larger than"),
    "wide filter": ("{{ 'x' | center(10000000000) }}", "larger than"),
    "wide method": ("{{ 'x'.ljust(10000000000) }}", "larger than"),
    "long output": ("{% set x = 'x' * 10 ** 6 %}{% for i in range(99) %}{{ x }}{% endfor %}", "larger than"),
    "file": ("{% include '/etc/passwd' %}", "no loader"),
}


@pytest.mark.parametrize(("template", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_template_is_one_clear_line(template: str, reason: str) -> None:
    """Catches tracebacks of jinja2, and templates that hang."""
    with pytest.raises(ModelError) as caught:
        render(template)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("model.gguf: ")
    assert reason in message
    assert "plain text" in message
    assert "--" not in message.replace(reason, ""), "Python users read the message, too"


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ '' | attr('__class__') }}",
    "{{ messages[0]['__class__'] }}",
    "{{ '{0.__class__.__mro__}'.format(1) }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{{ lipsum.__globals__['os'].system('true') }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{% macro f() %}{% endmacro %}{{ f.__init__ }}",
    "{% set ns = namespace() %}{{ ns.__class__ }}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_cannot_leave_its_sandbox(template: str) -> None:
    """Catches an environment that is not sandboxed, and one that prints nothing where it should refuse."""
    with pytest.raises(ModelError, match=r"model\.gguf: .*may not use the attribute"):
        render(template)


@pytest.mark.parametrize(
    "template", ["{{ messages.append(1) }}", "{{ messages[0].update(role='x') }}", "{{ messages | indent }}"]
)
def test_a_template_cannot_change_the_conversation(template: str) -> None:
    """Catches a sandbox that is not immutable: the caller's own list would grow."""
    messages = [{"role": "user", "content": "a"}]
    with pytest.raises(ModelError):
        render(template, messages)
    assert messages == [{"role": "user", "content": "a"}]


@pytest.mark.parametrize("messages", [[], ["hi"], [{"content": "hi"}], {"role": "user", "content": "hi"}, None, 5])
def test_what_is_no_conversation_is_a_value_error(messages: Any) -> None:
    """Catches the user's mistake blamed on the model's file."""
    with pytest.raises(ValueError, match="at least one"):
        render("{{ messages[0].role }}", messages)


# Random programs

ATOMS = st.sampled_from(
    ["messages", "messages[0].content", "bos_token", "'x'", "3", "-1", "2.5", "[1, 2]", "{'a': 1}", "none", "missing",
     "n", "n.x", "loop.index", "range(9)", "10 ** 9", "f()", "''.__class__", "raise_exception('no')", "namespace()"]
)  # fmt: skip
OPERATORS = st.sampled_from(["+", "-", "*", "/", "//", "**", "~", "==", "<", "and", "or", "in", "if n else"])
FILTERS = st.sampled_from(
    ["upper", "length", "list", "join('-')", "tojson", "trim", "center(99)", "center(10 ** 9)", "string", "int",
     "replace('x', 'xx')", "first", "reverse", "dictsort", "map('upper')", "batch(2)", "indent(3)", "frobnicate"]
)  # fmt: skip
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, OPERATORS, inner).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(inner, FILTERS).map(lambda parts: f"({' | '.join(parts)})"),
        inner.map(lambda e: f"{e}.items()"),
    ),
    max_leaves=6,
)
BLOCKS = [
    "{%% for n in %s %%}%s{%% endfor %%}",
    "{%% if %s %%}%s{%% endif %%}",
    "{%% set n = %s %%}%s",
    "{%% macro f(n=%s) %%}%s{%% endmacro %%}",
    "{%%- set n %%}{{ %s }}%s{%% endset -%%}",
]
TEMPLATES = st.recursive(
    EXPRESSIONS.map("{{{{ {} }}}}".format) | st.text("ab{}%#- \n", max_size=4),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(st.sampled_from(BLOCKS), EXPRESSIONS, inner).map(lambda parts: parts[0] % parts[1:]),
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(template=TEMPLATES)
def test_any_program_renders_within_bounds_or_is_one_clear_line(template: str) -> None:
    """Catches any other exception, and a way to make much text that the bounds do not see."""
    try:
        message, size = "", len(render(template))
    except ModelError as error:
        message, size = str(error), 0
    assert not message or re.fullmatch(r"model\.gguf: the chat template fails \(.*", message)
    assert size <= MAX_SIZE
