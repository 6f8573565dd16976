"""Pruned models of lesson 18, all made by the library: what they forget, what their tokens read and take.

A model is pruned by pruning/apply.py, or only its first layers are, so that a slow method fits into a lesson. The sums
of a matrix's inputs come from the pass that the library calibrates with (quantization/calibration.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tinyinfer.llm import LLM
from tinyinfer.measure.inspect import bits_per_weight
from tinyinfer.model.transformer import Model
from tinyinfer.model.weights import Linear
from tinyinfer.pruning.apply import prune_weights, round_pruned
from tinyinfer.pruning.layers import keep_layers
from tinyinfer.pruning.switches import WeightSwitches
from tinyinfer.quantization.apply import floats
from tinyinfer.quantization.calibration import Inputs, calibrate, calibration_text, calibration_windows
from tinyinfer.sampling_params import SamplingParams

BEGINNING = "The capital of France is"  # what a pruned model goes on with
TOKENS = 256  # that are scored
FIRST, LAST = 20_000, 30_000  # of Python's documentation: the first tokens are read, later ones are not
RIDGE = 1e-5  # this share of the mean of H's diagonal is added to it


# The text that is read, and the text that is scored.


def windows(llm: LLM, count: int, size: int) -> np.ndarray:  # -> (W, n)
    """Some `count` tokens of Python's documentation in W windows of n (`size`), from all over it: what is read."""
    cut = calibration_windows(calibration_text(None), llm.tokenizer, FIRST, size)
    return cut[:: len(cut) * size // count][: count // size]


def unread_windows(llm: LLM, count: int, size: int) -> np.ndarray:  # -> (W, n)
    """Some `count` tokens of the same documentation that no method reads, in W windows of n (`size`)."""
    cut = calibration_windows(calibration_text(None), llm.tokenizer, LAST, size)
    return cut[-(count // size) :]


def later_text(llm: LLM) -> list[int]:
    """Tokens of the same documentation, behind everything that a method reads, one more than are scored."""
    return llm.tokenizer.encode(calibration_text(None))[FIRST : FIRST + TOKENS + 1]


# Pruned models.


def pruned(llm: LLM, method: str, text: np.ndarray | None = None, first: int | None = None) -> LLM:  # (W, n) ->
    """The model without half of the weights of its layers' matrices. text: W windows of n token ids, for a method that
    reads. first: only so many layers, the first ones, are pruned; None: all.
    """
    layers = llm.model.layers
    some = keep_layers(llm.model, range(min(first or len(layers), len(layers))))
    done = prune_weights(some, llm.ops, WeightSwitches(prune=method), text, lambda done: None).layers
    return _with_model(llm, replace(llm.model, layers=done + layers[len(done) :]))


def rounded(llm: LLM, quantize: str, group_size: int, prune: str = "off") -> LLM:
    """The model, pruned or not, with its layers' matrices in so many bits. prune: how it was pruned."""
    c = WeightSwitches(quantize=quantize, group_size=group_size, prune=prune)
    return _with_model(llm, round_pruned(llm.model, llm.ops, c))


def without_layers(llm: LLM, gone: Sequence[int]) -> LLM:
    """The model without the layers of these numbers; of a model with few layers at least one stays."""
    kept = [i for i in range(llm.config.num_layers) if i not in gone]
    return _with_model(llm, keep_layers(llm.model, kept or [0]))


def _with_model(llm: LLM, model: Model) -> LLM:
    return llm.with_engine(llm.engine_config, model=model)


# What they are worth.


def perplexity(llm: LLM, tokens: Sequence[int]) -> float:
    """How surprised the model is by each token but the first."""
    return math.exp(min(-float(llm.score(list(tokens)).mean()), 700.0))


def bits(llm: LLM, whole: LLM) -> float:
    """Bits that the layers' matrices take for each weight that they had in the whole model: places and scales, too."""
    return bits_per_weight(llm.model, whole.model)


@dataclass(frozen=True)
class Decoded:
    """What the model writes after BEGINNING, and what a token of it counts and takes."""

    text: str
    weight_bytes: int
    flops: int
    seconds: float


def decoded(llm: LLM, count: int = 5) -> Decoded:
    """Lets the model write so many tokens; bytes and FLOPs are those of the last step, the time is the median."""
    [seq] = llm.sequences([BEGINNING], SamplingParams(max_tokens=count, ignore_eos=True))
    steps = list(llm.run([seq]))[1:]
    times = sorted(step.seconds for step in steps)
    last = steps[-1].ledger
    return Decoded(llm.output(seq).text, last.weight_bytes, last.flops, times[len(times) // 2])


# One matrix.


def inputs_of(llm: LLM, text: np.ndarray, name: str) -> np.ndarray:  # (W, n) -> (M, M)
    """H = X Xᵀ, X (M, T) the inputs of a matrix such as "layers.2.o" while W windows of n token ids are read; float64.

    A trifle (RIDGE) is added to its diagonal, so that equations with it have one answer even where the text is short.
    """
    found: list[np.ndarray] = []

    def listen(matrix: str, linear: Linear, inputs: Inputs) -> tuple[Linear, None]:
        if matrix == name:
            found.append(np.asarray(llm.ops.to_host(inputs.hessian), dtype=np.float64))
        return linear, None

    calibrate(keep_layers(llm.model, range(int(name.split(".")[1]) + 1)), text, llm.ops, listen)
    [hessian] = found
    return hessian + RIDGE * np.diag(hessian).mean() * np.eye(len(hessian))


def matrix_of(llm: LLM, layer: int, part: str) -> np.ndarray:  # -> (N, M)
    """The weights of a matrix of a layer's attention, "qkv" or "o", in float32."""
    return floats(getattr(llm.model.layers[layer].mixer, part).weight)


def weight_error(w: np.ndarray, new: np.ndarray) -> float:  # (N, M), (N, M) ->
    """‖W - W'‖ / ‖W‖."""
    return float(np.linalg.norm(w - new) / np.linalg.norm(w))


def output_errors(w: np.ndarray, new: np.ndarray, hessian: np.ndarray) -> np.ndarray:  # (N, M), (N, M), (M, M) -> (N,)
    """‖(w - w') X‖² of each output, for the text whose H is given."""
    moved = w.astype(np.float64) - new  # (N, M)
    return np.einsum("nm,nm->n", moved @ hessian, moved).clip(min=0)


def output_error(w: np.ndarray, new: np.ndarray, hessian: np.ndarray) -> float:  # (N, M), (N, M), (M, M) ->
    """‖(W - W') X‖ / ‖W X‖ of the whole matrix."""
    all_of_it = output_errors(w, np.zeros_like(w), hessian).sum()
    return math.sqrt(output_errors(w, new, hessian).sum() / all_of_it)
