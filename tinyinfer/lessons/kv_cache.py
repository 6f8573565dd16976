"""Lesson 03: the KV cache, its exercises, our solutions, and the runs of the lesson with wrong positions.

The lesson's failure: a cache whose positions are wrong by one after the prompt writes good text, and even a better
perplexity. Only the comparison with uncached logits shows it (cache_judge.py).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyinfer.arrays import FLOAT
from tinyinfer.engine.trace import StepTrace
from tinyinfer.kv_cache.memory import position_bytes
from tinyinfer.lessons.cache_judge import judge_cache
from tinyinfer.lessons.exercise import Exercise, Wrong, judge_number
from tinyinfer.lessons.own_part import student_cache
from tinyinfer.llm import LLM
from tinyinfer.measure.roofline import expected_step
from tinyinfer.model.config import ModelConfig, expected_tensors
from tinyinfer.model.transformer import transformer
from tinyinfer.sampling import token_scores
from tinyinfer.sequence import Batch, Span
from tinyinfer.units import show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STORY = (
    "Water boils when its vapour pressure equals the pressure of the air around it. On a high mountain the air is "
    "thinner, so water boils at a lower temperature, and an egg needs more time to cook. In a closed pot the steam "
    "cannot leave, the pressure rises, and the water becomes hotter than it would in an open pot. That is why a "
    "pressure cooker saves time: the food is cooked at a higher temperature. A cook who lives by the sea can follow "
    "the times that are written in a book, but a cook who lives in the mountains has to add some minutes for every "
    "thousand metres."
)

Position = Callable[[int, int], int]  # (true position, tokens of the prompt) -> the position that a wrong cache takes


class ListCache:
    """The keys and values of one sequence: of each layer a list of arrays, one array for each call."""

    def __init__(self, layers: int) -> None:
        self.keys: list[list[np.ndarray]] = [[] for _ in range(layers)]
        self.values: list[list[np.ndarray]] = [[] for _ in range(layers)]

    def append(self, layer: int, k: np.ndarray, v: np.ndarray) -> None:  # (T, K, E), (T, K, E) ->
        """Stores the keys and values of new rows behind those of earlier calls."""
        self.keys[layer].append(k)
        self.values[layer].append(v)

    def read(self, layer: int) -> tuple[np.ndarray, np.ndarray]:  # -> (S, K, E), (S, K, E)
        """All keys and all values of the layer, in the order of the positions."""
        return np.concatenate(self.keys[layer]), np.concatenate(self.values[layer])

    def length(self) -> int:
        """How many positions are stored: the position of the next row."""
        return sum(len(k) for k in self.keys[0])


# The prediction, and the clock beside the counts.


def rows_without_cache(prompt: int, new: int) -> tuple[int, dict[float, str]]:
    """The rows of `new` steps that keep nothing, and of each usual wrong guess what it counts."""
    truth = sum(range(prompt, prompt + new))  # the first step computes the prompt, and each later one a row more
    return truth, {
        prompt + new - 1: "That is about the number with a cache: each token once (but the last, not at all).",
        prompt * new: "That is the prompt in every step. The new tokens are computed again, too.",
        (prompt + new) * new: "That is the full length in every step. The sequence only becomes so long.",
        new: "That is the number of steps. Without a cache a step computes all rows, not one.",
        truth + prompt + new: "That is one step too many: the first new token comes from the rows of the prompt.",
        truth - prompt: "That leaves out the first step, which computes the rows of the prompt.",
    }


def compared(fewer: float, faster: float) -> str:
    """What the clock says beside the FLOPs: how many times fewer they are, and how many times faster the run was."""
    if faster < fewer:
        return "The clock gains less than the FLOPs. A step of one row reads every weight, and waits for memory."
    return "More than the FLOPs explain: something else has slowed your machine. Run the two cells again."


# Runs with wrong positions. The library's transformer takes the positions from the batch: no line of it is changed.


def continuation(llm: LLM, make: Callable[[int], Any], prompt: list[int], n: int, position: Position) -> list[int]:
    """n greedy tokens after the prompt, the rows after the prompt rotated for the positions of `position`."""
    cache, [seq] = student_cache(llm, make), llm.sequences([prompt])
    tokens, first = list(prompt), 0
    for _ in range(n):
        cache.reserve(seq, len(tokens) - first)
        tokens.append(int(_logits(llm, cache, seq, tokens, first, len(prompt), position)[-1].argmax()))
        first = len(tokens) - 1
    return tokens[len(prompt) :]


def following_logits(llm: LLM, tokens: list[int], prompt: int, position: Position) -> np.ndarray:  # -> (R, V)
    """The logits of each token after the first `prompt` ones: from the row of the token before it."""
    cache, [seq] = student_cache(llm, ListCache), llm.sequences([tokens])
    cache.reserve(seq, len(tokens))
    return _logits(llm, cache, seq, tokens, 0, prompt, position)[prompt - 1 : -1]


def perplexity(logits: np.ndarray, tokens: list[int]) -> float:  # (R, V) ->
    """exp of the mean surprise at the last R tokens."""
    return float(np.exp(-np.mean(token_scores(logits, tokens[-len(logits) :]))))


def _logits(
    llm: LLM, cache: Any, seq: Any, tokens: list[int], first: int, prompt: int, position: Position
) -> np.ndarray:  # -> (T, V)
    rows = len(tokens) - first
    positions = [p if p < prompt else position(p, prompt) for p in range(first, len(tokens))]
    span = Span(seq, 0, rows, first, rows)
    batch = Batch(np.array(tokens[first:]), np.array(positions), np.arange(rows), (span,))
    return transformer(llm.model, batch, cache, llm.ops)


# What a cache costs, by the shapes that were published.


def shape(
    vocab: int, width: int, mlp: int, layers: int, heads: int, key_heads: int, head: int, context: int, **more: Any
) -> ModelConfig:
    """A configuration of the sizes alone: V, D, F, L, H, K, E and the longest context."""
    return ModelConfig(
        "llama", vocab, width, mlp, layers, heads, key_heads, head, context, norm_eps=1e-5,
        attention_scale=head**-0.5, rope=(None,) * layers, windows=(None,) * layers, **more,
    )  # fmt: skip


SHAPES = {
    "GPT-2": shape(
        50257, 768, 3072, 12, 12, 12, 64, 1024, norm="layer", gated=False, qkv_bias=True, o_bias=True, mlp_bias=True,
        learned_positions=True, tied_head=True,
    ),
    "SmolLM2-135M": shape(49152, 576, 1536, 30, 9, 3, 64, 8192, tied_head=True),
    "Qwen3-0.6B": shape(151936, 1024, 3072, 28, 16, 8, 128, 40960, qk_norm="head", tied_head=True),
    "Llama 3.2 1B": shape(128256, 2048, 8192, 16, 32, 8, 64, 131072, tied_head=True),
    "Llama 2 7B": shape(32000, 4096, 11008, 32, 32, 32, 128, 4096),
}  # fmt: skip
SMOLLM2 = SHAPES["SmolLM2-135M"]


def parameters(config: ModelConfig) -> int:
    """How many weights a model of this shape has."""
    return sum(prod(tensor) for tensor in expected_tensors(config).values())


def outweighs(config: ModelConfig) -> int:
    """At how many positions, of all sequences together, the cache takes more bytes than the weights, both float32."""
    return FLOAT * parameters(config) // position_bytes(config.memory) + 1


def decode_flops(config: ModelConfig, position: int, cached: bool = True) -> int:
    """FLOPs of the step that computes the row at this position; without a cache, all rows before it, too."""
    return expected_step(config, position, 1).flops if cached else expected_step(config, 0, position + 1).flops


def draw(
    config: ModelConfig, steps: dict[str, list[StepTrace]], perplexities: dict[str, float], texts: dict[str, str]
) -> Figure:
    """The lesson's figure: FLOPs of a step by position, computed and counted; perplexity and text by position rule.

    steps: of the run without a cache, then of the run with one.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    reach = np.unique(np.geomspace(1, config.max_position, 60).astype(int))
    for (name, traces), cached, color in zip(steps.items(), (False, True), ("C3", "C0"), strict=True):
        left.loglog(reach, [decode_flops(config, n - 1, cached) for n in reach], color=color, label=name)
        positions = [trace.turns[0].first + trace.turns[0].rows for trace in traces[1:]]
        flops = [trace.ledger.flops for trace in traces[1:]]
        left.plot(positions, flops, ".", color=color, markersize=8, label=f"{name}, counted")
    matrices = decode_flops(config, 0)
    left.axhline(matrices, color="0.5", linestyle=":", linewidth=1)
    left.text(reach[-1], matrices * 0.8, "one row through all matrices", color="0.3", fontsize=9, ha="right", va="top")
    left.set(xlabel="positions so far", ylabel="FLOPs of a step", title="What a step computes")
    left.set_ylim(bottom=matrices / 3)
    left.legend(frameon=False)
    for i, (name, value) in enumerate(reversed(perplexities.items())):
        right.barh(name, value, height=0.35, color="C0" if name == "right" else "C1")
        right.text(value, i, f" {value:.1f}", va="center")
        right.text(0, i + 0.22, f' "{" ".join(texts[name].split())[:50]} [..]"', va="bottom", fontsize=9.5, color="0.3")
    right.set(xlabel="perplexity", title="Right and wrong positions", xlim=(0, 1.25 * max(perplexities.values())))
    right.margins(y=0.2)
    return figure


