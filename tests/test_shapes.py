"""Every shape signature is true: all of them are called with models whose letters are all different lengths."""

from __future__ import annotations

import ast
import pickle
import re
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import ml_dtypes
import numpy as np
import pytest
import shapes
from draft_heads import head_of
from fake_cupy import fake_cupy
from fake_nccl import Fabric
from gguf import GGMLQuantizationType
from gguf_writer import random_blocks, write_gguf
from guided_steps import guided
from helpers import (
    ALWAYS_DRAFT,
    Letters,
    checkpoint_of,
    finish,
    make_engine,
    random_tensors,
    request,
    small_config,
)
from shapes import PACKAGE, Inspector, Signature, def_comments, functions, handles_arrays, is_protocol, letters_of

from tinyinfer import LLM, arrays
from tinyinfer.backends.counts import count_experts
from tinyinfer.backends.cpu import lazy_array
from tinyinfer.backends.cpu_kernels.buffers import Buffers
from tinyinfer.backends.cupy_ops import CupyOps
from tinyinfer.backends.delegate import DelegatingOps
from tinyinfer.backends.lanes import Arena, DenseLanes, PackedLanes, mapping
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.backends.sparse_lanes import TwoOfFourLanes
from tinyinfer.course.assignments.transformer_operations.test_transformer_operations import attend
from tinyinfer.course.compare import differing
from tinyinfer.course.laws import same_law
from tinyinfer.course.sandbox.stand_ins import DeviceView
from tinyinfer.distillation.adjoints import attention_adjoint
from tinyinfer.distillation.losses import forward_kl, hidden_states, merged, reverse_kl, top_k, top_k_kl
from tinyinfer.distillation.objective import Objective
from tinyinfer.distillation.padding import Padding
from tinyinfer.distillation.switches import TrainingSwitches
from tinyinfer.distillation.teacher import Teacher, keep
from tinyinfer.distillation.texts import reading
from tinyinfer.distillation.training import Training
from tinyinfer.engine.clock import WallClock
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import build_engine
from tinyinfer.engine.overflow import first_overflow
from tinyinfer.engine.scoring import scores
from tinyinfer.ledger import Ledger
from tinyinfer.lessons.cache_judge import TEXT, judge_cache
from tinyinfer.lessons.cpu_kernels import judge_shift, without_shift
from tinyinfer.lessons.distillation_runs import (
    TRAINING,
    first_steps,
    mistaken,
    pages,
    probabilities,
    train,
    what_the_teacher_says,
)
from tinyinfer.lessons.divergence_judge import divergence, judge_divergence, judge_reverse, reverse
from tinyinfer.lessons.kernel_judge import judge_blocks, judge_product
from tinyinfer.lessons.kernel_ladder import block_product, float_rows, in_blocks, in_fours, rounded_rows
from tinyinfer.lessons.kernel_products import OwnProducts, decoded, packed, products
from tinyinfer.lessons.kv_cache import ListCache, following_logits, perplexity
from tinyinfer.lessons.models import Models
from tinyinfer.lessons.paging import judge_table
from tinyinfer.lessons.paging_pool import BlockTable, answers
from tinyinfer.lessons.peaks import predicted
from tinyinfer.lessons.pruned_models import inputs_of, matrix_of, output_error, pruned, unread_windows, weight_error
from tinyinfer.lessons.pruned_models import windows as windows_read
from tinyinfer.lessons.pruning_judge import CHOICES, judge_cheapest, judge_influence, judge_refit, refit
from tinyinfer.lessons.pruning_judge import influence as influence_by_hand
from tinyinfer.lessons.rank_runs import divided_mlp, draw_schedule
from tinyinfer.lessons.ring_judge import judge_ring, ring
from tinyinfer.lessons.rounding import judge_restore, judge_round, restore, round_groups, rounded
from tinyinfer.lessons.shares_judge import judge_shares, matrices, shares
from tinyinfer.lessons.speculative_decoding import drafted, drawn_counts, layers_drafter
from tinyinfer.lessons.sure_student import descent, judge_rest, log_rest, one_minus, some_of
from tinyinfer.lessons.verifier_judge import USUAL, chain_law, judge_verifier, leviathan, random_laws, step_law
from tinyinfer.loading import load
from tinyinfer.loading.build import as_floats, build_model
from tinyinfer.loading.checkpoint import Checkpoint, LazyTensor
from tinyinfer.loading.gguf_blocks import block_codes
from tinyinfer.loading.reorder import neighbour_pairs_order, partial_rotation_order, reordered
from tinyinfer.loading.saving import save_model
from tinyinfer.measure.break_even import staircase
from tinyinfer.measure.cost import Price, Service, Speed, Tokens
from tinyinfer.measure.kl import kl_divergence
from tinyinfer.measure.roofline import Machine
from tinyinfer.measure.timed_ranks import timed
from tinyinfer.model.attention import full_attention
from tinyinfer.model.config import ModelConfig, MoEConfig, RopeConfig
from tinyinfer.model.heads import Heads, Sinks, SoftCap
from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.model.weights import MASK, TWO_OF_FOUR, Experts, Floats, Linear, MixedMatrix, SparseMatrix
from tinyinfer.parallel.collectives import ring_all_reduce, tree_all_reduce
from tinyinfer.parallel.comm import Comm
from tinyinfer.parallel.devices import take_gpu
from tinyinfer.parallel.divided_mlp import mlp_part, mlp_term
from tinyinfer.parallel.experts import Visits, exchange, owners_of
from tinyinfer.parallel.lead import LeaderOps, follow
from tinyinfer.parallel.local import run_ranks
from tinyinfer.parallel.mpi import MPIComm
from tinyinfer.parallel.nccl import NCCLComm
from tinyinfer.parallel.pipeline import Stage
from tinyinfer.parallel.schedule import begin_times, decode_times, idle_share
from tinyinfer.parallel.shards import part_of
from tinyinfer.parallel.shared_memory import YIELD, Places
from tinyinfer.parallel.staged import StagedComm
from tinyinfer.parallel.tensor import TensorOps, divide
from tinyinfer.pruning.apply import prune_model
from tinyinfer.pruning.apply import read_windows as pruning_windows
from tinyinfer.pruning.patterns import read_pattern
from tinyinfer.pruning.sparsegpt import sparsegpt
from tinyinfer.pruning.wanda import wanda
from tinyinfer.pruning.width import narrow
from tinyinfer.quantization.apply import quantize_model, read_windows, rounding
from tinyinfer.quantization.rtn import round_to_nearest
from tinyinfer.sampling import token_scores
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import Span, make_batch
from tinyinfer.speculative.base import NoDrafter
from tinyinfer.views.matrices import Attention, attention_weights
from tinyinfer.views.weights import WeightGrid

