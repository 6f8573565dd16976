"""Which of sixty popular models load, and what they take: `python benchmarks/models_page.py` writes the table anew.

popular_models.json holds each model's config.json as it was published, and where its values were found: no weights are
needed to say whether a configuration is understood, and everything about sizes follows from it. `parameters` there is
what transformers 5.23 counts. Each configuration is written into a folder and read as any other; the table in
docs/models.md lies between two lines, BEGIN and END, and nothing else of the page is touched. A test holds the page
equal to what the configurations give, and our counts to those of transformers.

A model that does not load has the reason from the sentence of its ModelError, without the path and the cure.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

from tinyinfer.errors import ModelError, ModelWarning
from tinyinfer.kv_cache.memory import position_bytes
from tinyinfer.loading.hf_config import read_config
from tinyinfer.measure.inspect import bytes_by_part, parameters_by_part
from tinyinfer.model.config import ModelConfig
from tinyinfer.quantization.recipe import Recipe
from tinyinfer.units import amount

MODELS = Path(__file__).parent / "popular_models.json"
PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN = "<!-- the table that benchmarks/models_page.py writes -->"
END = "<!-- the end of that table -->"
HEAD = ("model", "`model_type`", "parameters", "float32", "bfloat16", "cache, a position")
FLOATS = Recipe(())  # no matrix is rounded


def configurations() -> list[dict[str, Any]]:
    """Each model: its name on the Hub, its parameters, the source of the values, and its config.json."""
    models: list[dict[str, Any]] = json.loads(MODELS.read_text(encoding="utf-8"))
    return models


def tried(values: dict[str, Any], folder: Path) -> ModelConfig | str:
    """What the loader makes of a config.json: the ModelConfig, or the reason why not."""
    path = folder / "config.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelWarning)  # towers and trainers' notes that loading passes over
        try:
            return read_config(folder)
        except ModelError as error:
            return reason(str(error), str(path))


def reason(sentence: str, path: str) -> str:
    """The sentence of a ModelError without the file's path in front, and without the cure behind its semicolon.

    >>> reason("a/config.json, rope_scaling: the field 'type' is 'su', which is odd; mend it", "a/config.json")
    "rope_scaling: the field 'type' is 'su', which is odd"
    """
    return sentence.removeprefix(path).lstrip(":, ").split(";")[0]


def cells(model: dict[str, Any], folder: Path) -> list[str]:
    """A model's row: what it takes, or why not, which fills the other columns."""
    found = tried(model["config"], folder)
    first = [model["model"], f"`{model['config']['model_type']}`"]
    if isinstance(found, str):
        return [*first, f"no: {found}", "", "", ""]
    sizes = [amount(sum(bytes_by_part(found, itemsize, FLOATS).values()), "B") for itemsize in (4, 2)]
    return [*first, f"{sum(parameters_by_part(found).values()):,}", *sizes, amount(position_bytes(found.memory), "B")]


def table() -> str:
    """All models as a table of Markdown, after a line that counts those that load."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [cells(model, Path(folder)) for model in configurations()]
    loads = sum(bool(row[-1]) for row in rows)
    lines = [f"Of these {len(rows)} configurations {loads} load.", ""]
    return "\n".join([*lines, *map(line, (HEAD, ["---"] * len(HEAD), *rows))])


def line(row: list[str] | tuple[str, ...]) -> str:
    """A row as Markdown has it."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in row)} |".replace("|  |", "| |").replace("|  |", "| |")


def rewritten(page: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
