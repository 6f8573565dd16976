"""The MLP of tensor.py on plain arrays, without a model around it: what a rank has, what it adds, what that sends.

    up to the neurons     a rank has some neurons whole: rows of gate and up            outputs divided
    behind them           the same neurons' columns of down: a term of every output     inputs divided

Between the two products nothing is said. (Shoeybi et al. 2019, Megatron-LM, section 3, figure 3a.)

Wins: one all-reduce for two products. Loses: it is only a model of the engine's own MLP, which is divided in whatever
form its matrices have (shards.py); a test compares the two.
"""

from __future__ import annotations

import numpy as np


def own_neurons(neurons: int, rank: int, ranks: int, unit: int = 1) -> tuple[int, int]:
    """The first neuron that a rank has, and the one behind its last; equal where it has none.

    unit: neurons that stay together, because they share a scale. The last unit may be short. Ranks have whole units,
    in their order, as even as can be; the first ranks have one more.
    """
    units = -(-neurons // unit)
    each, more = units // ranks, units % ranks
    first = rank * each + min(rank, more)
    stop = first + each + (rank < more)
    return min(first * unit, neurons), min(stop * unit, neurons)


def mlp_part(
    gate_up: np.ndarray, down: np.ndarray, bias: np.ndarray, rank: int, ranks: int, unit: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # (2 * F, D), (D, F), (D,) -> (2 * f, D), (D, f), (D,)
    """A rank's part of an MLP of F neurons, of which f are its own. gate_up: the rows of gate, then those of up.

    The parts have the same form. The bias is added once: the first rank has it, the others have zeros.
    """
    half = len(gate_up) // 2
    first, stop = own_neurons(half, rank, ranks, unit)
    rows = np.concatenate([gate_up[first:stop], gate_up[half + first : half + stop]])
    return rows, down[:, first:stop], bias if rank == 0 else np.zeros_like(bias)


def mlp_term(
    x: np.ndarray, gate_up: np.ndarray, down: np.ndarray, bias: np.ndarray
) -> np.ndarray:  # (T, D), (2 * f, D), (D, f), (D,) -> (T, D)
    """What a rank with f neurons adds to down(silu(gate(x)) · up(x)) + bias; with all neurons it is the whole MLP."""
    half = len(gate_up) // 2
    products = x @ gate_up.T  # (T, 2f)
    gate, up = products[:, :half], products[:, half:]  # (T, f), (T, f)
    return np.asarray((gate / (1 + np.exp(-gate)) * up) @ down.T + bias)


def bytes_sent(numbers: int, rank: int, ranks: int, itemsize: int = 4) -> int:
    """Bytes that a rank sends while a ring adds up arrays of so many numbers, which it cuts into `ranks` parts.

    The parts are as even as can be, the first ones longer. Each half of the ring has ranks - 1 rounds. In the first one
    a rank sends its part `rank`, then the part before it, and so on; in the second one first the part rank + 1.
    """
    parts = [numbers // ranks + (i < numbers % ranks) for i in range(ranks)]
    kept = parts[(rank + 1) % ranks] + parts[(rank + 2) % ranks]  # what it does not send on, in each half
    return (2 * numbers - kept) * itemsize
