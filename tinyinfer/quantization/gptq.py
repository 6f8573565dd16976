"""GPTQ: rounds one input after another, and lets the inputs still to come make up for each error.

What a layer should keep is not its weights but its outputs: ‖(W - Q) X‖² over inputs X of real text. That is
tr((W - Q) H (W - Q)ᵀ) with H = X Xᵀ, so the rows of W are independent problems with one H. Once a column is rounded,
its error e moves the best values of all columns that are still free: w_free -= e / U[j, j] · U[j, free], where UᵀU =
H⁻¹, U upper triangular, holds every inverse that is ever needed (Frantar et al. 2023, GPTQ, algorithm 1; the update is
Hassibi & Stork's, 1993). Wins: the same bits and the same kernel, and of SmolLM2's loss in perplexity (int4, groups of
64) three quarters are gone. Loses: a minute instead of a second; and it needs text like the text that the model will
read: calibrated on other prose, only two fifths are gone. GPTQ chooses codes on a given grid; the fewer the bits, the
more depends on a good one (hqq.py).
"""

from __future__ import annotations

import numpy as np

from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme, expand

BLOCK = 64  # columns that correct each other at once; those behind are corrected by one product a block


def gptq(
    w: np.ndarray, hessian: np.ndarray, start: QuantizedMatrix, act_order: bool = True, damp: float = 0.01
) -> QuantizedMatrix:  # (N, M), (M, M) ->
    """The codes of w by GPTQ.

    hessian: sum of x xᵀ over the inputs. start: w rounded by another method, whose scales and minimums are kept.
    act_order: the inputs that matter most come first, while most others can still make up for them. damp: this share
    of the mean of H's diagonal is added to it, so that a singular H has an inverse. A row that `start` serves better
    keeps its codes. Raises ValueError for a hessian that is not finite or, with damp 0, has no inverse.
    """
    scheme = start.scheme
    order = np.argsort(-np.diag(hessian), kind="stable") if act_order else np.arange(w.shape[1])  # (M,)
    factor = inverse_factor(hessian[np.ix_(order, order)], damp)  # (M, M)
    scale = expand(start.scale, scheme, w.shape[1])[:, order].T  # (M, N), and so is minimum
    minimum = None if start.minimum is None else expand(start.minimum, scheme, w.shape[1])[:, order].T
    q = np.empty(w.shape, dtype=np.int16)  # (N, M)
    q[:, order] = compensate(np.ascontiguousarray(w[:, order].T, dtype=np.float32), factor, scale, minimum, scheme).T
    return better_rows(w, hessian, QuantizedMatrix(scheme, q, start.scale, start.minimum), start)


def inverse_factor(hessian: np.ndarray, damp: float) -> np.ndarray:  # (M, M) -> (M, M)
    """The upper triangular U of UᵀU = H⁻¹, H damped, in float32. Raises ValueError as `gptq` does.

    With H = R Rᵀ, R upper, U is R's inverse; R is the usual lower factor of H with its rows and columns reversed. An
    input that is always zero gets a 1 on the diagonal: it concerns no other, so its column is just rounded.
    """
    h = hessian.astype(np.float64)  # (M, M)
    if not np.isfinite(h).all():
        raise ValueError("the calibration inputs of a layer hold NaN or infinity; the model's weights are damaged")
    diagonal = np.diag(h).copy()  # (M,)
    diagonal += damp * diagonal.mean()
    np.fill_diagonal(h, np.where(diagonal > 0, diagonal, 1.0))
    try:
        r = np.linalg.cholesky(h[::-1, ::-1])[::-1, ::-1]  # (M, M): a lower factor, reversed twice, is upper
    except np.linalg.LinAlgError as error:
        raise ValueError(f"the Hessian has no inverse with damp={damp}; raise damp, to 0.01 for example") from error
    return np.linalg.inv(r).astype(np.float32)


def compensate(
    w: np.ndarray, factor: np.ndarray, scale: np.ndarray, minimum: np.ndarray | None, scheme: QuantScheme
) -> np.ndarray:  # (M, N), (M, M), (M, N), (M, N) -> (M, N)
    """The codes, inputs first and in their order; w is used up.

    Within a block each error corrects the block's other columns at once (one after another, they are in the core's
    cache); what lies behind the block waits, and is corrected by one matrix product of all its errors.
    """
    q = np.empty(w.shape, dtype=np.int16)  # (M, N)
    minimums = np.zeros_like(scale) if minimum is None else minimum  # (M, N)
    for start in range(0, len(w), BLOCK):
        block, stop = w[start : start + BLOCK], start + BLOCK  # (64, N), a view
        errors = np.empty_like(block)  # (64, N)
        for i, j in enumerate(range(start, min(stop, len(w)))):
            # (N,), like every array of this loop
            codes = np.divide(block[i] - minimums[j], scale[j], out=np.zeros_like(block[i]), where=scale[j] != 0)
            np.clip(np.rint(codes, out=codes), scheme.lowest, scheme.highest, out=codes)
            q[j] = codes
            errors[i] = (block[i] - codes * scale[j] - minimums[j]) / factor[j, j]  # (N,): e / U[j, j]
            block[i + 1 :] -= factor[j, j + 1 : stop, None] * errors[i]  # a view of w: the free inputs of this block
        w[stop:] -= factor[start:stop, stop:].T @ errors  # the same for all inputs behind the block, in one product
    return q


def better_rows(
    w: np.ndarray, hessian: np.ndarray, new: QuantizedMatrix, start: QuantizedMatrix
) -> QuantizedMatrix:  # (N, M), (M, M) ->
    """Of two roundings with the same scales, for each row the one with the smaller error in its output."""
    worse = output_errors(w, new, hessian) > output_errors(w, start, hessian)  # (N,)
    return QuantizedMatrix(new.scheme, np.where(worse[:, None], start.codes, new.codes), new.scale, new.minimum)


def output_errors(w: np.ndarray, codes: QuantizedMatrix, hessian: np.ndarray) -> np.ndarray:  # (N, M), (M, M) -> (N,)
    """‖(w - q) X‖² of each row w of the matrix, q being its rounded form."""
    error = w - codes.dequantize()  # (N, M)
    return np.vecdot(error @ hessian, error)
