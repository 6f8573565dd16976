"""What a step costs in each variant, counted without a device, and the least time that follows from it.

    seconds >= max(FLOPs / matrix speed, bytes / bandwidth, phases · what it takes to begin one)

The first two are the roofline (tinyinfer/measure/roofline.py). The third is what small models wait for: each phase of a
step needs all of the phase before, so nothing hides its beginning. How long a beginning takes depends on who begins:
the host for every operation (eager), the host for every kernel, the device (a graph), a barrier (one kernel for all).
"""

from __future__ import annotations

from dataclasses import dataclass

from gpu_parts.cases import CODES, OWN, Case
from gpu_parts.eager import launches_of_a_step
from tinyinfer.arrays import FLOAT
from tinyinfer.ledger import Ledger
from tinyinfer.measure.roofline import Machine, predict_seconds
from tinyinfer.model.config import HeldMatrix, held_matrices

ASSUMED = {  # of an H100 until one is measured
    "read_bandwidth": 3.0e12,  # bytes a second, as a large copy was seen to move
    "matrix_speed": 400e12,  # FLOPs a second: half of what a large product reached
    "operation_us": 10.0,  # "about 11 us", "usually around 20 us" in CuPy's own issues
    "launch_us": 5.0,  # 4 to 8 us with Python around it; the driver alone takes 1.5
    "node_us": 1.3,  # 0.8 on an RTX 3090, 1.3 on an H100
    "barrier_us": 0.73,  # of all blocks, on an RTX 3090
}
BEGINS = {"eager": "operation_us", "kernels": "launch_us", "graph": "node_us", "persistent": "barrier_us"}
FEW = 8  # rows up to which a kernel computes norm, product and what follows in one
REMEMBERED = FLOAT  # bytes of a number in the cache


@dataclass(frozen=True)
class Phase:
    """One kernel in one step: how often it is launched, and the bytes and FLOPs of all its launches together."""

    kernel: str
    launches: int
    nbytes: int = 0
    flops: int = 0


def phases(case: Case) -> list[Phase]:
    """The kernels of a step, in the order of a layer."""
    c, rows, held = case.config, case.batch * (case.prompt if case.prefill else 1), held_matrices(case.config)
    layers, few = c.num_layers, rows <= FEW
    product = {"": "rms_product", "o": "projection_residual", "gate_up": "rms_gate_up", "down": "projection_residual"}
    many = "product by cuBLAS" if case.prefill else "small_batch_product"

    def of(name: str, few_name: str = "") -> Phase:
        matrix = held[f"layers.0.{name}"]
        kernel = (few_name or product[name]) if few else many
        work = 2 * rows * matrix.numbers * layers
        return Phase(kernel, layers, layers * (matrix_bytes(matrix, case) + row_bytes(matrix, rows)), work)

    table = held["head"]
    logits = case.batch  # one row of logits for each sequence
    head = Phase("", 1, matrix_bytes(table, case) + row_bytes(table, logits), 2 * logits * table.numbers)
    found = [Phase("embed", 1, rows * c.hidden_size * (FLOAT + 2))]
    found += [of("qkv", "rms_qkv_rope_append")]
    if not few:
        moved = 2 * layers * rows * held["layers.0.qkv"].outputs * FLOAT
        found += [Phase("qk_norm_rope_append", layers, moved)]
    found += [attention(case), of("o"), of("gate_up"), of("down")]
    if few:
        return [*found, Phase("rms_head_sample", 1, head.nbytes, head.flops)]
    return [*found, Phase(many, 1, head.nbytes, head.flops), Phase("sample", 1, logits * c.vocab_size * FLOAT)]


def matrix_bytes(matrix: HeldMatrix, case: Case) -> int:
    """Bytes of a matrix's weights, scales included."""
    if case.weights not in CODES:
        return 2 * matrix.numbers
    scheme = CODES["int8" if matrix.name == "head" else case.weights]
    scales = scheme.groups(matrix.inputs) * 2 * (1 if scheme.symmetric else 2)
    return matrix.outputs * (matrix.inputs * scheme.bits // 8 + scales)


def row_bytes(matrix: HeldMatrix, rows: int) -> int:
    """Bytes of a product's rows: read and written, in float32."""
    return rows * (matrix.inputs + matrix.outputs) * FLOAT


def attention(case: Case) -> Phase:
    """Attention of all layers: keys and values of the context, once for each sequence."""
    c, rows = case.config, case.prompt if case.prefill else 1
    read = case.batch * case.context * sum(one.numbers for one in c.memory) * REMEMBERED
    flops = 4 * case.batch * rows * case.context * c.num_heads * c.head_dim * c.num_layers
    return Phase("attention_prefill" if case.prefill else "attention_decode", c.num_layers, read, flops)


@dataclass(frozen=True)
class Step:
    """A step of a variant: launches from the host or from a graph, phases that wait for each other, bytes, FLOPs."""

    launches: int
    phases: int
    nbytes: int
    flops: int


def step_of(case: Case, variant: str) -> Step | None:
    """What a step of one of tinyinfer's variants costs; None for another engine, whose launches are its own."""
    if variant not in OWN:
        return None
    found = phases(case)
    nbytes, flops = sum(phase.nbytes for phase in found), sum(phase.flops for phase in found)
    count = sum(phase.launches for phase in found)
    if variant == "eager":
        count = launches_of_a_step(case.config, case.batch)
    return Step(1 if variant == "persistent" else count, count, nbytes, flops)


def least_seconds(step: Step, variant: str, figures: dict[str, float]) -> float:
    """The least time of a step on a machine with these figures, measured or ASSUMED."""
    machine = Machine(figures["read_bandwidth"], figures["matrix_speed"])
    beginning = step.phases * figures[BEGINS[variant]] * 1e-6
    return max(predict_seconds(Ledger(flops=step.flops, weight_bytes=step.nbytes), machine), beginning)
