"""The shape of a lesson: each rule is a function from a parsed source to its faults, one sentence each."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise

from lesson_source import ANSWERABLE, NOTEBOOKS, ROOT, Cell, Source, answered

SECTIONS = ["Predict", "Count, then time", "Your lines", "In the library", "The figure", "When it loses"]
PUZZLES = ("04", "09", "11")
PLACES = {  # tag: the section of its cells
    "prediction": "Predict", "reveal": "Predict", "yours": "Your lines", "claim": "Your lines",
    "figure": "The figure", "loses": "When it loses", "exercise": "Exercises", "puzzle": "Puzzle", "setup": "",
}  # fmt: skip
PARTS = ["**The idea.**", "**Formula.** `", "**After this lesson you can**", "**You need**", "**Not covered:**"]
MINUTES = re.compile(r"\*(\d+) minutes · you write (\d+) lines · no GPU, no account\*")
TASK = re.compile(r"^\*\*(Exercise|Puzzle): (.+)\*\* · \d+ minutes · (easy|medium|hard)$", re.MULTILINE)
CELL_LINES, SOLUTION_LINES, EXERCISES, WRONG = 40, 60, 3, 2

Rule = Callable[[Source], Iterator[str]]


def title(source: Source) -> str:
    """The title on the first screen, without its number."""
    found = re.match(r"# \d\d · (.+)", source.cells[0].text)
    return found[1].strip() if found else ""


def minutes(source: Source) -> int | None:
    """The minutes on the first screen."""
    found = MINUTES.fullmatch(source.cells[0].text.rstrip().rpartition("\n")[2])
    return int(found[1]) if found else None


def first_screen(source: Source) -> Iterator[str]:
    """Idea, formula, objectives, needs, what is not covered, minutes: in this order, in the first cell."""
    text = source.cells[0].text
    if source.cells[0].kind != "markdown" or not text.startswith(f"# {source.name[:2]} · ") or not title(source):
        yield f"the first cell is Markdown and begins with `# {source.name[:2]} · Title`"
    places = [text.find(part) for part in PARTS]
    yield from (f"the first screen lacks {part}" for part, place in zip(PARTS, places, strict=True) if place < 0)
    if -1 not in places and places != sorted(places):
        yield f"the first screen has its parts in another order than {', '.join(PARTS)}"
    if minutes(source) is None:
        yield "the first screen ends with `*25 minutes · you write 9 lines · no GPU, no account*`"


def sections(source: Source) -> Iterator[str]:
    """The same sections in every lesson, so that a reader finds his way; no other heading of level 2."""
    found = [name for cell in source.markdown for name in re.findall(r"^## (.+)$", cell.text, re.MULTILINE)]
    puzzle = ["Puzzle"] if source.name[:2] in PUZZLES else []
    if found != (wanted := [*SECTIONS, *puzzle, "Exercises", "Read next"]):
        yield f"the sections are {found}, not {wanted}"
    if [cell for cell in source.cells[1:] if re.search(r"^# ", cell.text, re.MULTILINE) and cell.kind == "markdown"]:
        yield "only the first cell has a heading of level 1"


def setup(source: Source) -> Iterator[str]:
    """All imports in the first code cell: every other cell depends on that one and on few names."""
    first = source.code[0]
    if first.tags != ("setup",) or source.cells[1] is not first:
        yield "the second cell is code, tagged setup"
    if source.name not in [ast.literal_eval(call.args[0]) for call in first.calls("Lesson") if call.args]:
        yield f'the setup cell makes Lesson("{source.name}")'
    for cell in source.code[1:]:
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(cell.tree)):
            yield f"an import outside of the setup cell: {first_line(cell)}"


def tags(source: Source) -> Iterator[str]:
    """Known tags, one a cell, each in its section, in the number that the form asks for."""
    for cell in source.cells:
        if len(cell.tags) > 1 or (cell.tags and (cell.kind != "code" or cell.tag not in PLACES)):
            yield f"tags {list(cell.tags)} of: {first_line(cell)}"
        elif cell.tags and cell.section != PLACES[cell.tag]:
            yield f"a cell tagged {cell.tag} stands under {cell.section!r}, not {PLACES[cell.tag]!r}"
    counts = {tag: len(source.tagged(tag)) for tag in PLACES}
    for tag in ("setup", "prediction", "reveal", "figure"):
        if counts[tag] != 1:
            yield f"{counts[tag]} cells are tagged {tag}, not one"
    for tag in ("yours", "claim", "loses"):
        if not counts[tag]:
            yield f"no cell is tagged {tag}"
    if counts["exercise"] != EXERCISES:
        yield f"{counts['exercise']} cells are tagged exercise, not {EXERCISES}"
    if bool(counts["puzzle"]) != (source.name[:2] in PUZZLES):
        yield f"{counts['puzzle']} cells are tagged puzzle"


def prediction(source: Source) -> Iterator[str]:
    """A guess, and in the next cell the computed truth."""
    for cell, after in pairwise([*source.cells, source.cells[0]]):
        if cell.tag == "prediction":
            if cell.text.strip() != "guess = ...":
                yield "the prediction cell is `guess = ...`"
            if after.tag != "reveal":
                yield "the cell after the prediction is tagged reveal"
    for cell in source.tagged("reveal"):
        given = [[ast.unparse(part) for part in call.args[:2]] for call in cell.calls("reveal")]
        if given != [["guess", "truth"]] or not assigned(cell, "truth"):
            yield "the reveal cell computes `truth` and calls reveal(guess, truth, ...)"


def claim(source: Source) -> Iterator[str]:
    """What the student wrote is equal to the library's by an assert that always runs, in a cell of ours."""
    for cell, after in pairwise([*source.code, source.code[0]]):
        if cell.tag == "yours" and after.tag != "claim":
            yield "the code cell after the student's lines is tagged claim"
        if cell.tag == "yours" and after.tag == "claim":
            used = [ast.literal_eval(call.args[0]) for call in after.calls("use") if call.args]
            if cell.checked not in used:
                yield f'the claim cell calls use("{cell.checked}")'
            if not any(isinstance(node, ast.Assert) for node in ast.walk(after.tree)):
                yield "the claim cell asserts the claim"


