"""What is measured: shapes of published models, with random weights where the real ones are not at hand.

Speed depends on the shape and not on the numbers. The random ones are slices of one pool, so that a model of a billion
weights is there in seconds, and numbers that bfloat16 holds exactly. They are of a size at which every part matters, so
that a wrong one changes the tokens: the embedding is small (with a large one and a tied head, the answer is the last
token again). No part is larger than 1: with queries and keys near 2, thirty random layers made of the rounding of 16
prompt rows to bfloat16 another text (measured: up to 0.8 deviations of the logits; near 1 it is 0.002).
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tinyinfer.loading import load
from tinyinfer.loading.checkpoint import Checkpoint, LazyTensor
from tinyinfer.model.config import ModelConfig, RopeConfig, expected_tensors
from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
POOL = 8388593  # random numbers of which all weights are slices; a prime, so that no row of a matrix comes twice
CODES = {"int8": QuantScheme(8, 32, True), "int4": QuantScheme(4, 32, False)}


def llama(D: int, F: int, L: int, H: int, K: int, V: int, theta: float, E: int = 64) -> ModelConfig:
    """A Llama with a tied head; the letters are those of arrays.py."""
    return ModelConfig(
        "llama", V, D, F, L, H, K, E, 8192, 1e-5, E**-0.5, (RopeConfig(theta),) * L, (None,) * L, tied_head=True
    )


SHAPES = {
    "SmolLM2-135M": llama(576, 1536, 30, 9, 3, 49152, 1e5),
    "Llama-3.2-1B": llama(2048, 8192, 16, 32, 8, 128256, 5e5),  # without its stretched rotations, which cost nothing
    "tiny": llama(128, 192, 2, 4, 2, 256, 1e4, E=32),  # for a rehearsal without a device
}


@dataclass(frozen=True, eq=False)
class Case:
    """One model and one load: `batch` sequences, each with a prompt of `prompt` tokens and `new` generated ones.

    weights: how the matrices are stored: bfloat16, int8, int4. variants: what is measured, in this order.
    """

    name: str
    shape: str
    batch: int
    prompt: int
    new: int
    variants: tuple[str, ...]
    weights: str = "bfloat16"
    switches: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> ModelConfig:
        return SHAPES[self.shape]

    @property
    def prefill(self) -> bool:
        """Whether the prompts are what is measured: each sequence generates one token only."""
        return self.new == 1

    @property
    def context(self) -> int:
        """Positions in the cache in the middle of what is measured."""
        return self.prompt // 2 if self.prefill else self.prompt + self.new // 2

    def prompts(self) -> list[list[int]]:
        """The same random token ids in every run."""
        rng = np.random.default_rng(0)
        return rng.integers(0, self.config.vocab_size, (self.batch, self.prompt)).tolist()


OWN = ("eager", "kernels", "graph", "persistent")
GENERATE, COMPILED, STATIC = "transformers generate", "torch.compile, static cache", "generate, static cache"
OTHERS = (GENERATE, COMPILED, STATIC)
PAGED = {"kv_cache": "paged", "max_num_batched_tokens": 8192}
SMOLLM2, LLAMA = "SmolLM2-135M", "Llama-3.2-1B"
CASES = (  # the most wanted first: time may be short
    Case("batch 1", SMOLLM2, 1, 16, 240, (*OWN, GENERATE, COMPILED)),
    Case("batch 64", SMOLLM2, 64, 448, 128, ("graph", "kernels"), switches=PAGED),
    Case("batch 256", SMOLLM2, 256, 448, 128, ("graph", "kernels"), switches=PAGED),
    Case("prefill 8 x 1024", SMOLLM2, 8, 1024, 1, ("graph", "eager", GENERATE), switches=PAGED),
    Case("1B, batch 1", LLAMA, 1, 16, 240, ("graph", "persistent", COMPILED)),
    Case("batch 1, int8", SMOLLM2, 1, 16, 240, ("graph", "persistent"), "int8"),
    Case("batch 1, int4", SMOLLM2, 1, 16, 240, ("graph", "persistent"), "int4"),
    Case("1B, int8", LLAMA, 1, 16, 240, ("graph",), "int8"),
    Case("1B, int4", LLAMA, 1, 16, 240, ("graph",), "int4"),
    Case("batch 1, again", SMOLLM2, 1, 16, 240, ("graph", STATIC)),
)


def rehearsal() -> tuple[Case, ...]:
    """Every case with a tiny model and few tokens: the whole flow in seconds, on a device or on a stand-in for one."""
    small = []
    for case in CASES:
        new, batch = min(case.new, 24 if case.batch == 1 else 6), {64: 9, 256: 17}.get(case.batch, min(case.batch, 2))
        small.append(replace(case, shape="tiny", batch=batch, prompt=min(case.prompt, 20), new=new))
    return tuple(small)


# Weights.


@cache
def pool() -> np.ndarray:
    """The numbers of which random weights are slices; twice behind one another, so that a slice never ends."""
    numbers = np.random.default_rng(0).standard_normal(POOL, dtype=np.float32)
    return np.concatenate((numbers, numbers))


def slice_of(name: str, start: int, shape: tuple[int, ...]) -> np.ndarray:
    """Rows of a random tensor from row `start` on, of about the size 1; the same in whatever pieces they are read."""
    count, first = math.prod(shape), (zlib.crc32(name.encode()) + start * math.prod(shape[1:])) % POOL
    period = pool()[first : first + POOL]
    return (period[:count] if count <= POOL else np.resize(period, count)).reshape(shape)


def spread(inputs: int) -> float:
    """The standard deviation of a matrix's weights: it keeps activations near 1."""
    return inputs**-0.5


