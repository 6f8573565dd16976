"""Losses: how far a student's logits are from what they should be, and the gradient of that.

    cross entropy    -log q(token)                         the text itself is the teacher
    forward KL       Σ p · log(p / q)                      the student covers all that the teacher may say
    reverse KL       Σ q · log(q / p)                      the student keeps to what the teacher would say
    hidden states    1 - cos(student's, teacher's row)     layer by layer, where both have the same width

p and q are the teacher's and the student's distributions, softmax(logits / temperature): a higher temperature shows
more of what the teacher thinks of the tokens that it does not choose (Hinton et al. 2015, section 2). The gradient of a
divergence at temperature t falls with 1/t², so it is multiplied by t² as there. Reverse KL: MiniLLM (Gu et al. 2024,
section 2.1). Hidden states: DistilBERT (Sanh et al. 2019, section 3).

Each function returns the mean over rows and its gradient for the student's numbers. Wins, forward KL over cross
entropy: a distribution says more than one token, and is right where the text is only one of many. Loses: the teacher
must be run, or what it said be kept (top_k).
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyinfer.arrays import Array, Xp, to_host


def softmax(logits: Array, temperature: float, xp: Xp) -> tuple[Array, Array]:  # (R, V) -> (R, V), (R, 1)
    """softmax(logits / temperature), and the logarithm of what each row is divided by: log q = logits / t - log_total.

    One new array of R·V numbers and no more: at V = 49,152 its pages cost more than its exponentials.
    """
    f = logits.dtype.type
    largest = logits.max(axis=-1, keepdims=True)  # (R, 1)
    q = logits - largest  # (R, V): no exponent above 0, so exp cannot overflow
    if temperature != 1:
        q *= f(1 / temperature)
    xp.exp(q, out=q)
    total = q.sum(axis=-1, keepdims=True)  # (R, 1)
    q /= total
    return q, largest * f(1 / temperature) + xp.log(total)


def merged(logits: Array, known: int, xp: Xp) -> Array:  # (R, V) -> (R, known)
    """A teacher's logits for a student that knows only the first tokens: its last one stands for all others, too."""
    if known >= logits.shape[1]:
        return logits
    others = logits[:, known - 1 :]  # (R, V - known + 1)
    largest = others.max(axis=-1, keepdims=True)  # (R, 1)
    few = logits[:, :known].copy()  # (R, known)
    few[:, -1:] = largest + xp.log(xp.exp(others - largest).sum(axis=-1, keepdims=True))
    return few


def cross_entropy(logits: Array, tokens: Array, xp: Xp) -> tuple[float, Array]:  # (R, V), (R,) ->
    """The mean of -log q(token), and its gradient (q - 1 at the token) / R for the logits (R, V)."""
    (gradient, log_total), rows = softmax(logits, 1.0, xp), xp.arange(len(logits))  # (R, V), (R, 1), (R,)
    loss = (log_total[:, 0] - logits[rows, tokens]).mean()
    gradient[rows, tokens] -= 1
    gradient *= 1 / len(logits)
    return float(to_host(loss)), gradient


def forward_kl(logits: Array, teacher: Array, temperature: float, xp: Xp) -> tuple[float, Array]:  # (R, V), (R, V) ->
    """The mean of KL(p, q) · t², and t · (q - p) / R for the student's logits (R, V). teacher: logits (R, V)."""
    q, log_q = log_softmax(logits, temperature, xp)  # (R, V), (R, V)
    p, log_p = log_softmax(teacher, temperature, xp)  # (R, V), (R, V)
    loss = (p * (log_p - log_q)).sum(axis=-1).mean() * temperature**2
    return float(to_host(loss)), (q - p) * (temperature / len(logits))


def reverse_kl(logits: Array, teacher: Array, temperature: float, xp: Xp) -> tuple[float, Array]:  # (R, V), (R, V) ->
    """The mean of KL(q, p) · t², and its gradient t · q · (log(q / p) - KL) / R for the student's logits (R, V)."""
    q, log_q = log_softmax(logits, temperature, xp)  # (R, V), (R, V)
    ratio = log_q - log_softmax(teacher, temperature, xp)[1]  # (R, V)
    by_row = (q * ratio).sum(axis=-1, keepdims=True)  # (R, 1)
    loss = by_row.mean() * temperature**2
    return float(to_host(loss)), q * (ratio - by_row) * (temperature / len(logits))


