"""How replicas find each other, and begin: each is a process, or several that share one model, with all of its weights.

Every process runs the same command. The first one, the front, goes on as if it were alone. In the others LLM never
returns: they load the model, serve the front, and end when it ends.

    tinyinfer launch -n 2 -- generate -dp 2 "Hello"          or: mpiexec -n 2 python -m tinyinfer generate -dp 2 "Hello"

`launch` starts each replica by itself, so that one that dies takes no other along, and tells it its number, an address
and a key by the environment; with --ray it does so on the nodes of a cluster (on_ray.py). What mpiexec starts is one
world: ranks are numbered replica by replica, and MPI ends all when one dies. Either way requests travel by sockets,
because a socket says at once that its other end is gone.
"""

from __future__ import annotations

import os
import platform
import secrets
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

from tinyinfer.engine.clock import Clock
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import Engine, build_engine
from tinyinfer.engine.single import Single
from tinyinfer.errors import SwitchError
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import Progress
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.model.draft_head import DraftHead
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.transformer import Model
from tinyinfer.parallel.comm import Comm
from tinyinfer.parallel.devices import gpu_module, placed, take_gpu
from tinyinfer.parallel.mpi import mpi_comm
from tinyinfer.parallel.start import digests, machines
from tinyinfer.parallel.switches import ROUTERS
from tinyinfer.replicas.front import Front
from tinyinfer.replicas.messages import Build, Close, Ready, Wire
from tinyinfer.replicas.peer import Box, Peer, hang_up
from tinyinfer.replicas.queue import Queue
from tinyinfer.replicas.remote import Remote
from tinyinfer.replicas.serve import serve
from tinyinfer.switches import resolve

NUMBER, ADDRESS, KEY = "TINYINFER_REPLICA", "TINYINFER_FRONT", "TINYINFER_KEY"  # what launch tells each process
HOST = "TINYINFER_HOST"  # for several machines: the first one's name, under which the others reach it
TAKEN = "taken"  # the number of a replica that has a model
MANY = 1_000_000  # blocks of a prefix tree, where the cache does not say
START = 120.0  # seconds that replicas wait for each other's beginning
Address = str | tuple[str, int]


@dataclass(frozen=True)
class Place:
    """A process among the replicas: the number of its replica, the ranks of that, if several, and the way to the front.

    listener: the front's end of that way.
    """

    number: int
    comm: Comm | None
    address: Address
    key: bytes
    listener: Listener | None = None

    @property
    def leads(self) -> bool:
        """Whether this process speaks for its replica."""
        return self.comm is None or self.comm.rank == 0


