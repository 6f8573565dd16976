"""Chat templates render as in transformers, and a template from a stranger stays in its sandbox."""

from __future__ import annotations

import json
import re
import signal
import threading
from _thread import interrupt_main
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyinfer.errors import ModelError
from tinyinfer.text.chat_template import ChatTemplate

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


DEEP = "{% set n = namespace(x=[], y=[]) %}{% for i in range(2000) %}{% set n.x, n.y = [n.x], [n.y] %}{% endfor %}"
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
    "much memory": ("{{ 'x' * 10 ** 18 }}", "MemoryError"),
    "deep list": (DEEP + "{{ n.x == n.y }}", "recursion"),
    "deep list in its message": (DEEP + "{{ raise_exception(n.x) }}", "TemplateError"),
    "file": ("{% include '/etc/passwd' %}", "no loader"),
}


@pytest.mark.parametrize(("template", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_template_is_one_clear_line(template: str, reason: str) -> None:
    """Catches tracebacks of jinja2, and errors of Python that have no text."""
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


def test_a_template_changes_only_its_own_copy() -> None:
    """Catches the caller's messages handed to a template: jinja2 does not know that dict.update changes one."""
    messages = [{"role": "user", "content": "a"}]
    variables = {"tools": [{"name": "f"}]}
    template = "{{ dict.update(messages[0], role='x') }}{{ dict.clear(tools[0]) }}{{ messages[0].role }}{{ tools }}"
    assert render(template, messages, **variables) == "NoneNonex[{}]"
    assert (messages, variables) == ([{"role": "user", "content": "a"}], {"tools": [{"name": "f"}]})


@pytest.mark.parametrize("where", ["content", "variable"])
def test_a_template_sees_plain_data_only(where: str, tmp_path: Path) -> None:
    """Catches objects with methods, which the sandbox would let a template call: this one would write a file."""
    file = tmp_path / "written"
    messages = [{"role": "user", "content": file if where == "content" else "hi"}]
    variables = {"tools": file} if where == "variable" else {}
    with pytest.raises(ValueError, match="may only hold what JSON can"):
        render("{{ (messages[0].content or tools).write_text('x') }}", messages, **variables)
    assert not file.exists()


def test_an_interrupt_ends_a_template() -> None:
    """Catches Ctrl-C taken for the template's own error: nothing else bounds the time that a template takes."""
    template = ChatTemplate("{% for i in range(99999) %}{% for j in range(999) %}{% endfor %}{% endfor %}", "f")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C
    timer = threading.Timer(0.1, interrupt_main)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            template.render(MESSAGES)
    finally:
        signal.signal(signal.SIGINT, before)
        timer.join()


@pytest.mark.parametrize("messages", [[], ["hi"], [{"content": "hi"}], {"role": "user", "content": "hi"}, None, 5])
def test_what_is_no_conversation_is_a_value_error(messages: Any) -> None:
    """Catches the user's mistake blamed on the model's file."""
    with pytest.raises(ValueError, match="at least one"):
        render("{{ messages[0].role }}", messages)


# Random programs

ATOMS = st.sampled_from(
    ["messages", "messages[0].content", "bos_token", "'x'", "3", "-1", "2.5", "[1, 2]", "{'a': 1}", "none", "missing",
     "n", "n.x", "loop.index", "range(9)", "f()", "''.__class__", "raise_exception('no')", "namespace()"]
)  # fmt: skip
OPERATORS = st.sampled_from(["+", "-", "*", "/", "//", "~", "==", "<", "and", "or", "in", "if n else"])
FILTERS = st.sampled_from(
    ["upper", "length", "list", "join('-')", "tojson", "trim", "center(99)", "string", "int",
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
def test_any_program_renders_or_is_one_clear_line(template: str) -> None:
    """Catches any other exception."""
    try:
        message = "" if isinstance(render(template), str) else "no text"
    except ModelError as error:
        message = str(error)
    assert not message or re.fullmatch(r"model\.gguf: the chat template fails \(.*", message)
