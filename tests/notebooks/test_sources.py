"""Every lesson has the shape that a reader of one lesson expects of the next; every rule of it is proved by a fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from lesson_rules import RULES, Rule
from lesson_source import NAMES, answered, parse, read, too_early

EXAMPLE = (Path(__file__).parent / "example.py").read_text(encoding="utf-8")
README = "| [03](03_kv_cache.ipynb) | A small lesson | nothing | 25 |\n| [04](04_paging.ipynb) | Paging | a | 20 |"
ENTRY = '[[answers]]\nname = "{}"\nright = "{}"\n' + "".join(
    f'[[answers.wrong]]\nanswer = "{n}"\nsays = "hint {n}"\n' for n in (7, 8)
)
ANSWERS = {"prediction": "truth", "rows": "prompt + new - 1", "grows": "1", "bytes_of_all": "2", "longest": "lines"}
TOML = "\n".join(ENTRY.format(*one) for one in ANSWERS.items())
BY_NAME = {rule.__name__: rule for rule in RULES}
PUZZLE = '''# ## Puzzle
# **Puzzle: seats** · 10 minutes · hard

# %% tags=["puzzle"]
seats = ...
check("seats", seats)

# %% [markdown]
# ## Exercises
'''


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_has_the_shape(name: str, rule: Rule) -> None:
    """Catches a lesson that hides its costs, asks without judging, or tells numbers that nothing computed."""
    if faults := list(rule(read(name))):
        pytest.fail("\n".join(faults), pytrace=False)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_example_obeys_each_rule(rule: Rule) -> None:
    """Else the faults below would prove nothing."""
    assert not list(rule(parse("03_kv_cache", EXAMPLE, TOML, README)))


FAULTS = [  # rule, what stands in the example, what a faulty lesson has in its place
    ("first_screen", "# # 03 · A", "# # 04 · A"),
    ("first_screen", "**Formula.** `2·L·K·E·4` bytes", "**Formula.** 2·L·K·E·4 bytes"),
    ("first_screen", "# **You need** Python.\n", ""),
    ("first_screen", "**The idea.** Keys and values of earlier tokens stay.\n", "**Not covered:** **The idea.** x\n"),
    ("first_screen", "*25 minutes · you write 3 lines", "*you write 3 lines"),
    ("sections", "# ## In the library", "# ## The library"),
    ("sections", "# ## The figure", "# ### The figure"),
    ("sections", "# ## Predict", "# ## Predict\n# ## Theory"),
    ("sections", "# ## Predict", "# # Predict\n# ## Predict"),
    ("sections", "# ## Exercises\n", PUZZLE),
    ("setup", "# %% [markdown]\n# ## Predict", "# %%\nimport math\n\n# %% [markdown]\n# ## Predict"),
    ("setup", 'Lesson("03_kv_cache")', 'Lesson("04_paging")'),
    ("setup", '# %% tags=["setup"]', "# %%"),
    ("tags", '# %% tags=["figure"]', '# %% tags=["figures"]'),
    ("tags", '# %% tags=["figure"]', '# %% tags=["figure", "loses"]'),
    ("tags", '# %% tags=["loses"]', '# %% tags=["claim"]'),
    ("tags", '# %% tags=["figure"]', "# %%"),
    ("tags", '# %% tags=["reveal"]', "# %%"),
    ("tags", '# %% tags=["loses"]', "# %%"),
    ("tags", '# %% tags=["exercise"]\ncheck(', "# %%\ncheck("),
    ("tags", "# ## Exercises\n", PUZZLE),
    ("prediction", "guess = ...", "guess: float = ..."),
    ("prediction", "guess = ...\n", "guess = ...\n\n# %%\ntruth = 1\n"),
    ("prediction", "truth = 64 + 31\n", ""),
    ("prediction", "reveal(guess, truth,", "reveal(truth, guess,"),
    ("claim", '# %% tags=["claim"]', "# %%\nprint(rows)\n\n# %% [markdown]\n# x\n\n# %% tags=[\"claim\"]"),
    ("claim", 'use("rows")', 'use("grows")'),
    ("claim", "assert mine(64, 32) == 95", "print(mine(64, 32) == 95)"),
    ("dots", "answer = ...", "answer = [..., ...]"),
    ("dots", "answer = ...", "answer = 7"),
    ("dots", "answer = ...", "answer = ...  # replace ..."),
    ("dots", "lesson.table(", "print(...)\nlesson.table("),
    ("checks", 'check("longest", longest)', "longest(1)"),
    ("checks", 'check("longest", longest)', 'check("grows", longest)'),
    ("checks", 'check("longest", longest)', 'check("longest", longest)\ncheck("grows", 1)'),
    ("checks", 'lesson.say("One token.")', 'check("grows", 1)'),
    ("checks", 'check("bytes_of_all", answer)', 'assert answer\ncheck("bytes_of_all", answer)'),
    ("checks", "reveal(guess,", "assert guess\nreveal(guess,"),
    ("tasks", "**Exercise: bytes of all** · 10 minutes", "**Exercise: bytes of all**"),
    ("tasks", "**Exercise: bytes of all**", "**Exercise: bytes of one**"),
    ("tasks", "**Exercise: bytes of all**", "**Puzzle: bytes of all**"),
    ("tasks", "10 minutes · hard", "10 minutes · brutal"),
    ("library", "lesson.source(Lesson.check)", "print(Lesson.check)"),
    ("digits", "# What grows?", "# What grows by 46 kB?"),
    ("digits", "# What grows?", "# What grows in int4?"),
    ("digits", "# **You need** Python.", "# **You need** Python 3 and `2`."),
    ("no_input", "truth = 64 + 31", "truth = int(input())"),
    ("lengths", "truth = 64 + 31", "truth = 64 + 31\n" * 41),
    ("answers", '# %% tags=["exercise"]\ncheck("grows"', '# %% tags=["exercise"]\ncheck("shrinks"'),
    ("links", "../tinyinfer/kv_cache/contiguous.py", "../tinyinfer/kv_cache/contiguos.py"),
    ("links", "[lesson 04](04_paging.ipynb)).", "[lesson 04](04_pages.ipynb))."),
    ("links", "# [Pope et al., section 3](https://arxiv.org/abs/2211.05102) ·", "#"),
    ("links", "# [lesson 04](04_paging.ipynb)\n", "#\n"),
    ("names", "`kv_cache/blocks.py`", "`kv_cache/block.py`"),
    ("names", "`BlockCache.reserve`", "`BlockCache.grab`"),
    ("names", "`BlockCache.reserve`", "`BlockCash.reserve`"),
    ("names", "`kv_cache/blocks.py`", "`tinyinfer.kv_cache.block`"),
    ("listed", "*25 minutes", "*30 minutes"),
    ("listed", "A small lesson", "A large lesson"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "good", "faulty"), FAULTS)
def test_each_rule_finds_its_faults(rule: str, good: str, faulty: str) -> None:
    """A rule that nothing can break is no rule."""
    assert good in EXAMPLE
    assert list(BY_NAME[rule](parse("03_kv_cache", EXAMPLE.replace(good, faulty, 1), TOML, README)))


def test_no_rule_is_without_a_fault() -> None:
    assert {rule for rule, *_ in FAULTS} == {*BY_NAME}


@pytest.mark.parametrize(("good", "faulty"), [
    ('name = "rows"', 'name = "row"'),
    ('name = "prediction"', 'name = "guess"'),
    ('right = "truth"', 'right = "..."'),
    ('right = "truth"', 'rigth = "truth"'),
    ('right = "truth"', 'right = ")"'),
    ('answer = "7"', 'answer = "7 +"'),
    ('answer = "7"\nsays = "hint 7"', 'answer = "7"'),
    ('says = "hint 7"', 'says = " "'),
    ('says = "hint 7"', 'says = "hint 8"'),
    ('says = "hint 7"', 'says = "hint"'),
    ('[[answers.wrong]]\nanswer = "7"\nsays = "hint 7"\n', ""),
])  # fmt: skip
def test_the_rule_of_answers_finds_its_faults(good: str, faulty: str) -> None:
    """Catches an answers file that would leave an exercise without its wrong answers, or their hints alike."""
    assert TOML.count(good) >= 1
    assert list(BY_NAME["answers"](parse("03_kv_cache", EXAMPLE, TOML.replace(good, faulty, 1), README)))


def test_a_lesson_has_answers_a_row_in_the_list_and_a_small_part_to_write() -> None:
    long = TOML.replace('right = "prompt + new - 1"', 'right = """' + "x = 1\n" * 61 + '"""')
    assert list(BY_NAME["answers"](parse("03_kv_cache", EXAMPLE, None, README)))
    assert list(BY_NAME["listed"](parse("03_kv_cache", EXAMPLE, TOML, "")))
    assert list(BY_NAME["lengths"](parse("03_kv_cache", EXAMPLE, long, README)))


def test_a_lesson_with_a_puzzle() -> None:
    """In 04, 09 and 11 the puzzle stands before the exercises; without it the lesson is at fault."""
    text = EXAMPLE.replace("# # 03", "# # 04").replace("03_kv_cache", "04_paging")
    readme = README.replace("Paging | a | 20", "A small lesson | a | 25")
    toml = TOML + ENTRY.format("seats", "[1]")
    faults = {rule.__name__ for rule in RULES if list(rule(parse("04_paging", text, TOML, readme)))}
    assert faults == {"sections", "tags"}, faults
    puzzled = parse("04_paging", text.replace("# ## Exercises\n", PUZZLE), toml, readme)
    assert not [fault for rule in RULES for fault in rule(puzzled)]


@pytest.mark.parametrize(("cell", "answer", "expected"), [
    ("guess = ...", "7", "guess = 7"),
    ("def f(x):\n    y = 'ä…', ...\n    return y", "x\n", "def f(x):\n    y = 'ä…', x\n    return y"),
    ("def f(x):\n    ...  # here\n", "y = x\n\nif y:\n    y = 1\nreturn y",
     "def f(x):\n    y = x\n\n    if y:\n        y = 1\n    return y  # here\n"),
])  # fmt: skip
def test_an_answer_takes_the_place_of_the_dots(cell: str, answer: str, expected: str) -> None:
    """Catches answers that are injected at the wrong place behind letters of several bytes, or without indent."""
    assert answered(cell, answer) == expected


def test_a_cell_without_one_place_for_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="holds 2 times"):
        answered("x = ..., ...", "1")


@pytest.mark.parametrize(("cells", "number"), [
    (["x = 1", "lesson.say(x)"], 2),
    (["x = 1", "x = 2\nprint(x)", "def f(): return x"], 0),
    (["x = 1", "for y in x: z = y\nprint(z)", "[x for x in lesson.rows]"], 2),
    (["def rows(): pass", "rows()", "print(lesson)"], 2),
])  # fmt: skip
def test_the_cell_that_is_run_too_early(cells: list[str], number: int) -> None:
    """Catches a run that expects a missing name where every name is there, or later than the cell would say so."""
    text = "\n\n".join(f"# %%\n{cell}" for cell in ["lesson = Lesson()", *cells])
    assert too_early(parse("03_kv_cache", text, None, "")) == number
