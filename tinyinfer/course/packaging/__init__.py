"""Packaging an assignment: how does a system such as Gradescope grade it, on a machine that has nothing of ours?

Files in reading order:

    rehearsal.py       does our own solution have full marks on this machine?
    autograder.py      what a system runs that grades one submission
    wheel.py           a wheel of this package, out of its own files
    package.py         the zip file that such a system takes
"""
