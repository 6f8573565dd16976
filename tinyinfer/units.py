"""Values for people: amounts with the prefix that suits them, and values in messages."""

from __future__ import annotations

import reprlib

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def amount(value: float, unit: str) -> str:
    """A value in four digits.

    >>> amount(538_060_032, "B"), amount(37e9, "FLOP/s"), amount(12, "B")
    ('538.1 MB', '37 GFLOP/s', '12 B')
    """
    for size, prefix in PREFIXES:
        if value >= size:
            return f"{value / size:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


_printer = reprlib.Repr()
_printer.maxstring = _printer.maxother = 80
_printer.maxlevel = 2


def show(value: object) -> str:
    """The value for an error message: escaped, on one line, cut short."""
    text = _printer.repr(value)
    return text if len(text) <= 160 else text[:157] + "..."
