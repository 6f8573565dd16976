"""An answer in a form, by a model that thinks first: the thought is free, and the form begins behind it.

Whatever a form asks for, the thought comes before it, between the markers of the model's template (text/reasoning.py).
Where the prompt has opened it, the answer begins inside. Where the model opens it by itself, it may also begin with the
form at once; where an answer in the form could be taken for the beginning of a thought (`hides`), it has to. Both are a
grammar of two parts: any text up to the marker that ends the thought, then the form. So the matcher of the form is the
only one, and drafts, branches, preemptions and ranks know nothing of thoughts.

A thought is as long as the model likes: `max_tokens` bounds thought and answer together. One that it cuts has no
answer. Source: vLLM, "Reasoning outputs", whose forms begin behind the thought, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from tinyinfer.text.reasoning import Thinking
from tinyinfer.text.tokenizer import Tokenizer

SPACE = r" {1,2}|\n[ \t]{0,40}"  # between the parts of a JSON text; without a bound some models write nothing else
BLANK = r"/[ \n]{0,4}/"  # between a thought and its answer; likewise
ANYTHING = "/(?s:.*)/"


def literal(text: str, special: Mapping[str, int]) -> str:
    """A text in Lark's syntax, in which special tokens, name -> id, stand by their ids."""
    names = "|".join(map(re.escape, special)) or "$^"
    parts = re.split(f"({names})", text)
    return " ".join(f"<[{special[part]}]>" if part in special else json.dumps(part) for part in parts if part)


def behind_a_thought(kind: str, text: str, thinking: Thinking, tokenizer: Tokenizer) -> str:
    """The grammar, in Lark's syntax, of a thought and an answer. kind: of the form; text: the form."""
    from llguidance import regex_to_lark

    if kind == "json_schema":
        schema = json.loads(text)
        own = schema.get("x-guidance")  # the library's own keyword; what it is silent about is as without a thought
        guidance = {"whitespace_pattern": SPACE} | (own if isinstance(own, dict) else {})
        answer = "%json " + json.dumps(schema | {"x-guidance": guidance})
    else:
        answer = f"%lark {{\n{text if kind == 'grammar' else f'start: /{regex_to_lark(text)}/'}\n}}"
    special = {name: id for mark in (thinking.start, thinking.end) for id, name in tokenizer.specials_in(mark).items()}
    opened = f"thought {BLANK}" if thinking.opened else f"({literal(thinking.start, special)} thought {BLANK})?"
    if any(name in thinking.end for name in special):  # of a control token the letters would be mere text
        thought = f"thought: {ANYTHING} {literal(thinking.end, special)}"
    else:
        thought = f"thought[suffix={json.dumps(thinking.end)}]: {ANYTHING}"
    return f"start: {opened} answer\n{thought}\nanswer: {answer}\n"
