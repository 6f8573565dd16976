"""Lesson 03: the judge of a student's cache says where the first difference is, and names each usual mistake."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinyinfer.lessons import kv_cache
from tinyinfer.lessons.cache_judge import PROMPT, TEXT, TOLERANCE, judge_cache, largest_error, pieces
from tinyinfer.lessons.kv_cache import EXERCISES, ListCache
from tinyinfer.lessons.models import Models
from tinyinfer.lessons.own_part import answers, own_engine, student_cache
from tinyinfer.sampling_params import SamplingParams

JUDGES = {exercise.name: exercise for exercise in EXERCISES}


@pytest.fixture(scope="module")
def tiny():
    models = Models()
    return models.open(models.tiny_path(), None)


class Overwrites(ListCache):
    def __init__(self, layers):
        super().__init__(layers)
        self.count = 0

    def append(self, layer, k, v):
        self.keys[layer], self.values[layer] = [k], [v]
        self.count += len(k) if layer == 0 else 0

    def length(self):
        return self.count


class OneListForAllLayers(ListCache):
    def __init__(self, layers):
        self.keys, self.values = [[]] * layers, [[]] * layers


class ValuesAsKeys(ListCache):
    def append(self, layer, k, v):
        super().append(layer, v, k)


class KeysTwice(ListCache):
    def append(self, layer, k, v):
        super().append(layer, k, k)


class OneListForKeysAndValues(ListCache):
    def __init__(self, layers):
        super().__init__(layers)
        self.values = self.keys


class WithoutTheNewest(ListCache):
    def read(self, layer):
        return tuple(rows[:-1] for rows in super().read(layer))


class WithoutTheFirst(ListCache):
    def read(self, layer):
        return tuple(rows[1:] for rows in super().read(layer))


class NewestInFront(ListCache):
    def append(self, layer, k, v):
        self.keys[layer].insert(0, k)
        self.values[layer].insert(0, v)


class LastRowOfACall(ListCache):
    def append(self, layer, k, v):
        super().append(layer, k[-1:], v[-1:])


class LateLayer(ListCache):
    def read(self, layer):
        return super().read(len(self.keys) - 1 if self.keys[-1] else layer)


class SharedByAllCaches(ListCache):
    shared: Any = {}  # noqa: RUF012, the mistake itself

    def __init__(self, layers):
        self.keys = self.shared.setdefault("keys", [[] for _ in range(layers)])
        self.values = self.shared.setdefault("values", [[] for _ in range(layers)])

    def length(self):
        return 0 if sum(map(len, self.keys)) == 0 else super().length()


class HalfPrecision(ListCache):
    def append(self, layer, k, v):
        super().append(layer, k.astype(np.float16), v.astype(np.float16))


class ValuesOfHalfPrecision(ListCache):
    def append(self, layer, k, v):
        super().append(layer, k, v.astype(np.float16))


class Restarts(ListCache):
    def length(self):
        return 0


class CountsCalls(ListCache):
    def length(self):
        return len(self.keys[0])


class CountsLayers(ListCache):
    def length(self):
        return len(self.keys)


class CountsInEveryLayer(ListCache):
    def __init__(self, layers):
        super().__init__(layers)
        self.count = 0

    def append(self, layer, k, v):
        super().append(layer, k, v)
        self.count += len(k)

    def length(self):
        return self.count


class CountsEveryLayer(ListCache):
    def length(self):
        return sum(len(k) for layer in self.keys for k in layer)


class OneTooFar(ListCache):
    def length(self):
        n = super().length()
        return n + 1 if n else 0


class StaysAtThePrompt(ListCache):
    def length(self):
        return len(self.keys[0][0]) if self.keys[0] else 0


class Transposed(ListCache):
    def read(self, layer):
        return tuple(rows.transpose(1, 0, 2) for rows in super().read(layer))


class Lists(ListCache):
    def read(self, layer):
        return self.keys[layer], self.values[layer]


class ReadsNothing(ListCache):
    def read(self, layer):
        return None


class LengthOfNothing(ListCache):
    def length(self):
        return None


class NotANumber(ListCache):
    def length(self):
        return float("nan")


class NoLength:
    append = read = ListCache.append


PLANTED = {
    Overwrites: ("token 0, layer 0, keys", "were stored over them"),
    OneListForAllLayers: ("layer 1, keys", "every layer needs a list of its own"),
    ValuesAsKeys: ("token 0, layer 0, keys", "values stand where keys belong"),
    KeysTwice: ("token 0, layer 0, values", "keys stand where values belong"),
    OneListForKeysAndValues: ("layer 0, keys", "one and the same list"),
    WithoutTheNewest: ("layer 0, keys", "the newest row is missing"),
    WithoutTheFirst: ("token 0, layer 0, keys", "the first row is missing"),
    NewestInFront: ("token 0, layer 0, keys", "in front of the earlier ones"),
    LastRowOfACall: ("token 0, layer 0, keys", "only the last was stored"),
    LateLayer: ("token 0, layer 0, keys", "the rows of layer 1"),
    SharedByAllCaches: ("token 0: `length` says 36", "shared by all caches"),
    HalfPrecision: ("layer 0, keys", "fewer bits"),
    ValuesOfHalfPrecision: ("layer 0, values", "fewer bits"),
    Restarts: ("token 6: `length` says 0", "positions restart at 0"),
    CountsCalls: ("token 6: `length` says 1", "counts the calls"),
    CountsLayers: ("token 0: `length` says 2", "the number of layers"),
    CountsInEveryLayer: ("token 6: `length` says 12", "is called in each layer"),
    CountsEveryLayer: ("token 6: `length` says 12", "counted 2 times"),
    OneTooFar: ("token 6: `length` says 7", "off by one"),
    StaysAtThePrompt: ("token 20: `length` says 6", "stays at the length of the first piece"),
    Transposed: ("token 0, layer 0, keys", "rows of shape"),
    Lists: ("type list", "np.concatenate"),
    ReadsNothing: ("`read` returned None", "return two arrays"),
    LengthOfNothing: ("`length` returned None", "count the rows"),
    NotANumber: ("`length` returned nan", "count the rows"),
    NoLength: ("no method `length`", "append, read, length"),
}


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.__name__)
def test_each_planted_mistake_is_located_and_named(planted):
    """Catches a judge that lets a wrong cache pass, or that only says "wrong"."""
    where, hint = PLANTED[planted]
    wrong = judge_cache(planted)
    assert wrong is not None
    assert where in wrong.sentence
    assert hint in wrong.hint


def test_right_caches_of_other_kinds_are_right():
    """Nothing is tested that was not asked: how the rows are kept is the student's own affair."""

    class Grown(ListCache):
        def __init__(self, layers):
            self.rows = [None] * layers

        def append(self, layer, k, v):
            new, old = np.stack([k, v]), self.rows[layer]
            self.rows[layer] = new if old is None else np.concatenate((old, new), axis=1)

        def read(self, layer):
            return list(self.rows[layer])

        def length(self):
            return 0 if self.rows[0] is None else np.int64(self.rows[0].shape[1])

    assert judge_cache(ListCache) is None
    assert judge_cache(Grown) is None


