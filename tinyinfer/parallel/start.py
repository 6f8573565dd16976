"""How the ranks of one command begin: they find each other, compare what they were given, and all but one follow.

Every rank runs the same command. The first one (rank 0) goes on as if it were alone; in the others LLM never returns:
they compute what the first one orders, and end when it ends.

    tinyinfer launch -n 2 -- generate -tp 2 "Hello"          or: mpiexec -n 2 python -m tinyinfer generate -tp 2 "Hello"

A matrix is divided on its way from the file to the backend, so that no rank ever holds more than its part of a model
and one whole matrix. (Weights that are calibrated or pruned while they are loaded are divided at the end.)
"""

from __future__ import annotations

import hashlib
import platform
import signal
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyinfer.errors import SwitchError
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import Progress, keeps_file_quantization, load_model
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.loading.draft_heads import is_head
from tinyinfer.loading.hub import find
from tinyinfer.model.config import held_matrices
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.transformer import Model
from tinyinfer.parallel.comm import Comm, on_all
from tinyinfer.parallel.devices import placed
from tinyinfer.parallel.lead import LeaderOps, follow
from tinyinfer.parallel.mpi import mpi_comm
from tinyinfer.parallel.pipeline import Stage
from tinyinfer.parallel.shards import scheme_unit
from tinyinfer.parallel.tensor import Division, TensorOps

SAMPLE = 16  # rows of each matrix by which ranks see that they have the same files


def find_ranks(c: Any, ledger: Ledger) -> tuple[Comm, ...]:
    """What mpiexec has started, each rank on a GPU where the backend is one's. c: an EngineConfig.

    Raises SwitchError where MPI, or what a GPU needs, is not installed.
    """
    comm = mpi_comm(ledger)
    try:
        return (placed(comm, c.backend),)
    except SwitchError:
        if comm.rank:  # the first one says it
            sys.exit(2)
        raise


def load_part(checkpoint: Checkpoint, ops: Ops, c: Any, on_layer: Progress, comm: Comm) -> tuple[Model, Ops]:
    """A rank's part of a checkpoint's model, and the operations that run it.

    Returns on the first rank only; the others follow it, and then end their process. c: an EngineConfig. Raises
    SwitchError for ranks that are not there, that were given something else, or for which the model has too few parts.
    """
    try:
        check_ranks(comm, c)
        comm.limit_waits(c.rank_timeout)
        check_alike(comm, checkpoint, c)
        stage = Stage(comm, c.pipeline_parallel_size)
        model = on_all(comm, lambda: own_part(checkpoint, ops, c, on_layer, stage))
    except SwitchError:
        if comm.rank:  # the first one says it
            sys.exit(2)
        raise
    except SystemExit:  # SIGTERM: the others may wait for this rank, and would not see a signal of their own
        comm.abort(f"rank {comm.rank} of {comm.size} was ended while it loaded its part")
    ops.share_memory(machines(comm).count(platform.node()))
    room = least_room(comm, ops, model)
    if comm.rank == 0:
        leading = LeaderOps(ops, stage, model, room, ops.ledger)
        leading.orders.say_alive(c.rank_timeout / 4)
        return model, leading
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leader says when all end
    try:
        follow(model, TensorOps(ops, stage.together), stage)
    except Exception as error:
        comm.fail(error)
    sys.exit(0)


def machines(comm: Comm) -> list[str]:
    """The name of each rank's machine."""
    return [comm.share(platform.node(), rank) for rank in range(comm.size)]