def dots(source: Source) -> Iterator[str]:
    """The place to write is the one `...` of the cell, and nothing else looks like it."""
    for cell in source.code:
        if cell.tag in ANSWERABLE and (len(cell.dots()) != 1 or cell.text.count("...") != 1):
            yield f"one `...` stands in each cell to answer, not {cell.text.count('...')}: {first_line(cell)}"
        if cell.tag not in ANSWERABLE and cell.dots():
            yield f"`...` in a cell that is not to answer: {first_line(cell)}"


def checks(source: Source) -> Iterator[str]:
    """Each answer is judged under a name of its own."""
    names = [cell.checked for cell in source.tagged("yours", "exercise", "puzzle")]
    for cell in source.tagged("yours", "exercise", "puzzle"):
        if len(cell.calls("check")) != 1 or not cell.checked:
            yield f'the cell ends with one check("name", answer): {first_line(cell)}'
    yield from (f"two cells check {name!r}" for name in {*names} if name and names.count(name) > 1)
    for cell in source.code:
        if cell.calls("check") and cell.tag not in ("yours", "exercise", "puzzle"):
            yield f"check in a cell that is not to answer: {first_line(cell)}"
        if cell.tag in (*ANSWERABLE, "reveal") and any(isinstance(node, ast.Assert) for node in ast.walk(cell.tree)):
            yield f"an assert on the student's values: {first_line(cell)}"


def tasks(source: Source) -> Iterator[str]:
    """Above each exercise and puzzle: its name as `check` calls it, minutes and difficulty."""
    for above, cell in pairwise(source.cells):
        if cell.tag in ("exercise", "puzzle"):
            found = TASK.search(above.text) if above.kind == "markdown" else None
            kind = cell.tag.capitalize()
            if not found or found[1] != kind or plain(found[2]) != plain(cell.checked):
                yield f"above the cell stands `**{kind}: {cell.checked}** · 5 minutes · easy` (easy, medium or hard)"


