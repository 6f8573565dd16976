"""Weights before and after rounding: cells, codes, scales and errors are those of the quantization itself."""

from __future__ import annotations

import numpy as np
import pytest
from markup import read

from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.model.weights import Dense
from tinyinfer.quantization.rtn import round_to_nearest
from tinyinfer.views.weights import WeightGrid

W = np.random.default_rng(3).standard_normal((12, 96)).astype(np.float32)


def tables(view) -> list[list[list[dict[str, str]]]]:
    """The attributes of the cells of each table, row by row."""
    found: list[list[list[dict[str, str]]]] = []
    for tag, attributes in read(view._repr_html_()).elements:
        if tag == "table":
            found.append([])
        elif tag == "tr" and "data-row" in attributes:
            found[-1].append([])
        elif tag == "td" and "tabindex" in attributes:
            found[-1][-1].append(attributes)
    return found


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("group_size", [8, 32, "channel", "tensor"])
def test_the_block_is_a_piece_of_the_whole_matrix(bits, group_size):
    """Catches a block that is rounded alone: its largest weight would not be that of the group or of the matrix."""
    size = group_size if isinstance(group_size, int) else None
    scheme = QuantScheme(bits, size, bits == 8, per_tensor=group_size == "tensor")
    whole = round_to_nearest(W, scheme)
    view = WeightGrid.rounded(W, bits, group_size)
    assert np.array_equal(view.before, W[:8, :32])
    assert np.array_equal(view.after, whole.dequantize()[:8, :32])
    assert view.stored is not None
    assert np.array_equal(view.stored.codes, whole.codes[:8, :32])
    assert view.rms_error == pytest.approx(np.sqrt(np.mean((whole.dequantize() - W)[:8, :32] ** 2)))


def test_cells_are_the_numbers():
    """Catches a sign that is painted the wrong way, a scale of its own for `after`, and shifted cells."""
    before, after = np.array([[1.0, -0.5], [0.0, 0.25]]), np.array([[0.5, -0.5], [0.0, 0.5]])
    first, second, error = tables(WeightGrid(before, after))
    strength = [[(cell["class"], cell.get("style", "")) for cell in row] for row in first]
    assert strength == [[("more", ""), ("less", "--a:50%")], [("less", "--a:0%"), ("more", "--a:25%")]]
    assert second[0][0]["style"] == "--a:50%", "the full colour is that of `before`"
    assert [[cell.get("style", "") for cell in row] for row in error] == [["", "--a:0%"], ["--a:0%", "--a:50%"]]
    assert error[0][0]["class"] == "less"
    assert first[0][0]["title"] == "output 0, input 0: 1.00000 → 0.50000; error -0.50000"


def test_codes_and_scales_stand_beside_their_row():
    """Catches codes in the place of weights, a minimum of another group, and a scale of another row."""
    view = WeightGrid.rounded(W, 4, 8, outputs=3, inputs=20)
    found, stored = read(view._repr_html_()), view.stored
    assert stored is not None
    assert stored.scale.shape == (3, 3), "20 inputs reach into a third group"
    sides = [word for word in found.words if word.count(" | ") == 2]
    first = [f"{scale:.3g}, {low:.3g}" for scale, low in zip(stored.scale[0], stored.minimum[0], strict=True)]
    assert sides[0] == " | ".join(first)
    assert len(sides) == 3
    cell = tables(view)[1][2][9]
    scale, code, low = stored.scale[2, 1], stored.codes[2, 9], stored.minimum[2, 1]
    assert f"→ {scale:.4g} · {code} + ({low:.4g}) = {view.after[2, 9]:.5f}; error" in cell["title"]
    assert [x for x, one in enumerate(tables(view)[1][0]) if "start" in one["class"]] == [8, 16]


def test_symmetric_codes_have_no_minimum():
    """Catches a minimum of zero shown where none is stored."""
    view = WeightGrid.rounded(W, 8, 32)
    assert "scale" in read(view._repr_html_()).words
    assert "minimum" not in view._repr_html_()
    assert " + (" not in tables(view)[1][0][0]["title"]


def test_a_weight_of_a_model_and_an_array_are_drawn_alike():
    """Catches a matrix taken the wrong way round: a model holds inputs first."""
    assert WeightGrid.rounded(Dense(W.T), 4, 32)._repr_html_() == WeightGrid.rounded(W, 4, 32)._repr_html_()


def test_zeros_are_drawn():
    """Catches a division by the largest weight, or by the largest error, where that is 0."""
    view = WeightGrid.rounded(np.zeros((2, 8), np.float32), 4, 8)
    assert view.rms_error == 0
    assert "Root mean square error 0." in str(view)
    assert {cell["style"] for cell in tables(view)[0][0]} == {"--a:0%"}


def test_the_text_says_the_same():
    """Catches a text form without the codes or the error; a terminal has only the text."""
    text = str(WeightGrid.rounded(W, 2, 32, outputs=2, inputs=4))
    assert text.startswith("2 bits, groups of 32, asymmetric\n2 outputs of 4 inputs. Root mean square error ")
    for name in ("before", "after", "error", "stored"):
        assert f"\n{name}\n0  " in text
    assert f"\nbefore\n0  {' '.join(f'{x: .4f}' for x in W[0, :4])}\n" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((W, 5), "5 bits are not supported"),
        ((W, 4, "row"), "group_size='row'"),
        ((W, 4, 0), "group_size=0"),
        ((W, 4, 32, None, 99, 96), "too many to see"),
    ],
)
def test_settings_that_do_not_exist(arguments, words):
    """Catches a grid of 5 bits that no engine has, and a traceback from inside the rounding."""
    with pytest.raises(ValueError, match=words):
        WeightGrid.rounded(*arguments)


def test_blocks_of_two_shapes():
    """Catches a broadcast of one row over all the others."""
    with pytest.raises(ValueError, match="do not fit together"):
        WeightGrid(np.ones((2, 3)), np.ones((1, 3)))
