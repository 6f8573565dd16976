"""The switches of the KV cache: which cache, its blocks, the bits of a number, and the prefix cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tinyinfer.errors import SwitchError
from tinyinfer.switches import Switches, switch

CACHES = {
    "contiguous": "tinyinfer.kv_cache.contiguous:ContiguousCache",
    "none": "tinyinfer.kv_cache.base:NoCache",
    "paged": "tinyinfer.kv_cache.paged:PagedCache",
}
QUANTIZED_CACHES = {
    "contiguous": "tinyinfer.kv_cache.quantized:QuantizedContiguousCache",
    "paged": "tinyinfer.kv_cache.quantized:QuantizedPagedCache",
}
KV_BITS: dict[str | int, dict[str, str]] = {  # bits of a number -> the caches that keep it in so many
    "off": CACHES, 8: QUANTIZED_CACHES, 4: QUANTIZED_CACHES, 2: QUANTIZED_CACHES,
}  # fmt: skip
PREFIX_CACHES = {"off": "tinyinfer.kv_cache.base:NoPrefixes", "on": "tinyinfer.kv_cache.prefix_cache:PrefixCache"}


@dataclass(frozen=True)
class KVCacheSwitches(Switches):
    """How keys and values are kept, in how many bits, and which are shared."""

    kv_cache: str = switch("contiguous", choices=CACHES, help="how keys and values of earlier tokens are kept")
    block_size: int = switch(16, help="positions in a block of the paged cache, and of a quantized one")
    num_blocks: int | None = switch(
        None, help="blocks of the paged cache (default: as many as requests need, in at most half of the memory)"
    )
    kv_bits: int | str = switch(
        "off", choices=KV_BITS,
        help="bits of a number in the cache: keys by channel over a block, values by token in groups",
    )  # fmt: skip
    kv_group_size: int | None = switch(
        None, help="channels of a value that share a scale (default: 32, or what divides the head size)"
    )
    prefix_cache: bool = switch(
        False, help="compute and keep once what prompts begin with alike; needs --kv-cache paged"
    )

    def refusals(self) -> Iterator[SwitchError]:
        """Blocks, bits and prefixes that this cache does not have.

        block_size alone is accepted with any cache: without blocks it has no effect.
        """
        yield from super().refusals()
        cache, bits = self.kv_cache, self.kv_bits
        if self.prefix_cache and cache != "paged":
            reason = "{prefix_cache}=on shares blocks, and {kv_cache}={cache} has none"
            yield SwitchError("prefix_cache", True, reason, "add {kv_cache}=paged", cache=cache)
        if self.num_blocks is not None and cache != "paged":
            reason = "{num_blocks} counts blocks, and {kv_cache}={cache} has none"
            yield SwitchError("num_blocks", self.num_blocks, reason, "add {kv_cache}=paged", cache=cache)
        if bits != "off" and cache not in QUANTIZED_CACHES:
            reason = "{kv_bits}={value} quantizes what the cache keeps, and {kv_cache}={cache} keeps nothing"
            yield SwitchError("kv_bits", bits, reason, f"choose {' or '.join(QUANTIZED_CACHES)}", cache=cache)
        if self.kv_group_size is not None and bits == "off":
            reason = "{kv_group_size} is given, but {kv_bits}=off quantizes nothing"
            yield SwitchError("kv_group_size", self.kv_group_size, reason, "add {kv_bits}=8, 4 or 2")
