"""The sandbox: the student's code in a process of its own. What can that code reach, and what can it send?

The grader asks for one value at a time, and a pipe brings it as plain bytes. Before the student's file is read, the
process gives up all that it does not need. Files in reading order:

    frames.py          the outside of a frame: bounds, header, bytes of arrays
    stand_ins.py       what the student's code gets in place of a sequence and a device
    lent.py            an array whose numbers stay with the grader
    records.py         what stands for a record or an object on each side of the pipe
    wire.py            how values cross the pipe between the grader and the student's code
    loading.py         a file executed as a module, with or without numba's compiler
    serving.py         the student's side: a request in, a value or an error out
    landlock.py        Linux takes from a process the right to open files
    seccomp.py         Linux refuses system calls to a process
    confine.py         the limits that a child puts on itself
    child.py           the process in which the student's code runs
    processes.py       which processes a child has left behind, and how all of them end
    sandbox.py         a folder with what the student's code may read, and children started in it
    piped.py           a student's code in a limited child process, with deadlines

Wins: a grade does not depend on what the student's code does to its own process. Loses: about 0.3 s for each child; and
only Linux can give all limits.
"""