MODEL_FILES = ["model/transformer", "model/layers", "model/heads", "model/attention", "model/moe",
               "model/mlp", "sampling", "kv_cache/contiguous", "kv_cache/paged", "speculative/verify",
               "speculative/best_coupling", "speculative/draft_model",
               "backends/reference", "backends/numpy_ops", "backends/flash"]  # fmt: skip
KERNELS = PACKAGE / "backends" / "cpu_kernels"
COMPILED = [*set(KERNELS.glob("*.py")) - {KERNELS / "buffers.py"}, PACKAGE / "backends" / "numba_ops.py"]
ALL = {path: shapes.signatures(path) for path in sorted(PACKAGE.rglob("*.py"))}
SIGNATURES = [one for path, found in ALL.items() if path not in COMPILED for one in found]  # those need numba: -m cpu

# Primes where the model allows it: H is a multiple of K, E is even.
SIZES = {"num_layers": 2, "hidden_size": 37, "intermediate_size": 41, "vocab_size": 101, "num_heads": 15,
         "num_kv_heads": 5, "head_dim": 14, "max_position": 211}  # fmt: skip
LLAMA3 = RopeConfig(scaling="llama3", factor=8.0, original_max_position=64)
YARN = RopeConfig(scaling="yarn", factor=4.0, original_max_position=64, amplitude=1.2)
LONG = RopeConfig(scaling="longrope", divisors=(1.0, 2.0, 3.0), long_divisors=(2.0, 4.0, 9.0), size=6)
MODELS = {
    "llama": small_config(**SIZES, qkv_bias=True, o_bias=True, mlp_bias=True, rope=(LLAMA3, None), windows=(9, None)),
    "gemma": small_config(**SIZES, tied_head=True, qk_norm="head", post_norms=True, embedding_scale=6.0,
                          activation="gelu_tanh"),
    "gpt2": small_config(**SIZES, norm="layer", gated=False, learned_positions=True, activation="gelu_tanh"),
    "olmoe": small_config(**SIZES, qk_norm="full", experts=MoEConfig(17, 13, 41)),
    "neox": small_config(**SIZES, norm="layer", gated=False, parallel=True, activation="gelu", logit_cap=20.0,
                         score_cap=9.0, rope=(YARN, LONG), residual_scale=0.5, logit_scale=2.0),
    "gpt_oss": small_config(**SIZES, sinks=True, activation="clamped", mlp_bias=True, post_norms=True, pre_norms=False,
                            experts=MoEConfig(17, 13, 41, shared_size=41, dense_layers=(1,))),
}  # fmt: skip
PROMPTS = [(43, {}), (29, {"repetition_penalty": 1.1}), (23, {"temperature": 0.8, "top_k": 50, "top_p": 0.9,
           "min_p": 0.01, "presence_penalty": 0.5, "frequency_penalty": 0.1, "seed": 1, "logprobs": 3})]  # fmt: skip


def run_models(inspector: Inspector) -> None:
    """Every model with every cache and one of them in half precision; prefill and decode, with and without filters."""
    for name, config in MODELS.items():
        for kv_cache in ("contiguous", "none"):

            def work(config=config, kv_cache=kv_cache, half=name == "llama") -> None:
                dtype = ml_dtypes.bfloat16 if half else np.float32
                for ops in (NumpyOps(Ledger(), dtype), DelegatingOps(ReferenceOps(Ledger(), dtype))):
                    engine = make_engine(config, kv_cache=kv_cache, ops=ops)
                    barred = guided([*range(43)], 3, 99, limits={"least": 1}, logit_bias={7: 1.0})
                    finish(engine, barred, *(request(np.arange(n) % 101, 3, **params) for n, params in PROMPTS))

            inspector.watch(letters_of(config), work)


SERVING: list[dict] = [  # blocks so few that they scatter, and drafts that are drawn, by a model or by its first layer
    {"kv_cache": "paged", "block_size": 3, "num_blocks": 41, "prefix_cache": True, "max_num_batched_tokens": 31},
    {"kv_cache": "paged", "block_size": 3, "num_blocks": 41, "speculative": "self", "draft_layers": 1},
    {"speculative": "draft", "draft_model": "given", "second": MODELS["llama"], "verification": "best-coupling"},
    {"speculative": "draft", "draft_model": "head",
     "second": lambda target, ops: head_of(target, ops, target.config.intermediate_size, 0)},
    {"speculative": "prompt-lookup"},
    {"kv_bits": 8, "block_size": 3},
    {"kv_bits": 4, "block_size": 3, "kv_cache": "paged", "num_blocks": 41},
    {"kv_bits": 2, "block_size": 3, "speculative": "prompt-lookup"},
]