def library(source: Source) -> Iterator[str]:
    """The real code is shown, not retold."""
    if not any(cell.calls("source") for cell in source.code if cell.section == "In the library"):
        yield "In the library shows the real code by lesson.source(...)"


def digits(source: Source) -> Iterator[str]:
    """A number in prose would be one that no cell computed."""
    for cell in source.markdown:
        for line in prose(cell).splitlines():
            if re.search(r"\d", line):
                yield f"a digit in Markdown (compute it, or write a name as a code span): {line.strip()}"


def prose(cell: Cell) -> str:
    """The Markdown of a cell without headings, links, code and the lines of minutes."""
    text = re.sub(r"^```.*?^```", "", cell.text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text, flags=re.DOTALL)
    text = re.sub(r"!?\[[^\]]*\]\([^)\s]*\)|<https?://[^>]*>", "", text)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return "\n".join(line for line in lines if not (MINUTES.fullmatch(line.strip()) or TASK.fullmatch(line.strip())))


def no_input(source: Source) -> Iterator[str]:
    """Run All would wait for ever."""
    yield from (f"input(): {first_line(cell)}" for cell in source.code if cell.calls("input"))


def lengths(source: Source) -> Iterator[str]:
    """A cell is one thought; the student's part stays small."""
    for cell in source.code:
        if (lines := len(cell.text.splitlines())) > CELL_LINES:
            yield f"a cell of {lines} lines, more than {CELL_LINES}: {first_line(cell)}"
    for cell in source.tagged("yours"):
        lines = len(str(source.answer(cell.checked).get("right", "")).strip().splitlines())
        if lines > SOLUTION_LINES:
            yield f"the student would write {lines} lines in {cell.checked!r}, more than {SOLUTION_LINES}"


def answers(source: Source) -> Iterator[str]:
    """For everything that is judged: the right answer and two wrong ones, each told apart by a piece of its hint."""
    if source.answers is None:
        yield f"there is no notebooks/answers/{source.name}.toml"
        return
    cells = {cell.checked or cell.tag: cell for cell in source.tagged(*ANSWERABLE) if len(cell.dots()) == 1}
    given = [str(one.get("name")) for one in source.answers.get("answers", [])]
    if sorted(given) != sorted(cells):
        yield f"answers are given for {sorted(given)}, but the cells to answer are {sorted(cells)}"
    for name, one in {name: source.answer(name) for name in cells if name in given}.items():
        yield from (f"{name}: {fault}" for fault in answer_faults(one, cells[name].text))


def answer_faults(one: dict[str, object], cell: str) -> Iterator[str]:
    wrong = one.get("wrong", [])
    assert isinstance(wrong, list)
    if unknown := {*one} - {"name", "right", "says", "wrong"}:
        yield f"unknown keys {sorted(unknown)}"
    if len(wrong) < WRONG:
        yield f"{len(wrong)} wrong answers, fewer than {WRONG}"
    if any({*part} != {"answer", "says"} or not part["says"].strip() for part in wrong):
        yield "a wrong answer has an `answer` and a `says`"
    said = [part.get("says", "") for part in wrong]
    if any(a != b and a in b for a in said for b in said) or len({*said}) < len(said):
        yield "two wrong answers would get the same message, or one `says` is a part of another"
    for text in [one.get("right", ""), *(part.get("answer", "") for part in wrong)]:
        if text.strip() in ("", "..."):
            yield "an answer is missing, or is `...` itself"
        try:
            ast.parse(answered(cell, text))
        except SyntaxError:
            yield f"an answer does not fit into its cell: {text!r}"


