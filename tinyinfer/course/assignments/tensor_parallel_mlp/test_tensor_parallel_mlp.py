"""Public tests of the assignment "tensor_parallel_mlp": each names the bug that it catches.

Parts are compared exactly, since nothing is computed in them. Terms are held against the formula in float64, with a
tolerance that follows from the sizes of what is added. Bytes are those that the ledger counts of the engine's own ring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from tinyinfer.course.compare import Failure, same_array, same_value
from tinyinfer.units import show

pytest_plugins = ["tinyinfer.course.pytest_plugin"]

U = 2.0**-24  # half of the distance between 1 and the next number of float32
Arrays = tuple[np.ndarray, ...]
Usual = list[tuple[Any, str]]


# Which neurons.


def test_own_neurons(student: Any, part: Any) -> None:
    """Catches neurons that no rank has, a last rank that has all that is left, and units that are cut."""
    with part("neurons that divide"):
        check_neurons(student, 12, 4, 1)
    with part("neurons that do not divide"):
        check_neurons(student, 11, 4, 1)
        check_neurons(student, 5, 3, 1)
    with part("units that stay together"):
        check_neurons(student, 24, 2, 4)
        check_neurons(student, 26, 3, 4)


def check_neurons(student: Any, neurons: int, ranks: int, unit: int) -> None:
    """Compares the student's ranges of all ranks with the right ones, and with those of usual mistakes."""
    mine = [student.own_neurons(neurons, rank, ranks, unit) for rank in range(ranks)]
    right = [right_neurons(neurons, rank, ranks, unit) for rank in range(ranks)]
    usual = of_all(ranks, right, lambda rank: neuron_mistakes(neurons, rank, ranks, unit))
    what = f"own_neurons of {neurons} neurons for {ranks} ranks, in units of {unit}"
    same_value(mine, right, what, usual=usual)


def of_all(ranks: int, right: list[Any], mistakes: Callable[[int], Iterable[tuple[Any, str]]]) -> Usual:
    """The results of all ranks by each mistake, without those that are right."""
    by_rank = [list(mistakes(rank)) for rank in range(ranks)]
    found = [([value for value, _ in same], same[0][1]) for same in zip(*by_rank, strict=True)]
    return [(values, hint) for values, hint in found if values != right]


