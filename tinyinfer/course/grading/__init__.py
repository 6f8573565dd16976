"""Grading one submission: what does a student's file earn, and what does its student have to know?

Files in reading order:

    report.py          the points of one submission, for the student and for the teacher
    source_scan.py     imports and names that a task does not need
    submission.py      one file out of a folder that a stranger filled
    children.py        one sandbox for a submission, one process in it for each test
    attempts.py        one test, run once or twice
    grade.py           a submission graded
    gradescope.py      the report for Gradescope
    classroom50.py     the report for Classroom 50
"""
