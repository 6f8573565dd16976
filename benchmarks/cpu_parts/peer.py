"""One measurement of llama.cpp as a line of JSON; runs in a Python that has llama-cpp-python.

    PYTHON benchmarks/cpu_parts/peer.py FILE.gguf -p 512 -g 128 -t 2
    PYTHON benchmarks/cpu_parts/peer.py FROM.gguf --quantize Q8_0 TO.gguf
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time

import llama_cpp

THROUGH = 512  # tokens that are evaluated at a time


def speeds(path: str, prompt: int, generated: int, threads: int) -> dict[str, float]:
    """Tokens a second of a prompt, and of tokens one by one after it; run once before, untimed."""
    model = llama_cpp.Llama(
        path, n_ctx=prompt + generated + 8, n_threads=threads, n_threads_batch=threads, n_batch=THROUGH, verbose=False
    )
    size = model.n_vocab() - 2000
    tokens = [1000 + 37 * i % size for i in range(prompt)]
    for _ in range(2):
        model.reset()
        start = time.perf_counter()
        model.eval(tokens)
        middle = time.perf_counter()
        for i in range(generated):
            model.eval([100 + i])
        end = time.perf_counter()
    return {"prompt_tps": prompt / (middle - start), "generation_tps": generated / (end - middle)}


def quantize(source: str, kind: str, target: str) -> None:
    """Writes the file in another of llama.cpp's types."""
    how = llama_cpp.llama_model_quantize_default_params()
    how.ftype, how.allow_requantize = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}"), True
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(how)):
        raise SystemExit(f"llama.cpp could not make {target}")


def main() -> None:
    """Measures, or quantizes."""
    parser = argparse.ArgumentParser(description="llama.cpp alone")
    parser.add_argument("file")
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-g", type=int, default=128)
    parser.add_argument("-t", type=int, default=2)
    parser.add_argument("--quantize", nargs=2, metavar=("KIND", "TO"))
    args = parser.parse_args()
    if args.quantize:
        quantize(args.file, *args.quantize)
    else:
        print(json.dumps(speeds(args.file, args.p, args.g, args.t)))


if __name__ == "__main__":
    main()
