"""A missing name: the lesson says which cell makes the name."""

from __future__ import annotations

import pytest

from tinyinfer.lessons import cell_order
from tinyinfer.lessons.cell_order import explain_missing_names, made_names, missing

SOURCE = """# ---
# jupyter: {}
# ---

# %% [markdown]
# # 03 · The KV cache

# %% tags=["setup"]
import numpy as np
from tinyinfer.lessons.lesson import Lesson

lesson = Lesson("03_kv_cache")

# %% [markdown]
# ## Count, then time
# Words.

# %%
# Each row is counted.
llm = lesson.model(kv_cache="none")
for length in (1, 2):
    before, (rows, steps) = llm.ledger.copy(), (length, 1)

# %% tags=["yours"]
class Cache:
    inner = 3

# %%
%matplotlib inline
"""


def test_every_name_that_a_cell_makes_has_its_place():
    """Catches names of loops, of unpacked tuples, of imports and of classes that are not found."""
    places = made_names(SOURCE)
    assert places["llm"] == places["rows"] == places["before"] == places["length"]
    assert places["llm"] == 'the cell under "Count, then time" that begins with `# Each row is counted.`'
    assert places["Cache"].endswith("begins with `class Cache:`")
    assert places["np"] == places["lesson"] == places["Lesson"]
    assert "inner" not in places


def test_a_missing_name_names_its_cell():
    """Catches a bare NameError below a cell that was run too early."""
    message = missing("llm", made_names(SOURCE))
    assert message is not None
    assert "`llm` does not exist yet: first run the cell under" in message.text


def test_a_misspelt_name_stays_an_error_of_python():
    """Catches a typing error that is called a missing cell."""
    assert missing("lmm", made_names(SOURCE)) is None


def test_without_the_source_the_advice_is_to_run_from_the_top():
    """In Colab only the package is installed."""
    message = missing("llm", None)
    assert message is not None
    assert "from the top" in message.hint
    assert "spelt" in message.hint


def test_names_of_a_comprehension_are_made_by_no_cell():
    """Catches a misspelt name that is taken for a name that a comprehension makes for itself."""
    assert set(made_names("\n# %%\nrows = [x for x in range(3) if (y := x)]\nfor z in rows: pass")) == {
        "rows",
        "y",
        "z",
    }


@pytest.mark.parametrize("source_is_here", [True, False])
def test_only_a_missing_name_is_explained(monkeypatch, capsys, source_is_here):
    """Catches "`` does not exist yet" for a local variable that is read too early."""
    kernel = Kernel()
    monkeypatch.setattr(cell_order, "shell", lambda: kernel)
    monkeypatch.setattr(cell_order, "_cells", lambda lesson: made_names(SOURCE) if source_is_here else None)
    monkeypatch.setattr(cell_order, "show", print)
    explain_missing_names("03_kv_cache")
    kernel.explain(kernel, UnboundLocalError, UnboundLocalError("cannot access local variable 'llm'"), None)
    kernel.explain(kernel, NameError, NameError("name 'llm' is not defined", name="llm"), None)
    assert kernel.pythons == ["UnboundLocalError"]
    assert capsys.readouterr().out.startswith("`llm` does not exist yet")


class Kernel:
    """A notebook's kernel, as far as the lesson asks for it. pythons: errors that Python itself shows."""

    def __init__(self) -> None:
        self.pythons: list[str] = []

    def set_custom_exc(self, kinds, explain) -> None:
        self.explain = explain

    def showtraceback(self, error, tb_offset=None) -> None:
        self.pythons.append(error[0].__name__)