def run_gpu(inspector: Inspector) -> None:
    """Some models on a device, operation by operation, with all weights that it multiplies in its own way."""
    for name, switches in [
        ("llama", {}), ("gemma", {"quantize": "int4"}), ("gpt2", {"quantize": "w8a8", "calibration_tokens": 256}),
        ("gpt_oss", {}), ("olmoe", {"quantize": "int8", "group_size": "channel"}),
        ("llama", {"quantize": "int4", "activations": "int8"}),
    ]:  # fmt: skip

        def work(name=name, switches=switches) -> None:
            dtype, own = ml_dtypes.bfloat16 if name == "llama" else np.float32, switches.get("activations", "float")
            ops = CupyOps(Ledger(), dtype, decode="eager", xp=fake_cupy, activations=own)
            checkpoint = checkpoint_of(MODELS[name], random_tensors(MODELS[name]))
            engine = make_engine(replace(checkpoint, tokenizer=Letters(101)), ops=ops, **switches)
            finish(engine, *(request(np.arange(n) % 101, 3, temperature=n % 4, seed=3) for n, _ in PROMPTS))
            for weight in (engine.model.head.weight, engine.model.layers[0].mixer.qkv.weight):
                if weight.scheme is not None:
                    weight.matrix().dequantize()
                    weight.rows(fake_cupy.asarray(np.array([3, 1])))

        inspector.watch(letters_of(MODELS[name]), work)


class Hollow:
    """Kernels that compute nothing: the shapes of what is around them are the same."""

    max_dynamic_shared_size_bytes = 1 << 20

    def __init__(self, **options: object) -> None:
        self.options = options

    def get_function(self, name: str) -> Hollow:
        return self

    def __call__(self, *args: object, **options: object) -> None:
        pass


def run_compiled(inspector: Inspector) -> None:
    """A prompt and a decode step as the engine's compiled pass takes them."""

    def work() -> None:
        with patch.object(fake_cupy, "RawModule", Hollow):
            engine = make_engine(MODELS["llama"], ops=CupyOps(Ledger(), xp=fake_cupy))
            seq = request(np.arange(43) % 101)
            for first, rows in ((0, 42), (42, 1)):
                engine.cache.reserve(seq, rows)
                batch = make_batch([(seq, first, rows)])
                engine.compiled.sample(engine.compiled.forward(batch), batch.wanted)
                engine.cache.commit(seq, rows)

    inspector.watch(letters_of(MODELS["llama"]), work)


def run_serving(inspector: Inspector) -> None:
    """One model with paged caches, chunks of prompts and drafts."""
    for switches in SERVING:

        def work(switches=switches) -> None:
            engine = make_engine(MODELS["llama"], draft_cost=ALWAYS_DRAFT, **switches)
            finish(engine, *(request(np.arange(n) % 101, 9, **params) for n, params in PROMPTS))

        letters = letters_of(MODELS["llama"])
        own_layers = switches.get("speculative") != "self"  # else there are two numbers of layers
        inspector.watch({name: n for name, n in letters.items() if own_layers or name != "L"}, work)


def run_the_rest(inspector: Inspector, folder) -> None:
    """What no engine calls: the plain form of attention, and the loaders."""
    q, k, v = (np.ones((rows, heads, 14), np.float32) for rows, heads in ((19, 15), (31, 5), (31, 5)))
    inspector.watch({"H": 15, "K": 5, "E": 14}, lambda: full_attention(q, k, v, 12, 0, Heads(15, 5, 14, 1.0, None), np))
    heads = Heads(15, 5, 14, 1.0, None, SoftCap(9.0), Sinks(np.ones((5, 3, 1), np.float32)))
    inspector.watch({"H": 15, "K": 5, "E": 14}, lambda: attend(q, k, v, np.ones((19, 31), bool), heads))
    inspector.watch({}, lambda: lazy_array((3, 5)))
    inspector.watch({"V": 6}, lambda: same_law([0, 1, 2, 3, 4, 5] * 20, np.full(6, 1 / 6), "the token"))
    inspector.watch({}, lambda: differing(np.ones((3, 5)), np.ones((3, 5)), 0.0, 0.0))
    inspector.watch({}, lambda: DeviceView().to_host(DeviceView().reserve((3, 5))))

    def read(checkpoint: Checkpoint) -> None:
        for tensor in checkpoint.tensors.values():
            tensor.read(1, 4)
            if tensor.codes is not None:
                tensor.quantized(1, 4)

    broken = random_tensors(MODELS["llama"])
    broken["layers.1.down"] *= np.float32(1e38)
    model, ops = make_engine(checkpoint_of(MODELS["llama"], broken)).model, NumpyOps(Ledger())
    span = Span(request(np.arange(43)), 0, 43, 0)
    inspector.watch(letters_of(MODELS["llama"]), lambda: first_overflow(model, ops, span))
    logits, others = np.ones((19, 101), np.float32), np.zeros((19, 101), np.float32)
    inspector.watch({"V": 101}, lambda: kl_divergence(logits, others))
    inspector.watch({"V": 101}, lambda: token_scores(logits, [1] * 19))
    inspector.watch({"V": 101}, lambda: scores(logits, [1] * 19, SamplingParams(prompt_logprobs=1)))
    inspector.watch({"V": 101}, lambda: NoDrafter().verify(logits[:0], request([1])))
    gguf, packed = write_gguf("llama3", folder("llama3") / "q.gguf", "Q8_0"), folder("llama3") / "packed"
    save_model(packed, LLM(str(gguf), quantize="keep").model, load(gguf), {"method": "keep"})
    run_views(inspector, folder("llama"))
    rows = LazyTensor("q", (42, 3), 504, lambda start, stop: np.ones((stop - start, 3), np.float32))
    for order in (partial_rotation_order, neighbour_pairs_order):
        inspector.watch({}, lambda order=order: reordered(rows, order(3, 14, 10)).read(1, 4))
    sparse, llm = packed.with_name("sparse"), LLM(str(folder("llama")), prune="magnitude")
    save_model(sparse, llm.model, load(folder("llama")), {"method": "magnitude"})
    paths = [folder("gpt2"), folder("mixtral"), gguf, packed, sparse]
    for path in paths:
        checkpoint = load(path)
        inspector.watch(letters_of(checkpoint.config), lambda checkpoint=checkpoint: read(checkpoint))


