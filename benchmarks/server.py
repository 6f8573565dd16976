"""The server under load, its clients on the same machine: `python benchmarks/server.py MODE [FLAGS OF serve]`.

    overload     ten times the knee (what 16 clients in a closed loop get), open loop, no retries: requests lost, how
                 soon the others are refused, growth of the memory        --seconds 300 --times 10
    disconnects  clients that leave at random moments: what they leave behind                       --count 1000
    restart      kill -9 under load, and the time until /ready says 200 again                       --count 5
    throughput   16 clients against `LLM.generate` of the same prompts, taking turns                --count 3
    overhead     time a streamed token, less that of `LLM.generate` alone, taking turns             --count 100

Requests are token ids drawn from a seed, all different, so that nothing is found in the prefix cache. The cache keeps
them until its pool is full: add --num-blocks 256 to overload and disconnects, or the growth of the memory is that of
the pool. A refusal's time is counted from the moment the request was due, which the client's own delay makes longer,
never shorter; beside it stands how late the machine wakes a process that only sleeps.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tinyinfer import LLM, SamplingParams, __version__
from tinyinfer.cli import parse
from tinyinfer.cli.arguments import switches
from tinyinfer.replicas.on_ray import free_port
from tinyinfer.server import process
from tinyinfer.server.service import Service
from tinyinfer.server.switches import ServerSwitches

HOST = "127.0.0.1"
CLIENTS = 16
PROMPT, ANSWER = 32, 32  # tokens
SOON = 50.0  # milliseconds within which a refusal should come
PATIENCE = 600.0  # seconds after which an answer counts as lost


class Server:
    """`tinyinfer serve` in a process of its own, ready."""

    def __init__(self, words: list[str]) -> None:
        self.port, begun = free_port(HOST), time.perf_counter()
        command = [sys.executable, "-m", "tinyinfer", "serve", "--port", str(self.port), *words]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while not self.ready():
            if self.process.poll() is not None:
                sys.exit(f"the server has ended with {self.process.returncode}: {' '.join(command)}")
            time.sleep(0.01)
        self.started = time.perf_counter() - begun
        ticks = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        self.computed = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")  # seconds of all threads

    def ready(self) -> bool:
        """Whether it takes requests."""
        return answers(self.port)

    def text(self, path: str) -> str:
        """What is at a path."""
        return text_at(self.port, path)

    def number(self, name: str) -> float:
        """The sum of a metric."""
        lines = self.text("/metrics").splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((f"vllm:{name}{{", f"vllm:{name} ")))

    def held(self) -> dict[str, int]:
        """Memory in bytes, threads and open files (sockets among them)."""
        place = Path(f"/proc/{self.process.pid}")
        pages = int((place / "statm").read_text().split()[1])
        threads, files = len(list((place / "task").iterdir())), len(list((place / "fd").iterdir()))
        return {"memory": pages * os.sysconf("SC_PAGE_SIZE"), "threads": threads, "files": files}

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()


def text_at(port: int, path: str) -> str:
    """What a server has at a path."""
    with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=60) as answer:
        return str(answer.read().decode())


def answers(port: int) -> bool:
    """Whether a server takes requests."""
    with suppress(OSError):
        return text_at(port, "/ready") != ""
    return False


def prompts(count: int, seed: int) -> list[list[int]]:
    """Prompts that have nothing in common."""
    draw = random.Random(seed)
    return [[draw.randrange(100, 250) for _ in range(PROMPT)] for _ in range(count)]


def request(prompt: list[int], **fields: Any) -> bytes:
    """The bytes of a call that generates `ANSWER` tokens."""
    asked = {"prompt": prompt, "max_tokens": ANSWER, "temperature": 0, "ignore_eos": True, **fields}
    body = json.dumps(asked).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def sent(port: int, words: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """A connection on which a call was sent."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(words)
        yield reader
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def ask(port: int, words: bytes) -> tuple[int, bytes, float]:
    """Status (0: lost), the answer's bytes, and when its first byte came."""
    try:
        async with asyncio.timeout(PATIENCE), sent(port, words) as reader:
            first = await reader.readline()
            came = time.perf_counter()
            return int(first.split()[1]), await reader.read(), came
    except (OSError, TimeoutError, IndexError):
        return 0, b"", time.perf_counter()