def right_neurons(neurons: int, rank: int, ranks: int, unit: int) -> tuple[int, int]:
    """The range of a rank, dealt out unit by unit."""
    dealt = [0] * ranks
    for i in range(-(-neurons // unit)):
        dealt[i % ranks] += 1
    first = sum(dealt[:rank])
    return min(neurons, first * unit), min(neurons, (first + dealt[rank]) * unit)


def neuron_mistakes(neurons: int, rank: int, ranks: int, unit: int) -> Iterator[tuple[Any, str]]:
    """The ranges of a rank that usual mistakes give."""
    first, stop = right_neurons(neurons, rank, ranks, unit)
    units = -(-neurons // unit)
    yield (first, stop - 1), "the second number is the neuron behind the last one, as in a slice"
    yield (first, stop - first), "the second number is where the range ends, not how long it is"
    yield [first, stop], "give two numbers, not a list: return first, stop"
    for each in (neurons // ranks, neurons // unit // ranks * unit, units // ranks * unit):
        lost = "some neurons have no rank: where they do not divide, deal out the rest"
        yield (rank * each, (rank + 1) * each), lost
        last = neurons if rank == ranks - 1 else (rank + 1) * each
        yield (rank * each, last), "the last rank has all that is left: the first ranks have one more each instead"
    yield right_neurons(neurons, rank, ranks, 1), "neurons of one unit share a scale, and stay together"
    even = [min(neurons, r * units // ranks * unit) for r in (rank, rank + 1)]
    yield (even[0], even[1]), "as even, but the first ranks have one more"
    long = -(-units // ranks) * unit
    uneven = "all ranks but the last ones have the same, rounded up: no two ranks differ by more than one unit"
    yield (min(neurons, rank * long), min(neurons, (rank + 1) * long)), uneven
    full = right_neurons(neurons // unit, rank, ranks, 1)
    yield (full[0] * unit, full[1] * unit), "the last unit may be short, but some rank has it"
    scaled = right_neurons(units, rank, ranks, 1)
    yield scaled, "these are units: a unit has several neurons"
    yield (scaled[0] * unit, scaled[1] * unit), "the last unit may be short: no neuron is behind the last one"


# Parts.


def test_part_of_the_matrices(student: Any, part: Any, rng: Any) -> None:
    """Catches gate and up cut as one matrix, outputs of down in place of inputs, and other neurons in down."""
    for name, neurons, width, ranks, unit in (
        ("neurons that divide", 12, 5, 3, 1),
        ("as many neurons as inputs", 8, 8, 2, 1),
        ("units that stay together", 10, 4, 2, 4),
    ):
        with part(name):
            check_parts(student, mlp(rng, neurons, width), ranks, unit)


def check_parts(student: Any, whole: Arrays, ranks: int, unit: int) -> None:
    """Compares the student's parts of gate, up and down with the right ones, rank by rank."""
    for rank in range(ranks):
        mine = three(student.mlp_part(*whole, rank, ranks, unit))
        rows, columns, _ = right_part(whole, rank, ranks, unit)
        what = f"of rank {rank} of {ranks}, {len(whole[0]) // 2} neurons in units of {unit}"
        usual = unlike(rows, row_mistakes(whole, rank, ranks, unit))
        same_array(mine[0], rows, f"gate_up {what}", usual=usual, axes=("row", "input"))
        usual = unlike(columns, column_mistakes(whole, rank, ranks, unit))
        same_array(mine[1], columns, f"down {what}", usual=usual, axes=("output", "neuron"))


def three(mine: Any) -> tuple[Any, ...]:
    """Three arrays. Raises Failure for anything else."""
    if not isinstance(mine, tuple) or len(mine) != 3:
        hint = "return three arrays: rows of gate and up, columns of down, the bias"
        raise Failure(f"mlp_part: the result is {show(mine)}, and a tuple of three arrays is expected.", hint)
    return mine


def mlp(rng: np.random.Generator, neurons: int, width: int) -> Arrays:
    """Random gate_up (2F, D), down (D, F) and bias (D,)."""
    shapes = (2 * neurons, width), (width, neurons), (width,)
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)


def right_part(whole: Arrays, rank: int, ranks: int, unit: int) -> Arrays:
    """The right part: row by row, and column by column."""
    gate_up, down, bias = whole
    neurons = range(*right_neurons(down.shape[1], rank, ranks, unit))
    rows = [gate_up[i] for i in neurons] + [gate_up[down.shape[1] + i] for i in neurons]
    columns = [down[:, i] for i in neurons]
    return (
        np.array(rows, np.float32).reshape(-1, gate_up.shape[1]),
        np.array(columns, np.float32).reshape(-1, len(down)).T,
        bias if rank == 0 else bias * np.float32(0),
    )


def unlike(right: np.ndarray, usual: Iterable[tuple[np.ndarray, str]]) -> Usual:
    """The usual mistakes whose results are not the right ones."""
    return [(value, hint) for value, hint in usual if not np.array_equal(value, right)]


def row_mistakes(whole: Arrays, rank: int, ranks: int, unit: int) -> Iterator[tuple[np.ndarray, str]]:
    """The parts of gate_up that usual mistakes give."""
    gate_up, down, _ = whole
    half = down.shape[1]
    first, stop = right_neurons(half, rank, ranks, unit)
    one = "gate_up is cut as one matrix: a rank needs the same neurons of gate and of up, and both stand in it"
    yield gate_up[slice(*right_neurons(2 * half, rank, ranks, unit))], one
    yield gate_up[2 * first : 2 * stop], one
    gate, up = gate_up[first:stop], gate_up[half + first : half + stop]
    yield gate, "up is missing: gate's rows first, and behind them the same rows of up"
    yield up, "gate is missing: gate's rows first, and behind them the same rows of up"
    yield np.concatenate([up, gate]), "up stands before gate"
    yield np.stack([gate, up], axis=1).reshape(-1, gate_up.shape[1]), "gate and up take turns: gate's rows come first"
    yield gate_up, "every rank has the whole of gate and up"
    columns = slice(*right_neurons(gate_up.shape[1], rank, ranks, 1))
    inputs = "the inputs of gate and up are divided: silu needs a neuron's whole sum, so divide the outputs"
    yield gate_up[:, columns], inputs
    yield gate_up[:, first:stop], inputs
    plain = slice(*right_neurons(half, rank, ranks, 1))
    cut = np.concatenate([gate_up[:half][plain], gate_up[half:][plain]])
    yield cut, "neurons of one unit share a scale, and stay together"


def column_mistakes(whole: Arrays, rank: int, ranks: int, unit: int) -> Iterator[tuple[np.ndarray, str]]:
    """The parts of down that usual mistakes give."""
    _, down, _ = whole
    first, stop = right_neurons(down.shape[1], rank, ranks, unit)
    outputs = "outputs of down are divided: its inputs are the neurons, and a rank has some of those"
    yield down[slice(*right_neurons(len(down), rank, ranks, unit))], outputs
    yield down[slice(*right_neurons(len(down), rank, ranks, 1))], outputs
    yield down[first:stop], outputs
    yield down, "every rank has the whole of down: each column would be added several times"
    other = "these columns belong to other neurons than the rows of gate and up"
    yield down[:, rank::ranks], other
    yield np.roll(down, first, axis=1)[:, first:stop], other
    yield down[:, first:stop] / np.float32(ranks), "nothing is divided by a number: terms add up"


# The bias.


def test_one_bias(student: Any, part: Any, rng: Any) -> None:
    """Catches a bias that every rank adds, or none, and a bias that is divided."""
    for name, ranks in (("one rank", 1), ("three ranks", 3)):
        with part(name):
            whole = mlp(rng, 6, 6)
            for rank in range(ranks):
                mine = three(student.mlp_part(*whole, rank, ranks, 1))[2]
                bias, right = whole[2], right_part(whole, rank, ranks, 1)[2]
                own = bias[slice(*right_neurons(6, rank, ranks, 1))]
                once = "the bias is added to the sum, once: the first rank has it, the others have zeros"
                usual = [(bias, once), (0 * bias, once), (bias / np.float32(ranks), once), (own, once), (None, once),
                         (0 * own, once), (0.0, "zeros of the bias' shape: np.zeros_like(bias)")]  # fmt: skip
                same_array(mine, right, f"the bias of rank {rank} of {ranks}", usual=unlike_any(right, usual))


def unlike_any(right: np.ndarray, usual: Usual) -> Usual:
    """The usual mistakes, of any type, whose results are not the right ones."""
    return [one for one in usual if not isinstance(one[0], np.ndarray) or not np.array_equal(one[0], right)]


# Terms.


def test_the_whole_mlp(student: Any, part: Any, rng: Any) -> None:
    """Catches gate and up exchanged, silu left out or of the wrong product, and a bias left out."""
    with part("all neurons"):
        check_term(student, rows(rng, 3, 5), mlp(rng, 7, 5))
    with part("as many neurons as inputs and rows"):
        check_term(student, rows(rng, 4, 4), mlp(rng, 4, 4))


def rows(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """Random rows x (T, D)."""
    return rng.standard_normal((count, width)).astype(np.float32)


def check_term(student: Any, x: np.ndarray, own: Arrays) -> None:
    """Compares the student's term with the formula in float64."""
    mine, right = student.mlp_term(x, *own), formula(x, own)
    what = f"mlp_term of {len(x)} rows and {own[1].shape[1]} neurons"
    usual = [(value, hint) for value, hint in term_mistakes(x, own) if not np.allclose(value, right, atol=1e-6)]
    atol = tolerance(x, own)
    same_array(mine, right.astype(np.float32), what, atol=atol, usual=usual, axes=("row", "output"))


def formula(x: np.ndarray, own: Arrays) -> np.ndarray:
    """silu(gate x) · up x, times down, plus the bias, in float64."""
    gate_up, down, bias = (one.astype(np.float64) for one in own)
    gate, up = halves(x @ gate_up.T)
    return np.asarray(silu(gate) * up @ down.T + bias)


def halves(products: np.ndarray) -> Arrays:
    """The products of gate, and those of up."""
    half = products.shape[1] // 2
    return products[:, :half], products[:, half:]


def silu(g: np.ndarray) -> np.ndarray:
    """g / (1 + exp(-g)), number by number."""
    return np.asarray(g / (1 + np.exp(-g)))


def tolerance(x: np.ndarray, own: Arrays) -> float:
    """What rounding in float32 may add up to: each sum of n numbers is off by n · U of the sum of their sizes."""
    gate_up, down, bias = (np.abs(one.astype(np.float64)) for one in own)
    gate, up = halves(np.abs(x) @ gate_up.T)
    sizes = (gate * up) @ down.T + bias  # silu(g) is at most |g|, and as steep as 1.1
    return float(8 * (x.shape[1] + down.shape[1] + 4) * U * sizes.max(initial=0))


def term_mistakes(x: np.ndarray, own: Arrays) -> Iterator[tuple[np.ndarray, str]]:
    """The terms that usual mistakes give."""
    gate_up, down, bias = (one.astype(np.float64) for one in own)
    products = x @ gate_up.T
    gate, up = halves(products)
    yield gate * silu(up) @ down.T + bias, "gate and up are exchanged: silu is of gate's product, the first half"
    yield gate * up @ down.T + bias, "silu is missing"
    yield silu(gate * up) @ down.T + bias, "silu is of gate's product alone"
    yield silu(gate) * silu(up) @ down.T + bias, "silu is of gate's product alone"
    yield silu(gate) @ down.T + bias, "the product with up is missing"
    yield (silu(gate) + up) @ down.T + bias, "gate and up are multiplied, not added"
    yield silu(gate) * up @ down.T, "the bias is missing"
    yield 1 / (1 + np.exp(-gate)) * up @ down.T + bias, "silu(g) is g times the sigmoid"
    yield gate / (1 + np.exp(gate)) * up @ down.T + bias, "the exponent has the other sign"
    turns = silu(products[:, ::2]) * products[:, 1::2] @ down.T + bias
    yield turns, "gate's rows come first, and do not take turns with up's"
    yield np.maximum(gate, 0) * up @ down.T + bias, "that is relu in the place of silu"
    if down.shape[0] == down.shape[1]:
        yield silu(gate) * up @ down + bias, "down is (D, f): its rows are outputs"
    yield silu(gate) * up @ down.T + 2 * bias, "the bias is there twice"


# Sums.


def test_terms_add_up(student: Any, part: Any, rng: Any) -> None:
    """Catches terms whose sum is another MLP: the parts are the student's, and so are the terms."""
    for name, neurons, ranks, unit in (("two ranks", 8, 2, 1), ("three ranks", 10, 3, 1), ("units", 11, 2, 4)):
        with part(name):
            check_sum(student, rows(rng, 3, 5), mlp(rng, neurons, 5), ranks, unit)


def check_sum(student: Any, x: np.ndarray, whole: Arrays, ranks: int, unit: int) -> None:
    """Adds up the terms of the student's parts, in float64, and compares the sum with the whole MLP."""
    found = np.zeros(x.shape)
    for rank in range(ranks):
        own = three(student.mlp_part(*whole, rank, ranks, unit))
        term = student.mlp_term(x, *own)
        if not isinstance(term, np.ndarray) or term.shape != x.shape or term.dtype != np.float32:
            hint = "a term has a number for each row and each output, as x has, in float32"
            raise Failure(f"mlp_term of rank {rank} of {ranks}: {show(term)} is no term.", hint)
        found += term
    right = formula(x, whole)
    usual = [(right + times * whole[2], hint) for times, hint in (
        (ranks - 1, "every rank adds the bias: once is enough"), (-1, "no rank adds the bias"))]  # fmt: skip
    usual += [(ranks * right, "every rank has the whole MLP"), (right / ranks, "terms add up: they are no mean")]
    if not np.allclose(found, right, atol=tolerance(x, whole)):
        hint = next((hint for value, hint in usual if np.allclose(found, value, atol=tolerance(x, whole))), "")
        hint = hint or "each rank has its neurons of gate, of up and of down: the same ones, and no other rank has them"
        off = float(np.abs(found - right).max())
        raise Failure(f"The terms of {ranks} ranks, added up, are {off:.3g} away from the whole MLP.", hint)


# Bytes.


def test_bytes_sent(student: Any, part: Any) -> None:
    """Catches one half of the ring, the whole array in each message, and every rank to every other one."""
    with part("equal parts"):
        for numbers, ranks in ((8, 4), (576 * 3, 2), (24, 3)):
            check_bytes(student, numbers, ranks, 4)
    with part("one rank alone"):
        check_bytes(student, 10, 1, 4)
        check_bytes(student, 8, 2, 4)


def check_bytes(student: Any, numbers: int, ranks: int, itemsize: int) -> None:
    """Compares the student's bytes of all ranks with those of the messages, added up one by one."""
    mine = [student.bytes_sent(numbers, rank, ranks, itemsize) for rank in range(ranks)]
    right = [right_bytes(numbers, rank, ranks, itemsize) for rank in range(ranks)]
    usual = of_all(ranks, right, lambda rank: byte_mistakes(numbers, rank, ranks, itemsize))
    what = f"bytes_sent of {numbers} numbers of {itemsize} bytes by {ranks} ranks"
    same_value(mine, right, what, usual=usual)


def right_bytes(numbers: int, rank: int, ranks: int, itemsize: int) -> int:
    """The bytes of the messages of a ring, one by one."""
    lengths = [len(range(part, numbers, ranks)) for part in range(ranks)]
    given = [(rank - i) % ranks for i in range(ranks - 1)] + [(rank + 1 - i) % ranks for i in range(ranks - 1)]
    return sum(lengths[part] for part in given) * itemsize


def byte_mistakes(numbers: int, rank: int, ranks: int, itemsize: int) -> Iterator[tuple[Any, str]]:
    """The bytes that usual mistakes give."""
    right, array = right_bytes(numbers, rank, ranks, itemsize), numbers * itemsize
    lengths = [len(range(part, numbers, ranks)) for part in range(ranks)]
    even = 2 * (ranks - 1) * (numbers // ranks) * itemsize
    unlike_parts = "the parts differ in length by one: which ones does this rank send?"
    yield 2 * (ranks - 1) * array // ranks, unlike_parts
    yield 2 * (ranks - 1) * array / ranks, "bytes are a whole number: add up the lengths of the parts"
    yield float(right), "bytes are a whole number: divide by `//`, or add up the lengths of the parts"
    yield even, unlike_parts
    yield 2 * (ranks - 1) * lengths[0] * itemsize, unlike_parts
    yield right // itemsize, "these are numbers, not bytes"
    yield (ranks - 1) * array // ranks, "that is one half of the ring: then the complete parts go round"
    yield 2 * (ranks - 1) * array, "in each round a rank sends one part, not the whole array"
    yield (ranks - 1) * array, "a rank sends to its right neighbour only, and one part at a time"
    yield array, "that is the length of the array: how many parts does a rank send?"
    yield 2 * array, "in each half a rank sends all parts but one"
    yield 2 * ranks * (numbers // ranks) * itemsize, "each half has ranks - 1 rounds"
    for away, hint in (
        (0, "a rank gives its own part away first: which part is it that it does not send?"),
        (1, "in the second half a rank does not send the part that comes last"),
        (2, "in the first half a rank does not send the part that it completes"),
    ):
        yield (2 * numbers - 2 * lengths[(rank + away) % ranks]) * itemsize, hint