def run_views(inspector: Inspector, path: Path) -> None:
    """The drawings that read a model or compute with its numbers."""
    llm, w = LLM(str(path)), np.random.default_rng(0).random((19, 43), dtype=np.float32)
    inspector.watch(letters_of(llm.config), lambda: attention_weights(llm, list(range(23)), 1, 1))
    inspector.watch({}, lambda: WeightGrid.rounded(w, 4, 7)._repr_html_())
    inspector.watch({}, lambda: str(Attention(np.eye(19, 23, 4), ["a"] * 23)))


QUANTIZED: list[dict] = [  # models of which every matrix is quantized, in all ways
    {"quantize": "int3", "quantize_head": "int8", "group_size": 32},
    {"quantize": "int8", "symmetric": False, "quantize_method": "hqq"},
    {"quantize": "int4", "quantize_method": "gptq"},
    {"quantize": "int4", "quantize_method": "awq", "symmetric": True, "group_size": 64},
    {"quantize": "int2", "quantize_method": "combined"},
    {"quantize": "w8a8", "quantize_head": "int8"},
    {"quantize": "int4", "quantize_head": "int8", "activations": "int8"},
]


def run_quantized(inspector: Inspector, folder: Path) -> None:
    """Every model quantized as it is loaded, and those without experts by text; then a prefill and a decode step."""
    c, checkpoint = EngineConfig(quantize="w8a8", calibration_tokens=192), load(folder)
    inspector.watch({}, lambda: read_windows(c, checkpoint.config, checkpoint.tokenizer))
    inspector.watch({}, lambda: pruning_windows(EngineConfig(prune="wanda"), checkpoint.config, checkpoint.tokenizer))
    windows = np.arange(2 * 53).reshape(2, 53) % 101
    for config, switches in ((config, switches) for config in MODELS.values() for switches in QUANTIZED):
        c = EngineConfig(**switches)
        if config.experts and c.calibrated:
            continue
        checkpoint = checkpoint_of(config, random_tensors(config))

        def work(backend, c=c, checkpoint=checkpoint) -> None:
            ops = backend(Ledger(), activations=c.activations)
            conversion = as_floats if c.calibrated else rounding(c, checkpoint.config)
            model = build_model(checkpoint, ops, conversion=conversion)
            model = quantize_model(model, ops, c, windows) if c.calibrated else model
            finish(build_engine(model, ops, EngineConfig(), WallClock()), request(np.arange(43) % 101, 2))
            for weight in (model.head.weight, model.layers[0].mixer.qkv.weight):
                if weight.scheme is not None:
                    weight.matrix().dequantize()
                weight.rows(np.array([3, 1]))
                weight.dequantize(slice(0, 29))

        for backend in (NumpyOps, *[ReferenceOps] * (c.quantize == "w8a8" or c.activations == "int8")):
            inspector.watch(letters_of(config), partial(work, backend))


def run_pruned(inspector: Inspector) -> None:
    """Sparse matrices of floats and of codes; a model pruned by every method, and made smaller in every way."""
    w = np.random.default_rng(0).standard_normal((13, 44)).astype(np.float32)
    w.reshape(13, 11, 4)[..., 1:3] = 0

    def multiply(layout: str, backend: type[ReferenceOps]) -> None:
        ops = backend(Ledger())
        for matrix in (Floats("w", w), round_to_nearest(w, QuantScheme(3, 32, symmetric=True))):
            weight = ops.take(SparseMatrix(matrix, layout))
            ops.linear(np.ones((11, 44), np.float32), Linear(weight))
            weight.rows(np.arange(5))
            weight.outputs(2, 9).matrix()

    for layout, backend in product((MASK, TWO_OF_FOUR), (ReferenceOps, NumpyOps)):
        inspector.watch({}, partial(multiply, layout, backend))
    inspector.watch({}, lambda: sparsegpt(w, w.T @ w, read_pattern("2:4")))
    inspector.watch({}, lambda: wanda(w, w.T @ w, read_pattern("2:4")))
    windows, ops = np.arange(2 * 53).reshape(2, 53) % 101, NumpyOps(Ledger())
    for config in (config for config in MODELS.values() if not config.experts):
        model = build_model(checkpoint_of(config, random_tensors(config)), ops)
        heads = None if config.qk_norm == "full" else config.num_kv_heads - 1 or 1

        def shrink(model=model, config=config, heads=heads) -> None:
            for method in ("magnitude", "wanda", "sparsegpt"):
                prune_model(model, ops, EngineConfig(prune=method), windows, lambda done, of: None)
            prune_model(model, ops, EngineConfig(drop_layers=1), windows, lambda done, of: None)
            if not config.post_norms:
                prune_model(model, ops, EngineConfig(drop_layers=1, refit=True), windows, lambda done, of: None)
            narrow(model, windows, ops, 0.5, heads, config.hidden_size - 1)

        inspector.watch(letters_of(config), shrink)


