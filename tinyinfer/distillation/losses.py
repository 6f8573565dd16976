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

from tinyinfer.arrays import Array, Xp


def log_softmax(logits: Array, xp: Xp) -> Array:  # (R, V) -> (R, V)
    """The logarithm of each row's softmax; no exponent is above 0."""
    shifted = logits - logits.max(axis=-1, keepdims=True)  # (R, V)
    return shifted - xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))


def cross_entropy(logits: Array, tokens: Array, xp: Xp) -> tuple[float, Array]:  # (R, V), (R,) ->
    """The mean of -log q(token), and its gradient (q - 1 at the token) / R for the logits (R, V)."""
    log_q, rows = log_softmax(logits, xp), xp.arange(len(logits))  # (R, V), (R,)
    gradient = xp.exp(log_q)  # (R, V)
    gradient[rows, tokens] -= 1
    return float(-log_q[rows, tokens].mean()), gradient / len(logits)


def forward_kl(logits: Array, teacher: Array, temperature: float, xp: Xp) -> tuple[float, Array]:  # (R, V), (R, V) ->
    """The mean of KL(p, q) · t², and t · (q - p) / R for the student's logits (R, V). teacher: logits (R, V)."""
    log_q, log_p = log_softmax(logits / temperature, xp), log_softmax(teacher / temperature, xp)  # (R, V), (R, V)
    p = xp.exp(log_p)  # (R, V)
    loss = (p * (log_p - log_q)).sum(axis=-1).mean() * temperature**2
    return float(loss), (xp.exp(log_q) - p) * (temperature / len(logits))


def reverse_kl(logits: Array, teacher: Array, temperature: float, xp: Xp) -> tuple[float, Array]:  # (R, V), (R, V) ->
    """The mean of KL(q, p) · t², and its gradient t · q · (log(q / p) - KL) / R for the student's logits (R, V)."""
    log_q, log_p = log_softmax(logits / temperature, xp), log_softmax(teacher / temperature, xp)  # (R, V), (R, V)
    q, ratio = xp.exp(log_q), log_q - log_p  # (R, V), (R, V)
    by_row = (q * ratio).sum(axis=-1, keepdims=True)  # (R, 1)
    loss = by_row.mean() * temperature**2
    return float(loss), q * (ratio - by_row) * (temperature / len(logits))


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
    log_p = log_softmax(teacher / temperature, xp)  # (R, V)
    best = xp.argpartition(-log_p, k - 1, axis=-1)[:, :k]  # (R, k)
    found = xp.take_along_axis(log_p, best, axis=-1)  # (R, k)
    order = xp.argsort(-found, axis=-1)  # (R, k)
    tokens = xp.take_along_axis(best, order, axis=-1)  # (R, k)
    found = xp.take_along_axis(found, order, axis=-1)  # (R, k)
    return TopK(tokens, found, xp.maximum(1 - xp.exp(found).sum(axis=-1), 0))


def top_k_kl(logits: Array, teacher: TopK, temperature: float, xp: Xp) -> tuple[float, Array]:  # (R, V) ->
    """The mean of KL · t² over k + 1 outcomes, the k tokens and "any other", and its gradient (R, V).

    Merging the other tokens into one outcome can only make the divergence smaller, so this is a lower bound of
    forward_kl; the student is free in how it divides the rest.
    """
    log_q, rows = log_softmax(logits / temperature, xp), xp.arange(len(logits))[:, None]  # (R, V), (R, 1)
    q, p = xp.exp(log_q), xp.exp(teacher.log_p)  # (R, V), (R, k)
    tiny = xp.finfo(q.dtype).tiny
    rest_q = xp.maximum(1 - q[rows, teacher.tokens].sum(axis=-1), tiny)  # (R,)
    rest_p = xp.maximum(teacher.rest, tiny)  # (R,)
    by_row = (p * (teacher.log_p - log_q[rows, teacher.tokens])).sum(axis=-1)  # (R,)
    by_row = by_row + teacher.rest * (xp.log(rest_p) - xp.log(rest_q))
    gradient = q * (1 - teacher.rest / rest_q)[:, None]  # (R, V): of the other tokens q - rest · q / rest_q
    gradient[rows, teacher.tokens] = q[rows, teacher.tokens] - p
    return float(by_row.mean()) * temperature**2, gradient * (temperature / len(logits))


def hidden_states(student: Array, teacher: Array, xp: Xp) -> tuple[float, Array]:  # (T, D), (T, D) ->
    """The mean of 1 - cosine between each student's row and the teacher's, and its gradient (T, D)."""
    size = xp.sqrt((student * student).sum(axis=-1, keepdims=True))  # (T, 1)
    other = teacher / xp.sqrt((teacher * teacher).sum(axis=-1, keepdims=True))  # (T, D)
    own = student / size  # (T, D)
    cosine = (own * other).sum(axis=-1, keepdims=True)  # (T, 1)
    return float((1 - cosine).mean()), (own * cosine - other) / size / len(student)
