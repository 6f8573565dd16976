"""Each operation of two backends beside each other: `python benchmarks/operations.py [--shape llama-1b]`.

Prints, for a prefill of 512 rows and for decode steps of 3 rows and of one row, the median time of an operation in the
first backend and in the second, and their ratio. The two backends take turns, so that a machine that is busy otherwise
slows both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np

from tinyinfer.backends.switches import BACKENDS
from tinyinfer.ledger import Ledger
from tinyinfer.model.heads import Heads
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.weights import Dense, Floats, Linear, RMSNorm, Rotation
from tinyinfer.quantization.recipe import make_scheme
from tinyinfer.quantization.rtn import round_to_nearest
from tinyinfer.switches import resolve

SHAPES = {"smollm2-135m": (576, 1536, 9, 3, 64), "llama-1b": (2048, 8192, 32, 8, 64)}  # D, F, H, K, E


def random(*shape: int) -> np.ndarray:
    """Numbers of a usual size in float32."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def operations(ops: Ops, rows: int, shape: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Pairs (name, the operation on `rows` rows)."""
    D, F, H, K, E = SHAPES[shape]
    zero = np.zeros((rows, D), np.float32)
    x, qk, gate_up = random(rows, D), random(rows, H + K, E), random(rows, 2 * F)
    norm, rotation = RMSNorm(random(D), 1e-5), Rotation(random(1, E // 2), random(1, E // 2))
    positions = np.arange(rows)
    turned = ops.rotation(positions, np.zeros(rows, int), rotation)
    w = random(2 * F, D)
    weights = {"float32": ops.take(Floats("w", w))}
    for kind in ("int8", "int4"):
        scheme = make_scheme(kind, 32, None)
        assert scheme is not None
        weights[kind] = ops.take(round_to_nearest(w, scheme))
    q, k, v = random(rows, H, E), random(512, K, E), random(512, K, E)
    heads = Heads(H, K, E, E**-0.5, None)
    yield "rms norm", lambda: ops.norm(x, norm)
    yield "rope", lambda: ops.rope(qk, turned)
    yield "gate", lambda: ops.gate(gate_up, "silu")
    yield "add", lambda: ops.add(x, zero, 1.0)
    yield "attention of 512 keys", lambda: ops.attend(q, k, v, 512 - rows, 0, heads)  # type: ignore[attr-defined]
    for name, weight in weights.items():
        yield f"linear D -> 2F, {name}", lambda weight=weight: ops.linear(x, Linear(weight))
    long = ops.take(Floats("w", random(D, F)))
    assert isinstance(long, Dense)
    h = random(rows, F)
    yield "linear F -> D, float32", lambda: ops.linear(h, Linear(long))


def seconds(work: Callable[[], object], at_least: float = 0.02) -> float:
    """Time of one run, over as many runs as take `at_least` seconds."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < at_least:
        work()
        count += 1
    return (time.perf_counter() - start) / count


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("backends", nargs="*", default=["reference", "numpy"], help=f"two of {list(BACKENDS)}")
    parser.add_argument("--shape", default="smollm2-135m", choices=list(SHAPES), help="sizes of the model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("-t", "--threads", type=int, default=None)
    args = parser.parse_args()
    first, second = (resolve(BACKENDS, name)(Ledger(), np.float32, args.threads) for name in args.backends)
    print(f"{'':34}{args.backends[0]:>14}{args.backends[1]:>14}{'ratio':>8}")
    for rows in (512, 3, 1):
        print(f"{rows} rows")
        both = zip(operations(first, rows, args.shape), operations(second, rows, args.shape), strict=True)
        for (name, work), (_, other) in both:
            times = [(seconds(work), seconds(other)) for _ in range(args.rounds)]
            a, b = (statistics.median(column) for column in zip(*times, strict=True))
            ratio = statistics.median(one / two for one, two in times)
            print(f"  {name:32}{a * 1e6:11.1f} us{b * 1e6:11.1f} us{ratio:8.2f}")


if __name__ == "__main__":
    main()
