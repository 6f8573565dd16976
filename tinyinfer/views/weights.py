"""A block of a weight matrix before and after rounding: what is stored of it, what comes back, and the error.

What is stored are whole numbers, the codes, and for each group of consecutive inputs one scale and maybe one minimum:
w ≈ scale · code + minimum (quantization/rtn.py). The largest weight of a group decides the scale of all others, so the
error of a row grows with its largest weight.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.model.quantized_matrix import QuantizedMatrix
from tinyinfer.model.weights import Weight
from tinyinfer.quantization.recipe import BITS, make_scheme
from tinyinfer.quantization.rtn import round_to_nearest
from tinyinfer.quantization.switches import GROUP_SIZES
from tinyinfer.views.cells import HINT, STYLE, Axis, Cell, Side, aligned, check_size, matrix, readout, unfold
from tinyinfer.views.page import View, legend


class WeightGrid(View):
    """A block of N outputs and M inputs of a matrix: before, after, and the difference, as coloured cells.

    before, after: (N, M). stored: the codes and scales that `after` was made of; None: only numbers are shown. Raises
    ValueError for shapes that do not fit together, and for a block that is too large to be seen.
    """

    style = (
        STYLE
        + """
.tinyinfer-view :is(.cells, .legend) .more { --cell: oklch(var(--deep) 40); }
.tinyinfer-view :is(.cells, .legend) .less { --cell: oklch(var(--deep) 255); }
.tinyinfer-view .legend :is(.more, .less) { background: var(--cell); }
.tinyinfer-view .cells .start { box-shadow: inset 2px 0 var(--accent); }
"""
    )

    def __init__(
        self, before: Array, after: Array, stored: QuantizedMatrix | None = None, title: str = "Weights"
    ) -> None:
        self.before, self.after = np.asarray(before, np.float64), np.asarray(after, np.float64)  # (N, M), (N, M)
        shapes = {self.before.shape, self.after.shape, self.before.shape if stored is None else stored.shape}
        if len(shapes) > 1 or self.before.ndim != 2:
            raise ValueError(f"shapes {', '.join(map(str, shapes))} do not fit together; give blocks of one shape")
        check_size(len(self.before), self.before.shape[1], "weight")
        self.stored, self.title = stored, title

    @classmethod
    def rounded(
        cls,
        weights: Array | Weight,
        bits: int = 4,
        group_size: int | str = 32,
        symmetric: bool | None = None,
        outputs: int = 8,
        inputs: int = 32,
    ) -> WeightGrid:
        """The first outputs and inputs of a matrix (N, M), of which the whole is rounded to nearest.

        group_size: 32, 64, 128, "channel" or "tensor", or any other number of inputs; symmetric: None for 8 bits only,
        as in the switches. Raises ValueError for other bits and sizes.
        """
        w = weights if isinstance(weights, np.ndarray) else weights.rows(np.arange(weights.shape[0]))  # (N, M)
        if f"int{bits}" not in BITS:
            raise ValueError(f"{bits} bits are not supported; choose {', '.join(map(str, BITS.values()))}")
        if group_size not in GROUP_SIZES and not (isinstance(group_size, int) and group_size > 0):
            raise ValueError(f"group_size={group_size!r} is no number of inputs; choose one, 'channel' or 'tensor'")
        scheme = make_scheme(f"int{bits}", group_size, symmetric)
        assert scheme is not None
        whole = round_to_nearest(np.asarray(w, np.float32), scheme)
        block = crop(whole, outputs, inputs)
        groups = f"groups of {group_size}" if isinstance(group_size, int) else f"one scale for each {group_size}"
        kind = "symmetric" if scheme.symmetric else "asymmetric"
        title = f"{bits} bits, {groups}, {kind}"
        return cls(np.asarray(w)[:outputs, :inputs], block.dequantize(), block, title)

    @property
    def error(self) -> Array:
        """What rounding changed, (N, M)."""
        return self.after - self.before

    @property
    def rms_error(self) -> float:
        """The root mean square of the error."""
        return float(np.sqrt(np.mean(self.error**2)))

    def body(self) -> str:
        largest = max(float(np.abs(self.before).max()), float(np.abs(self.after).max()))
        parts = [
            self._grid("before", self.before, largest),
            self._codes() if self.stored else "",
            self._grid("after", self.after, largest),
            self._grid("error", self.error, float(np.abs(self.error).max())),
        ]
        boxes = legend([("more", "positive"), ("less", "negative")])
        return f"<p>{self._caption()}</p>{boxes}{''.join(parts)}{unfold(self.text())}"

    def text(self) -> str:
        floats = {"before": self.before, "after": self.after, "error": self.error}
        lines = {name: [" ".join(f"{x: .4f}" for x in row) for row in part] for name, part in floats.items()}
        if self.stored:
            pairs = zip(self.stored.codes, self._sides(), strict=True)
            lines["stored"] = [f"{' '.join(map(str, row))}   {side}" for row, side in pairs]
        parts = [f"{name}\n{aligned(self._labels(), part)}" for name, part in lines.items()]
        return "\n".join([self._caption(), *parts])

    def _labels(self) -> list[str]:
        return [str(n) for n in range(len(self.before))]

    def _grid(self, name: str, numbers: Array, largest: float) -> str:  # (N, M) ->
        """The cells of one matrix; the full colour is `largest`."""
        cells = [
            [
                Cell(self._says(y, x), "more" if number > 0 else "less", abs(number) / largest if largest else 0.0)
                for x, number in enumerate(row)
            ]
            for y, row in enumerate(numbers.tolist())
        ]
        across = Axis([str(m) for m in range(numbers.shape[1])])
        hint = HINT if name == "before" else ""
        drawn = matrix(f"{name}: outputs down, inputs across", cells, Axis(self._labels()), across)
        return f"<h5>{name} <small>(full colour: ±{largest:.3g})</small></h5>{readout(drawn, hint)}"

    def _codes(self) -> str:
        assert self.stored is not None
        scheme, codes = self.stored.scheme, self.stored.codes
        span, size = scheme.highest - scheme.lowest, scheme.group_size or codes.shape[1]
        kinds = ["pale start" if x % size == 0 < x else "pale" for x in range(codes.shape[1])]
        cells = [
            [Cell(self._says(y, x), kinds[x], (code - scheme.lowest) / span, str(code)) for x, code in enumerate(row)]
            for y, row in enumerate(codes.tolist())
        ]
        side = Side("scale" if scheme.symmetric else "scale, minimum", self._sides(), 18 if scheme.symmetric else 24)
        across = Axis([str(m) for m in range(codes.shape[1])])
        drawn = matrix("stored: codes, and the scale of each group", cells, Axis(self._labels()), across, side)
        heading = f"<h5>stored <small>(codes {scheme.lowest} to {scheme.highest})</small></h5>"
        return heading + readout(drawn, hint="")

    def _sides(self) -> list[str]:
        """The scale, and the minimum if there is one, of each group of every row."""
        assert self.stored is not None
        low = self.stored.minimum
        return [
            " | ".join(
                f"{scale:.3g}" + ("" if low is None else f", {low[y, g]:.3g}") for g, scale in enumerate(row.tolist())
            )
            for y, row in enumerate(self.stored.scale)
        ]

    def _says(self, y: int, x: int) -> str:
        before, after = self.before[y, x], self.after[y, x]
        how = f"{after:.5f}"
        if self.stored:
            q, g = self.stored, x // (self.stored.scheme.group_size or self.before.shape[1])
            low = "" if q.minimum is None else f" + ({q.minimum[y, g]:.4g})"
            how = f"{q.scale[y, g]:.4g} · {q.codes[y, x]}{low} = {how}"
        return f"output {y}, input {x}: {before:.5f} → {how}; error {after - before:.5f}"

    def _caption(self) -> str:
        size = float(np.sqrt(np.mean(self.before**2)))
        share = f", {self.rms_error / size:.1%} of the weights' {size:.3g}" if size else ""
        outputs, inputs = self.before.shape
        return f"{outputs} outputs of {inputs} inputs. Root mean square error {self.rms_error:.3g}{share}."


def crop(q: QuantizedMatrix, outputs: int, inputs: int) -> QuantizedMatrix:
    """The first outputs and inputs of a quantized matrix, with the scales of their groups."""
    codes = q.codes[:outputs, :inputs]
    groups = q.scheme.groups(codes.shape[1]) if q.scheme.group_size else 1
    minimum = None if q.minimum is None else q.minimum[:outputs, :groups]
    return replace(q, codes=codes, scale=q.scale[:outputs, :groups], minimum=minimum)
