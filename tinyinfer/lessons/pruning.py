"""Lesson 18, pruning: which half of the weights can go, what makes up for them, and what is saved by it.

The measured models are in pruned_models.py, the student's lines are judged in pruning_judge.py. Each exercise is aimed
at a misconception: small weights do little, zeros cost no bytes, a tenth of the layers is a tenth of the bytes.
"""

from __future__ import annotations

from tinyinfer.lessons.exercise import Exercise, Wrong, judge_number
from tinyinfer.lessons.pruning_judge import cheapest, influence, judge_cheapest, judge_influence, judge_refit, refit


def usual_guesses(vocab_size: int, perplexity: float) -> dict[float, str]:
    """Of each usual wrong prediction of magnitude's ratio the idea behind it."""
    return {
        1: "Small weights do little each, but they are half of all, and some have inputs that are large.",
        2: "Half of the weights is no measure of what they do: it depends on which half.",
        vocab_size / perplexity: "That would be a model that knows nothing; something is left.",
    }


EVEN = 0.25  # share that must go from codes of 4 bits, with a bit a weight for the mask: 1 + 4·(1 - s) = 4

judge_even = judge_number(
    EVEN,
    "of the weights",
    {
        0: Wrong("That counts no mask.", "which weights stay must be kept, too: one bit for every weight"),
        25: Wrong("That looks like percent.", "write a share between 0 and 1"),
        1 - 3.5 / 4.5: Wrong(
            "That lets scales go with the weights.", "a group keeps its one scale, however many of its codes are left"
        ),
        1 / 32: Wrong("That is the share of float32.", "the codes here have four bits, so that a bit weighs more"),
        0.5: Wrong("With half of them gone it is smaller already.", "find the share at which both take the same bits"),
    },
    "write down the bits of a weight with and without the mask, and set them equal",
)

LAYER, ALL = 3_540_096, 134_515_008  # SmolLM2's numbers in a layer, and in all layers, head and norms together
FEWER = 100 * 3 * LAYER / ALL

judge_fewer = judge_number(
    FEWER,
    "%",
    {
        10: Wrong("That is three of thirty layers.", "a token reads the head, too, and no layer of it goes"),
        FEWER / 100: Wrong("That is the share, not the percentage.", "times a hundred"),
        100 - FEWER: Wrong("That is what is left.", "how many go?"),
        FEWER / 3: Wrong("That is one layer.", "three of them go"),
    },
    "divide the numbers of three layers by all that a token reads",
)

EXERCISES = (
    Exercise(
        "refit",
        judge_refit,
        refit,
        "Weights whose inputs are correlated can do each other's work. SparseGPT does this for all rows of a matrix.",
    ),
    Exercise(
        "influence",
        judge_influence,
        influence,
        "A layer that hardly turns its rows hands on nearly what it got.",
    ),
    Exercise(
        "break even",
        judge_even,
        EVEN,
        "A mask costs one bit of every weight: nearly nothing beside 32, and a quarter of 4.",
    ),
    Exercise(
        "fewer bytes",
        judge_fewer,
        FEWER,
        "A small model has a large head: what goes from the layers goes from a part of it only.",
    ),
    Exercise(
        "cheapest",
        judge_cheapest,
        cheapest,
        "This is the score of the Optimal Brain Surgeon. SparseGPT removes by it, Wanda leaves the making up out.",
    ),
)
