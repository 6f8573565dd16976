"""A sandbox for programs that are not trusted: jinja2's own sandbox, and two bounds.

jinja2's sandbox hides every attribute that leads out of the data, and a program can change nothing. That sandbox bounds
neither time nor memory: `range` inside `range` would not end, and `'x' * 10**10` would take all memory. So loop turns
and calls are counted, and every number, text and list that a template makes has a largest size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from functools import wraps
from threading import local
from typing import Any, NoReturn

from jinja2 import Template, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

MAX_STEPS = 1_000_000  # loop turns and calls; a template of the hub uses about ten for each message
MAX_SIZE = 10_000_000  # of a number, the characters of a text and the items of a list


class Meter(local):
    """The steps of a rendering: several threads may render at once, and each has its own."""

    steps = 0

    def begin(self) -> None:
        """A rendering begins in this thread."""
        self.steps = 0

    def spend(self, steps: int) -> None:
        """Counts steps. Raises SecurityError beyond MAX_STEPS."""
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise SecurityError(f"it takes more than {MAX_STEPS} steps")


class Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox that also counts steps and bounds the size of their results.

    A forbidden attribute raises, where jinja2 would print nothing.
    """

    intercepted_binops = frozenset({"+", "*", "**"})  # the operators whose results grow fastest

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.meter = Meter()

    def metered_template(self, source: str) -> Template:
        """The template of this source, with a meter in every loop, every `~` and every filter."""
        self.filters = {name: self.bounded(function) for name, function in self.filters.items()}
        self.filters |= {"metered": self.metered, "joined": self.joined}
        tree = self.parse(source)
        for loop in tree.find_all(nodes.For):
            loop.iter = _filtered(loop.iter, "metered")
        for chain in tree.find_all(nodes.Concat):  # a ~ b
            chain.nodes = [_filtered(nodes.List(chain.nodes), "joined")]
        for block in tree.find_all(nodes.AssignBlock):  # {% set x %}...{% endset %}
            block.filter = block.filter or _filtered(None, "string")
        return self.from_string(tree)

    def render(self, template: Template, variables: dict[str, Any]) -> str:
        """The text of one rendering, whose steps are counted from 0."""
        self.meter.begin()
        return self.joined(template.generate(variables))

    def metered(self, items: Iterable[Any]) -> Iterable[Any]:
        """The items of a loop, each counted as a step."""
        items = items if isinstance(items, Sized) else list(items)
        self.meter.spend(1 + len(items))
        return items

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """A call in the template: one step, of bounded arguments and result."""
        self.meter.spend(1)
        return self.bounded(super().call)(*args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`left operator right`, refused before the result is made when the result would be too large."""
        a, b = _size(left), _size(right)
        if operator == "**":  # bits of the result: (bits of a) * b, at least
            self.check((a.bit_length() - 1) * b <= MAX_SIZE.bit_length())
        else:
            self.check((a * b if operator == "*" else a + b) <= MAX_SIZE)
        return self.measured(super().call_binop(context, operator, left, right))

    def bounded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with arguments and result measured."""

        @wraps(function)  # keeps jinja2's marks on the function, which say what to pass to it
        def inner(*args: Any, **kwargs: Any) -> Any:
            for value in (*args, *kwargs.values()):
                self.measured(value)
            return self.measured(function(*args, **kwargs))

        return inner

    def measured(self, value: Any) -> Any:
        """The value. Raises SecurityError when the value is too large."""
        self.check(_size(value) <= MAX_SIZE)
        return value

    def joined(self, pieces: Iterable[Any]) -> str:
        """The pieces as one text. Raises SecurityError as soon as the text is too long."""
        texts, size = [], 0
        for piece in pieces:
            texts.append(str(piece))
            size += len(texts[-1])
            self.check(size <= MAX_SIZE)
        return "".join(texts)

    def check(self, small: bool) -> None:
        """Raises SecurityError, for something too large, unless `small`."""
        if not small:
            raise SecurityError(f"it makes something larger than {MAX_SIZE}")

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Raises SecurityError: called by jinja2 for a forbidden attribute."""
        raise SecurityError(f"it may not use the attribute {attribute!r} of a {type(obj).__name__}")


def _size(value: Any) -> int:
    """Of a whole number its magnitude, of a text or a list its length, of anything else 1."""
    if isinstance(value, int):
        return abs(value)
    return len(value) if isinstance(value, str | bytes | list | tuple | dict) else 1


def _filtered(node: nodes.Node | None, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None)