class Replicas(Single):
    """What an LLM is opened by, where there are several replicas of its model.

    Raises SwitchError for replicas that are not there. place: None: where launch or mpiexec has put this process.
    """

    def __init__(self, c: EngineConfig, ledger: Ledger, place: Place | None = None) -> None:
        self.place = place or find_place(c, ledger)
        self.wire = Wire(None)
        self.model: Model | None = None
        self.links: dict[int, Connection] = {}  # to the other replicas; in these, to the front
        self.peers: list[Peer] = []
        self.engines = count()
        if self.place.number and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the front says when all end
        if self.place.listener:
            self.links |= accepted(self.place.listener, c.data_parallel_size, self.place.key)
        elif self.place.number and self.place.leads:
            self.links[0] = connected(self.place)
        weakref.finalize(self, hang_up_all, self.links)
        super().__init__(c, ledger)

    def find_ranks(self, c: EngineConfig, ledger: Ledger) -> tuple[Comm, ...]:
        before, comm = self.place.number * c.num_ranks, self.place.comm
        if comm is None:
            if xp := gpu_module(c.backend):
                take_gpu(xp, before)
            return ()
        return (placed(comm, c.backend, before),)

    def load(self, checkpoint: Checkpoint, ops: Ops, c: EngineConfig, on_load: Progress) -> tuple[Model, Ops]:
        """The model of this replica. The front compares first what all were given, and waits for all at the end."""
        self.wire = Wire(checkpoint.tokenizer)
        ops.share_memory(self._meet(digests(checkpoint, c)).count(platform.node()))
        if self.place.number == 0:
            return super().load(checkpoint, ops, c, on_load)
        try:
            return super().load(checkpoint, ops, c, on_load)
        except Exception as error:
            self._leave(f"{type(error).__name__}: {error}")

    def build(
        self, model: Model, ops: Ops, c: EngineConfig, clock: Clock, second: Model | DraftHead | None = None
    ) -> Engine:
        """The front's engine; the other replicas serve it from here on, and then end their process."""
        if self.place.number:
            [link] = self.links.values()
            link.send_bytes(self.wire.dumps(Ready()))
            serve(link, self.wire, lambda config: build_engine(model, ops, config, clock, second))
            sys.exit(0)
        self._check_model(model)
        own, number, box = build_engine(model, ops, c, clock, second), next(self.engines), Box()
        self._await_ready()
        remotes = [Remote(peer, number, self.wire) for peer in self.peers]
        for remote in remotes:
            remote.peer.listen(number, box)
            remote.tell(Build(c, clock()))
        blocks = own.cache.num_blocks or MANY
        router = resolve(ROUTERS, c.routing)(c.block_size if c.prefix_cache else None, blocks)
        front = Front(Queue(own, remotes, router, c.max_num_seqs, c.rank_timeout, box))
        weakref.finalize(front, close_engine, remotes)
        return front

    # The beginning.

    def _meet(self, mine: tuple[bytes, bytes]) -> list[str]:
        """The names of the machines of all processes, ranks and replicas. mine: the digests of what this one was given.

        Raises SwitchError, in the front, where a replica was given other switches or another model.
        """
        comm, told = self.place.comm, None
        names = [platform.node()] if comm is None else machines(comm)
        try:
            if self.place.leads:
                told = self._answer(mine, names) if self.place.number else self._compare(mine, names)
        finally:  # also of a refusal the other ranks of this replica are told
            told = told if comm is None else comm.share(told)
        return told or sys.exit(2)

    def _answer(self, mine: tuple[bytes, bytes], names: list[str]) -> list[str] | None:
        """What the front answers to a replica; None where it has refused something, and says so."""
        [link] = self.links.values()
        try:
            link.send_bytes(self.wire.dumps((mine, names)))
            found: list[str] = self.wire.loads(link.recv_bytes())
        except (EOFError, OSError):
            return None
        return found

    def _compare(self, mine: tuple[bytes, bytes], names: list[str]) -> list[str]:
        """The machines of all, which each replica is told. Raises SwitchError where one was given something else."""
        found = list(names)
        for number, link in self.links.items():
            told, others = self._told(number, link)
            found += others
            for what, one, other in zip(("switches or another version", "files of the model"), mine, told, strict=True):
                if one != other:
                    reason = "{field}={value}: replica {number} got other {what} than replica 0"
                    cure = "give all of them the same command, files and version"
                    n = self.config.data_parallel_size
                    raise SwitchError("data_parallel_size", n, reason, cure, number=number, what=what)
        for link in self.links.values():
            with suppress(OSError):  # `_await_ready` names one that is gone
                link.send_bytes(self.wire.dumps(found))
        return found

    def _await_ready(self) -> None:
        """Waits, once, until all replicas have loaded the model. Raises SwitchError where one cannot."""
        for number, link in self.links.items() if not self.peers else ():
            ready = self._told(number, link)
            if ready.failure:
                raise self._lost(number, f"could not load the model ({ready.failure})")
        self.peers = self.peers or [Peer(number, link) for number, link in self.links.items()]

    def _told(self, number: int, link: Connection) -> Any:
        try:
            if not link.poll(self.config.rank_timeout):
                raise self._lost(number, f"has not loaded the model within {self.config.rank_timeout:g} s")
            return self.wire.loads(link.recv_bytes())
        except (EOFError, OSError):
            raise self._lost(number, "has ended before it had loaded the model") from None

    def _lost(self, number: int, words: str) -> SwitchError:
        reason = "{field}={value}: replica {number} {words}"
        return SwitchError("data_parallel_size", self.config.data_parallel_size, reason, number=number, words=words)

    def _leave(self, words: str) -> NoReturn:
        """Tells the front why this replica cannot begin, and ends the process."""
        for link in self.links.values():
            link.send_bytes(self.wire.dumps(Ready(words)))
        sys.exit(2)

    def _check_model(self, model: Model) -> None:
        """Raises SwitchError for another model than the one that all replicas have."""
        self.model = self.model or model
        if model is not self.model:
            reason = "{field}={value} has replicas of another model than the one that is to run"
            cure = "give the model when the LLM is opened"
            raise SwitchError("data_parallel_size", self.config.data_parallel_size, reason, cure)