async def closed_loop(port: int, asked: list[list[int]], clients: int = CLIENTS) -> float:
    """Seconds in which so many clients have all prompts answered, each asking as soon as it has its answer."""
    left, begun = list(asked), time.perf_counter()

    async def client() -> None:
        while left:
            status, _, _ = await ask(port, request(left.pop()))
            assert status == 200, status

    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - begun


def overload(args: argparse.Namespace, words: list[str]) -> None:
    """Ten times the knee."""

    async def load(port: int, rate: float, seconds: float) -> list[Call]:
        draw, calls, due = random.Random(1), list[asyncio.Task[Call]](), time.perf_counter()
        until = due + seconds

        async def call(words: bytes, due: float) -> Call:
            status, answer, came = await ask(port, words)
            return Call(status, answer if status == 200 else b"", due, came)

        while due < until:
            words = request([draw.randrange(100, 250) for _ in range(PROMPT)])
            due += draw.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            calls.append(asyncio.create_task(call(words, due)))
        return await asyncio.gather(*calls)

    with closing(Server(words)) as server, ProcessPoolExecutor(1, get_context("spawn")) as sleeper:
        asyncio.run(closed_loop(server.port, prompts(CLIENTS, 2)))
        count = 4 * CLIENTS
        rate = args.times * count / asyncio.run(closed_loop(server.port, prompts(count, 3)))
        asyncio.run(load(server.port, rate, max(5.0, args.seconds / 10)))  # the queue has been full once
        sleeper.submit(sleeps, 0.0).result()  # it has begun
        before, woken = server.held()["memory"], sleeper.submit(sleeps, args.seconds)
        found = asyncio.run(load(server.port, rate, args.seconds))
        grown = server.held()["memory"] - before
    by_status = Counter(one.status for one in found)
    bodies = [json.loads(one.answer.split(b"\r\n\r\n", 1)[1]) for one in found if one.status == 200]
    whole = sum(body["usage"]["completion_tokens"] == ANSWER for body in bodies)
    refused = [one for one in found if one.status == 429]
    print(f"knee {rate / args.times:.1f} requests/s; {len(found)} sent at {rate:.0f}/s: {dict(by_status)}")
    print(f"accepted and lost: {by_status[200] - whole + by_status[0]}; memory grew by {grown / 2**20:.1f} MiB")
    if refused:
        print(f"refused within ms: {spread([one.late for one in refused])}")
        print(f"meanwhile a process that only sleeps was woken late by ms: {spread([w.late for w in woken.result()])}")
        for one in (one for one in refused if one.late > SOON):
            waits = [w.late for w in woken.result() if one.due - 0.1 < w.due < one.came]
            told = f"was then late by {max(waits):.1f} ms" if waits else "had ended"
            print(f"one refused after {one.late:.1f} ms; the sleeping process {told}")


@dataclass(frozen=True)
class Call:
    """A call that was due and when its answer came, in seconds; of a process that sleeps, its end and when it woke."""

    status: int
    answer: bytes
    due: float
    came: float

    @property
    def late(self) -> float:
        """Milliseconds."""
        return 1000 * (self.came - self.due)


def sleeps(seconds: float) -> list[Call]:
    """Sleeps for five milliseconds again and again, and how late it was woken each time."""
    found, until = list[Call](), time.perf_counter() + seconds
    while (due := time.perf_counter() + 0.005) < until:
        time.sleep(0.005)
        found.append(Call(0, b"", due, time.perf_counter()))
    return found


