"""How ranks begin: each loads its part alone; ranks that were given something else are found before they compute."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import checkpoint_of, finish, random_tensors, request, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.backends.switches import DTYPES
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import build_engine
from tinyinfer.engine.room import own_share
from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.memory import position_bytes
from tinyinfer.ledger import Ledger
from tinyinfer.loading import load
from tinyinfer.loading.build import load_model
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.model.config import MoEConfig
from tinyinfer.model.transformer import Model
from tinyinfer.parallel.comm import Comm, CommError
from tinyinfer.parallel.lead import LeaderOps
from tinyinfer.parallel.local import run_ranks
from tinyinfer.parallel.pipeline import Stage
from tinyinfer.parallel.start import check_alike, load_part, own_part
from tinyinfer.parallel.tensor import Division, divide
from tinyinfer.switches import resolve

CONFIG = small_config(num_heads=6, num_kv_heads=3, head_dim=32, hidden_size=64, intermediate_size=256, vocab_size=90)
LOADED: dict[str, dict[str, Any]] = {
    "floats": {}, "int8": {"quantize": "int8", "quantize_head": "int8"}, "pruned": {"prune": "magnitude"},
}  # fmt: skip


def arrays_of(model: Model) -> list[np.ndarray]:
    """The numbers of all matrices of a model."""
    weights = [model.embedding.table, model.head.weight]
    for layer in model.layers:
        weights += [layer.mixer.qkv.weight, layer.mixer.o.weight]  # type: ignore[attr-defined]
        weights += [layer.mlp.gate_up.weight, layer.mlp.down.weight]  # type: ignore[union-attr]
    return [weight.dequantize(slice(0, weight.shape[0])) for weight in weights]


@pytest.mark.parametrize("switches", LOADED.values(), ids=LOADED)
def test_a_rank_loads_the_part_that_it_would_be_given(switches: dict[str, Any]) -> None:
    """Divided while it is read, or when it is in memory: the same numbers. And one leads while the other follows."""
    checkpoint, c = checkpoint_of(CONFIG, random_tensors(CONFIG)), EngineConfig(tensor_parallel_size=2, **switches)

    def rank(comm: Comm) -> list[int]:
        inner = NumpyOps(comm.ledger)
        try:
            model, ops = load_part(checkpoint, inner, c, lambda done, of: None, comm)
        except SystemExit:  # of the other rank, at its end
            return []
        given = divide(load_model(checkpoint, inner, c), 0, 2, inner)
        for mine, whole in zip(arrays_of(model), arrays_of(given), strict=True):
            np.testing.assert_array_equal(mine, whole)
        assert isinstance(ops, LeaderOps)
        [tokens] = finish(build_engine(model, ops, c, lambda: 0.0), request([3, 4, 5], 6))
        ops.close()
        return tokens

    first, second = run_ranks(2, rank)
    assert (len(first), second) == (6, [])


@pytest.mark.parametrize("ended", [0, 1])
def test_a_signal_that_ends_one_rank_while_it_loads_ends_all(ended: int) -> None:
    """SIGTERM of a rank for which others wait. Catches a rank that leaves alone: a wait in MPI hears no signal,
    so the others stayed for ever.
    """
    checkpoint, c = checkpoint_of(CONFIG, random_tensors(CONFIG)), EngineConfig(tensor_parallel_size=2)

    def rank(comm: Comm) -> None:
        def on_layer(done: int, of: int) -> None:
            if comm.rank == ended:
                raise SystemExit(143)

        load_part(checkpoint, NumpyOps(comm.ledger), c, on_layer, comm)

    with pytest.raises(CommError, match=f"rank {ended} of 2 was ended while it loaded its part"):
        run_ranks(2, rank)


def test_a_rank_of_two_has_little_more_than_half_of_the_weights(golden_folder: Any) -> None:
    """Here of heads 2 to 1, of all else halves. Catches a matrix that every rank holds whole, and one that is lost."""
    checkpoint = load(golden_folder("smollm2"))
    ops = NumpyOps(Ledger())
    whole = load_model(checkpoint, ops, EngineConfig())
    parts = [divide(whole, rank, 2, ops).nbytes for rank in range(2)]
    norms = whole.final_norm.nbytes * (1 + 2 * len(whole.layers))  # each rank has them
    assert sum(parts) == whole.nbytes + norms
    assert max(parts) < 0.56 * whole.nbytes


def test_a_rank_of_a_mixture_takes_its_own_experts_alone() -> None:
    """Catches ranks that each read all experts, most of which they drop again."""
    moe = MoEConfig(num_experts=4, experts_per_token=2, expert_size=64, shared_size=32)
    config = small_config(experts=moe, hidden_size=32)
    checkpoint, c = checkpoint_of(config, random_tensors(config)), EngineConfig(tensor_parallel_size=2)

    def taken(comm: Comm) -> int:
        inner, numbers = NumpyOps(comm.ledger), []
        take = inner.take
        inner.take = lambda matrix: (numbers.append(np.prod(matrix.shape)), take(matrix))[1]  # type: ignore[method-assign]
        if comm.size == 1:
            load_model(checkpoint, inner, c)
        else:
            own_part(checkpoint, inner, c, lambda done, of: None, Stage(comm))
        return int(sum(numbers))

    [whole], parts = run_ranks(1, taken), run_ranks(2, taken)
    routers = config.num_layers * (4 + 1) * 32  # both ranks have them
    assert sum(parts) == whole + routers
    assert max(parts) < 0.55 * whole


WHOLE = {
    "pieces": {}, "bfloat16": {"dtype": "bfloat16"}, "head": {"quantize": "int8", "quantize_head": "int8"},
    "int4": {"quantize": "int4"}, "file": {"quantize": "keep"}, "pruned": {"prune": "magnitude"},
}  # fmt: skip


@pytest.mark.parametrize("switches", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("family", ["qwen3", "gpt2", "gpt_oss", "qwen2_moe"])
def test_a_rank_knows_what_a_pass_reads_in_all_of_them(
    switches: dict[str, Any], family: str, golden_folder: Any
) -> None:
    """By which the cost of a draft is estimated, and so the number of drafts. Catches a part for the whole, and a
    family of which something is counted otherwise before it is read.
    """
    checkpoint, c = load(golden_folder(family)), EngineConfig(pipeline_parallel_size=2, **switches)
    whole = load_model(checkpoint, NumpyOps(Ledger(), resolve(DTYPES, c.dtype)), c)

    def rank(comm: Comm) -> int:
        inner = NumpyOps(comm.ledger, resolve(DTYPES, c.dtype))
        return own_part(checkpoint, inner, c, lambda done, of: None, Stage(comm, 2)).pass_nbytes

    assert run_ranks(2, rank) == [whole.pass_nbytes] * 2


def told(change: Any) -> list[str]:
    """What each of three ranks is told where the last one was given something else."""
    checkpoint, c = checkpoint_of(CONFIG, random_tensors(CONFIG)), EngineConfig(tensor_parallel_size=3)

    def rank(comm: Comm) -> str:
        mine = change(checkpoint, c) if comm.rank == 2 else (checkpoint, c)
        try:
            check_alike(comm, *mine)
        except SwitchError as error:
            return str(error)
        return ""

    return run_ranks(3, rank)


def test_ranks_that_were_given_the_same_are_alike() -> None:
    assert told(lambda checkpoint, c: (checkpoint, c)) == ["", "", ""]


def test_all_ranks_say_which_one_was_given_something_else() -> None:
    """Catches one that raises alone, while the others wait for it."""

    def other_weights(checkpoint: Checkpoint, c: EngineConfig) -> tuple[Checkpoint, EngineConfig]:
        return checkpoint_of(CONFIG, random_tensors(CONFIG, seed=1)), c

    for change, what in (
        (lambda checkpoint, c: (checkpoint, replace(c, kv_cache="paged")), "switches or another version"),
        (other_weights, "files of the model"),
    ):
        found = told(change)
        assert len(set(found)) == 1
        assert f"rank 2 got other {what} than rank 0; give all of them the same" in found[0]


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        ({"speculative": "self"}, "speculative=self drafts with the model's own layers; choose speculative=prompt"),
        ({"speculative": "draft"}, "speculative=draft reads the values of all heads"),
        ({"quantize": "w8a8"}, "quantize=w8a8 rounds inputs by one scale for all of them"),
        ({"quantize": "int8", "activations": "int8", "group_size": "channel"}, "group_size=channel rounds inputs by"),
        ({"backend": "cupy", "gpu_decode": "kernels"}, "gpu_decode=kernels runs a step without a word to other ranks"),
    ],
)
def test_what_ranks_cannot_do_is_refused(switches: dict[str, Any], words: str) -> None:
    with pytest.raises(SwitchError, match=f"^tensor_parallel_size=2 divides the model, and {words}"):
        EngineConfig(tensor_parallel_size=2, **switches)
    assert EngineConfig(**switches)


def test_ranks_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches ranks that each take all cores, and wait for each other there."""
    monkeypatch.setattr("tinyinfer.engine.room.default_threads", lambda: 8)
    assert own_share(EngineConfig(tensor_parallel_size=4)).threads == 2
    assert own_share(EngineConfig(tensor_parallel_size=16)).threads == 1
    assert own_share(EngineConfig(tensor_parallel_size=4, threads=3)).threads == 3
    assert own_share(EngineConfig()).threads is None
    for several in ("tensor_parallel_size", "data_parallel_size"):  # a GPU refuses a number of threads
        assert own_share(EngineConfig(backend="cupy", **{several: 2})).threads is None  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2, 1), (1, 2), (3, 1), (2, 2)])
