"""Figures: points and lines hold what was measured; a file is written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rounds import MACHINE, one_round

from tinyinfer.measure import figures


def test_a_plot_that_cannot_be_written_leaves_the_old_one(tmp_path):
    """Half a picture is on the disk when the disk is full."""

    class Figure:
        def savefig(self, path: Path, dpi: int) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device", str(path))

    (tmp_path / "b.png").write_text("old")
    with pytest.raises(OSError, match="No space left"):
        figures.save(Figure(), str(tmp_path / "b.png"))
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_what_the_plot_draws():
    """Points and lines hold the figures: milliseconds over positions, and GFLOP/s under the roof."""
    figure = pytest.importorskip("matplotlib.figure").Figure()
    steps, roof = figure.subplots(1, 2)
    rounds = [one_round(), one_round()]
    figures.draw_steps(steps, rounds, MACHINE)
    measured_line, predicted_line = steps.get_lines()
    assert measured_line.get_xydata().tolist() == [[3, 1500], [4, 1000]]
    assert predicted_line.get_xydata().tolist() == [[3, 500], [4, 500]]
    figures.draw_roofline(roof, rounds, MACHINE)
    points = {line.get_label(): line.get_xydata()[0] for line in roof.get_lines() if line.get_marker() == "o"}
    assert [label.split(":")[0] for label in points] == ["prefill", "decode"]
    np.testing.assert_allclose(list(points.values()), [[300, 3000 / 4 * 1e-9], [2, 200 / 2.5 * 1e-9]])
    for axes in (steps, roof):
        assert all((axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), axes.get_legend()))


@pytest.fixture
def drawn(monkeypatch) -> list[Any]:
    """The figures that would have been saved."""
    pytest.importorskip("matplotlib")
    saved: list[Any] = []
    monkeypatch.setattr(figures, "save", lambda figure, path: saved.append(figure))
    return saved


def record(name: str, bits: float, perplexity: float, **engine: object) -> dict[str, Any]:
    """What `eval` says of a setting."""
    how = {"dtype": "float32", "quantize": name[:4], "quantize_method": "rtn", "group_size": 32, "prune": "off"}
    how |= {"drop_layers": None, "width": None, "keep_kv_heads": None, "keep_hidden": None, "refit": False} | engine
    return {"setting": name, "perplexity": perplexity, "bits_per_weight": bits, "tokens": 9, "window": 4, "engine": how}


def test_a_ruined_setting_is_named_at_the_edge_of_the_plot(drawn):
    """355504 beside 20 on one axis would show that and nothing else."""
    records = [record("int4", 5.0, 20.0), record("int2", 3.0, 355504.4),
               record("int2:gptq", 3.0, 1039.2, quantize_method="gptq")]  # fmt: skip
    figures.draw_eval("p.png", "model", records)
    [axes] = drawn[0].get_axes()
    assert [line.get_xydata().tolist() for line in axes.get_lines()] == [[[3, 160], [5, 20]], [[3, 160]]]
    assert [(text.get_text(), text.xy) for text in axes.texts] == [
        ("int4", (5.0, 20.0)), ("↑ int2: 355,504\n↑ int2:gptq: 1,039", (3.0, 160.0))
    ]  # fmt: skip


def test_what_was_fitted_again_is_a_line_of_its_own(drawn):
    """Catches points before and after the fit that are joined as if one became the other with fewer bits."""
    parts: list[Any] = [("drop3", {}), ("drop3+refit", {"refit": True})]
    records = [record(name, 32.0, 30.0, quantize="off", drop_layers=3, **engine) for name, engine in parts]
    figures.draw_eval("p.png", "model", records)
    [axes] = drawn[0].get_axes()
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["fewer layers", "fewer layers, fitted"]


def test_what_the_eval_plot_draws(drawn):
    """Bits and perplexity: a line for each way to quantize, its points by bits, one name over all of the same bits."""
    records = [record("int8", 8.5, 20.5), record("int3", 4.0, 90.0), record("float32", 32.0, 20.0, quantize="off"),
               record("int3:gptq", 4.0, 40.0, quantize_method="gptq")]  # fmt: skip
    figures.draw_eval("p.png", "model", records, records[2])
    [axes] = drawn[0].get_axes()
    level, *lines = axes.get_lines()
    assert level.get_ydata() == [20, 20]
    assert [line.get_xydata().tolist() for line in lines] == [[[4, 90], [8.5, 20.5]], [[32, 20]], [[4, 40]]]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["float32: 20", "RTN, groups of 32", "float", "GPTQ, groups of 32"]
    assert [(text.get_text(), text.xy) for text in axes.texts] == [
        ("int8", (8.5, 20.5)), ("int3", (4.0, 90.0)), ("float32", (32.0, 20.0))
    ]  # fmt: skip
    assert axes.get_yscale() == "log", "90 beside 20: the small ones must not be flattened"
    assert not any("10" in text.get_text() for text in axes.get_yticklabels(minor=True)), "numbers, not powers of ten"
    assert all((axes.get_title(), axes.get_xlabel(), axes.get_ylabel()))
