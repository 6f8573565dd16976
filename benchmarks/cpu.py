"""The compiled CPU backend beside llama.cpp and beside the machine's limits, in turn in one run.

    python benchmarks/cpu.py --folder DIR --peers PYTHON              all parts
    python benchmarks/cpu.py --folder DIR --peers PYTHON decode batch these parts
    python benchmarks/cpu.py profile                                  where the time of a decode step goes
    python benchmarks/cpu.py --folder DIR --peers PYTHON decode --plot FILE    drawn, too

PYTHON: an interpreter with llama-cpp-python (pip install llama-cpp-python). DIR: where files for llama.cpp are made,
out of the model's own, once. Every round runs each setting once, in a process of its own, and medians are printed: on a
shared machine the ratios are to be trusted, not the figures. Parts:

    decode    128 tokens after a prompt of 512, each format beside llama.cpp's of as many bits; prefill of the prompt
    kept      GGUF files of two published shapes as 'Q4_K_M' (made_models.py DIR makes them), beside llama.cpp on them
    limits    float32 and bfloat16 decode, as a share of what plain reading reaches in the same round
    batch     4 and 16 sequences together over one, with int8 activations
    long      decode at a context of 8,000
    drafts    float32 through a copy of itself in 4 bits, over plain float32, greedy answers to real prompts
    large     the shape of Llama 3.2 1B, random weights: shares of the read bandwidth, and a folder's first token
    busy      beside two processes that keep the cores busy, over the quiet speed
    start     the first call, kernels compiled before
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from busy import busy

HERE = Path(__file__).resolve().parent / "cpu_parts"
INT8 = "--quantize int8 --quantize-head int8"
INT4 = "--quantize int4 --quantize-head int8"
LLAMA_1B = {
    "model_type": "llama", "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192,
    "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": True,
    "bos_token_id": 0, "eos_token_id": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
}  # fmt: skip
Found = dict[str, float]
Measure = Callable[[], Found]


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    peers: str | None
    folder: Path
    rounds: int
    threads: int
    model: str


def last_line(command: list[str]) -> Found:
    """The JSON that a command prints last."""
    found: Found = json.loads(output(command).strip().splitlines()[-1])
    return found


def output(command: list[str]) -> str:
    """What a command prints; one that fails ends the benchmark with its words.

    Bytecode is kept, as everywhere where nobody asks for the contrary: to make it anew takes a quarter of a start.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stderr[-1500:]}")
    return done.stdout


def ours(o: Options, flags: str, p: int = 512, g: int = 128, model: str | None = None) -> Measure:
    """One round of our own benchmark."""
    lengths = ["-p", str(p), "-g", str(g), "-n", "1", "-t", str(o.threads), "--json"]
    command = [sys.executable, "-m", "tinyinfer", "bench", "-m", model or o.model, *lengths]
    return lambda: last_line([*command, "--backend", "numba", *shlex.split(flags)])


def llama_cpp(o: Options, kind: str, p: int = 512, g: int = 128, path: str | None = None) -> Measure:
    """One round of llama.cpp, with the model in that type."""
    path = path or str(made(o, kind))
    command = [str(o.peers), str(HERE / "peer.py"), path, "-p", str(p), "-g", str(g), "-t", str(o.threads)]
    return lambda: last_line(command)


def made(o: Options, kind: str) -> Path:
    """The model's file in one of llama.cpp's types, made once out of the file that the model comes in."""
    from tinyinfer.loading.hub import find

    path = o.folder / f"{Path(o.model).stem}-{kind}.gguf"
    if not path.exists():
        o.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        command = [str(o.peers), str(HERE / "peer.py"), str(find(o.model)), "--quantize", kind, str(part)]
        subprocess.run(command, check=True, capture_output=True)
        part.replace(path)
    return path


def reading(o: Options) -> Measure:
    """One measurement of the machine's read bandwidth."""
    return lambda: last_line([sys.executable, str(HERE / "reading.py"), "-t", str(o.threads)])