def links(source: Source) -> Iterator[str]:
    """Catches links to files that were moved, and a lesson that leads nowhere."""
    for cell in source.markdown:
        for target in re.findall(r"\]\(([^)\s]+)\)", cell.text):
            path = target.partition("#")[0]
            if target.startswith(("https://", "#")) or path in lessons(source):
                continue
            if not (NOTEBOOKS / path).exists():
                yield f"the link {target} leads nowhere"
    after = "\n".join(cell.text for cell in source.markdown if cell.section == "Read next")
    for what, pattern in {"a paper": r"\]\(https://", "a file of the package": r"\]\(\.\./tinyinfer/",
                          "another lesson": r"\]\(\d\d_\w+\.ipynb"}.items():  # fmt: skip
        if not re.search(pattern, after):
            yield f"Read next has no link to {what}"


def lessons(source: Source) -> set[str]:
    """The lessons that README lists, as files."""
    return {*re.findall(r"\]\((\d\d_\w+\.ipynb)\)", source.readme)}


def names(source: Source) -> Iterator[str]:
    """Catches the old name of a file, module or method in a code span: a reader would look for it in vain."""
    own = {node.name for cell in source.code for node in ast.walk(cell.tree) if isinstance(node, ast.ClassDef)}
    for cell in source.markdown:
        for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", cell.text):
            if re.fullmatch(r"[\w./-]+\.(py|md|toml)", span) and not any(p.endswith("/" + span) for p in files()):
                yield f"there is no file `{span}`"
            if re.fullmatch(r"tinyinfer(\.\w+)+", span) and span not in modules():
                yield f"there is no module `{span}`"
            found = re.fullmatch(r"([A-Z]\w*[a-z]\w*)\.([a-z_]\w*)(\(\))?", span)
            if found and found[1] not in own and found[2] not in classes().get(found[1], set()):
                yield f"there is no `{span}`"


@cache
def files() -> list[str]:
    """The project's files that a text may name, as paths from its root."""
    folders = [ROOT, *(ROOT / name for name in ("docs", "notebooks", "notebooks/src"))]
    found = [path for folder in folders for path in folder.glob("*.*")]
    found += [path for name in ("tinyinfer", "tests", "benchmarks") for path in (ROOT / name).rglob("*.py")]
    return ["/" + path.relative_to(ROOT).as_posix() for path in found]


@cache
def modules() -> set[str]:
    """The modules of the package, by their dotted names."""
    paths = (path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "tinyinfer").rglob("*.py"))
    return {path.replace("/", ".").removesuffix(".__init__") for path in paths}


@cache
def classes() -> dict[str, set[str]]:
    """The classes of the package, each with its methods and attributes, those of its bases of the package included."""
    found: dict[str, set[str]] = {}
    above: dict[str, list[str]] = {}
    for path in (ROOT / "tinyinfer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                parts = {part.name for part in ast.walk(node) if isinstance(part, ast.FunctionDef)}
                parts |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
                parts |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
                found.setdefault(node.name, set()).update(parts)
                above[node.name] = [ast.unparse(base).partition("[")[0] for base in node.bases]
    for _ in range(3):
        for name, bases in above.items():
            found[name] = found[name].union(*(found.get(base, set()) for base in bases))
    return found


def listed(source: Source) -> Iterator[str]:
    """README's list says of each lesson what its first screen says."""
    row = re.search(rf"^\| \[\d\d\]\({source.name}\.ipynb\) \| (.+?) \| .+ \| (\d+) \|$", source.readme, re.MULTILINE)
    if not row:
        yield f"notebooks/README.md does not list {source.name}.ipynb"
    elif (row[1], int(row[2])) != (title(source), minutes(source)):
        yield f"notebooks/README.md says {row[1]}, {row[2]} minutes; the lesson {title(source)}, {minutes(source)}"


def first_line(cell: Cell) -> str:
    return cell.text.strip().partition("\n")[0]


def plain(name: str) -> str:
    """A name without the difference between `rows_of` and "Rows of"."""
    return name.replace("_", " ").strip("` ").casefold()


def assigned(cell: Cell, name: str) -> bool:
    """Whether a cell assigns a name."""
    stored = [node for node in ast.walk(cell.tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return any(node.id == name for node in stored)


RULES: tuple[Rule, ...] = (
    first_screen, sections, setup, tags, prediction, claim, dots, checks, tasks, library, digits, no_input, lengths,
    answers, links, names, listed,
)  # fmt: skip
