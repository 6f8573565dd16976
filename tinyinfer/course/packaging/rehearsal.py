"""Does our own solution have full marks here? `python -m tinyinfer.course.packaging.rehearsal FOLDER [HIDDEN]`

FOLDER is an assignment's folder, HIDDEN the file of its hidden tests. All tests run in this process, without limits.
What they have imported then is printed: some modules are imported only when they are used, and a package for another
machine must name them all.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

from tinyinfer.course.assignment import Assignment, read_assignment
from tinyinfer.course.cut import solution
from tinyinfer.course.grading.grade import test_functions
from tinyinfer.course.hidden import Hidden, public_seed
from tinyinfer.course.runner import run_test
from tinyinfer.course.student import LocalStudent


def main(words: Sequence[str]) -> int:
    """Prints the top names of all modules that were imported; 1 and the faults where a test lost points."""
    hidden = Hidden(Path(words[1]), bytes(32)) if len(words) > 1 else None
    faults = rehearse(read_assignment(Path(words[0])), hidden)
    for fault in faults:
        print(fault, file=sys.stderr)
    print(*sorted({name.partition(".")[0] for name in sys.modules}))
    return int(bool(faults))


def rehearse(a: Assignment, hidden: Hidden | None) -> list[str]:
    """A sentence for each test that takes points from our own solution."""
    functions, faults = test_functions(a, hidden), []
    for cut in a.cut:
        import_module(cut.module)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / a.file
        path.write_text(solution(a), encoding="utf-8")
        for test in a.tests:
            if test.hidden and hidden is None:
                continue
            rng = np.random.default_rng(public_seed(test.name))
            outcome = run_test(functions[test.name], LocalStudent(a, path), test.parts, rng)
            faults += [f"{test.name}: {fault.sentence}" for fault in outcome.faults]
    return faults


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
