"""Lesson 19, distillation: what a teacher's distribution tells that a text does not, and what a student makes of it.

Here are the exercises, the figure and the costs. The runs are in distillation_runs.py, the toy of two peaks in
peaks.py, the judges of gradients in divergence_judge.py, and the failure in float32 in sure_student.py. Each exercise
is aimed at a misconception: a higher temperature needs another rate, a teacher must run in every step, the two
directions of a divergence are nearly the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinyinfer.lessons.distillation_runs import READ, WINDOW, Pages, Trained
from tinyinfer.lessons.divergence_judge import divergence, judge_divergence, judge_reverse, reverse
from tinyinfer.lessons.exercise import Exercise, Wrong, judge_number
from tinyinfer.lessons.sure_student import judge_rest, log_rest

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def counted(text: Pages) -> float:
    """The cross entropy, on the tested pages, of a student that only counts the tokens it reads.

    The best amount of some is added to each count: this student may look at the test.
    """
    read, tested = (np.minimum(text.reading(which).tokens, text.known - 1) for which in (True, False))
    counts = np.bincount(read, minlength=text.known)  # (V,)
    laws = [(counts + more) / (counts + more).sum() for more in (1, 0.3, 0.1, 0.05, 0.02, 0.01)]  # (V,) each
    return min(float(-np.log(law[tested]).mean()) for law in laws)


def draw(by_text: Trained, by_teacher: Trained, by_counting: float) -> Figure:
    """The lesson's figure: what each student is trained for, and what both are tested on, by rounds of reading."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
    runs = {"told the text": (by_text, "C3"), "told the teacher's distributions": (by_teacher, "C0")}
    for name, (run, color) in runs.items():
        axes[0].plot(*run.losses.T, color=color, label=name)
        axes[1].plot(*run.tests.T, "o-", color=color, markersize=4, label=name)
    axes[1].axhline(by_counting, color="0.5", linestyle=":")
    near: dict[str, Any] = {"xytext": (0, 4), "textcoords": "offset points", "color": "0.4", "ha": "right"}
    axes[1].annotate("counts tokens only", (by_text.tests[-1, 0], by_counting), **near)
    lowest = min(by_counting, by_text.best, by_teacher.best)
    axes[1].set_ylim(lowest - 0.2, max(by_text.last, by_counting) + 0.4)
    axes[0].set(title="What each is trained for", ylabel="its own loss on the pages it reads (nats a row)")
    axes[1].set(title="What both are tested on", ylabel="cross entropy on other pages (nats a row)")
    for ax in axes:
        ax.set_xlabel(f"rounds through {READ * WINDOW:,} tokens")
        ax.legend(frameon=False)
    return figure


# What a useful student would cost.

PER_PARAMETER = 20  # tokens that a parameter is worth reading (Hoffmann et al. 2022, table 3: about 20 at each size)
BACKWARD = 2  # forward passes that a backward pass costs: each product has two adjoints of its size


def hours(tokens: int, speed: float) -> float:
    """Hours for a student as large as its teacher to read so many tokens. speed: rows a second of the teacher's pass.

    A token costs a forward pass of the teacher, and three forward passes' worth of the student.
    """
    return tokens * (1 + 1 + BACKWARD) / speed / 3600


# The exercises.

HALF = 4.0

judge_factor = judge_number(
    HALF,
    "times",
    {
        2: Wrong("That counts one of two effects.", "the logits are divided by t, and q comes closer to p, too"),
        1: Wrong("Without t², the gradient does not stay.", "at a high temperature q - p itself falls like 1/t"),
        8: Wrong("That is one factor too many.", "two effects, and each is a factor of t"),
        0.25: Wrong("That is the other way round.", "by which factor is the old one larger: a number above 1"),
        16: Wrong("That counts each effect twice.", "each effect once: and t doubles"),
    },
    "two factors: the chain rule through logits / t, and how far apart q and p are at a high temperature",
    tolerance=1e-9,
)

OF_TEACHER, OF_STUDENT, ROUNDS = 134_515_008, 393_536, 40
LIVE = ROUNDS * (2 * OF_TEACHER + 6 * OF_STUDENT)
ONCE = 2 * OF_TEACHER + ROUNDS * 6 * OF_STUDENT
SAVED = LIVE / ONCE

judge_once = judge_number(
    SAVED,
    "times",
    {
        ROUNDS: Wrong("That would be a student that costs nothing.", "the student is trained in every round"),
        ROUNDS * (2 * OF_TEACHER + 2 * OF_STUDENT) / (2 * OF_TEACHER + ROUNDS * 2 * OF_STUDENT): Wrong(
            "That counts a row of teacher and student alike.",
            "the teacher is only asked; a student is trained, and its backward pass costs two forward passes more",
        ),
        ROUNDS * 2 * OF_TEACHER / ONCE: Wrong(
            "That forgets the student where the teacher runs every time.", "it is trained in both cases"
        ),
        OF_TEACHER / OF_STUDENT: Wrong("That is how much larger the teacher is.", "add up the FLOPs of all rounds"),
    },
    "for each row: 2 FLOPs a weight for the teacher, as often as it runs; 6 a weight for the student in each round",
    tolerance=0.005,
)

EXERCISES = (
    Exercise(
        "divergence", judge_divergence, divergence,
        "All of a softmax, a logarithm and a sum comes down to q - p: what the student says too much of, goes down.",
    ),
    Exercise(
        "log_rest", judge_rest, log_rest,
        "No subtraction of numbers that are nearly equal: what is small is summed up by itself.",
    ),
    Exercise(
        "factor", judge_factor, HALF,
        "So the loss is multiplied by t²: then a rate that was right stays right at another temperature.",
    ),
    Exercise(
        "once", judge_once, SAVED,
        "The larger the teacher and the more rounds, the more it saves. It fixes text and temperature in return.",
    ),
    Exercise(
        "reverse", judge_reverse, reverse,
        "Where q is nearly 0 the gradient is, too: what the student never says, this loss cannot see.",
    ),
)  # fmt: skip