# The exercises.

LLAMA, TOKENS, HALF = SHAPES["Llama 3.2 1B"], 8192, 2  # a model, the tokens of a conversation, bytes of a float16
BYTES = TOKENS * position_bytes(LLAMA.memory) * HALF // FLOAT
C = SMOLLM2
EARLY, LATE = 63, 8191  # positions of two steps: the 64th and the 8192nd
GROWTH = decode_flops(C, LATE) / decode_flops(C, EARLY)
ATTENTION = 4 * C.num_heads * C.head_dim * C.num_layers  # FLOPs for each position that a row sees
MATRICES = decode_flops(C, 0) - ATTENTION  # FLOPs of a row in all matrices


def growth(matrices: float, attention: float) -> float:
    """What the growth would be with other FLOPs of the matrices, and of attention for each position that is seen."""
    return (matrices + attention * (LATE + 1)) / (matrices + attention * (EARLY + 1))


REUSED = (0, 1)  # layers whose keys, and whose values, are the same at another place


def judge_reuse(answer: Any) -> Wrong | None:
    """Judges (layers with the same keys, layers with the same values) of a sentence at two places."""
    pair = isinstance(answer, tuple | list) and len(answer) == 2
    if not pair or not all(isinstance(n, int | np.integer) for n in answer):
        return Wrong(f"{show(answer)} is not a pair of whole numbers.", "write (layers of keys, layers of values)")
    keys, values = map(int, answer)
    if (keys, values) == REUSED:
        return None
    named = {
        (C.num_layers, C.num_layers): "a cached block is not a property of its words: compare the two places number by "
        "number. A key is rotated for its position, and from the second layer on a row knows the text before it",
        (0, C.num_layers): "rotation is not the only difference: from the second layer on, a row holds what attention "
        "fetched from the text before it, and its value is made from that",
        (0, 0): "look at the values of the first layer: they are made of the token's own vector alone, and values are "
        "not rotated",
        (1, 1): "the first layer's keys are made of the token alone, too, but a key is rotated for its position",
        (1, 0): "keys and values are swapped: it is the keys that are rotated",
    }
    hint = named.get((keys, values), "compare one.keys[i][-m:] with two.keys[i][-m:] in every layer, then the values")
    return Wrong(f"Not {keys} layers of keys and {values} of values.", hint)


