"""What is peculiar to each family, and its traps: the golden fits, and no longer does once one thing is wrong.

What a file may leave out has its family's default. Rotations that follow the sequence's length change where they must.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache

import numpy as np
import pytest
from golden import BARE, FAMILIES, load_golden, write_hf_folder
from helpers import COMPILED, TOLERANCE, distance, golden_distance, make_engine, request
from traps import TRAPS, fields

from tinyinfer.loading import load
from tinyinfer.loading.checkpoint import Checkpoint
from tinyinfer.sequence import Batch, Span

BACKENDS = ("reference", "numpy", *COMPILED)


@pytest.fixture(scope="module")
def checkpoint_of(golden_folder):
    """A function from a golden's name to its checkpoint, shared by the tests of this file."""
    return cache(lambda name: load(golden_folder(name)))


def off(name: str, checkpoint: Checkpoint, backend: str = "numpy") -> float:
    """How far the golden's logits are off when this checkpoint computes them, whole and in pieces."""
    golden = load_golden(name)
    return golden_distance("tinyinfer", checkpoint, golden.tokens, golden.logits, backend)


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: f"{trap.golden}: {trap.name}")
def test_the_golden_notices(trap, checkpoint_of):
    """The logits of transformers fit the model, and by far not the model with the mistake."""
    right, wrong = (off(trap.golden, c) for c in (checkpoint_of(trap.golden), trap.change(checkpoint_of(trap.golden))))
    assert right < TOLERANCE / 5
    assert wrong > 10 * TOLERANCE


@pytest.mark.parametrize("name", ["gpt_neox", "gpt_neox_serial"])
def test_exact_gelu_is_told_from_its_tanh_form(name, checkpoint_of):
    """The two differ by 5e-4 at most, so that the golden can notice no more than a few times the tolerance."""
    assert off(name, checkpoint_of(name)) < TOLERANCE / 50
    assert off(name, fields(activation="gelu_tanh")(checkpoint_of(name))) > 1.5 * TOLERANCE


def test_dense_layers_stand_where_the_file_says(checkpoint_of):
    """Catches i % step for (i + 1) % step, and mlp_only_layers taken for the layers with experts."""
    assert checkpoint_of("qwen2_moe").config.experts.dense_layers == (2,)
    assert checkpoint_of("qwen3_moe_mixed").config.experts.dense_layers == (0, 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", BARE)
def test_what_a_file_leaves_out_is_the_default_of_its_family(name, backend, tmp_path):
    """Every field that may be left out is. Catches another family's epsilon, base, scaling, window rule, expert count.

    Gemma 3's file is the text part in a model of images, by both prefixes of its tensors.
    """
    golden = load_golden(name)
    for i, spelling in enumerate([{"bare": True}, {"dialect": 4}]):
        with pytest.warns(UserWarning, match="passed over") if golden.around else nullcontext():
            checkpoint = load(write_hf_folder(golden, tmp_path / str(i), **spelling))
        assert off(name, checkpoint, backend) < TOLERANCE


@pytest.mark.parametrize("backend", ["reference", *COMPILED])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_reference_operations_and_the_compiled_pass_fit_every_golden(name, backend, checkpoint_of):
    """ReferenceOps is the formula that all other backends are held against. (NumPy's: test_transformer.py)"""
    assert off(name, checkpoint_of(name), backend) < TOLERANCE


def test_masks_and_frequencies_of_old_files_are_passed_over(tmp_path):
    """Catches a Pythia of 2023 refused for tensors that the configuration gives anyway."""
    folder = write_hf_folder("gpt_neox", tmp_path, old_buffers=True, dialect=4)
    assert off("gpt_neox", load(folder)) < TOLERANCE


# Rotations by the length of the sequence.


@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_the_boundary_is_the_last_length_with_short_factors(beyond, checkpoint_of):
    """Original - 1, original and original + 1 tokens. Catches `>=` for `>`, and factors chosen row by row."""
    golden, checkpoint = load_golden("phi3_long"), checkpoint_of("phi3_long")
    n = checkpoint.config.rotation_sets.boundary + beyond
    found = golden_distance("tinyinfer", checkpoint, golden.tokens[:n], golden.first_logits(n))
    assert found < TOLERANCE


def test_rows_of_both_kinds_share_a_batch(checkpoint_of):
    """A short and a long sequence in one step. Catches one set of factors for all rows of a batch."""
    golden, engine = load_golden("phi3_long"), make_engine(checkpoint_of("phi3_long"))
    short, whole = golden.tokens[:20], golden.tokens
    spans = Span(request(short), 0, 20, 0, 20, 0), Span(request(whole), 20, 20 + len(whole), 0, len(whole), 1)
    for span in spans:
        engine.cache.reserve(span.seq, span.rows)
    tokens, positions = (np.concatenate(rows) for rows in ((short, whole), (np.arange(20), np.arange(len(whole)))))
    logits = engine.forward(Batch(tokens, positions, np.arange(len(tokens)), spans))
    assert distance(logits[:20], golden.short_logits[:20]) < TOLERANCE
    assert distance(logits[20:], golden.logits) < TOLERANCE
