"""A missing name: the lesson says which cell makes the name."""

from __future__ import annotations

from tinyinfer.lessons.cell_order import made_names, missing

SOURCE = '''# ---
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
'''


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