@pytest.mark.parametrize("answer", [None, "a text", float("nan"), 3, ListCache(2), [], lambda layers: None])
def test_what_is_no_class_gets_a_sentence(answer):
    wrong = judge_cache(answer)
    assert wrong is not None
    assert "is not a class" in wrong.sentence


def test_code_that_raises_gets_a_sentence():
    """Catches a bare traceback of the student's own class."""

    class Raises(ListCache):
        def append(self, layer, k, v):
            raise KeyError(layer)

    wrong = JUDGES["cache"].judged(Raises)
    assert wrong is not None
    assert "KeyError" in wrong.sentence


def test_every_split_of_the_prompt_is_tried():
    """Each first piece of 1 to all tokens of the prompt, a second one behind it, then single tokens."""
    stops = list(pieces(PROMPT, 36))
    assert sorted(piece[0] for piece in stops) == list(range(1, PROMPT + 1))
    assert all(piece[-17:] == list(range(PROMPT, 37)) for piece in stops)


def test_cached_logits_equal_uncached_ones(tiny):
    assert largest_error(tiny, ListCache, tiny.tokenizer.encode(TEXT), PROMPT) < TOLERANCE / 10


def test_the_engine_with_a_students_cache_writes_and_counts_the_same(tiny):
    """Catches a wrapper that drops rows, mixes sequences or counts otherwise than the library's cache."""
    prompts, params = ["one prompt", "and a longer one beside it"], SamplingParams(max_tokens=20, ignore_eos=True)
    start = tiny.ledger.copy()
    plain = [out.token_ids for out in tiny.generate(prompts, params)]
    middle = tiny.ledger.copy()
    own = answers(tiny, own_engine(tiny, student_cache(tiny, ListCache)), tiny.sequences(prompts, params))
    assert own == plain
    assert tiny.ledger - middle == middle - start