EXERCISES = (
    Exercise(
        "cache", judge_cache, ListCache,
        "Cached logits equal uncached ones for every split of the prompt.",
    ),
    Exercise(
        "bytes",
        judge_number(
            BYTES, "bytes",
            {
                BYTES * (LLAMA.num_heads + 2 * LLAMA.num_kv_heads) // (2 * LLAMA.num_kv_heads): Wrong(
                    "That counts queries, too.", "a query is used once, by its own row, and never again: only keys and "
                    "values are read by later rows"),
                BYTES * LLAMA.num_heads // LLAMA.num_kv_heads: Wrong(
                    "That counts a key and a value for every query head.", "query heads share key heads here: K is "
                    "smaller than H"),
                BYTES // 2: Wrong("That is half of it.", "keys and values are two arrays, and each of their numbers "
                                  "takes two bytes"),
                BYTES * FLOAT // HALF: Wrong("That is twice as many.", "a float16 takes two bytes"),
                BYTES // LLAMA.num_layers: Wrong("That is one layer.", "every layer has keys and values of its own"),
                BYTES // TOKENS: Wrong("That is one position.", "every token of the conversation has a position"),
            },
            "multiply: two arrays, L layers, K heads of E numbers, two bytes each, for every token", tolerance=1e-9,
        ),
        BYTES, "2·L·K·E·2 for each of the 8192 tokens: the cache keeps no queries, and K heads instead of H.",
    ),
    Exercise(
        "growth",
        judge_number(
            GROWTH, "times",
            {
                1: Wrong("A step does not become O(1).", "the matrices cost the same at every position, but the new "
                         "row's query meets every key that is stored"),
                (LATE + 1) / (EARLY + 1): Wrong(
                    "That is how the positions grow.", "only attention grows with the positions; the matrices of a "
                    "row cost the same at each of them"),
                ((LATE + 1) / (EARLY + 1)) ** 2: Wrong(
                    "That is the square of how the positions grow.", "with a cache one query meets S keys: S scores a "
                    "step, not S times S"),
                decode_flops(C, LATE, cached=False) / decode_flops(C, EARLY, cached=False): Wrong(
                    "That is the growth without a cache.", "with a cache a step computes one row"),
                growth(MATRICES / 2, ATTENTION): Wrong(
                    "That is one FLOP for each weight.", "a weight is multiplied and added: two FLOPs"),
                growth(MATRICES, ATTENTION * C.num_kv_heads / C.num_heads): Wrong(
                    "That takes K for H.", "every query head has scores of its own, whichever key head it reads"),
                growth(MATRICES, ATTENTION / C.num_layers): Wrong(
                    "That is the attention of one layer.", "the weights are those of all layers, so attention must be, "
                    "too"),
                ATTENTION * (LATE + 1) / MATRICES: Wrong(
                    "That compares attention with the matrices.", "compare two whole steps, each with its matrices and "
                    "its attention"),
            },
            "add the FLOPs of the matrices, which are constant, to those of attention, 4·H·E·L for each position seen",
            tolerance=0.02,
        ),
        GROWTH, "(2·W + 4·H·E·L·8192) / (2·W + 4·H·E·L·64), with W weights: far less than the positions grow, and "
        "still not O(1), since attention reads every key.",
    ),
    Exercise(
        "reuse", judge_reuse, REUSED,
        "Only the first layer's values depend on the token alone. So a prefix cache (lesson 11) reuses a block only "
        "after exactly the same beginning.",
    ),
)  # fmt: skip