def least_room(comm: Comm, ops: Ops, model: Model) -> int:
    """Bytes that the cache of this rank may be planned with, so that those of all ranks have room, too.

    All have as many blocks as the first one's, each with its own layers and heads.
    """
    own = sum(rows.numbers for rows in model.config.memory)
    told = [comm.share((ops.available_memory(), own), rank) for rank in range(comm.size)]
    return min(memory * own // numbers for memory, numbers in told)


def own_part(checkpoint: Checkpoint, ops: Ops, c: Any, on_layer: Progress, stage: Stage) -> Model:
    """The part of the model that this rank has. Raises SwitchError where it cannot be divided so."""
    if c.second_model and is_head(find(c.second_model)):
        reason = "{field} {value!r} is a draft head, which reads the values of all heads, and a rank has some"
        cure = "name a smaller model, or choose another {speculative}"
        raise SwitchError("draft_model", c.second_model, reason, cure)
    ranks, unit = stage.together, input_unit_of(checkpoint, c)
    own = Division(checkpoint.config, ranks.rank, ranks.size, unit, stage.number, stage.count)
    model = load_model(checkpoint, ops, c, on_layer, own)
    if not model.elsewhere:  # it was divided on its way
        from tinyinfer.loading.sizes import pass_bytes  # here: one process needs no such file

        model = replace(model, elsewhere=pass_bytes(checkpoint, c) - model.pass_nbytes)
    return own.finish(model, ops)


def check_ranks(comm: Comm, c: Any) -> None:
    """Raises SwitchError unless as many ranks are there as the switches say."""
    if comm.size == c.num_ranks:
        return
    given = c.given("tensor_parallel_size", "pipeline_parallel_size")
    all_given = " with ".join(f"{{{name}}}={getattr(c, name)}" for name in given)
    reason = f"{all_given} needs {{needed}} processes, and "
    reason += "this is one" if comm.size == 1 else "{size} are there"
    cure = "start them with `tinyinfer launch -n {needed} -- ...` or `mpiexec -n {needed} ...`"
    raise SwitchError(given[0], getattr(c, given[0]), reason, cure, size=comm.size, needed=c.num_ranks)


def check_alike(comm: Comm, checkpoint: Checkpoint, c: Any) -> None:
    """Raises SwitchError, on all ranks, where one of them was given other switches, another model or another version.
    """
    for what, digest in zip(("switches or another version", "files of the model"), digests(checkpoint, c), strict=True):
        all_digests = comm.all_gather(np.frombuffer(digest, np.uint8)[None])  # of each rank (1, 32)
        other = [rank for rank, one in enumerate(all_digests) if not np.array_equal(one, all_digests[0])]
        if other:
            ranks = f"rank{'s' * (len(other) > 1)} {', '.join(map(str, other))}"
            cure = "give all of them the same command, files and version"
            raise SwitchError("", comm.size, "{ranks} got other {what} than rank 0", cure, ranks=ranks, what=what)


def digests(checkpoint: Checkpoint, c: Any) -> tuple[bytes, bytes]:
    """What processes compare: of the switches, the configuration and this package's files; of the model's files, of
    which each tensor's name, shape and first rows count.
    """
    told = hashlib.sha256(repr((sorted(asdict(c).items()), checkpoint.config)).encode())
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        told.update(path.read_bytes())
    files = hashlib.sha256()
    for name, tensor in sorted(checkpoint.tensors.items()):
        files.update(repr((name, tensor.shape, tensor.nbytes)).encode())
        files.update(np.ascontiguousarray(tensor.rows(0, min(SAMPLE, tensor.shape[0]))).tobytes())
    return told.digest(), files.digest()


def input_unit_of(checkpoint: Checkpoint, c: Any) -> int:
    """Neurons that stay together, because they will share a scale or a 2:4 pattern (see Division)."""
    names = [name for name in held_matrices(checkpoint.config) if name.endswith("down")]
    if keeps_file_quantization(c, checkpoint):
        tensors = [tensor for name, tensor in checkpoint.tensors.items() if name.endswith("down")]
        units = [np.lcm(scheme_unit(tensor.scheme), 4 if tensor.sparse else 1) for tensor in tensors]
    else:
        from tinyinfer.quantization.recipe import make_recipe  # here: one process needs no such file

        recipe = make_recipe(c, checkpoint.config)
        units = [np.lcm(scheme_unit(recipe.scheme(name)), 4 if c.prunes else 1) for name in names]
    return int(np.lcm.reduce([1, *units]))