def test_only_the_positions_behind_the_prompt_are_wrong(tiny):
    """The right rule gives the logits of the engine; a wrong one changes them."""
    tokens = tiny.tokenizer.encode(TEXT)
    right = kv_cache.following_logits(tiny, tokens, 10, lambda position, prompt: position)
    assert np.allclose(right, tiny.logits(tokens)[9:-1], atol=1e-4)
    off = kv_cache.following_logits(tiny, tokens, 10, lambda position, prompt: position + 1)
    assert np.allclose(right[0], off[0], atol=1e-4)
    assert np.abs(right[1:] - off[1:]).max() > 1e-2
    continued = kv_cache.continuation(tiny, ListCache, tokens, 8, lambda position, prompt: position)
    assert continued == tiny.generate([tokens], SamplingParams(max_tokens=8, ignore_eos=True))[0].token_ids


def test_what_the_clock_says_is_chosen_by_its_numbers():
    """Catches a sentence that says less under a table that says more, on a machine that was busy."""
    assert "gains less" in kv_cache.compared(24.6, 6.5)
    assert "Run the two cells again" in kv_cache.compared(24.6, 75.1)


def test_each_usual_wrong_number_of_rows_is_another_one():
    truth, usual = kv_cache.rows_without_cache(64, 32)
    assert truth == 2544
    assert set(usual) == {95, 2048, 3072, 32, 2640, 2480}


def test_the_shapes_have_the_published_sizes():
    """SmolLM2's are those of its weights; the others as published: 124 M, 596 M, 1.24 B and 6.74 B."""
    sizes = {name: kv_cache.parameters(config) for name, config in kv_cache.SHAPES.items()}
    assert sizes["SmolLM2-135M"] == 134_515_008
    assert kv_cache.outweighs(kv_cache.SMOLLM2) == 11_677
    assert (kv_cache.BYTES, kv_cache.MATRICES) == (2 * 16 * 8 * 64 * 2 * 8192, 2 * 134_479_872)
    assert [round(size / 1e6) for size in sizes.values()] == [124, 135, 596, 1236, 6738]


ALL = kv_cache.BYTES
NUMBERS = {
    "bytes": {
        3 * ALL: "queries", 4 * ALL: "every query head", ALL // 2: "half", ALL // 16: "one layer", 2 * ALL: "twice",
        ALL // 8192: "one position", 7: "too low",
    },
    "growth": {
        1: "O(1)", 128: "positions grow", 16_384: "square", 2: "too low", 5.045: "one FLOP", 1.692: "K for H",
        1.07: "one layer", 2.105: "compares attention",
    },
    "reuse": {(30, 30): "Not 30", (0, 30): "Not 0", (0, 0): "Not 0", (1, 1): "Not 1", (1, 0): "Not 1", (5, 5): "Not 5"},
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_judged_each_with_its_own_hint(name):
    judge = JUDGES[name].judge
    assert judge(JUDGES[name].solution) is None
    wrongs = {answer: judge(answer) for answer in NUMBERS[name]}
    assert all(wrong and NUMBERS[name][answer] in wrong.sentence for answer, wrong in wrongs.items())
    assert len({wrong.hint for wrong in wrongs.values() if wrong}) == len(wrongs)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("answer", [None, "many", float("nan"), True, [], (1,), (None, 1), {}])
def test_answers_of_other_types_get_a_sentence(name, answer):
    wrong = JUDGES[name].judged(answer)
    assert wrong is not None
    assert wrong.sentence
    assert wrong.hint