def disconnects(args: argparse.Namespace, words: list[str]) -> None:
    """Clients that leave at random moments, of which 16 are there at a time."""
    draw = random.Random(4)

    async def leave(port: int, prompt: list[int]) -> None:
        words = request(prompt, max_tokens=500, stream=draw.random() < 0.5)
        cut = draw.choice([len(words), len(words), draw.randrange(len(words))])
        async with sent(port, words[:cut]) as reader:
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(draw.randrange(1, 2000)), draw.random())

    async def load(port: int, count: int) -> None:
        left = prompts(count, 5)

        async def client() -> None:
            while left:
                with suppress(OSError):
                    await leave(port, left.pop())

        await asyncio.gather(*(client() for _ in range(CLIENTS)))

    with closing(Server(words)) as server:
        asyncio.run(load(server.port, args.count))  # after which all that is made once is made
        time.sleep(2)
        before = server.held()
        asyncio.run(load(server.port, args.count))
        until = time.monotonic() + 30
        while (left := at_work(server)) and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(2)
        after = server.held()
        status, _, _ = asyncio.run(ask(server.port, request([5] * PROMPT)))
    grown = {name: after[name] - before[name] for name in after}
    print(f"{args.count} clients have left; not given back: {left or 'nothing'}; the next call: {status}")
    print(f"threads {grown['threads']:+d}, files {grown['files']:+d}, memory {grown['memory'] / 2**20:+.1f} MiB")


def at_work(server: Server) -> dict[str, float]:
    """What of requests is still there."""
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    return {name: value for name in names if (value := server.number(name))}


def restart(args: argparse.Namespace, words: list[str]) -> None:
    """kill -9 under load."""
    seconds, computed = [], []
    server = Server(words)
    for _ in range(args.count):

        async def load(port: int = server.port, pid: int = server.process.pid) -> None:
            calls = [asyncio.create_task(ask(port, request(one, max_tokens=500))) for one in prompts(CLIENTS, 6)]
            await asyncio.sleep(1)
            os.kill(pid, signal.SIGKILL)
            await asyncio.gather(*calls)

        asyncio.run(load())
        server.close()
        server = Server(words)
        seconds.append(server.started)
        computed.append(server.computed)
    server.close()
    print(f"ready after kill -9 in s: median {statistics.median(seconds):.2f}, longest {max(seconds):.2f}")
    print(f"of which its threads computed: median {statistics.median(computed):.2f}")


def opened(words: list[str]) -> LLM:
    """The model with the switches that `serve` gives it."""
    args = parse(["serve", *words])
    if args.prefix_cache is None:
        args.prefix_cache = args.kv_cache == "paged"
    return LLM(args.model, **switches(args))


def throughput(args: argparse.Namespace, words: list[str]) -> None:
    """16 clients against the engine alone."""
    count, llm = 4 * CLIENTS, opened(words)
    params = SamplingParams(max_tokens=ANSWER, ignore_eos=True)
    with closing(Server(words)) as server:
        ratios = []
        for turn in range(args.count + 1):
            served = asyncio.run(closed_loop(server.port, prompts(count, 10 + turn)))
            begun = time.perf_counter()
            llm.generate(prompts(count, 10 + turn), params)
            alone = time.perf_counter() - begun
            if turn:  # the first one warms up
                ratios.append(alone / served)
                print(f"{count * ANSWER / served:.1f} tok/s served, {count * ANSWER / alone:.1f} offline")
    print(f"served, of offline: median {statistics.median(ratios):.3f} ({', '.join(f'{r:.3f}' for r in ratios)})")


