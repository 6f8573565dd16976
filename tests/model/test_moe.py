"""Mixture of experts: equal to a loop over tokens, and touching only what the router chose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.special
from helpers import taken
from hypothesis import given
from hypothesis import strategies as st

from tinyinfer.model.config import MoEConfig
from tinyinfer.model.moe import MoE, SharedMoE, route
from tinyinfer.model.weights import Dense, Experts, Linear

D, F, X = 7, 5, 6


def experts(stack: np.ndarray) -> Experts:
    """Each expert's matrix (M, N) as a weight by itself."""
    return Experts(tuple(Linear(Dense(matrix)) for matrix in stack))


def make(experts_per_token: int, renormalize: bool = True, seed: int = 0) -> MoE:
    rng = np.random.default_rng(seed)
    router, gate_up, down = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((D, X), (X, D, 2 * F), (X, F, D))
    )
    config = MoEConfig(X, experts_per_token, F, renormalize)
    return MoE(Linear(Dense(router)), experts(gate_up), experts(down), "silu", config)


def rows(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)


def loop(moe: MoE, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same, token by token and expert by expert in float64; and which experts each token chose."""
    out, chosen = np.zeros(x.shape), []
    for t, row in enumerate(x.astype(np.float64)):
        p = scipy.special.softmax(row @ moe.router.weight.array)
        best = sorted(range(X), key=lambda e: -p[e])[: moe.config.experts_per_token]
        total = sum(p[best]) if moe.config.renormalize else 1.0
        for e in best:
            gate, up = np.split(row @ moe.gate_up.linears[e].weight.array, 2)
            out[t] += p[e] / total * (gate * scipy.special.expit(gate) * up) @ moe.down.linears[e].weight.array
        chosen.append(best)
    return out, np.array(chosen)


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("k", [1, 2, X])
@pytest.mark.parametrize("n", [1, 2, 19])
def test_equals_a_loop_over_tokens(ops, n, k, renormalize):
    """Catches: results handed back to another row, a weight given to another expert, weights not renormalized."""
    moe, x, o = make(k, renormalize), rows(n), ops()
    np.testing.assert_allclose(taken(moe, o)(x, o), loop(moe, x)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [1, 3])
def test_experts_not_chosen_are_never_read(ops, n):
    """All experts that no row chose hold NaN: multiplying all and masking afterwards would spread it."""
    moe, x, o = make(2), rows(n), ops()
    expected, chosen = loop(moe, x)
    others = sorted(set(range(X)) - set(chosen.ravel().tolist()))
    assert others, "the test needs an expert that no row chose"
    for e in others:
        moe.gate_up.linears[e].weight.array[...] = np.nan
        moe.down.linears[e].weight.array[...] = np.nan
    np.testing.assert_allclose(taken(moe, o)(x, o), expected, rtol=1e-4, atol=1e-4)


def test_the_ledger_counts_the_chosen_experts_only(ops):
    """Catches: FLOPs or bytes of all experts, or an expert counted once for each of its rows."""
    moe, x, k = make(2), rows(4), 2
    o = ops()
    taken(moe, o)(x, o)
    ledger = o.ledger
    touched = len(set(loop(moe, x)[1].ravel().tolist()))
    assert 2 <= touched < X
    assert (ledger.expert_rows, ledger.experts_read) == (4 * k, touched)
    assert ledger.flops == 2 * 4 * D * X + 2 * (4 * k) * (D * 2 * F + F * D)
    assert ledger.weight_bytes == 4 * (D * X + touched * (D * 2 * F + F * D))


def test_experts_add_their_own_biases(ops):
    """Of router, gate, up and down (gpt-oss). Catches a bias of another expert, or added once for all rows."""
    moe, x, rng = make(2), rows(9), np.random.default_rng(3)
    biases = [rng.standard_normal((X, n)).astype(np.float32) for n in (2 * F, D)]
    gate_up, down = (
        Experts(tuple(replace(linear, bias=b) for linear, b in zip(part.linears, bias, strict=True)))
        for part, bias in zip((moe.gate_up, moe.down), biases, strict=True)
    )
    tilt = rng.standard_normal(X).astype(np.float32)
    biased = replace(moe, router=replace(moe.router, bias=tilt), gate_up=gate_up, down=down)
    expected = np.zeros(x.shape)
    for t, row in enumerate(x.astype(np.float64)):
        scores = row @ moe.router.weight.array + tilt
        best = np.argsort(-scores)[:2]
        for e, share in zip(best, scipy.special.softmax(scores[best]), strict=True):
            gate, up = np.split(row @ moe.gate_up.linears[e].weight.array + biases[0][e], 2)
            h = gate * scipy.special.expit(gate) * up
            expected[t] += share * (h @ moe.down.linears[e].weight.array + biases[1][e])
    o = ops()
    np.testing.assert_allclose(taken(biased, o)(x, o), expected, rtol=1e-4, atol=1e-4)
    assert biased.nbytes == moe.nbytes + 4 * (X + X * 2 * F + X * D)


def test_a_shared_expert_serves_every_row_behind_its_own_gate(ops):
    """routed + sigmoid(x · g) · mlp(x). Catches the gate left out, one sigmoid for all rows, an overflow in it."""
    moe, x, rng, o = make(2), rows(5), np.random.default_rng(4), ops()
    x[0] *= 300  # a sigmoid of a large number
    router, gate_up, down = (rng.standard_normal(shape).astype(np.float32) for shape in ((D, 1), (D, 8), (4, D)))
    parts = [Linear(Dense(matrix)) for matrix in (router, gate_up, down)]
    shared = SharedMoE(moe.router, moe.gate_up, moe.down, moe.activation, moe.config, *parts)
    gate, up = np.split(x.astype(np.float64) @ gate_up, 2, axis=1)
    mlp = (gate * scipy.special.expit(gate) * up) @ down
    expected = loop(moe, x)[0] + scipy.special.expit(x.astype(np.float64) @ router) * mlp
    with np.errstate(over="raise", invalid="raise"):
        found = taken(shared, o)(x, o)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert shared.nbytes == moe.nbytes + 4 * (D + D * 8 + 4 * D)


def test_route_gives_the_best_first_and_breaks_ties_by_number():
    """A softmax over the chosen only equals one over all renormalized; without renormalizing they differ."""
    logits = np.log(np.array([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25]], np.float32))
    chosen, weights = route(logits, MoEConfig(4, 2, 1, renormalize=False), np)
    assert chosen.tolist() == [[1, 3], [0, 1]]
    np.testing.assert_allclose(weights, [[0.4, 0.3], [0.25, 0.25]], rtol=1e-6)
    weights = route(logits, MoEConfig(4, 2, 1), np)[1]
    np.testing.assert_allclose(weights, [[4 / 7, 3 / 7], [0.5, 0.5]], rtol=1e-6)


def test_route_survives_large_logits():
    """exp(200) overflows float32 unless the largest logit is taken off first."""
    with np.errstate(over="raise", invalid="raise"):
        weights = route(np.array([[200.0, 199.0, -200.0]], np.float32), MoEConfig(3, 2, 1), np)[1]
    np.testing.assert_allclose(weights, [scipy.special.softmax([1.0, 0.0])], rtol=1e-5)


@given(st.integers(1, 9), st.integers(1, 12), st.data())
def test_routing_is_a_choice_of_k_different_experts(n, x, data):
    """For any X and k: no expert twice, the chosen are the best, weights sum to 1 after renormalizing."""
    k = data.draw(st.integers(1, x))
    logits = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-3, 3, (n, x)).astype(np.float32)
    chosen, weights = route(logits, MoEConfig(x, k, 1), np)
    for row, best, share in zip(logits, chosen, weights, strict=True):
        assert len(set(best.tolist())) == k
        assert sorted(row[best])[::-1] == sorted(row)[::-1][:k], "with ties, any of the equal ones"
        assert (np.diff(share) <= 0).all()
        assert share.sum() == pytest.approx(1, abs=1e-5)
    assert sorted(route(logits, MoEConfig(x, x, 1), np)[0][0].tolist()) == list(range(x)), "k = X: a permutation"


def test_results_are_float32(ops):
    """One float64 constant in the router would double the memory and time of everything behind it."""
    o = ops()
    out = taken(make(2), o)(rows(3), o)
    assert out.dtype == np.float32
