"""Ranks that compute by CuPy say what one process says, whichever way their arrays go; here on the fake device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from divided import together
from fake_cupy import DeviceArray, fake_cupy
from fake_nccl import Fabric
from helpers import (
    ALWAYS_DRAFT,
    ROUNDING,
    checkpoint_of,
    distance,
    finish,
    make_engine,
    random_tensors,
    request,
    small_config,
)

from tinyinfer.backends.cupy_ops import CupyOps
from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import Engine
from tinyinfer.engine.room import check_fits
from tinyinfer.errors import NotFiniteError, RoomError
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import MoEConfig
from tinyinfer.model.interfaces import Ops
from tinyinfer.parallel.comm import Comm
from tinyinfer.parallel.devices import take_gpu
from tinyinfer.parallel.nccl import NCCLComm
from tinyinfer.parallel.staged import StagedComm

MODEL = small_config()
GROUPS = small_config(num_heads=2, num_kv_heads=2, head_dim=32, hidden_size=64, intermediate_size=64)
MOE = small_config(num_layers=2, experts=MoEConfig(num_experts=5, experts_per_token=2, expert_size=12, shared_size=8))
PROMPTS = [4, 5, 6, 7, 4, 5, 6, 9, 4, 5], [1, 2] * 6, [3, 9]
SHAPES = (2, 1), (1, 2), (2, 2)  # ranks of a stage, stages
SWITCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no cache": {"kv_cache": "none"},
    "chunks, short of blocks": {
        "kv_cache": "paged", "block_size": 2, "num_blocks": 16, "prefix_cache": True, "max_num_batched_tokens": 4,
    },
    "8 bits": {"kv_bits": 8, "kv_group_size": 3},
    "lookup": {"speculative": "prompt-lookup"},
}  # fmt: skip
ASKED: list[dict[str, Any]] = [{}, {"temperature": 1.0, "seed": 4}, {"temperature": 0.9, "top_p": 0.8, "seed": 4}]
Computes = Callable[[Comm], tuple[Comm, Ops]]


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device for each rank."""
    monkeypatch.setattr(fake_cupy.cuda.runtime, "devices", 8)


def by_nccl(fabric: Fabric, ops: Any = ReferenceOps) -> Computes:
    """Ranks with a device each."""

    def rank(comm: Comm) -> tuple[Comm, Ops]:
        take_gpu(fake_cupy, comm.rank)
        return NCCLComm(comm, fake_cupy, fabric.of(comm)), ops(comm.ledger, xp=fake_cupy)

    return rank


def staged(comm: Comm) -> tuple[Comm, Ops]:
    """Ranks that share a device."""
    return StagedComm(comm, fake_cupy), ReferenceOps(comm.ledger, xp=fake_cupy)


def answers(engine: Engine) -> list[list[int]]:
    """What an engine says to each prompt, each asked in another way."""
    return finish(engine, *(request(prompt, 6, **asked) for prompt, asked in zip(PROMPTS, ASKED, strict=True)))


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_ranks_on_gpus_say_what_one_process_says(switches: dict[str, Any]) -> None:
    """Greedy, drawn and filtered rows in one batch. Catches rows between stages that lie on the host, NumPy on the way
    of an array of a GPU, and an array on another rank's device.
    """
    truth = answers(make_engine(MODEL, **switches))
    for ranks, stages in SHAPES if not switches else SHAPES[-1:]:
        assert together(ranks, MODEL, answers, stages=stages, computes=by_nccl(Fabric()), **switches) == truth


def test_ranks_that_share_a_gpu_say_what_one_process_says() -> None:
    """In stages of several ranks. Catches a sum that stays on the host."""
    assert together(2, MODEL, answers, stages=2, computes=staged) == answers(make_engine(MODEL))


def test_experts_and_quantized_weights_are_divided_among_gpus() -> None:
    """Catches a row's expert that is looked for on the host, and codes that stay there."""
    for config, switches in ((MOE, {}), (GROUPS, {"quantize": "int8"})):
        truth = answers(make_engine(config, **switches))
        assert together(2, config, answers, computes=by_nccl(Fabric()), **switches) == truth


