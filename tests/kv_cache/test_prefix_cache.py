"""Prefix caching: what is found, what is shared, what is evicted and when, by hand.

test_block_machine.py does the same at random, against a simple model.
"""

from __future__ import annotations

import pytest
from helpers import finish, make_engine, request, small_config, tree
from served import Served

from tinyinfer.kv_cache.base import NoPrefixes

PLAIN = small_config()
ON = {"kv_cache": "paged", "block_size": 4, "prefix_cache": True}


# What is found


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        (range(12), 8),  # known as a whole, and still the last block is computed: its last token's logits are wanted
        (range(13), 12),
        (range(11), 8),
        (range(9), 8),
        (range(8), 4),
        (range(5), 4),
        (range(4), 0),
        (range(1), 0),
        ([0, 1, 2, 3, 4, 5, 6, 99, 8, 9, 10, 11], 4),
        ([99, *range(1, 12)], 0),
        ([*range(12), 5, 6, 7, 8, 9], 12),
        ([4, 5, 6, 7, 8, 9, 10, 11, 12], 0),  # the same blocks, but not at the beginning
    ],
)
def test_the_longest_match_is_found_in_whole_blocks_and_never_all(prompt, found):
    """After range(12). Catches nano-vllm's crash on a fully cached prompt of whole blocks (its issue 144)."""
    served = Served()
    assert served.run(list(range(12))) == 0
    assert served.run(list(prompt)) == found


def test_branches_are_told_apart_by_their_tokens():
    """Three prompts that part after one and two blocks; the longest own path is found, never a neighbour's."""
    served, begin = Served(), [1, 2, 3, 4]
    prompts = [[*begin, 5, 5, 5, 5, 6], [*begin, 5, 5, 5, 6, 6], [*begin, 5, 5, 5, 5, 7, 7, 7, 7, 7]]
    assert [served.run(prompt) for prompt in prompts] == [0, 4, 8]
    assert [served.run(prompt) for prompt in prompts] == [8, 8, 12]
    assert len(tree(served.prefixes.roots[0, None])) == 4
    assert served.cache.held_bytes == 4 * 4 * served.cache.position_bytes, "each block is stored once"


def test_generated_tokens_are_known_too():
    """A conversation: the next prompt begins with the last one and its answer."""
    engine = make_engine(PLAIN, **ON)
    a = request(range(6), 8)
    [answer] = finish(engine, a)
    b = request([*range(6), *answer, 30], 3)
    finish(engine, b)
    assert b.progress.cached_tokens == 12, "of 13 computed positions, those in whole blocks"
    assert b.new_tokens == finish(make_engine(PLAIN), request(b.prompt, 3))[0]


def test_sequences_of_another_salt_find_nothing_and_a_salt_leaves_nothing_behind():
    """Catches a tree that two callers can read by the time it takes, and roots that stay for ever: salts are many."""
    served = Served()
    salts = [None, "a", "b", "a", None, "b"]
    assert [served.run(list(range(12)), salt) for salt in salts] == [0, 0, 0, 8, 8, 8]
    assert len(served.prefixes.roots) == 4
    assert served.prefixes.evict_all()
    assert set(served.prefixes.roots) == {(0, None), (1, None)}
    assert served.run([1, 2], "c") == 0
    assert set(served.prefixes.roots) == {(0, None), (1, None)}, "no block, no root"


# Sharing


def test_sequences_of_one_step_share_what_the_first_of_them_computes():
    """Blocks enter the tree when the step is put together: the second finds them before they are computed."""
    served = Served()
    [(a, none), (b, shared)] = served.start([*range(8), 20], [*range(8), 21])
    assert (none, shared) == (0, 8)
    assert served.cache.block_table(a)[:2] == served.cache.block_table(b)[:2]
    assert len(set(served.cache.block_table(a) + served.cache.block_table(b))) == 4
    assert served.prefixes.evictable == 0


