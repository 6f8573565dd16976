"""What an interrupt leaves behind: `python benchmarks/interrupts.py [--every N] [SETTING ...]`, a table.

An error is raised at each N-th line that the engine executes, one at a time, each in a new engine over tiny random
weights; afterwards blocks are counted, and old and new requests must get the plain engine's tokens (tests/interrupts.py
says how). `--signals N` instead sends N interrupts at random moments to one engine, up to three in a row. Exit status 1
when anything was lost, kept, wrong or hung. `--show` lists the lines at which that was so.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from interrupts import SETTINGS, Result, Setting, signalled, tally

COLUMNS = "setting", "interrupts", "blocks lost", "else kept", "wrong", "hung"


def row(name: str, results: list[Result]) -> tuple[object, ...]:
    """The line of a setting: how many interrupts, and after how many of them what was not as it should be."""
    lost, left = sum(r.lost > 0 for r in results), sum(bool(r.left) for r in results)
    return name, len(results), lost, left, sum(bool(r.wrong) for r in results), sum(r.hung for r in results)


def print_row(cells: tuple[object, ...]) -> None:
    """A line of the table."""
    print(f"| {cells[0]:<30} | " + " | ".join(f"{cell:>11}" for cell in cells[1:]) + " |", flush=True)


def main() -> int:
    """Interrupts and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"of {', '.join(SETTINGS)} (default: all)")
    parser.add_argument("--every", type=int, default=1, help="interrupt at every n-th line")
    parser.add_argument("--first", type=int, default=1, help="begin at this line")
    parser.add_argument("--signals", type=int, default=0, help="send so many at random moments instead")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--show", action="store_true", help="list the lines after which something was wrong")
    args = parser.parse_args()
    print_row(COLUMNS)
    print_row(tuple("-" * 11 for _ in COLUMNS))
    bad = 0
    for name in args.settings or list(SETTINGS):
        setting: Setting = SETTINGS[name]
        if args.signals:
            results = list(signalled(setting, args.signals, random.Random(args.seed)))
        else:
            results = list(tally(name, args.every, args.first))
        print_row(row(name, results))
        faults = [result for result in results if not result.fine]
        bad += len(faults)
        for result in faults if args.show else ():
            print("   ", result)
    return 1 if bad else 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
