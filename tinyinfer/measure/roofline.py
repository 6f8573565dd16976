"""The roofline: how fast a machine could run what the ledger counts (Williams, Waterman & Patterson 2009).

A step must do its arithmetic and fetch its bytes. A machine does so many FLOPs and reads so many bytes a second, and at
best both at once, so a step takes at least

    seconds = max(FLOPs / matrix speed, bytes moved / read bandwidth)

Which of the two binds depends on FLOPs per byte alone. Prefill multiplies every weight it reads with hundreds of rows:
the arithmetic binds. Decode multiplies it with one row, two FLOPs for four bytes: memory binds, and the processor
mostly waits. So batching and speculation (more rows a read) and quantization (fewer bytes) pay in decode, and a faster
matrix product in prefill. What the roofline leaves out (norms, exponentials, Python) is the gap to what is measured.

The counts need no run: `expected_prefill` and `expected_decode` derive them from the configuration; tests hold the
counted ledger equal to them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tinyinfer.arrays import FLOAT
from tinyinfer.backends.cpu import default_threads, use_blas_threads
from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.memory import position_bytes
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import ModelConfig, MoEConfig
from tinyinfer.model.interfaces import Device

READ_BYTES = 1 << 29  # read at a time: of half as much, a part was sometimes still in a cache the next time
MATRIX_SIZE = 1536  # a square product large enough that BLAS runs at its full speed
GPU_READ_BYTES, GPU_MATRIX_SIZE = 1 << 31, 8192  # so large that launching is a small part of the time
ARITHMETIC, MEMORY = "arithmetic", "memory"


@dataclass(frozen=True)
class Machine:
    """The two limits. read_bandwidth: bytes a second out of memory. matrix_speed: FLOPs a second of products."""

    read_bandwidth: float
    matrix_speed: float

    @property
    def balance(self) -> float:
        """FLOPs per byte at which both limits are reached at once: work with fewer waits for memory."""
        return self.matrix_speed / self.read_bandwidth


PREFIX = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def parse_machine(text: str) -> Machine:
    """The machine of "37GB/s,200GFLOP/s": what it reads and computes in a second. Raises SwitchError."""
    number = r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)"
    match = re.fullmatch(rf"{number}B/s\s*,{number}FLOP/s\s*", text)
    speeds = [float(match[i]) * PREFIX[match[i + 1]] for i in (1, 3)] if match else [0.0]
    if not all(speeds):
        cure = "write bandwidth and speed, such as 37GB/s,200GFLOP/s"
        raise SwitchError("machine", text, "{field} {value!r} is no machine", cure)
    return Machine(*speeds)


def predict_seconds(counted: Ledger, machine: Machine) -> float:
    """The least time in which the machine can do what was counted."""
    return max(counted.flops / machine.matrix_speed, counted.bytes_moved / machine.read_bandwidth)


def limit(counted: Ledger, machine: Machine) -> str:
    """Which limit binds: "arithmetic" or "memory"."""
    return ARITHMETIC if intensity(counted) > machine.balance else MEMORY


def intensity(counted: Ledger) -> float:
    """FLOPs per byte moved, the x axis of the roofline."""
    return counted.flops / counted.bytes_moved


# What this machine can do.


def machine_of(device: Device, threads: int | None = None) -> Machine:
    """The limits of what computes: the processor with its threads, or a GPU."""
    return measure_machine(threads) if device.xp is np else measure_gpu(device)


def measure_gpu(device: Device, seconds: float = 0.4, clock: Callable[[], float] = time.perf_counter) -> Machine:
    """Measures both limits of a GPU, for about `seconds` each: a maximum over 2 GiB, a square product in float16.

    Each run ends with one number that the host waits for. Random numbers, because a GPU multiplies ones faster than
    any model; half precision, because that is what it multiplies fast: a model in float32 stays below this speed.
    """
    xp, n = device.xp, GPU_MATRIX_SIZE
    numbers = xp.ones(GPU_READ_BYTES // 4, dtype=np.float32)
    reading = shortest(lambda: device.to_host(numbers.max()), seconds, clock)
    random = np.random.default_rng(0).standard_normal((n, n), dtype=np.float32)  # (n, n)
    a = xp.asarray(random.astype(np.float16))  # (n, n)
    product = shortest(lambda: device.to_host((a @ a)[0, 0]), seconds, clock)
    return Machine(GPU_READ_BYTES / reading, 2 * n**3 / product)


def measure_machine(
    threads: int | None = None, seconds: float = 0.4, clock: Callable[[], float] = time.perf_counter
) -> Machine:
    """Measures both limits with `threads` threads (None: cpu.default_threads), for about `seconds` each.

    Bandwidth: an OR over all words of 512 MiB, split among threads, which was the fastest way to read in NumPy (a
    maximum and BLAS's dot product come close). Speed: a square float32 product. The fastest round counts: whatever else
    the machine does can only slow a round down.
    """
    threads = threads or default_threads()
    use_blas_threads(threads)
    return Machine(measure_bandwidth(threads, seconds, clock), measure_matrix_speed(seconds, clock))


def measure_bandwidth(threads: int, seconds: float, clock: Callable[[], float]) -> float:
    """Bytes a second that `threads` threads read out of memory with NumPy."""
    words = np.ones(READ_BYTES // 8, dtype=np.int64)
    parts = np.array_split(words, threads)
    with ThreadPoolExecutor(threads) as pool:
        fastest = shortest(lambda: list(pool.map(np.bitwise_or.reduce, parts)), seconds, clock)
    return words.nbytes / fastest


def measure_matrix_speed(seconds: float, clock: Callable[[], float]) -> float:
    """Float32 FLOPs a second of a square matrix product, on the threads that BLAS is set to."""
    n = MATRIX_SIZE
    a, out = np.ones((n, n), dtype=np.float32), np.empty((n, n), dtype=np.float32)
    return 2 * n**3 / shortest(lambda: np.matmul(a, a, out=out), seconds, clock)


def shortest(work: Callable[[], object], seconds: float, clock: Callable[[], float]) -> float:
    """The shortest of the runs that fit into `seconds`; at least three, the first of which warms up."""
    begun = clock()
    times: list[float] = []
    while len(times) < 3 or clock() - begun < seconds:
        started = clock()
        work()
        times.append(clock() - started)
    return min(times)


# What the ledger will count, derived by hand. Letters as everywhere: D, H, K, E, F, V, L; T rows; X experts.


def expected_prefill(c: ModelConfig, n: int, itemsize: int = FLOAT, experts_read: int | None = None) -> Ledger:
    """What a prefill of n tokens costs when only the last one's logits are wanted. itemsize: bytes of a weight.

    experts_read: how many experts the router will touch, over all layers; by default the number to be expected when
    it chooses all equally often.
    """
    return expected_step(c, 0, n, itemsize, experts_read)


def expected_decode(c: ModelConfig, position: int, itemsize: int = FLOAT) -> Ledger:
    """What computing one row at `position` costs, all earlier positions being in the cache."""
    return expected_step(c, position, 1, itemsize)


def expected_step(
    c: ModelConfig, first: int, rows: int, itemsize: int = FLOAT, experts_read: int | None = None
) -> Ledger:
    """What the ledger counts for `rows` rows of one sequence from position `first` on, logits of the last row."""
    d, f = c.hidden_size, c.intermediate_size
    total = Ledger(steps=1, logit_rows=1, tokens_computed=rows, tokens_reused=first)
    total.weight_bytes += rows * d * (itemsize + FLOAT * c.learned_positions)  # the embedding's rows
    for window, memory in zip(c.windows, c.memory, strict=True):
        _add_attention(total, c, first, rows, window, position_bytes((memory,)))
    _add_product(total, c.num_layers, rows, d, (c.num_heads + 2 * c.num_kv_heads) * c.head_dim, itemsize, c.qkv_bias)
    _add_product(total, c.num_layers, rows, c.num_heads * c.head_dim, d, itemsize, c.o_bias)
    mixtures = [moe for moe in map(c.mixture, range(c.num_layers)) if moe]
    dense = c.num_layers - len(mixtures)
    _add_product(total, dense, rows, d, (1 + c.gated) * f, itemsize, c.mlp_bias)
    _add_product(total, dense, rows, f, d, itemsize, c.mlp_bias)
    if mixtures:
        _add_experts(total, c, mixtures, rows, itemsize, experts_read)
    _add_product(total, 1, 1, d, c.vocab_size, itemsize)  # the head, on one row
    total.weight_bytes += FLOAT * norm_weights(c)
    return total


def norm_weights(c: ModelConfig) -> int:
    """Numbers in all norms as they are held, the norm of queries and keys once for every head."""
    one = c.hidden_size * (2 if c.norm == "layer" else 1)  # LayerNorm has a bias
    heads = (c.num_heads + c.num_kv_heads) * c.head_dim if c.qk_norm != "none" else 0
    return c.num_layers * (2 * (c.pre_norms + c.post_norms) * one + heads) + one


def causal_pairs(n: int, window: int | None) -> int:
    """(query, key) pairs among the first n positions: 1 + 2 + 3 + ..., no term above the window."""
    if window is None or n <= window:
        return n * (n + 1) // 2
    return window * (window + 1) // 2 + (n - window) * window


def _add_product(
    total: Ledger, times: int, rows: int, inputs: int, outputs: int, itemsize: int, bias: bool = False
) -> None:
    """`times` products of `rows` rows with a matrix, which is read once whatever the rows."""
    total.flops += times * 2 * rows * inputs * outputs
    total.weight_bytes += times * (inputs * outputs * itemsize + outputs * FLOAT * bias)


def _add_attention(
    total: Ledger, c: ModelConfig, first: int, rows: int, window: int | None, position_bytes: int
) -> None:
    """Scores and mixing, 2·E FLOPs each, for every pair and query head; keys and values from the oldest one seen."""
    last = first + rows
    pairs = causal_pairs(last, window) - causal_pairs(first, window)
    oldest = max(0, first - window + 1) if window else 0
    total.flops += 4 * c.num_heads * c.head_dim * pairs
    total.attention_flops += 4 * c.num_heads * c.head_dim * pairs
    total.kv_read_bytes += (last - oldest) * position_bytes
    total.kv_written_bytes += rows * position_bytes
    total.weight_bytes += FLOAT * c.num_heads * c.sinks


def _add_experts(
    total: Ledger, c: ModelConfig, mixtures: list[MoEConfig], rows: int, itemsize: int, experts_read: int | None
) -> None:
    """Of each layer's mixture the router, k experts a row, and the shared expert if there is one.

    The bytes of experts are those that any row chose.
    """
    moe, times, d = mixtures[0], len(mixtures), c.hidden_size
    x, k, f, s = moe.num_experts, moe.experts_per_token, moe.expert_size, moe.shared_size
    if experts_read is None:  # each of X is missed by a row with probability 1 - k/X; exactly k for one row
        experts_read = round(times * x * (1 - (1 - k / x) ** rows))
    pairs = times * rows * k
    _add_product(total, times, rows, d, x, itemsize, c.mlp_bias)
    total.flops += 2 * pairs * 3 * d * f  # gate, up, down
    total.weight_bytes += experts_read * (3 * d * f * itemsize + (2 * f + d) * FLOAT * c.mlp_bias)
    total.expert_rows += pairs
    total.experts_read += experts_read
    for inputs, outputs in ((d, 1), (d, 2 * s), (s, d)) if s else ():  # its own router, gate and up, down
        _add_product(total, times, rows, inputs, outputs, itemsize)