def test_a_sequence_in_flight_shares_what_it_has_so_far():
    """Its whole blocks, while it goes on; the unfinished one is its own."""
    served = Served()
    [(a, _)] = served.start(list(range(10)))
    [(b, found)] = served.start([*range(10), 11, 12])
    assert found == 8
    assert served.cache.block_table(a)[2] != served.cache.block_table(b)[2]
    served.end(a)
    served.check(b)
    assert served.prefixes.evictable == 0, "b still reads both blocks"
    served.end(b)
    assert served.prefixes.evictable == 3


def test_a_prompt_in_pieces_shares_piece_by_piece():
    """A chunk of 6 positions makes one block known, the next chunk two more."""
    served, a = Served(), request(range(14))
    assert served.prefixes.match(a) == 0
    found = []
    for rows in (6, 6, 2):
        served.compute(served.plan(a, rows))
        found.append(served.run([*range(12), 99]))
    assert found[0] == 4
    assert found[1:] == [12, 12]


def test_what_two_compute_at_the_same_time_is_kept_by_each_and_known_once():
    """Equal tokens that no step could foresee: the tree keeps the first one's block, the second reads its own.

    Catches mini-sglang's freed duplicates (its PR 142): a block table that points to a block of another sequence.
    """
    served = Served()
    [(a, _), (b, _)] = served.start([1, 2, 3], [1, 2, 3])
    for token in (4, 5):
        for seq in (a, b):
            seq.tokens.append(token)
        served.compute(served.plan(a), served.plan(b))
    assert served.cache.block_table(a)[0] != served.cache.block_table(b)[0]
    [node] = tree(served.prefixes.roots[0, None])
    assert (node.block, node.users) == (served.cache.block_table(a)[0], 2)
    served.end(a)
    served.check(b)
    assert served.prefixes.evictable == 0, "b's tokens lead through it"
    served.end(b)
    assert served.prefixes.evictable == 1
    assert served.cache.held_bytes == 4 * served.cache.position_bytes
    assert served.run([1, 2, 3, 4, 9]) == 4


def test_a_failed_step_is_forgotten_and_an_earlier_one_is_not():
    """Blocks that were promised and never computed leave the tree, and so do the sequences that shared them already."""
    served = Served()
    served.run(list(range(5)))
    a, b = request([*range(8), 20]), request([*range(8), 21])
    assert served.prefixes.match(a) == 4
    served.plan(a)
    assert served.prefixes.match(b) == 8
    served.plan(b)
    served.end(a, b)
    served.cache.clear(served.prefixes.rebuild())
    assert len(tree(served.prefixes.roots[0, None])) == served.prefixes.evictable == 1
    assert served.run([*range(8), 22]) == 4
    assert served.run([*range(8), 23]) == 8


def test_what_was_known_evicted_and_promised_again_in_a_failed_step_is_forgotten():
    """Its first keys went with the eviction and the second ones never came: a match would read another prefix's."""
    served = Served(num_blocks=3)
    served.run([1, 2, 3, 4])
    a, b = request([*range(10, 18)]), request([1, 2, 3, 4])
    for seq in (a, b):
        assert served.prefixes.match(seq) == 0
        served.plan(seq)  # three blocks for the two of them: what is known has to go
    assert served.ledger.blocks_evicted == 1
    served.end(a, b)
    served.cache.clear(served.prefixes.rebuild())
    assert served.run([1, 2, 3, 4, 9]) == 0


# Eviction


def test_the_leaf_used_longest_ago_goes_first_and_leaves_before_what_they_grow_from():
    """Three paths of one stem, the second used again. Catches first in, first out; a stem before its leaves."""
    served, stem = Served(), [1, 2, 3, 4]
    for end in (5, 6, 7, 5):
        served.run([*stem, end, end, end, end, 9])
    left = []
    for _ in range(4):
        assert served.prefixes.evict()
        left.append(sorted(node.tokens[0] for node in tree(served.prefixes.roots[0, None])))
    assert left == [[1, 5, 7], [1, 5], [1], []]
    assert not served.prefixes.evict()
    assert (served.ledger.blocks_evicted, served.prefixes.evictable, served.cache.held_bytes) == (4, 0, 0)


