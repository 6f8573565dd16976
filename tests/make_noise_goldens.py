"""Writes tests/golden/noise.json: random numbers of requests, for every backend that computes them.

Python's integers, by the text of noise.py and without its code. Run: python tests/make_noise_goldens.py
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

FILE = Path(__file__).with_name("golden").joinpath("noise.json")
SEEDS = [0, 1, 2**32, 0x0123456789ABCDEF, 2**64 - 2]  # the last is the seed -2 of a user
POSITIONS = [0, 1, 77, 2**17, 2**32 - 1]
TOKENS = [0, 1, 2, 3, 4, 7, 8, 49150, 151935]
STREAMS = [0, 1, 2]


def random_words(counter: list[int], key: list[int]) -> list[int]:
    """Philox 4x32-10 as the paper's figure draws it: ten rounds, and the key raised between them."""
    for number in range(10):
        if number:
            key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
        high0, low0 = divmod(0xD2511F53 * counter[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * counter[2], 2**32)
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
    return counter


def word(seed: int, position: int, token: int, stream: int) -> int:
    """The 32-bit word x of a token."""
    high, low = divmod(seed, 2**32)
    return random_words([token // 4, position, stream, 0], [low, high])[token % 4]


def main() -> None:
    """Writes a line for each seed and position; the streams take turns."""
    keys = list(product(SEEDS, POSITIONS))
    rows = [
        {
            "seed": seed, "position": position, "stream": stream, "tokens": TOKENS,
            "u": [((word(seed, position, token, stream) + 0.5) / 2**32).hex() for token in TOKENS],
        }
        for i, (seed, position) in enumerate(keys) for stream in [STREAMS[i % len(STREAMS)]]
    ]  # fmt: skip
    FILE.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()
