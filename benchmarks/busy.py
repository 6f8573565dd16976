"""Commands beside each other while other processes keep the processor busy: what a shared machine does to each.

    python benchmarks/busy.py --busy 3 'python -m tinyinfer bench -p 512 -g 32 -n 1 --json -t 1' \
                                       'python -m tinyinfer bench -p 512 -g 32 -n 1 --json -t 2'

Each command's last line of output is JSON with `prompt_tps` and `generation_tps`, as `bench --json` prints it. The
commands take turns, first without and then with the busy processes, and the medians of the rounds are printed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SPIN = "while True: pass"


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(command: str, limit: float) -> tuple[float, float]:
    """Tokens a second of prefill and of decode; 0 where the command took more than `limit` seconds."""
    try:
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return 0.0, 0.0
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stderr[-1000:]}")
    line = json.loads(done.stdout.strip().splitlines()[-1])
    return line["prompt_tps"], line["generation_tps"]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("commands", nargs="+")
    parser.add_argument("--busy", type=int, default=3, help="processes that compute all the time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that a command may take")
    args = parser.parse_args()
    print(f"{'prefill, decode (tok/s)':60}{'quiet':>18}{f'{args.busy} busy processes':>22}{'kept':>14}")
    found: dict[int, list[tuple[float, float]]] = {}
    for count in (0, args.busy):
        rounds = []
        for _ in range(args.rounds):
            with busy(count):
                rounds.append([measure(command, args.limit) for command in args.commands])
        found[count] = [
            (statistics.median(one[0] for one in column), statistics.median(one[1] for one in column))
            for column in zip(*rounds, strict=True)
        ]
    for command, quiet, loaded in zip(args.commands, found[0], found[args.busy], strict=True):
        kept = f"{loaded[0] / quiet[0]:.0%} {loaded[1] / quiet[1]:.0%}"
        print(f"{command[-59:]:60}{quiet[0]:9.0f} {quiet[1]:8.1f}{loaded[0]:13.0f} {loaded[1]:8.1f}{kept:>14}")


if __name__ == "__main__":
    main()
