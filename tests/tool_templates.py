"""Chat templates with a place for tools, one for each way of writing calls, cut to what a test of the server needs."""

from thinking_templates import QWEN3

TOOLS = "{%- if tools %}{{- '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{%- endif %}\n"
SAID = "{{- '<|im_start|>' + m.role + '\\n' + (m.content or '') }}"
RESULT = "{%- if m.role == 'tool' %}{{- '(' + m.tool_call_id + ')' }}{%- endif %}"
ASKED = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"


def template(call: str) -> str:
    """A template that writes each call so; `c` is the call."""
    calls = f"{{%- for c in m.tool_calls or [] %}}{call}{{%- endfor %}}"
    return f"{TOOLS}{{%- for m in messages %}}{RESULT}{SAID}{calls}{{{{- '<|im_end|>\\n' }}}}{{%- endfor %}}{ASKED}"


HERMES = template("{{- '<tool_call>\\n' + c.function | tojson + '\\n</tool_call>' }}")
LLAMA3 = template(
    "{{- '<|ipython|>{\"name\": \"' + c.function.name + '\", \"parameters\": ' + c.function.arguments | tojson + '}' }}"
)
MISTRAL = template("{{- '[TOOL_CALLS] [' + c.function | tojson + ']' + c.id }}")
PYTHONIC = template("{{- c.function.name + '()' }}") + "{# [func_name1(params_name1=params_value1)] #}"
HERMES_THINKING = TOOLS + QWEN3 + "{# <tool_call> #}"
