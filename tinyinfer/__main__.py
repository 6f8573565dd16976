"""`python -m tinyinfer` is the command line."""

import sys

from tinyinfer.cli import main

if __name__ == "__main__":
    sys.exit(main())