def medians(o: Options, measures: dict[str, Measure]) -> dict[str, Found]:
    """Each measure once in every round, in turn; the median of each of its numbers."""
    rounds: dict[str, list[Found]] = {name: [] for name in measures}
    for n in range(o.rounds):
        for name, measure in measures.items():
            print(f"round {n + 1} of {o.rounds}: {name}", end="\033[K\r", file=sys.stderr, flush=True)
            rounds[name].append(measure())
    print(end="\033[K", file=sys.stderr)
    return {
        name: {key: statistics.median(one[key] for one in found) for key in found[0] if is_number(found[0][key])}
        for name, found in rounds.items()
    }


def is_number(value: object) -> bool:
    """Whether a median of it means anything."""
    return isinstance(value, int | float) and not isinstance(value, bool)


class Table(NamedTuple):
    """What a part found: lines of what, ours, beside what, and the ratio."""

    title: str
    rows: list[tuple[str, str, str, str]]

    def print(self) -> None:
        """Prints the lines, aligned."""
        print(f"\n{self.title}")
        for row in self.rows:
            print("  {:52}{:>18}{:>28}{:>10}".format(*row), flush=True)


# The parts.


def decode(o: Options) -> Table:
    """Each format beside llama.cpp's of as many bits."""
    pairs = {
        "int8": (INT8, "Q8_0"), "int8, int8 activations": (f"{INT8} --activations int8", "Q8_0"),
        "int4 (head int8)": (INT4, "Q4_0"),
        "int4 (head int8), int8 activations": (f"{INT4} --activations int8", "Q4_0"),
        "bfloat16": ("--dtype bfloat16", "F16"), "float32": ("", "F16"),
    }  # fmt: skip
    kinds = dict.fromkeys(kind for _, kind in pairs.values())
    found = medians(o, {
        **{name: ours(o, flags) for name, (flags, _) in pairs.items()},
        **{f"llama.cpp {kind}": llama_cpp(o, kind) for kind in kinds},
    })  # fmt: skip
    best = max(found[f"llama.cpp {kind}"]["prompt_tps"] for kind in kinds)
    rows = []
    for name, (_, kind) in pairs.items():
        peer, own = found[f"llama.cpp {kind}"], found[name]
        rows.append(row(f"decode, {name}", own["generation_tps"], f"llama.cpp {kind}", peer["generation_tps"]))
    for name in pairs:
        rows.append(row(f"prefill, {name}", found[name]["prompt_tps"], "llama.cpp, its best", best))
    return Table("128 tokens after a prompt of 512 (tok/s)", rows)


def row(what: str, own: float, peer: str, other: float) -> tuple[str, str, str, str]:
    """A line of a table."""
    return what, f"{own:.1f}", f"{peer} {other:.1f}", f"{own / other:.2f}x"


def kept(o: Options) -> Table:
    """K-quants as they are in the file, and with int8 activations, beside llama.cpp on the same file."""
    from made_models import SHAPES

    rows = []
    for path in (o.folder / f"{name}-q4_k_m.gguf" for name in SHAPES):
        if not path.exists():
            raise SystemExit(f"{path} is missing: python benchmarks/made_models.py {o.folder} --python {o.peers}")
        ways = {"kept": "--quantize keep", "kept, int8 activations": "--quantize keep --activations int8"}
        measures = {name: ours(o, flags, 256, 64, str(path)) for name, flags in ways.items()}
        found = medians(o, measures | {"llama.cpp": llama_cpp(o, "Q4_K_M", 256, 64, str(path))})
        for key, what in (("generation_tps", "decode"), ("prompt_tps", "prefill")):
            rows += [row(f"{what}, {path.stem}, {name}", found[name][key], "llama.cpp", found["llama.cpp"][key])
                     for name in ways]  # fmt: skip
    return Table("GGUF files kept, 64 tokens after a prompt of 256 (tok/s)", rows)


def limits(o: Options) -> Table:
    """Bytes a second of decode over those of plain reading."""
    settings = {"float32": "", "bfloat16": "--dtype bfloat16", "int8": INT8, "int4": INT4}
    found = medians(o, {"reading": reading(o), **{name: ours(o, flags, 16) for name, flags in settings.items()}})
    return Table("decode against the machine's read bandwidth", shares(found, settings))