def run_trained(inspector: Inspector, folder: Path) -> None:
    """Steps and tests of every model without experts, by itself and by what it said, and every loss.

    A batch has one document, since attention of several has more heads than the model; that of several by itself.
    """
    documents = [np.arange(size) % 101 for size in (30, 20, 54, 24)]
    for name, config in MODELS.items():
        if config.experts:
            continue
        ops = NumpyOps(Ledger())
        model = build_model(checkpoint_of(config, random_tensors(config)), ops)

        def train(model=model, ops=ops, name=name) -> None:
            teacher = Teacher(model, ops)
            for recompute in (False, True):
                switches = TrainingSwitches(text_share=0.5, hidden=0.5, batch_tokens=1, recompute=recompute)
                Training(model, ops, documents, Objective(switches, teacher), masked=True, tested=documents).step()
            said = keep(folder / name, teacher, documents, 7, 1.0, 101, {})
            kept = Objective(TrainingSwitches(top_k=7, batch_tokens=1), said)
            training = Training(model, ops, documents, kept, tested=documents)
            training.step()
            training.test()

        inspector.watch(letters_of(config), train)

    def pad() -> None:
        batch = reading(documents, range(4), MODELS["llama"].rotation_sets).batch
        padding, (q, k, v) = Padding.of(batch, np), (np.ones((len(batch), heads, 14)) for heads in (15, 5, 5))
        wide, heads = [padding.spread(x) for x in (q, k, v)], padding.heads(Heads(15, 5, 14, 1.0, None))
        do = padding.spread_gradient(padding.collect(full_attention(*wide, 0, 0, heads, np)))
        attention_adjoint(do, *wide, 0, 0, heads, np)

    inspector.watch({}, pad)
    student, teacher = np.random.default_rng(0).standard_normal((2, 19, 43)).astype(np.float32)
    for loss in (forward_kl, reverse_kl):
        inspector.watch({}, lambda loss=loss: loss(student, teacher, 2.0, np))
    inspector.watch({}, lambda: top_k_kl(student, top_k(teacher, 5, 2.0, np), 2.0, np))
    inspector.watch({}, lambda: hidden_states(student, teacher, np))
    inspector.watch({}, lambda: merged(teacher, 31, np))


def run_kept(inspector: Inspector) -> None:
    """Blocks of every kind that a file has, with nested scales among them, as one matrix of several types."""
    counts = {"Q8_0": 24, "Q5_1": 24, "Q4_K": 3, "Q5_K": 3, "Q6_K": 3}  # of blocks for 768 inputs

    def work() -> None:
        raw = {kind: random_blocks(kind, 13 + count, count) for kind, count in counts.items()}
        mixed = MixedMatrix(tuple(block_codes(raw[kind], GGMLQuantizationType[kind]) for kind in raw))
        for backend, activations in ((ReferenceOps, "float"), (NumpyOps, "int8")):
            ops = backend(Ledger(), activations=activations)
            weight = ops.take(mixed)
            ops.linear(np.ones((11, 768), np.float32), Linear(weight))
            weight.rows(np.arange(5))
            for part in weight.matrix().parts:
                part.dequantize()

    inspector.watch({}, work)


def run_lessons(inspector: Inspector) -> None:
    """What the lessons run: a student's cache in the transformer, a student's verifier in the engine."""
    models = Models()
    llm = models.open(models.tiny_path(), None)
    tokens = llm.tokenizer.encode(TEXT)

    def work() -> None:
        assert judge_cache(ListCache) is None
        perplexity(following_logits(llm, tokens, 11, lambda position, prompt: position), tokens)

    inspector.watch(letters_of(llm.config), work)
    paged = models.open(models.tiny_path(), None, kv_cache="paged", block_size=3, num_blocks=64, max_model_len=64)
    inspector.watch(letters_of(paged.config), lambda: answers(paged, ["first", "the second"], 3, BlockTable))
    inspector.watch({}, lambda: judge_table(BlockTable))
    own = patch("tinyinfer.lessons.distillation_runs.small_config", lambda vocabulary: llm.config)
    inspector.watch(letters_of(llm.config), own(lambda: run_distilling(llm)))
    inspector.watch({}, run_divergences)
    inspector.watch({}, lambda: run_rounding(np.random.default_rng(0).random((19, 43), dtype=np.float32)))
    inspector.watch({}, run_kernel_judges)
    inspector.watch(letters_of(llm.config), lambda: run_pruned_lesson(llm))
    inspector.watch({}, lambda: run_ranks_lesson(llm))
    small = models.open(models.tiny_path(), None, backend="numpy", quantize="int8", quantize_head="int8")
    inspector.watch(letters_of(small.config), lambda: run_kernels(small))

    def verifiers() -> None:
        assert judge_verifier(leviathan) is None
        assert all(map(judge_verifier, USUAL.values()))
        target, drafter = random_laws(3, 3, seed=1), random_laws(3, 3, seed=2)
        chain_law(target, 2), step_law(leviathan, target, drafter, 1)
        drawn_counts(leviathan, target[0], drafter[0], 7, seed=1)

    inspector.watch({}, verifiers)
    drawn = SamplingParams(max_tokens=9, temperature=0.9, seed=3)
    letters = {name: n for name, n in letters_of(llm.config).items() if name != "L"}  # the drafter has fewer layers
    inspector.watch(letters, lambda: drafted(llm, layers_drafter(llm, 1, 3), "a prompt", drawn, leviathan))


def run_divergences() -> None:
    """A student's losses and the judges of them, a peak, and a student that is sure."""
    assert judge_divergence(divergence) is judge_reverse(reverse) is judge_rest(log_rest) is None
    assert judge_divergence(reverse)
    assert judge_divergence(lambda *given: (divergence(*given)[0], 2 * divergence(*given)[1]))
    assert judge_reverse(lambda *given: (reverse(*given)[0], 2 * reverse(*given)[1]))
    assert judge_rest(one_minus)
    with patch("tinyinfer.lessons.peaks.DESCENT", 2), patch("tinyinfer.lessons.sure_student.MOST", 2):
        predicted(), descent(log_rest), some_of(np.eye(7, dtype=np.float32))


def run_distilling(llm: LLM) -> None:
    """A step of a small student by its own lines, and one by what a teacher has said, with all that is shown of it."""
    text = pages(llm)
    said, _ = what_the_teacher_says(llm, text)
    first_steps(llm, text, divergence, 1)
    with patch("tinyinfer.lessons.distillation_runs.TRAINING", replace(TRAINING, tokens=9, batch_tokens=64)):
        run = train(llm, text, said)
    assert run.losses.shape[1] == run.tests.shape[1] == 2
    probabilities(llm, llm.model, text.reading(read=False), text.known)
    mistaken(said, text)