def test_blocks_in_use_are_never_evicted():
    """However long ago they were used; what a running sequence reads stays, and what hangs on it may go."""
    served = Served()
    [(a, _)] = served.start([1, 2, 3, 4, 5])
    served.run([1, 2, 3, 4, 6, 6, 6, 6, 6])
    served.run([9, 9, 9, 9, 9])
    assert served.prefixes.evictable == 2
    assert [served.prefixes.evict() for _ in range(3)] == [True, True, False]
    served.check(a)
    assert served.run([1, 2, 3, 4, 7]) == 4
    served.end(a)
    assert served.prefixes.evict()


def test_the_heap_of_leaves_does_not_grow_with_requests():
    """One entry for each node at most. Catches one for each request (vLLM's issues 28726 and 44237), and a leaf that
    was used again and is evicted by its old place."""
    served = Served(num_blocks=12)
    for i in range(50):
        served.run([1, 2, 3, 4, 5])
        served.run([*range(10, 18), 5])
        if i % 9 == 0:
            served.run([20 + i, 2, 3, 4, 5])
    assert len(served.prefixes._leaves) <= len(tree(served.prefixes.roots[0, None])) == 9
    newest = [node.tokens for node in tree(served.prefixes.roots[0, None])]
    while served.prefixes.evict():
        assert len(tree(served.prefixes.roots[0, None])) == len(newest) - 1
        newest = [node.tokens for node in tree(served.prefixes.roots[0, None])]
        assert len(newest) < 3 or (1, 2, 3, 4) in newest, "it was used last but one; the others go before"


def test_a_match_that_is_given_up_leaves_everything_as_it_was():
    """A prompt that does not fit yet is matched again in every step; catches users that are counted and never leave."""
    served = Served(num_blocks=4)
    served.run(list(range(9)))
    for _ in range(5):
        seq = request(range(30))
        assert served.prefixes.match(seq) == 8
        assert served.prefixes.evictable == 0
        served.end(seq)
        assert served.prefixes.evictable == 2
    assert served.prefixes.evict()
    assert served.run(list(range(9))) == 4


def test_eviction_by_need_in_the_engine_by_hand():
    """A pool of 4 blocks: the first prompt leaves 2 known ones, the second needs 3, so one goes, the leaf."""
    engine = make_engine(PLAIN, **ON, num_blocks=4)
    finish(engine, request(range(9), 1))
    assert engine.scheduler.prefixes.evictable == 2
    finish(engine, request(range(10, 19), 2))
    assert (engine.ledger.blocks_evicted, engine.ledger.preemptions) == (1, 0)
    assert (engine.scheduler.prefixes.evictable, engine.ledger.blocks_allocated) == (3, 6)
    third = request(range(9), 1)
    finish(engine, third)
    assert (third.progress.cached_tokens, engine.ledger.tokens_cached) == (4, 4), "its first block was not the leaf"


def test_sixteen_requests_with_one_beginning_by_hand():
    """16 prompts of 32 + 1 tokens: 33 rows for the first, 1 for each other, in the same step as it."""
    engine = make_engine(PLAIN, **ON)
    sequences = [request([*range(31), 5, end], 1) for end in range(16)]
    [trace] = engine.run(sequences)
    assert (trace.ledger.tokens_computed, trace.ledger.tokens_cached) == (33 + 15, 15 * 32)
    assert trace.ledger.tokens_reused == 15 * 32
    assert trace.ledger.blocks_allocated == 8 + 16
    assert [seq.progress.cached_tokens for seq in sequences] == [0] + [32] * 15
    plain = make_engine(PLAIN, kv_cache="none", max_num_seqs=1)
    assert [seq.new_tokens for seq in sequences] == finish(plain, *(request(seq.prompt, 1) for seq in sequences))


def test_no_prefixes_answers_the_same_questions_with_nothing():
    """The null object, used when the switch is off; a scheduler asks it like the other."""
    served = Served()
    off, seq = NoPrefixes(served.cache, served.ledger), request(range(9))
    off.register(seq, 8)
    off.commit()
    assert off.rebuild() == []
    off.free(seq)
    assert (off.match(seq), off.evict(), off.evictable) == (0, False, 0)