def shares(found: dict[str, Found], names: Iterable[str]) -> list[tuple[str, str, str, str]]:
    """Lines of the bytes of weights a second of these settings, beside plain reading."""
    limit, best = (found["reading"][key] / 1e9 for key in ("bytes_per_second", "at_best"))
    rows = []
    for name in names:
        own = found[name]["weight_bytes"] * found[name]["generation_tps"] / 1e9
        rows.append(row(f"decode, {name} (GB/s of weights)", own, f"at best {best:.1f}, reading", limit))
    return rows


def batch(o: Options) -> Table:
    """Tokens a second of several sequences over those of one."""
    flags = f"{INT8} --activations int8"
    cases = {"context 64": (64, ""), "prompt of 512": (512, ""), "prompt of 512, kv_bits 8": (512, " --kv-bits 8")}
    found = medians(o, {
        f"{name}, {n}": ours(o, f"{flags}{more} -b {n}", p, 64)
        for name, (p, more) in cases.items() for n in (1, 4, 16)
    })  # fmt: skip
    rows = [
        row(f"{name}, {n} sequences", found[f"{name}, {n}"]["generation_tps"], "one", one["generation_tps"])
        for name in cases for one in (found[f"{name}, 1"],) for n in (4, 16)
    ]  # fmt: skip
    return Table("sequences decoding together, int8 with int8 activations (tok/s)", rows)


def long(o: Options) -> Table:
    """Decode after a prompt of 8,000 tokens."""
    settings = {"int8": INT8, "int8, kv_bits 8": f"{INT8} --kv-bits 8"}
    settings |= {f"{name}, int8 activations": f"{flags} --activations int8" for name, flags in settings.items()}
    measures = {name: ours(o, flags, 8000, 64) for name, flags in settings.items()}
    found = medians(o, {**measures, "llama.cpp": llama_cpp(o, "Q8_0", 8000, 64)})
    other = found["llama.cpp"]
    rows = [row(f"decode, {n}", found[n]["generation_tps"], "Q8_0", other["generation_tps"]) for n in settings]
    rows += [row(f"prefill, {n}", found[n]["prompt_tps"], "Q8_0", other["prompt_tps"]) for n in settings]
    return Table("at a context of 8,000 (tok/s)", rows)


def drafts(o: Options) -> Table:
    """The model through a copy of itself in fewer bits; the text is the same by construction."""
    from speculation_floor import OPEN

    int4 = {"draft_quantize": "int4", "group_size": 64}
    copies: dict[str, dict[str, str | int]] = {
        "plain": {}, "int4 g64": int4, "int4 g64, int8 activations": {**int4, "activations": "int8"},
        "int3": {"draft_quantize": "int3"},
    }  # fmt: skip
    switches = {name: one and {"speculative": "self"} | one for name, one in copies.items()}
    command = [sys.executable, str(HERE / "answers.py"), "-m", o.model, "-t", str(o.threads), "--prompts", *OPEN[:2]]
    measures: dict[str, Measure] = {
        name: lambda one=one: last_line([*command, "--switches", json.dumps(one)])  # type: ignore[misc]
        for name, one in switches.items()
    }
    found = medians(o, measures)
    plain = found.pop("plain")["generation_tps"]
    rows = [row(f"a copy in {name}", one["generation_tps"], "plain", plain) for name, one in found.items()]
    return Table("float32 through drafts of its own, 256 tokens a prompt (tok/s)", rows)


def large(o: Options) -> Table:
    """The shape of Llama 3.2 1B: decode beside plain reading; a first token beside reading the folder from disk."""
    from published_shapes import write_folder

    folder = o.folder / "llama-1b"
    if not folder.exists():
        part = folder.with_suffix(".part")
        part.mkdir(parents=True, exist_ok=True)
        write_folder(part, LLAMA_1B)
        part.rename(folder)
    settings = {"bfloat16": "--dtype bfloat16", "int8": INT8}
    starting = program(
        first_token(str(folder), backend="numba", dtype="bfloat16", threads=o.threads, max_model_len=64)
    )
    file = folder / "model.safetensors"

    def from_disk(measure: Measure) -> Measure:
        def without_cache() -> Found:
            forget(file)
            return measure()
        return without_cache

    found = medians(o, {
        "reading": reading(o), "reading the file": from_disk(lambda: read_once(file)),
        "first token": from_disk(lambda: seconds(starting)),
        **{name: ours(o, flags, 16, 32, str(folder)) for name, flags in settings.items()},
    })  # fmt: skip
    rows = shares(found, settings)
    once, first = (found[name]["seconds"] for name in ("reading the file", "first token"))
    rows.append(row("first token of the bfloat16 folder, from disk (s)", first, "reading it once", once))
    return Table("the shape of Llama 3.2 1B, random weights", rows)


