"""For which models every kernel is compiled: the author of a kernel adds its line to COMPILED.

A prelude is what `kernel_source` puts before a kernel. Registers and shared memory depend on it, so two real shapes are
compiled: a small model, whose heads do not divide evenly, and one of a billion weights.
"""

from __future__ import annotations

from tinyinfer.backends.kernels.source import Constant

Prelude = dict[str, Constant]

COMMON: Prelude = {"Z": 1, "T": 1, "R": 1, "SLOTS": 64, "SPLITS": 4, "MOST_BLOCKS": 512, "RING": 64, "ACTIVATION": 0}
SMOLLM2_135M: Prelude = {**COMMON, "D": 576, "H": 9, "K": 3, "E": 64, "F": 1536, "V": 49152, "EPS": 1e-5}
LLAMA_1B: Prelude = {**COMMON, "D": 2048, "H": 32, "K": 8, "E": 64, "F": 8192, "V": 128256, "EPS": 1e-5}
LLAMA_8B: Prelude = {**LLAMA_1B, "D": 4096, "E": 128, "F": 14336}
MODELS = [SMOLLM2_135M, LLAMA_1B]
WEIGHTS: list[Prelude] = [
    {"Weight": "Dense<bfloat16>"}, {"Weight": "Dense<float32>"},
    {"Weight": "Packed<8, 0, true>"}, {"Weight": "Packed<4, 32, false>"},
]  # fmt: skip


def each(*choices: list[Prelude]) -> list[Prelude]:
    """Every combination of one prelude from each list; later ones win."""
    combined: list[Prelude] = [{}]
    for choice in choices:
        combined = [{**before, **prelude} for before in combined for prelude in choice]
    return combined


# Heads of 128 and of 256 numbers, the second with one shared key head: more registers a thread than the models need.
WIDE_HEADS: list[Prelude] = [{**LLAMA_1B, "E": 128}, {**LLAMA_1B, "H": 8, "K": 1, "E": 256}]
BFLOAT16: Prelude = {"Weight": "Dense<bfloat16>"}
ONE_AND_EIGHT: list[Prelude] = [{"T": 1}, {"T": 8}]  # rows
PRODUCTS = [*each(MODELS, [BFLOAT16], ONE_AND_EIGHT), *each([SMOLLM2_135M], WEIGHTS[2:], [{"T": 8}])]

BATCHES: list[Prelude] = [{"T": 16}, {"T": 64}, {"T": 256}]  # rows of tensor cores: tiles of three shapes
GATE_UP: Prelude = {"INPUTS": 576, "OUTPUTS": 3072, "EPILOGUE": 2}
DOWN: Prelude = {"INPUTS": 1536, "OUTPUTS": 576, "EPILOGUE": 1}
HEAD: Prelude = {"INPUTS": 576, "OUTPUTS": 49152, "EPILOGUE": 0}

# A quantized cache: bits, positions of a block, channels of a group, floats of a position in all layers.
PACKED_KV = each(MODELS, [{"BITS": bits, "BLOCK": 16, "GROUP": 32, "NUMBERS": 30 * 2 * 3 * 64} for bits in (8, 4, 2)])

COMPILED: dict[str, list[Prelude]] = {
    "embed": each([SMOLLM2_135M], WEIGHTS),
    "rms_product": each([SMOLLM2_135M], [BFLOAT16, WEIGHTS[2]], [{"T": 4, "INPUTS": 576, "OUTPUTS": 960}]),
    "rms_qkv_rope_append": each([SMOLLM2_135M], [BFLOAT16], ONE_AND_EIGHT),
    "rms_gate_up": PRODUCTS,
    "projection_residual": [{**prelude, "INPUTS": prelude["F"]} for prelude in PRODUCTS],
    "norm_add": [SMOLLM2_135M],
    "cap_logits": each(MODELS, [{"T": 8}]),
    "persistent": [
        *each([*MODELS, LLAMA_8B], [BFLOAT16], [{"SPLITS": 32, "Table": "Dense<bfloat16>", "Head": "Dense<bfloat16>"}]),
        {**SMOLLM2_135M, **WEIGHTS[3], "SPLITS": 32, "Table": "Packed<8, 32, true>", "Head": "Packed<8, 32, true>"},
    ],
    "append_float_rows": PACKED_KV,
    "attention_decode": each([*MODELS, *WIDE_HEADS], [{"SPLITS": 1}, {"SPLITS": 4}]),
    "attention_decode_packed": PACKED_KV,
    "attention_prefill": [
        *each(MODELS, [{"TILE": 16}, {"TILE": 64}]), {**WIDE_HEADS[0], "TILE": 32}, {**WIDE_HEADS[1], "TILE": 16},
        *each(MODELS, [{"TILE": 16}, {"TILE": 64}]),
        *({**wide, "TILE": tile} for wide, tile in zip(WIDE_HEADS, (32, 16), strict=True)),
    ],
    "pack_block": PACKED_KV,
    "qk_norm_rope_append": [*MODELS, *WIDE_HEADS],
    "rms_head_sample": [
        *each(MODELS, [BFLOAT16], ONE_AND_EIGHT), {**SMOLLM2_135M, **WEIGHTS[2]},
        {**SMOLLM2_135M, **WEIGHTS[3], "D": 960, "T": 2},
    ],
    "sample": each(MODELS, [{"T": 64}]),
    "small_batch_product": [
        *each([SMOLLM2_135M], [BFLOAT16], BATCHES, [GATE_UP, DOWN, HEAD]),
        *each([SMOLLM2_135M], [{"Weight": "Dense<float16>"}, *WEIGHTS[2:]], BATCHES[2:], [GATE_UP]),
        *each([LLAMA_1B], [BFLOAT16], BATCHES[2:], [{**GATE_UP, "INPUTS": 2048, "OUTPUTS": 16384}]),
    ],
}
