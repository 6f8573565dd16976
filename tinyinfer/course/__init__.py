"""The course: assignments cut from this package, and a grader. Does a student's code do what the engine's own does?

An assignment takes functions out of the engine's modules. The student writes them again, and the same code is graded by
values and counts, and serves in the engine (`generate --use DIR`). Files in reading order:

    errors.py          what is wrong with a folder, a manifest or a command
    assignment.py      what a manifest says: which names are taken out, which tests give which points
    source.py          a module as text: its definitions, and what they need
    file_text.py       the text of a student's file
    cut.py             skeleton and solution, and the engine with students' code in it
    start.py           an assignment's folder: the file to edit, public tests, README, marker
    stand_ins.py       what the student's code gets in place of a sequence and a device
    records.py         what stands for a record or an object on each side of the pipe
    frames.py          the outside of a frame: bounds, header, bytes of arrays
    wire.py            how values cross the pipe between the grader and the student's code
    serving.py         the student's side: a request in, a value or an error out
    landlock.py        Linux takes from a process the right to open files
    seccomp.py         Linux refuses system calls to a process
    confine.py         the limits that a child puts on itself
    child.py           the process in which the student's code runs
    processes.py       which processes a child has left behind, and how all of them end
    sandbox.py         a folder with what the student's code may read, and children started in it
    student.py         a student's code as a test sees it, wherever the code runs
    piped.py           a student's code in a limited child process, with deadlines
    compare.py         where a result first differs, and from which usual mistake
    laws.py            whether drawn tokens follow a law
    runner.py          one test: which of its parts passed, and why the others did not
    hidden.py          hidden tests, and the seeds that no student can compute
    pytest_plugin.py   plain pytest in an assignment's folder, and the score so far
    report.py          the points of one submission, for the student and for the teacher
    source_scan.py     imports and names that a task does not need
    submission.py      one file out of a folder that a stranger filled
    children.py        one sandbox for a submission, one process in it for each test
    attempts.py        one test, run once or twice
    grade.py           a submission graded
    gradescope.py      the report for Gradescope
    classroom50.py     the report for Classroom 50

Wins: one source for engine, skeleton and solution, so that none of them goes stale. Loses: the solutions are public, as
the engine is; docs/teaching.md says what that means for marks.
"""