def forget(path: Path) -> None:
    """Lets the system drop what it keeps of a file in memory, so that the next one who reads it waits for the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())  # only what is on disk is dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_once(path: Path) -> Found:
    """Seconds to read a file from its beginning to its end."""
    begun, piece = time.perf_counter(), bytearray(1 << 24)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(piece):
            continue
    return {"seconds": time.perf_counter() - begun}


def program(code: str) -> list[str]:
    """The command that runs some Python."""
    return [sys.executable, "-c", code]


def first_token(model: str, **switches: object) -> str:
    """Python that opens a model and computes one token."""
    opened = f"LLM({model!r}, **{switches})"
    return f"from tinyinfer import LLM, SamplingParams as S; {opened}.generate('Hi', S(max_tokens=1))"


def seconds(command: list[str]) -> Found:
    """Seconds that a command takes."""
    begun = time.perf_counter()
    output(command)
    return {"seconds": time.perf_counter() - begun}


def beside_work(o: Options) -> Table:
    """The speed beside two busy processes over the quiet one."""
    def loaded(measure: Measure) -> Measure:
        def under_load() -> Found:
            with busy(2):
                return measure()
        return under_load

    settings = {"int8": ours(o, INT8), "float32": ours(o, "")}
    if o.peers:
        settings["llama.cpp Q8_0"] = llama_cpp(o, "Q8_0")
    found = medians(o, {**settings, **{f"{name}, busy": loaded(one) for name, one in settings.items()}})
    rows = []
    for name in settings:
        for key, what in (("prompt_tps", "prefill"), ("generation_tps", "decode")):
            rows.append(row(f"{what}, {name}", found[f"{name}, busy"][key], "quiet", found[name][key]))
    return Table("beside two busy processes (tok/s)", rows)


def start(o: Options) -> Table:
    """Seconds of an import, and of a first call whose kernels are on disk."""
    codes = {"python alone": "pass", "import numpy": "import numpy", "import tinyinfer": "import tinyinfer"} | {
        f"first token, {backend}, {kind}": first_token(o.model, backend=backend, quantize=quantize)
        for backend in ("numpy", "numba") for kind, quantize in (("float32", "off"), ("int8", "int8"))
    }  # fmt: skip
    commands = {name: program(code) for name, code in codes.items()}
    for command in commands.values():
        output(command)  # kernels and bytecode are on disk from here on
    found = medians(o, {name: lambda one=one: seconds(one) for name, one in commands.items()})  # type: ignore[misc]
    rows = [(name, f"{one['seconds']:.2f}", "", "") for name, one in found.items()]
    return Table("from the start of Python (s)", rows)


def profile(o: Options) -> None:
    """Where the time of a decode step goes."""
    from cpu_parts.profile import print_profile

    print_profile(o.model, o.threads)


PARTS: dict[str, Callable[[Options], Table | None]] = {
    "decode": decode, "kept": kept, "limits": limits, "batch": batch, "long": long, "drafts": drafts, "large": large,
    "busy": beside_work, "start": start, "profile": profile,
}  # fmt: skip


def main() -> None:
    """Runs the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--peers", help="a Python that has llama-cpp-python")
    parser.add_argument("--folder", type=Path, default=Path("models"), help="where files for llama.cpp are made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--plot", type=Path, help="draw the ratios into a file (.png, .svg or .pdf)")
    args = parser.parse_args()
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    options, tables = Options(args.peers, args.folder, args.rounds, args.threads, args.model), []
    for name in args.parts or PARTS:
        if name in ("decode", "kept", "long") and not args.peers:
            parser.error(f"{name} needs --peers, a Python with llama-cpp-python")
        if table := PARTS[name](options):
            table.print()
            tables.append(table)
    if args.plot:
        from cpu_parts.bars import draw

        draw(tables, args.plot)


if __name__ == "__main__":
    main()
