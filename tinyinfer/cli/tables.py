"""Numbers for people: aligned tables, and amounts with the prefix that suits them."""

from __future__ import annotations

from collections.abc import Sequence

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


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


def amount(value: float, unit: str) -> str:
    """A value in four digits.

    >>> amount(538_060_032, "B"), amount(37e9, "FLOP/s"), amount(12, "B")
    ('538.1 MB', '37 GFLOP/s', '12 B')
    """
    for size, prefix in PREFIXES:
        if value >= size:
            return f"{value / size:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"
