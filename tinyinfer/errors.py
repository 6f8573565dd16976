"""The one exception of our own: a model file that is missing, broken or not supported.

A bad argument is a ValueError, as everywhere in Python. A file's fault gets its own class because its cure lies on disk
and not in the caller's code. The command line turns both into one line and exit status 2.
"""


class ModelError(Exception):
    """A model's file is missing, broken or unsupported; the message names the file, what is wrong and the cure."""
