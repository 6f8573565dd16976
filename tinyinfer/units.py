"""Values for people: amounts with the prefix that suits them, numbers, tables, and values in messages."""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Sequence

from tinyinfer.errors import one_line

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def amount(value: float, unit: str) -> str:
    """A value in four digits, with its unit and the prefix that suits it.

    >>> amount(538_060_032, "B"), amount(37e9, "FLOP/s"), amount(12, "B")
    ('538.1 MB', '37 GFLOP/s', '12 B')
    """
    for size, prefix in PREFIXES:
        if value >= size:
            return f"{value / size:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def number(value: float | None, factor: float = 1.0) -> str:
    """A value times `factor` in four digits, never as a power of ten; nothing for None.

    >>> number(12345.6), number(0.123456), number(0.05, 1e3), number(None), number(float("inf"))
    ('12346', '0.1235', '50', '', 'inf')
    """
    if value is None:
        return ""
    value = value * factor
    if not math.isfinite(value):
        return str(value)
    if value == round(value) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.5f}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns, the first aligned left and the others right.

    >>> print(table([("", "tok/s"), ("prefill", "600"), ("decode", "38")]))
             tok/s
    prefill    600
    decode      38
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


class _Printer(reprlib.Repr):
    """reprlib's, with its limits, and numbers of more digits than Python writes."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80
        self.maxlevel = 2

    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:
            return f"<a number of more than {sys.get_int_max_str_digits()} digits>"


_printer = _Printer()


def show(value: object) -> str:
    """The value for an error message: escaped, on one line, cut short."""
    text = one_line(" ".join(line.strip() for line in _printer.repr(value).splitlines()))  # an array's has several
    return text if len(text) <= 160 else text[:157] + "..."
