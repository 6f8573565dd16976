"""The course: assignments cut from this package, and a grader. Does a student's code do what the engine's own does?

An assignment takes functions out of the engine's modules. The student writes them again, and the same code is graded by
values and counts, and serves in the engine (`generate --use DIR`, unless no answer runs it: a backward pass). Files and
folders in reading order:

    errors.py          what is wrong with a folder, a manifest or a command
    toml_table.py      a TOML file whose mistakes are named with their place
    assignment.py      what a manifest says: which names are taken out, which tests give which points
    source.py          a module as text: its definitions, and what they need
    file_text.py       the text of a student's file
    cut.py             skeleton and solution, and the engine with students' code in it
    start.py           an assignment's folder: the file to edit, public tests, README, marker
    compare.py         where a result first differs, and from which usual mistake
    laws.py            does a count of draws follow a law?
    sandbox/           the student's code in a limited process, and what crosses the pipe
    loans.py           arrays that a test lends, and all that is read and written of them
    student.py         a student's code as a test sees it, wherever the code runs
    runner.py          one test: which of its parts passed, and why the others did not
    hidden.py          hidden tests, and the seeds that no student can compute
    pytest_plugin.py   plain pytest in an assignment's folder, and the score so far
    grading/           one submission: taken out of its folder, graded test by test, reported
    whole_class/       many submissions: in parallel, resumable, with late days and item statistics
    packaging/         the zip file with which a system such as Gradescope grades
    assignments/       the assignments, a folder each: manifest, task, public and hidden tests

Wins: one source for engine, skeleton and solution, so that none of them goes stale. Loses: the solutions are public, as
the engine is; docs/teaching.md says what that means for marks.
"""