def log_softmax(logits: Array, temperature: float, xp: Xp) -> tuple[Array, Array]:  # (R, V) -> (R, V), (R, V)
    """The softmax and its logarithm, which also counts where the softmax itself is 0."""
    q, log_total = softmax(logits, temperature, xp)  # (R, V), (R, 1)
    return q, logits * logits.dtype.type(1 / temperature) - log_total


@dataclass(frozen=True)
class TopK:
    """What is kept of a teacher's distributions: the k likeliest tokens of each row, and how much all others have.

    tokens, log_p: of R rows, (R, k) each. rest: the probability of all other tokens together, (R,).
    """

    tokens: Array
    log_p: Array
    rest: Array


def top_k(teacher: Array, k: int, temperature: float, xp: Xp) -> TopK:  # (R, V) ->
    """The k likeliest tokens of each row of logits, the likeliest first, and the rest's probability."""
    p, _ = softmax(teacher, temperature, xp)  # (R, V)
    rows, tokens, found = xp.arange(len(p)), [], []
    for _ in range(k):  # on a GPU far faster than sorting; on a CPU as fast
        tokens.append(p.argmax(axis=-1))  # (R,) each
        found.append(p[rows, tokens[-1]])
        p[rows, tokens[-1]] = -1
    some, p = xp.stack(tokens, axis=1), xp.stack(found, axis=1)  # (R, k), (R, k)
    rest = xp.maximum(1 - p.sum(axis=-1), 0)  # (R,)
    return TopK(some, xp.log(xp.maximum(p, xp.finfo(p.dtype).tiny)), rest)


def top_k_kl(logits: Array, teacher: TopK, temperature: float, xp: Xp) -> tuple[float, Array]:  # (R, V) ->
    """The mean of KL · t² over k + 1 outcomes, the k tokens and "any other", and its gradient (R, V).

    Merging the other tokens into one outcome can only make the divergence smaller, so this is a lower bound of
    forward_kl; the student is free in how it divides the rest.
    """
    (q, log_total), rows = softmax(logits, temperature, xp), xp.arange(len(logits))[:, None]  # (R, V), (R, 1), (R, 1)
    p, chosen = xp.exp(teacher.log_p), q[rows, teacher.tokens]  # (R, k), (R, k)
    log_q = logits[rows, teacher.tokens] * q.dtype.type(1 / temperature) - log_total  # (R, k)
    q[rows, teacher.tokens] = 0
    tiny = xp.finfo(q.dtype).tiny
    rest_q = xp.maximum(q.sum(axis=-1), tiny)  # (R,): 1 - Σ chosen would be rounded to 0 or below where that is near 1
    rest_p = xp.maximum(teacher.rest, tiny)  # (R,)
    by_row = (p * (teacher.log_p - log_q)).sum(axis=-1) + teacher.rest * (xp.log(rest_p) - xp.log(rest_q))  # (R,)
    factor = temperature / len(logits)
    q *= ((1 - teacher.rest / rest_q) * factor)[:, None]  # of the other tokens q - rest · q / rest_q
    q[rows, teacher.tokens] = (chosen - p) * factor
    return float(to_host(by_row.mean())) * temperature**2, q


def hidden_states(student: Array, teacher: Array, xp: Xp) -> tuple[float, Array]:  # (T, D), (T, D) ->
    """The mean of 1 - cosine between each student's row and the teacher's, and its gradient (T, D)."""
    size = xp.sqrt((student * student).sum(axis=-1, keepdims=True))  # (T, 1)
    other = teacher / xp.sqrt((teacher * teacher).sum(axis=-1, keepdims=True))  # (T, D)
    own = student / size  # (T, D)
    cosine = (own * other).sum(axis=-1, keepdims=True)  # (T, 1)
    return float(to_host((1 - cosine).mean())), (own * cosine - other) / size / len(student)
