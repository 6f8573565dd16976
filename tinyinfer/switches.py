"""A switch is a field that says all about itself: its default, its values, its help and its flag.

    kv_cache: str = switch("contiguous", choices=CACHES, help="how keys and values of earlier tokens are kept")

is the whole of a new switch: the value is checked against the field, and the command line derives its flag from it.
Each idea has its switches in its own folder (kv_cache/switches.py, batching/switches.py, ...), beside the sentences
that refuse what cannot work; engine/config.py joins the parts.

The values of a switch that chooses a part are a table of "module:attribute". An entry is resolved on use, so that
listing the choices imports nothing and a part that is not chosen is never loaded (its file may be deleted).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import Field, dataclass, field, fields
from importlib import import_module
from numbers import Integral, Rational, Real
from typing import Any

from tinyinfer.errors import SwitchError


def switch(
    default: object,
    *,
    help: str,
    choices: Collection[str | int] = (),
    flags: tuple[str, ...] = (),
    metavar: str | None = None,
    bare: bool = False,
) -> Any:
    """A field of a dataclass with all that the command line shows of it.

    flags: a short flag, or long flags in the place of the field's own name. metavar: the value's name in the help.
    bare: a flag without a value, which says True.
    """
    about = {"help": help, "choices": tuple(choices), "flags": flags, "metavar": metavar, "bare": bare}
    return field(default=default, metadata=about)


def resolve(table: dict[str, str], name: str) -> Any:
    """The object that `name` stands for in `table`. Raises SwitchError when a module that it needs is missing."""
    module, attribute = table[name].split(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        reason = "{value} needs the module {module}, which is not installed"
        raise SwitchError("", name, reason, "install it, or choose another value", module=error.name) from error


@dataclass(frozen=True)
class Switches:
    """A part of EngineConfig. Raises SwitchError for a value or a combination that cannot work."""

    def __post_init__(self) -> None:
        for one in fields(self):
            object.__setattr__(self, one.name, plain_number(getattr(self, one.name)))
            check_value(one, getattr(self, one.name))
        for refusal in self.refusals():
            raise refusal

    def refusals(self) -> Iterator[SwitchError]:
        """What cannot work together, with the reason and the cure; a part adds its own to those of other parts."""
        yield from ()

    def given(self, *names: str) -> list[str]:
        """The fields among `names` that have another value than their default."""
        return [name for name in names if getattr(self, name) != getattr(type(self), name)]


def plain_number(value: object) -> object:
    """NumPy's numbers as Python's, which JSON holds, and which neither overflow nor wrap around; the rest as it is."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, Real) and not isinstance(value, Rational) else value


def check_value(one: Field[Any], value: object) -> None:
    """Raises SwitchError for a value that the field's choices or type do not allow."""
    choices, kind = one.metadata.get("choices"), str(one.type).removesuffix(" | None")
    if choices:
        if not isinstance(value, (str, int)) or value not in choices:
            known = ", ".join(map(str, choices))
            raise SwitchError(one.name, value, "{field}={value!r} is not known", "choose one of {known}", known=known)
    elif value is None and one.default is None:
        return
    elif kind == "int" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise SwitchError(one.name, value, "{field}={value!r} must be a whole number of at least 1")
    elif kind == "bool" and not isinstance(value, bool):
        raise SwitchError(one.name, value, "{field}={value!r} must be True or False")
