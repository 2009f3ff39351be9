"""The scale of a block with which its numbers are stored with the least error.

What is stored of numbers x are whole numbers q and a scale, or a scale and an offset. Which are best
for given q is a matter of least squares. So many roundings of x are tried, coarse ones and fine
ones, each with the scale that suits it best.

Blocks stand in columns here, (numbers, n): so a sum over each block adds long rows. `w` has the
shape of x and says how much the square of each number's error counts; none is 0.
"""

import numpy as np

HALF_MAX = 65504.0  # the largest f16
SMALLEST = 1e-30  # what is smaller is 0 in every format whose scales are f16

# How many times as fine as usual the roundings are that are tried; the usual one is first, and wins ties.
FINENESS = sorted((0.75 + i / 64 for i in range(33)), key=lambda fineness: abs(fineness - 1))


def inverse(x: np.ndarray) -> np.ndarray:
    """1 / x, but 0 where x is next to 0."""
    result: np.ndarray = np.divide(1, x, out=np.zeros_like(x), where=np.abs(x) > SMALLEST)
    return result


def farthest(x: np.ndarray) -> np.ndarray:
    """In each column the number farthest from 0, with its sign."""
    return np.take_along_axis(x, np.abs(x).argmax(0)[None], 0).reshape(-1)


def round_scaled(x: np.ndarray, s: np.ndarray, reach: int) -> np.ndarray:
    """The q in -reach … reach - 1 for which s * q comes closest to x."""
    q: np.ndarray = np.clip(np.rint(x * inverse(s)), -reach, reach - 1)
    return q


def round_line(x: np.ndarray, s: np.ndarray, b: np.ndarray, levels: int) -> np.ndarray:
    """The q in 0 … levels for which s * q + b comes closest to x."""
    q: np.ndarray = np.clip(np.rint((x - b) * inverse(s)), 0, levels)
    return q


def fit_scale(x: np.ndarray, w: np.ndarray, reach: int) -> np.ndarray:
    """The s (n,) for which s * q comes closest to x, with q in -reach … reach - 1."""
    step = farthest(x) / -reach
    t = x * inverse(step)
    best, least = np.zeros_like(step), np.full_like(step, np.inf)
    for fineness in FINENESS:
        q = np.clip(np.rint(t * fineness), -reach, reach - 1)
        wq = w * q
        s = _dot(wq, t) * inverse(_dot(wq, q))
        error = _squares(w, s * q - t)
        best, least = np.where(error < least, s, best), np.minimum(error, least)
    result: np.ndarray = best * step
    return result


def fit_line(
    x: np.ndarray, w: np.ndarray, levels: int, *, ceiling: float
) -> tuple[np.ndarray, np.ndarray]:
    """The s and b (n,) for which s * q + b comes closest to x, with q in 0 … levels, b <= ceiling."""
    low = np.minimum(x.min(0), ceiling)
    step = (x.max(0) - low) / levels
    t, highest = (x - low) * inverse(step), (ceiling - low) * inverse(step)
    total, t_sum = w.sum(0), _dot(w, t)
    best, least = np.zeros((2, *step.shape), np.float32), np.full_like(step, np.inf)
    for fineness in FINENESS:
        q = np.minimum(np.rint(t * fineness), levels)
        wq = w * q
        q_sum, qq, qt = wq.sum(0), _dot(wq, q), _dot(wq, t)
        s = (total * qt - q_sum * t_sum) * inverse(total * qq - q_sum * q_sum)
        b = np.minimum((t_sum - s * q_sum) / total, highest)
        s = (qt - b * q_sum) * inverse(qq)
        error = _squares(w, s * q + b - t)
        best, least = np.where(error < least, (s, b), best), np.minimum(error, least)
    return best[0] * step, best[1] * step + low


def fit_offset(
    x: np.ndarray, w: np.ndarray, s: np.ndarray, b: np.ndarray, levels: int, *, ceiling: float
) -> np.ndarray:
    """The b (n,) that suits the scales s as they are stored, from one that is nearly right."""
    total = w.sum(0)
    for _ in range(2):
        q = round_line(x, s, b, levels)
        b = np.clip(_dot(w, x - s * q) / total, -HALF_MAX, ceiling)
    return b


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    sums: np.ndarray = np.einsum("in,in->n", a, b)
    return sums


def _squares(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _dot(w * x, x)
