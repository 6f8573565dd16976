"""Grading a whole class: who has to be graded, by how many processes at a time, and what did the class learn?

Files in reading order:

    late.py            what a submission loses by its time
    class_folder.py    one folder a student: what did each of them hand in?
    gradebook.py       one record a student, written at once
    workers.py         several students graded at a time, each by a process
    grade_one.py       such a process
    many.py            a whole class: who has to be graded again?
    grades_csv.py      a row a student, which a spreadsheet does not run
    item_statistics.py  what the class as a whole did
"""
