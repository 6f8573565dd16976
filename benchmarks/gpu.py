"""What a GPU makes of a model, in one table: tinyinfer's variants beside transformers and torch.compile.

    python benchmarks/gpu.py                    on a machine with a GPU, CuPy, torch and transformers: about 5 minutes
    python benchmarks/gpu.py --counted          without one: launches, bytes, FLOPs, registers, and the least time
    python benchmarks/gpu.py --only 'batch 1'   one case; --baselines-only: the other engines alone
    python benchmarks/gpu.py --rehearse         a tiny model and few tokens: whether everything runs

First the device itself is measured (gpu_parts/machine.py): the table's share of bandwidth and its least times are
those of the same run. Each case is a process of its own with a time limit for every variant, so that a kernel that
hangs or breaks the device costs its own line only. Lines are printed and written to $OUT (else the present folder) as
they come, gpu.jsonl, and the table at the end, gpu.txt.

Tokens are greedy and judged in the same run (gpu_parts/measured.py): a variant that computes something else is marked.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from gpu_parts import machine, others, report
from gpu_parts.cases import CASES, OTHERS, Case, checkpoint_of, rehearsal
from gpu_parts.measured import Judge, alone, check_way, own_run, switches_of, timed, verdict
from gpu_parts.report import Record
from gpu_parts.serving import open_engine

from tinyinfer.loading.checkpoint import Checkpoint

START = 90.0  # seconds that a process may take before its first line: imports, weights, the device itself
Runner = Callable[[Case | None, tuple[str, ...], float], Iterator[Record]]


# In the process of one case.


def answers(case: Case, variants: tuple[str, ...], limit: float) -> Iterator[Record]:
    """A record for each variant, until one fails: after an error of the device nothing can be trusted."""
    checkpoint = checkpoint_of(case)
    judge = Judge(case, checkpoint, switches_of(replace(case, batch=1, switches={"dtype": "float32"}), "eager"))
    for variant in variants:
        record: Record = {"case": case.name, "variant": variant}
        try:
            for part in parts_of(case, variant, checkpoint, judge, limit):
                record |= part
        except Exception as error:  # whatever an engine, a compiler or a driver raises belongs in the table
            words = f"{type(error).__name__}: {error}"
            yield record | ({"failed_alone": words} if "verdict" in record else {"error": words})
            return
        yield record
        free_memory()


def parts_of(case: Case, variant: str, checkpoint: Checkpoint, judge: Judge, limit: float) -> Iterator[Record]:
    """What is measured of one variant, and in the end what is least needed: an error there costs nothing before it."""
    if variant in OTHERS:
        device = "cuda" if import_module("torch").cuda.is_available() else "cpu"
        run, engine = others.other_run(case, variant, others.build(checkpoint, device), device), None
    else:
        engine = open_engine(checkpoint, switches_of(case, variant))
        check_way(variant, engine)
        run = own_run(case, engine)
    found = timed(case, run, limit)
    gap = judge.worst(found["tokens"])
    yield found | {"gap": gap, "verdict": verdict(case, variant, gap)}
    if engine:
        yield {"alone_seconds": alone(case, engine, import_module("cupy"))}


def free_memory() -> None:
    """Gives the memory of the variant before back to the device."""
    gc.collect()
    import_module("cupy").get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def child(args: argparse.Namespace) -> None:
    """Writes the records of one case, or of the device, as JSON lines."""
    if args.child == "machine":
        records: Iterator[Record] = iter([machine.measure(import_module("cupy"), args.rehearse)])
    else:
        [case] = [one for one in cases_of(args) if one.name == args.child]
        records = answers(case, tuple(args.variants.split(";")), args.limit / 2)
    for record in records:
        print(json.dumps(record), flush=True)


# In the process that prints the table.


def processes(args: argparse.Namespace) -> Runner:
    """Runs each case in a process of its own."""

    def run(case: Case | None, variants: tuple[str, ...], limit: float) -> Iterator[Record]:
        command = [sys.executable, __file__, "--child", case.name if case else "machine", "--limit", str(limit)]
        command += ["--variants", ";".join(variants), *["--rehearse"] * args.rehearse]
        yield from lines(command, limit)

    return run


def lines(command: list[str], limit: float) -> Iterator[Record]:
    """The JSON lines of a process, which ends when a line takes longer than `limit` seconds (the first: START more)."""
    written: SimpleQueue[str] = SimpleQueue()

    def read(stream: Iterable[str]) -> None:
        for line in stream:
            if line.startswith("{"):
                written.put(line)
        written.put("")

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        Thread(target=read, args=(process.stdout,), daemon=True).start()
        try:
            patience = START + limit
            while line := written.get(timeout=patience):
                yield json.loads(line)
                patience = limit
        except Empty:
            yield {"error": f"no answer in {patience:.0f} s"}
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and the compilers that it has started


def measure_all(
    cases: tuple[Case, ...], run: Runner, limit: float, seconds: float, keep: Callable[[Record], None]
) -> None:
    """Hands to `keep` the device's figures, then the record of every variant, as they come.

    What is left when the seconds are over has no record.
    """
    end = time.monotonic() + seconds
    keep(next(run(None, (), limit), {"error": "the device was not measured"}))
    for case in cases:
        left = case.variants
        while left and time.monotonic() < end:
            done = 0
            for record in run(case, left, min(limit, max(1.0, end - time.monotonic()))):
                keep({"case": case.name, "variant": left[done]} | record)
                done += 1
            if not done:
                keep({"case": case.name, "variant": left[0], "error": "its process ended without a word"})
            left = left[max(done, 1) :]


def cases_of(args: argparse.Namespace) -> tuple[Case, ...]:
    """The cases that the arguments ask for."""
    cases = rehearsal() if args.rehearse else CASES
    if args.only:
        cases = tuple(case for case in cases if case.name in args.only)
    if args.baselines_only:
        cases = tuple(replace(c, variants=tuple(v for v in c.variants if v in OTHERS)) for c in cases)
    return tuple(case for case in cases if case.variants)


def main() -> None:
    """Measures or counts, and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--counted", action="store_true", help="only what needs no device")
    parser.add_argument("--baselines-only", action="store_true", help="only transformers and torch.compile")
    parser.add_argument("--rehearse", action="store_true", help="a tiny model and few tokens")
    parser.add_argument("--only", action="append", metavar="CASE", help=f"one of {[case.name for case in CASES]}")
    parser.add_argument("--seconds", type=float, default=290.0, help="after which no further variant begins")
    parser.add_argument("--limit", type=float, default=90.0, help="seconds for one variant, rounds included")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--variants", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args)
    if args.counted:
        return print(report.counted(cases_of(args)))
    out, records = Path(os.environ.get("OUT", ".")), []
    with open(out / "gpu.jsonl", "w", encoding="utf-8") as file:

        def keep(record: Record) -> None:
            records.append(record)
            print(json.dumps({key: value for key, value in record.items() if key != "tokens"}), flush=True)
            print(json.dumps(record), file=file, flush=True)

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what there is, is printed
        with suppress(KeyboardInterrupt):
            measure_all(cases_of(args), processes(args), args.limit, args.seconds, keep)
    text = report.whole(cases_of(args), records)
    (out / "gpu.txt").write_text(text + "\n", encoding="utf-8")
    return print(f"\n{text}")


if __name__ == "__main__":
    main()
