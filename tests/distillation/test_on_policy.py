"""A student's own text: it begins as the document does, and depends on the seed alone."""

from __future__ import annotations

import numpy as np
from helpers import checkpoint_of, random_tensors, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.distillation.on_policy import continued
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import build_model

CONFIG = small_config()
OPS = NumpyOps(Ledger())
STUDENT = build_model(checkpoint_of(CONFIG, random_tensors(CONFIG)), OPS)
DOCUMENTS = [np.arange(size) % 31 for size in (9, 20, 12)]


def test_the_first_half_is_the_documents_and_the_second_the_students():
    """Each text is as long as its document has rows. Catches halves of another document, and a copy of the whole."""
    found = continued(STUDENT, OPS, DOCUMENTS, seed=1)
    for text, document in zip(found, DOCUMENTS, strict=True):
        half = (len(document) + 1) // 2
        assert len(text) == len(document) - 1
        assert text[:half].tolist() == document[:half].tolist()
        assert text[half:].tolist() != document[half:-1].tolist()


def test_the_seed_decides():
    """Catches text that is another one when a run goes on from its checkpoint."""
    texts = [[text.tolist() for text in continued(STUDENT, OPS, DOCUMENTS, seed)] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_tokens_that_the_student_lacks_become_its_last_one():
    """A student may know fewer tokens than its teacher. Catches an id outside its table."""
    [text] = continued(STUDENT, OPS, [np.array([3, 40, 50, 4, 5, 6])], seed=1)
    assert text[:3].tolist() == [3, CONFIG.vocab_size - 1, CONFIG.vocab_size - 1]