def halved(numbers: np.ndarray) -> np.ndarray:
    """Numbers that bfloat16 holds exactly: the lower half of each float32 is cut off."""
    return (numbers.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def random_floats(name: str, shape: tuple[int, ...]) -> LazyTensor:
    """A tensor of random floats: norms near 1, matrices as `spread` says."""
    vector = len(shape) == 1
    scale, center = (np.float32(0.1), np.float32(1)) if vector else (np.float32(spread(shape[-1])), None)

    def read(start: int, stop: int) -> np.ndarray:
        rows = slice_of(name, start, (stop - start, *shape[1:])) * scale
        return halved(rows) if center is None else rows + center

    return LazyTensor(name, shape, 2 * math.prod(shape), read)


def random_codes(name: str, shape: tuple[int, ...], scheme: QuantScheme) -> LazyTensor:
    """A matrix of random codes whose weights are about as large as those of random_floats."""
    inputs, groups = shape[-1], scheme.groups(shape[-1])
    step = np.float16(spread(inputs) * 12**0.5 / (1 << scheme.bits))  # √12: codes are spread evenly

    def codes(start: int, stop: int) -> QuantizedMatrix:
        rows = stop - start
        drawn = slice_of(name, start, (rows, inputs)).view(np.int32) >> 7  # the middle bits of random floats
        values = (drawn & (scheme.highest - scheme.lowest)).astype(np.int16) + np.int16(scheme.lowest)
        scale = np.full((rows, groups), step)
        minimum = None if scheme.symmetric else np.full((rows, groups), -step * np.float16(scheme.highest / 2))
        return QuantizedMatrix(scheme, values, scale, minimum)

    def read(start: int, stop: int) -> np.ndarray:
        return codes(start, stop).dequantize()

    return LazyTensor(name, shape, math.prod(shape) * scheme.bits // 8, read, codes=codes)


def random_checkpoint(config: ModelConfig, weights: str) -> Checkpoint:
    """A checkpoint of random weights. int8, int4: the layers' matrices are codes, the tied head codes of 8 bits."""
    tensors = {}
    for name, shape in expected_tensors(config).items():
        coded = weights in CODES and len(shape) == 2
        scheme = CODES["int8" if name == "embedding" else weights] if coded else None
        tensors[name] = random_codes(name, shape, scheme) if scheme else random_floats(name, shape)
    no_text: Any = None
    return Checkpoint("random weights", config, tensors, no_text)


def checkpoint_of(case: Case) -> Checkpoint:
    """The real weights where the checkout has them and they are asked for as floats; else random ones of the shape."""
    files = sorted(WEIGHTS.glob(f"{case.shape}*.gguf"))
    if files and find_spec("gguf") and case.weights not in CODES:
        found = load(files[0])
        return replace(found, tensors={name: in_half_precision(one) for name, one in found.tensors.items()})
    return random_checkpoint(case.config, case.weights)


def in_half_precision(tensor: LazyTensor) -> LazyTensor:
    """A file's matrix as bfloat16 holds it, so that an engine in float32 computes with the same weights."""
    if len(tensor.shape) == 1:
        return tensor
    return replace(tensor, read=lambda start, stop: halved(tensor.read(start, stop)), codes=None)