def run_ranks_lesson(llm: LLM) -> None:
    """A ring, a divided MLP and a pipeline on paper, and the judges of the first two."""
    assert judge_shares(shares) is judge_ring(ring) is None
    x = np.random.default_rng(0).random((7, llm.config.hidden_size), dtype=np.float32)
    threading.setprofile(sys.getprofile())
    divided_mlp(x, llm, 0, shares, ring, 3)
    threading.setprofile(None)
    assert matrices(11, 5)[2].shape == (5, 11)
    seconds = np.ones((3, 5))
    begin = begin_times(seconds)
    assert idle_share(begin, seconds) > 0
    gate_up, down, bias = (np.ones(shape, np.float32) for shape in ((22, 7), (7, 11), (7,)))
    assert mlp_term(x[:, :7], *mlp_part(gate_up, down, bias, 0, 1)).shape == (7, 7)
    for times in (begin, decode_times(seconds, 2)):
        draw_schedule(MagicMock(), times, seconds, "")


def run_rounding(w: np.ndarray) -> None:
    """Rounding by hand, the judges of it, and through a wrong answer the slips that they know."""
    assert rounded(w, 4, 7).shape == w.shape
    assert judge_round(round_groups) is judge_restore(restore) is None
    assert judge_round(lambda w, bits: round_groups(w + 1, bits))


def run_pruned_lesson(llm: LLM) -> None:
    """A pruned model of the lesson, one of its matrices, and the judges with answers that lead to every slip."""
    text = windows_read(llm, 158, 53)
    assert pruned(llm, "wanda", text, 1).config == llm.config
    w, hessian = matrix_of(llm, 0, "o"), inputs_of(llm, unread_windows(llm, 106, 53), "layers.0.o")
    assert output_error(w, np.zeros_like(w), hessian) == weight_error(w, np.zeros_like(w)) == 1
    for right in (judge_refit(refit), judge_influence(influence_by_hand)):
        assert right is None
    assert judge_refit(lambda w, hessian, kept: 0.9 * refit(w, hessian, kept))
    assert judge_influence(lambda before, after: 9.0)
    assert judge_cheapest(lambda w, hessian: 0)
    assert judge_cheapest(lambda w, hessian: int(np.argmin(CHOICES[2][0](w, hessian))))


class World:
    """Two processes, of which this is the first, and the other one says what this one says."""

    Get_rank, Get_size = staticmethod(lambda: 0), staticmethod(lambda: 2)

    def Allgatherv(self, x: np.ndarray, given: tuple[np.ndarray, list[int]]) -> None:
        given[0][...] = np.concatenate([x, x])

    def __getattr__(self, name: str) -> Callable[..., bytes]:
        """All other calls, which leave their arrays as they are."""
        return lambda *args, **more: pickle.dumps(args)


def run_parallel(inspector: Inspector) -> None:
    """Every model divided among two ranks, and every call from rank to rank: as threads, by a stand-in of MPI, and of
    arrays of GPUs.
    """

    def call_all(comm: Comm, xp: Any = np) -> None:
        x = xp.ones((5, 2), np.float32)
        comm.all_reduce(x)
        comm.all_gather(x)
        comm.all_to_all(x, [2, 3], [2, 3]) if comm.rank == 0 else comm.all_to_all(x, [3, 2], [3, 2])
        comm.broadcast(x)
        if comm.rank:
            comm.receive(x, 0)
        else:
            comm.send(x, 1)
        comm.exchange(x, 1 - comm.rank, x, 1 - comm.rank)
        if comm.rank:
            comm.receive(x, 0)
        comm.post(x, 1 - comm.rank)
        if not comm.rank:
            comm.receive(x, 1)

    def call_on_gpus(fabric: Fabric, comm: Comm) -> None:
        call_all(StagedComm(comm, fake_cupy), fake_cupy)
        take_gpu(fake_cupy, comm.rank)
        call_all(NCCLComm(comm, fake_cupy, fabric.of(comm)), fake_cupy)

    def divided(config: ModelConfig, stages: int, comm: Comm) -> None:
        inner, stage = NumpyOps(Ledger()), Stage(comm, stages)
        own, whole = stage.together, build_model(checkpoint_of(config, random_tensors(config)), inner)
        model = divide(whole, own.rank, own.size, inner, stage.number, stages)
        if comm.rank:
            return follow(model, TensorOps(inner, own), stage)
        ops = LeaderOps(inner, stage, model)
        engine = build_engine(model, ops, EngineConfig(tensor_parallel_size=5), WallClock())
        finish(engine, request(range(19), 2, temperature=1.0), request(range(17), 2, temperature=1.0, top_k=5))
        engine.logits(request(range(23)), 0, 23)
        ops.close()

    def work() -> None:
        threading.setprofile(sys.getprofile())  # the ranks' threads are watched, too
        run_ranks(2, call_all)
        with patch.object(fake_cupy.cuda.runtime, "devices", 2):
            run_ranks(2, partial(call_on_gpus, Fabric()))
        run_ranks(2, lambda comm: call_all(timed(comm, Machine(1e9, 1e9))))
        for way in (ring_all_reduce, tree_all_reduce):
            run_ranks(3, lambda comm, way=way: way(np.ones((5, 2), np.float32), comm))
        visits = Visits(np.array([[0, 1], [2, 1], [6, 0]]), owners_of(7, 2), 2)
        run_ranks(2, lambda comm: exchange(np.ones((3, 4), np.float32), visits, comm, np))
        DelegatingOps(NumpyOps(Ledger())).whole(np.ones((5, 2)))
        with patch("tinyinfer.parallel.mpi.meet", return_value=None):  # two machines
            call_all(MPIComm(World(), None, Ledger()))
            MPIComm(World(), None, Ledger()).receive(np.ones((5, 2)), 1)
        memories = [np.zeros(Places.nbytes, np.uint8) for _ in range(2)]
        first, second = (Places(rank, memories, lambda: None, nullcontext, YIELD) for rank in range(2))
        other = threading.Thread(target=first.all_reduce, args=(np.ones((5, 2)),))
        other.start()
        second.all_reduce(np.ones((5, 2)))
        other.join()
        list(part_of(Floats("w", np.ones((5, 2), np.float32)), (range(1, 3),)).tiles())
        threading.setprofile(None)

    def work_of(config: ModelConfig, stages: int = 1) -> None:
        threading.setprofile(sys.getprofile())
        run_ranks(5 * stages, partial(divided, config, stages))
        threading.setprofile(None)

    inspector.watch({}, work)
    for config in MODELS.values():  # of 15 query heads and 5 key/value heads each rank has
        letters = {name: letters_of(config)[name] for name in "LDE"} | {"H": 3, "K": 1}
        inspector.watch(letters, partial(work_of, config))
    inspector.watch({"H": 3, "K": 1}, partial(work_of, next(iter(MODELS.values())), 2))