def overhead(args: argparse.Namespace, words: list[str]) -> None:
    """One client's time a streamed token against the engine alone, in one process, and how late each token comes.

    Two processes with the same model differ by more than what is measured, by where their memory lies: so the server
    runs in a thread of this process, on the model that also generates alone. The client has a process of its own, and
    its clock is this one's (on Linux one for all processes).
    """
    ends = list[float]()  # of the engine's steps
    with opened(words) as llm, ProcessPoolExecutor(1, get_context("spawn")) as client:
        port, found, delays = serve_here(llm), list[tuple[float, float]](), list[float]()
        llm.on_step(lambda trace: ends.append(trace.times[2]))
        for turn in range(args.count + 2):
            order = ("streamed", "alone") if turn % 2 else ("alone", "streamed")
            each = {}
            for way, seed in zip(order, prompts(2, 1000 + turn), strict=True):
                ends.clear()
                if way == "streamed":
                    came = client.submit(stream_once, port, seed).result()
                else:
                    llm.generate([seed], SamplingParams(max_tokens=ANSWER, ignore_eos=True))
                if len(ends) != ANSWER:
                    sys.exit("overhead wants a token a step: leave out drafts and chunks of prompts")
                if way == "streamed":
                    each[way] = (came[-1][0] - came[0][0]) / (came[-1][1] - came[0][1])
                    late = [1000 * (when - ends[count - 1]) for when, count in came]
                else:
                    each[way] = (ends[-1] - ends[0]) / (ANSWER - 1)
            if turn > 1:  # the first two warm up
                found.append((1000 * each["streamed"], 1000 * each["alone"]))
                delays += late
    more = sorted(one - other for one, other in found)
    streamed, alone = (statistics.median(way) for way in zip(*found, strict=True))
    n = len(more)
    rank = max((k for k in range(n // 2) if sum(math.comb(n, i) for i in range(k + 1)) <= 0.025 * 2**n), default=None)
    within = "" if rank is None else f" (95%: {more[rank]:.2f} to {more[n - 1 - rank]:.2f})"
    print(f"{streamed:.2f} ms a token streamed, {alone:.2f} alone (medians of {len(more)} rounds)")
    print(f"overhead a streamed token in ms: median {statistics.median(more):.2f}{within}")
    print(f"after its step a token is at the client within ms: {spread(delays)}")


def spread(values: list[float]) -> str:
    """The median of some values, and the ends of their longer ones."""
    ordered = sorted(values)
    parts = {"median": 0.5, "90%": 0.9, "99%": 0.99, "99.9%": 0.999, "longest": 1.0}
    return ", ".join(
        f"{name} {ordered[min(len(ordered) - 1, int(part * len(ordered)))]:.1f}" for name, part in parts.items()
    )


def serve_here(llm: LLM) -> int:
    """Serves the model from a thread of this process, until it ends, as `serve` does from its own; gives the port."""
    place = ServerSwitches(port=free_port(HOST))
    service = Service(llm, "model", place, __version__, lambda line: None)
    threading.Thread(target=process.run, args=(service, process.bind(place)), daemon=True).start()
    while not answers(place.port):
        time.sleep(0.01)
    return place.port


def stream_once(port: int, prompt: list[int]) -> list[tuple[float, int]]:
    """Of each event of a streamed answer, when it came, and how many tokens had come with it."""

    async def stream() -> list[tuple[float, bytes]]:
        call = request(prompt, stream=True, return_token_ids=True)
        async with sent(port, call) as reader:
            return [(time.perf_counter(), line) async for line in reader if line.startswith(b'data: {"id"')]

    came, count = list[tuple[float, int]](), 0
    for when, line in asyncio.run(stream()):
        new = len(json.loads(line[6:])["choices"][0].get("token_ids", []))
        if new:  # an event may hold several tokens: those that make a character together
            count += new
            came.append((when, count))
    assert count == ANSWER, count
    return came


MODES = {one.__name__: one for one in (overload, disconnects, restart, throughput, overhead)}
COUNTS = {"disconnects": 1000, "restart": 5, "throughput": 3, "overhead": 100}


def main() -> None:
    """Runs a mode; what the parser does not know is for `serve`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--seconds", type=float, default=300.0, help="of overload")
    parser.add_argument("--times", type=float, default=10.0, help="the rate of overload, in knees")
    parser.add_argument("--count", type=int, help="clients, or rounds")
    args, words = parser.parse_known_args()
    args.count = args.count or COUNTS.get(args.mode, 1)
    MODES[args.mode](args, words)


if __name__ == "__main__":
    main()