def find_place(c: EngineConfig, ledger: Ledger) -> Place:
    """Where launch or mpiexec has put this process. Raises SwitchError unless as many are there as the switches say."""
    number, each = os.environ.get(NUMBER), c.num_ranks
    if number is None:
        return place_in_world(c, each, ledger)
    if number == TAKEN:
        reason = "{field}={value}: a process that launch has started serves one model, and this one has opened a model"
        raise SwitchError("data_parallel_size", c.data_parallel_size, reason + " before", "open one model a command")
    os.environ[NUMBER] = TAKEN
    comm = mpi_comm(ledger) if each > 1 else None
    address, key = address_of(os.environ[ADDRESS]), bytes.fromhex(os.environ[KEY])
    front = number == "0" and (comm is None or comm.rank == 0)
    return Place(int(number), comm, address, key, Listener(address) if front else None)


def address_of(words: str) -> Address:
    """The front's address as launch writes it: HOST:PORT, or the path of a socket of this machine."""
    host, _, port = words.rpartition(":")
    return (host, int(port)) if host and port.isdecimal() else words


def place_in_world(c: EngineConfig, each: int, ledger: Ledger) -> Place:
    """The place of a process that mpiexec has started. each: ranks of a replica."""
    needed = each * c.data_parallel_size
    try:
        world: Comm | None = mpi_comm(ledger)
    except SwitchError as error:
        if error.field:
            raise
        world = None  # MPI is not installed
    if world is None or world.size != needed:
        there = "this is one" if world is None or world.size == 1 else f"{world.size} are there"
        reason = "{field}={value} needs {needed} processes, and {there}"
        cure = "start them with `tinyinfer launch -n {needed} -- ...` or `mpiexec -n {needed} ...`"
        if world is not None and world.rank:
            sys.exit(2)  # the first one says it
        raise SwitchError("data_parallel_size", c.data_parallel_size, reason, cure, needed=needed, there=there)
    key = world.share(secrets.token_bytes(32))
    listener = Listener((os.environ.get(HOST, "127.0.0.1"), 0)) if world.rank == 0 else None
    address = world.share(listener and listener.address)
    comm = world.split(world.rank // each)
    return Place(world.rank // each, comm if each > 1 else None, address or "", key, listener)


def accepted(listener: Listener, size: int, key: bytes) -> dict[int, Connection]:
    """The connections of the other replicas, by their numbers. Raises SwitchError when one does not come."""
    came: SimpleQueue[tuple[int, Connection]] = SimpleQueue()
    closing = threading.Event()

    def greet(link: Connection) -> None:
        """A stranger, who does not know the key or says nothing, gets no further than this thread."""
        with suppress(AuthenticationError, EOFError, OSError):
            deliver_challenge(link, key)
            answer_challenge(link, key)
            came.put((int(link.recv()), link))

    def accept() -> None:
        while not closing.is_set():
            with suppress(OSError):
                threading.Thread(target=greet, args=(listener.accept(),), daemon=True).start()

    threading.Thread(target=accept, name="replicas come", daemon=True).start()
    found: dict[int, Connection] = {}
    until = time.monotonic() + START
    try:
        while len(found) < size - 1:
            missing = [number for number in range(1, size) if number not in found]
            gone = [number for number in missing if ended_early(number)]
            if gone or time.monotonic() > until:
                number, why = (gone[0], "has ended") if gone else (missing[0], f"did not come within {START:g} s")
                reason = "{field}={value}: of its replicas, number {number} {why}"
                raise SwitchError("data_parallel_size", size, reason, number=number, why=why)
            with suppress(Empty):
                number, link = came.get(timeout=0.1)
                found[number] = link
    finally:
        closing.set()
        with suppress(OSError):
            Client(listener.address).close()  # the thread waits for one more
        listener.close()
    return dict(sorted(found.items()))


def ended_early(number: int) -> bool:
    """Whether launch has seen a replica's process end: it leaves a file then."""
    folder = os.environ.get("TINYINFER_RANKS")
    return folder is not None and Path(folder, f"ended{number}").exists()


def connected(place: Place) -> Connection:
    """A connection to the front, as soon as it listens. Ends the process when it never does."""
    until = time.monotonic() + START
    while True:
        try:
            link = Client(place.address, authkey=place.key)
        except (OSError, EOFError):
            if time.monotonic() > until:
                sys.exit(2)
            time.sleep(0.05)
            continue
        link.send(place.number)
        return link


# The end.


def hang_up_all(links: dict[int, Connection]) -> None:
    """Ends the connections, and with them the other replicas."""
    for link in links.values():
        hang_up(link)


def close_engine(remotes: Iterable[Remote]) -> None:
    """Lets the other replicas forget an engine."""
    for remote in remotes:
        remote.tell(Close())