def run_lanes() -> None:
    """The arrays of the compiled kernels, which need no numba, and what a mixture counts there."""
    assert Buffers(3, 1).rows("x", 70).array.shape == (3, 128)
    w, arena = np.random.default_rng(0).standard_normal((70, 35)).astype(np.float32), Arena()
    dense = DenseLanes.pack(Floats("w", w), np.dtype("float32"), arena)
    for bits in (4, 3):
        packed = PackedLanes.pack(round_to_nearest(w, QuantScheme(bits, 32, symmetric=False)), arena)
        for weight in (dense, packed):
            assert weight.rows(np.array([3, 69])).shape == (2, 35)
            assert weight.dequantize(slice(1, 66)).shape == (35, 65)
    w = w[:, :24] * np.tile([1, 0, 0, 1], 6)
    kept = TwoOfFourLanes.pack(SparseMatrix(Floats("w", w), TWO_OF_FOUR), np.dtype("float32"), arena)
    assert kept.dequantize(slice(1, 66)).shape == kept.outputs(1, 66).dequantize(slice(0, 65)).shape == (24, 65)
    assert kept.matrix().matrix.array.shape == (70, 24)
    experts = Experts((Linear(dense), Linear(dense)))
    mapping(1 << 10)
    count_experts(np.array([[0, 1], [1, 0], [1, 0]]), experts, experts, Ledger())