def test_the_caches_of_all_ranks_have_room_in_half_of_the_machine(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks with heads 2 to 1 and stages with layers 3 to 2 have as many blocks each. Catches ranks that each plan as
    if the machine were theirs, and one that plans by a smaller part than another one has.
    """
    memory, ranks, stages = 4 << 20, *shape
    monkeypatch.setattr("tinyinfer.backends.limits.machine_memory", lambda: [memory])
    monkeypatch.setattr("tinyinfer.backends.limits.memory_limits", lambda root: [])
    config = small_config(
        num_layers=5, num_heads=6, num_kv_heads=3, head_dim=32, hidden_size=64, intermediate_size=256, vocab_size=90,
        max_position=4096,
    )  # fmt: skip
    checkpoint = checkpoint_of(config, random_tensors(config))
    c = EngineConfig(tensor_parallel_size=ranks, pipeline_parallel_size=stages, kv_cache="paged")

    def rank(comm: Comm) -> int:
        inner = NumpyOps(comm.ledger)
        try:
            model, ops = load_part(checkpoint, inner, c, lambda done, of: None, comm)
        except SystemExit:  # of the others, at their end
            return 0
        blocks = build_engine(model, ops, c, lambda: 0.0).cache.spec.num_blocks
        ops.close()  # type: ignore[attr-defined]
        return blocks

    blocks = run_ranks(ranks * stages, rank)[0]
    places = [(one, stage) for one in range(ranks) for stage in range(stages)]
    parts = [Division(config, one, ranks, stage=stage, stages=stages).own_config for one, stage in places]
    largest = max(position_bytes(part.memory) for part in parts) * c.block_size
    share = memory // 2 // (ranks * stages)
    assert blocks * largest <= share < (blocks + 2) * largest


def test_a_rank_that_cannot_load_its_part_is_named_by_all() -> None:
    """Of three ranks only the second would divide a group. Catches the others waiting for it."""
    sizes = {"num_heads": 3, "num_kv_heads": 3, "head_dim": 32, "hidden_size": 64, "intermediate_size": 192}
    config = small_config(**sizes, vocab_size=90)
    checkpoint = checkpoint_of(config, random_tensors(config))
    c = EngineConfig(tensor_parallel_size=3, quantize="int8", group_size=64)

    def rank(comm: Comm) -> str:
        try:
            load_part(checkpoint, NumpyOps(comm.ledger), c, lambda done, of: None, comm)
        except SystemExit:
            return "ended"
        except SwitchError as error:
            return str(error)
        return "loaded"

    first, *others = run_ranks(3, rank)
    assert others == ["ended", "ended"]
    assert "inside a group of 64 inputs that share a scale" in first