def test_a_full_norm_of_all_heads_is_summed_on_the_gpu() -> None:
    """Of all ranks' heads. Catches a function that the array module lacks."""
    config = small_config(qk_norm="full")
    assert together(2, config, answers, computes=by_nccl(Fabric())) == answers(make_engine(config))


def test_logits_and_log_probabilities_come_from_gpus() -> None:
    """Catches logits of a rank's own tokens alone, and an overflow that no rank may look for alone."""

    def logits(engine: Engine) -> np.ndarray:
        return np.asarray(engine.logits(request(PROMPTS[0], 1), 0, 10))

    found = together(2, MODEL, logits, stages=2, computes=by_nccl(Fabric()))
    assert distance(found, logits(make_engine(MODEL))) < ROUNDING

    def overflow(engine: Engine) -> str:
        with pytest.raises(NotFiniteError, match="in the output head"):
            finish(engine, request(PROMPTS[0], 5))
        return "ended"

    assert together(2, small_config(logit_scale=1e38), overflow, computes=by_nccl(Fabric())) == "ended"


@pytest.mark.parametrize(("ranks", "stages"), SHAPES)
def test_a_step_sends_what_it_sends_between_hosts(ranks: int, stages: int) -> None:
    """Sums and rows go by NCCL, and the ledger counts them as ever. Catches a sum that goes through the host though
    each rank has a GPU, and a communicator that no rank needs.
    """
    sent: dict[str, int] = {}

    def work(name: str) -> Callable[[Engine], None]:
        def asked(engine: Engine) -> None:
            before = engine.ledger.copy()
            answers(engine)
            sent[name] = (engine.ledger - before).bytes_sent

        return asked

    fabric, plain = Fabric(), []
    with pytest.MonkeyPatch.context() as patched:
        for name in ("_all_reduce", "_post", "_receive"):
            way = getattr(StagedComm, name)

            def noted(self: Any, x: Any, *more: Any, way: Any = way) -> Any:
                plain.append(isinstance(x, DeviceArray))
                return way(self, x, *more)

            patched.setattr(StagedComm, name, noted)
        together(ranks, MODEL, work("by NCCL"), stages=stages, computes=by_nccl(fabric))
    assert not any(plain)
    together(ranks, MODEL, work("on hosts"), stages=stages)
    assert sent["by NCCL"] == sent["on hosts"]
    assert fabric.made == ranks * stages * (1 + (ranks > 1))  # of all ranks, and of each stage that is divided


@pytest.mark.cuda
@pytest.mark.parametrize(("ranks", "stages"), SHAPES)
def test_ranks_by_cupy_s_own_operations_and_a_draft_model_in_graphs(ranks: int, stages: int) -> None:
    """The draft model is the leader's alone, and replayed as graphs on its GPU. Catches a compiled pass of the divided
    model, which would add nothing up, and a draft's stream that NCCL's does not wait for.
    """
    second = small_config(num_layers=1, hidden_size=12, intermediate_size=16)
    for switches in ({}, {"speculative": "draft", "draft_model": "x"}):
        draft = second if switches else None
        cost = ALWAYS_DRAFT if draft else None
        truth = answers(make_engine(MODEL, second=draft, draft_cost=cost, **switches))
        computes = by_nccl(Fabric(), CupyOps)
        found = together(ranks, MODEL, answers, stages=stages, second=draft, cost=cost, computes=computes, **switches)
        assert found == truth


def test_a_model_that_no_gpu_has_room_for_fits_into_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole reason of ranks. Catches the whole model's size beside one GPU's memory."""
    checkpoint, ops = checkpoint_of(MODEL, random_tensors(MODEL)), ReferenceOps(Ledger(), xp=fake_cupy)
    need = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    monkeypatch.setattr(ops, "available_memory", lambda: need * 2 // 3)
    with pytest.raises(RoomError, match="the weights need"):
        check_fits(checkpoint, ops, EngineConfig())
    for size in ("tensor_parallel_size", "pipeline_parallel_size"):
        check_fits(checkpoint, ops, EngineConfig(**{size: 2}))  # type: ignore[arg-type]
