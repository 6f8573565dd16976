"""Stages: each has its layers and no others, and together they compute what one process computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from divided import logits_of
from golden import FAMILIES, load_golden
from helpers import TOLERANCE, checkpoint_of, distance, finish, random_tensors, request, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import build_engine
from tinyinfer.errors import SwitchError
from tinyinfer.ledger import Ledger
from tinyinfer.loading import load
from tinyinfer.loading.build import load_model
from tinyinfer.model.config import MoEConfig
from tinyinfer.parallel.comm import Comm
from tinyinfer.parallel.lead import LeaderOps
from tinyinfer.parallel.local import run_ranks
from tinyinfer.parallel.pipeline import stage_layers
from tinyinfer.parallel.start import load_part

DEEP = small_config(num_layers=5, vocab_size=90, max_position=64)


@pytest.mark.parametrize("name", FAMILIES)
def test_stages_compute_what_transformers_computes(name: str, golden_folder: Any) -> None:
    """Every family, against logits that were not computed here. Catches a layer with another one's window, rotation or
    experts, and a stage that begins or ends as if it were the whole model.
    """
    golden, checkpoint = load_golden(name), load(golden_folder(name))
    for ranks, stages in ((1, min(3, checkpoint.config.num_layers)), (2, 2)):
        found = run_ranks(ranks * stages, lambda comm, n=stages: logits_of(comm, checkpoint, golden.tokens, n), stages)
        last = [logits for logits in found if logits is not None]
        assert len(last) == ranks
        for logits in last:
            assert distance(logits, golden.logits) < TOLERANCE, f"{ranks} ranks in each of {stages} stages"


def test_every_layer_is_in_one_stage_and_the_head_counts() -> None:
    """Of equal layers each stage has as many, but the last, whose head weighs as much as layers do. Catches a last
    stage that all others wait for.
    """
    for layers in range(1, 9):
        for stages in range(1, layers + 1):
            parts = stage_layers(small_config(num_layers=layers), stages)
            assert [i for part in parts for i in part] == list(range(layers))
            assert len(parts) == stages
            assert all(parts)
    layer = 4 * 32 * 32 + 3 * 32 * 64  # weights of one, and of the head, which weighs as much as four
    config = small_config(
        num_layers=12, hidden_size=32, num_heads=4, num_kv_heads=4, head_dim=8, intermediate_size=64,
        vocab_size=4 * layer // 32,
    )  # fmt: skip
    assert [len(part) for part in stage_layers(config, 2)] == [8, 4]
    assert [len(part) for part in stage_layers(config, 4)] == [4, 4, 3, 1]


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(SwitchError, match="=6 are more stages than the 5 layers of this model; choose 5 at most"):
        stage_layers(DEEP, 6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("switches", [{}, {"quantize": "int8", "quantize_head": "int8"}, {"prune": "magnitude"}])
def test_a_stage_loads_its_own_weights_alone(switches: dict[str, Any], tied: bool) -> None:
    """Head and embedding where they are needed, no layer twice. Catches a middle stage that holds the vocabulary, and a
    process that has the whole model first. And one leads while the others follow.
    """
    config = small_config(num_layers=5, vocab_size=96, hidden_size=32, head_dim=8, intermediate_size=64, tied_head=tied)
    checkpoint = checkpoint_of(config, random_tensors(config))
    c, sizes = EngineConfig(pipeline_parallel_size=3, **switches), [0, 0, 0]

    def rank(comm: Comm) -> list[int]:
        inner, took = NumpyOps(comm.ledger), [0]
        take = inner.take

        def counted(matrix: Any) -> Any:
            took[0] += matrix.shape[0] * matrix.shape[1]
            return take(matrix)

        inner.take = counted  # type: ignore[method-assign]
        try:
            model, ops = load_part(checkpoint, inner, c, lambda done, of: None, comm)
        except SystemExit:  # of the other ranks, at their end
            return []
        finally:
            sizes[comm.rank] = took[0]
        assert isinstance(ops, LeaderOps)
        [tokens] = finish(build_engine(model, ops, c, lambda: 0.0), request([3, 4, 5], 6))
        ops.close()
        return tokens

    first, *others = run_ranks(3, rank)
    alone = NumpyOps(Ledger())
    engine = build_engine(load_model(checkpoint, alone, EngineConfig(**switches)), alone, EngineConfig(), lambda: 0.0)
    assert first == finish(engine, request([3, 4, 5], 6))[0]
    assert others == [[], []]
    if not switches.get("prune"):
        vocabulary = 96 * 32
        layer = (sum(sizes) - 2 * vocabulary) // 5
        parts = stage_layers(config, 3)
        assert sizes == [len(part) * layer + vocabulary * (n != 1) for n, part in enumerate(parts)]


def test_a_stage_sends_the_rows_of_its_batch_and_nothing_else() -> None:
    """T·D numbers a pass. Catches rows that are sent to all, and logits that every stage sends."""
    checkpoint, rows = checkpoint_of(DEEP, random_tensors(DEEP)), 11 + 7 + 4 * 2
    c, ledgers = EngineConfig(pipeline_parallel_size=3), [Ledger() for _ in range(3)]

    def rank(comm: Comm) -> None:
        try:
            model, ops = load_part(checkpoint, NumpyOps(comm.ledger), c, lambda done, of: None, comm)
        except SystemExit:
            return
        engine = build_engine(model, ops, c, lambda: 0.0)
        finish(engine, request([1], 1))  # what ranks tell each other at their beginning is sent by then
        for ledger in ledgers:
            ledger.bytes_sent = 0
        finish(engine, request(range(11), 5), request(range(7), 5))
        assert isinstance(ops, LeaderOps)
        ops.close()

    run_ranks(3, rank, ledgers=ledgers)
    assert ledgers[1].bytes_sent == rows * DEEP.hidden_size * 4
    assert ledgers[2].bytes_sent == 10 * 3 * 8  # of each token its number, and the row's smallest and largest logit


def test_what_stages_cannot_do_is_refused() -> None:
    for switches, words in (
        ({"speculative": "self"}, "speculative=self drafts with the model's own layers"),
        ({"backend": "cupy", "gpu_decode": "persistent"}, "gpu_decode=persistent runs a step without a word to other"),
        (
            {"speculative": "prompt-lookup", "num_draft_candidates": 2, "kv_cache": "paged"},
            "num_draft_candidates=2 keeps the candidates of one step",
        ),
    ):
        with pytest.raises(SwitchError, match=f"^pipeline_parallel_size=2 divides the model, and {words}"):
            EngineConfig(pipeline_parallel_size=2, **switches)  # type: ignore[arg-type]
    assert EngineConfig(pipeline_parallel_size=2, quantize="w8a8")


def test_a_mixture_with_dense_layers_keeps_them() -> None:
    """Layers have numbers of their own in a stage. Catches a dense layer that is looked for under its old number."""
    moe = MoEConfig(num_experts=3, experts_per_token=2, expert_size=8, dense_layers=(0, 3))
    config = small_config(num_layers=5, experts=moe)
    checkpoint, tokens = checkpoint_of(config, random_tensors(config)), np.arange(12)
    [truth] = run_ranks(1, lambda comm: logits_of(comm, checkpoint, tokens))
    assert truth is not None
    *others, found = run_ranks(3, lambda comm: logits_of(comm, checkpoint, tokens, 3))
    assert others == [None, None]
    assert found is not None
    assert distance(found, truth) < 1e-5
