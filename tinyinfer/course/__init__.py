"""The course: assignments cut from this package, and a grader. Does a student's code do what the engine's own does?

An assignment takes functions out of the engine's modules. The student writes them again, and the same code is graded by
values and counts, and serves in the engine (`generate --use DIR`). Files in reading order:

    errors.py           what is wrong with a folder, a manifest or a command
    late.py             what a submission loses by its time
    class_folder.py     one folder a student: what did each of them hand in?
    gradebook.py        one record a student, written at once
    workers.py          several students graded at a time, each by a process
    grade_one.py        such a process
    many.py             a whole class: who has to be graded again?
    grades_csv.py       a row a student, which a spreadsheet does not run
    item_statistics.py  what the class as a whole did

Wins: one source for engine, skeleton and solution, so that none of them goes stale. Loses: the solutions are public, as
the engine is; docs/teaching.md says what that means for marks.
"""