def run_kernel_judges() -> None:
    """The judges of a matrix in blocks and of its product, by a kernel of arrays; nothing is compiled."""

    def kernel(codes, scale, x, y, wrong=0):
        y[:] = (codes * x[:, None] * np.repeat(scale, len(x) // scale.shape[1], axis=1)).sum(axis=1) + wrong

    with patch("tinyinfer.lessons.kernel_judge.find_spec", return_value=None):
        assert judge_blocks(in_blocks) is judge_product(kernel) is judge_shift(without_shift) is None
        assert judge_product(partial(kernel, wrong=1))


def run_kernels(llm: LLM) -> None:
    """Products in blocks as plain loops: in the engine, of several rows, and what those of whole numbers take."""
    blocks = packed(products(llm), in_blocks)
    decoded(llm, "Once", 2, OwnProducts(llm.ops, block_product, blocks.parts))
    assert blocks.parts[0].result.size
    few = blocks.named("layers.0.o").of_rows(3)
    few.run(float_rows)
    in_fours(few.parts[0].codes)
    rounded_rows(few.parts[0].x, few.parts[0].scale.shape[1])


@pytest.fixture(scope="module")
def inspector(golden_folder, tmp_path_factory) -> Inspector:
    inspector = Inspector(SIGNATURES)
    run_models(inspector)
    run_gpu(inspector)
    run_compiled(inspector)
    inspector.watch({}, run_lanes)
    inspector.watch({}, lambda: staircase(Service(Price(2.0), Speed(2000, 100), Tokens(1000, 50)), 200_000))
    run_serving(inspector)
    run_quantized(inspector, golden_folder("gpt2"))
    run_kept(inspector)
    run_pruned(inspector)
    run_parallel(inspector)
    folder = tmp_path_factory.mktemp("shapes")
    run_trained(inspector, folder)
    run_lessons(inspector)
    run_the_rest(inspector, lambda name: golden_folder(name) if name != "llama3" else folder)
    return inspector


def test_no_two_letters_are_the_same_length():
    """Else one letter in the place of another would be no fault."""
    for config in MODELS.values():
        lengths = [*letters_of(config).values(), *(n for n, _ in PROMPTS)]
        assert len(set(lengths)) == len(lengths)


def test_every_call_has_the_shapes_that_its_signature_promises(inspector):
    """The twelfth reader should not be the first to find out that a comment is stale."""
    assert not inspector.faults, "\n".join(inspector.faults)


def test_every_signature_was_exercised(inspector):
    """A signature that is never checked is a comment like any other. Compiled functions have tests of their own."""
    left = [s.where for s in SIGNATURES if not (s.protocol or s.compiled) and s.where not in inspector.exercised]
    assert len(SIGNATURES) > 40
    assert not left


LETTERS = set(re.findall(r"^    (\w)  \S", arrays.__doc__ or "", re.MULTILINE))
LETTER = re.compile(r"(?<![\w'])[A-Za-z](?![A-Za-z_])")


def test_signatures_use_the_letters_of_the_list():
    """Catches a letter with two meanings. Another length is a word, or a small letter that the docstring explains."""
    assert len(LETTERS) > 20
    faults = {}
    for signature in SIGNATURES:
        explained = {letter for letter in LETTER.findall(signature.doc) if letter.islower() and letter != "a"}
        faults[signature.where] = set(LETTER.findall(signature.text)) - LETTERS - explained
    assert not {where: letters for where, letters in faults.items() if letters}


def test_shape_comments_use_the_letters_of_the_list():
    """The arrays inside functions, too: `# (K, H/K·T, S)`. Lower-case letters are left to the signatures."""
    shape = re.compile(r"#.*?(\((?:[\w·+/*-]+, ?)+[\w·+/* -]*\))")
    lines = [(path, line) for path in PACKAGE.rglob("*.py") for line in path.read_text("utf-8").splitlines()]
    found = [(path.name, text[1]) for path, line in lines if (text := shape.search(line))]
    assert len(found) > 150
    unknown = {(name, text) for name, text in found if set(filter(str.isupper, LETTER.findall(text))) - LETTERS}
    assert not unknown


@pytest.mark.parametrize("file", MODEL_FILES)
def test_every_function_on_arrays_has_a_signature(file):
    """In the files read for their arrays; apart from `*arrays`, whose number is open, and functions in functions."""
    path = PACKAGE / f"{file}.py"
    comments = def_comments(path)
    needed = [node for node, _ in functions(path, nested=False) if handles_arrays(node)]
    assert needed
    assert not [node.name for node in needed if "->" not in comments.get(node.lineno, "")]


def test_classes_that_keep_a_protocol_have_its_signatures():
    """Protocols never run, so theirs are true when all their classes say the same."""
    classes: dict[str, tuple[bool, set[str]]] = {}
    bases: dict[str, list[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node, owner in functions(path):
            if owner is not None:
                classes.setdefault(owner.name, (is_protocol(owner), set()))[1].add(node.name)
                bases[owner.name] = [base.id for base in owner.bases if isinstance(base, ast.Name)]

    def methods_of(name: str) -> set[str]:
        return classes.get(name, (False, set()))[1].union(*map(methods_of, bases.get(name, ())))

    signatures = [one for found in ALL.values() for one in found]
    texts = {(s.owner, s.where.rpartition(".")[2]): s.text for s in signatures if s.owner}
    checked = 0
    for protocol, (_, methods) in ((name, value) for name, value in classes.items() if value[0]):
        keepers = [name for name, (abstract, _) in classes.items() if not abstract and methods <= methods_of(name)]
        for method in methods:
            own = [keeper for keeper in keepers if method in classes[keeper][1]]  # others inherit it
            for keeper in own if (protocol, method) in texts else ():
                assert texts[keeper, method] == texts[protocol, method], f"{keeper}.{method}"
                checked += 1
    assert checked >= 7, "two methods of two caches, one of three MLPs"


# The checker itself: each of these faults must be found.

SAMPLE = """
def good(a, b, times):  # (T, H), ((H, E/2), (2*T,)) -> (T, H+E), (times*T,)
    return np.ones((3, 17)), np.ones(12)
def open_ended(
    x, shape
):  # (T, ..., N) -> shape
    return np.ones(shape)
def quiet(x):  # (T,) ->
    return None
"""


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("good(one(3, 7), (one(7, 5), one(6)), 4)", None),
        ("good(one(3, 7), (one(7, 5), one(7)), 4)", "result: 7 is not 2 * T"),
        ("good(one(3, 7), (one(6, 5), one(6)), 4)", "b: has shape (6, 5)"),
        ("good(one(3, 7, 1), (one(7, 5), one(6)), 4)", "a: has shape (3, 7, 1), not (T, H)"),
        ("good(one(3, 8), (one(8, 5), one(6)), 4)", "a: has shape (3, 8), not (T, H) with H=7"),
        ("good(one(3, 7), one(7, 5), 4)", "b: is not a tuple of 2 arrays"),
        ("open_ended(one(3, 4, 5, 6), (2, 9))", None),
        ("open_ended(one(3), (2, 9))", "x: has shape (3,), not (T, ..., N)"),
        ("quiet(one(3))", None),
        ("quiet(3)", "arguments: arrays are none, but the signature has 1"),
    ],
)
def test_the_checker_finds_faults(call, fault, tmp_path, monkeypatch):
    """A checker that is content with everything would make this whole file worthless."""
    inspector, space = sample(tmp_path, monkeypatch, SAMPLE)
    space["one"] = lambda *shape: np.ones(shape)
    inspector.watch({"H": 7, "E": 10}, lambda: eval(call, space))
    assert any(fault in text for text in inspector.faults) if fault else not inspector.faults


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("def f(x):  # (T,) ->\n    return x", "is an array, and nothing was promised"),
        ("def f(x):  # (T,) -> (T,), (T,)\n    return x, x, x", "is not a tuple of 2 arrays"),
        ("def f(x):  # (T,) -> (T,)\n    return 5", "is int, not an array"),
        ("def f(x):  # (T,) -> (T,)\n    return x[1:]", "has shape (2,), not (T,) with T=3"),
        ("def f(x):  # (2*N,) -> (2*N,)\n    return x", "letter 'N' is never a length of its own"),
    ],
)
def test_the_checker_finds_wrong_results(code, fault, tmp_path, monkeypatch):
    """Results, too: most stale comments are right about what goes in."""
    inspector, space = sample(tmp_path, monkeypatch, code)
    inspector.watch({}, lambda: space["f"](np.ones(3)))
    assert any(fault in text for text in inspector.faults)


def test_a_signature_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    """Prose behind an arrow would otherwise count as a signature that always holds."""
    with pytest.raises(ValueError, match=r"sample.py:f: the shape signature '\(T, D\) -> the same' cannot be read"):
        sample(tmp_path, monkeypatch, "def f(x):  # (T, D) -> the same\n    return x")


def sample(folder, monkeypatch, code: str) -> tuple[Inspector, dict]:
    """An inspector of a file with this code, and the file's names."""
    path = folder / "sample.py"
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    monkeypatch.setattr(shapes, "PACKAGE", folder)
    found: list[Signature] = shapes.signatures(path)
    assert found, "the sample must have a signature"
    space: dict = {"np": np}
    exec(compile(ast.parse(path.read_text(encoding="utf-8")), str(path), "exec"), space)
    return Inspector(found), space
