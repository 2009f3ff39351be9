"""The closed set of primitives: everything that a tensor can do is made of these, and numpy can do them all.

A *view* shares memory with its operand. A *compute* primitive makes new numbers; it takes `out`, so that a
recorded program can run it again into the same memory. Operands have equal shapes: broadcasting is `expand`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lcm import formats

Array = np.ndarray
Shape = tuple[int, ...]


def erf(x: Array, out: Array | None = None) -> Array:
    """The error function, to about two ulp in f64, by W. J. Cody's rational approximations (1969).

    numpy has none. The three ranges and their coefficients are those of his CALERF.
    """
    x = np.asarray(x)
    double = x.astype(np.float64)
    size = np.abs(double)
    square = np.minimum(size, 0.5) ** 2
    near = double * _ratio(square, _ERF_NEAR)
    middle_at = np.clip(size, 0.46875, 4.0)
    middle = np.exp(-middle_at * middle_at) * _ratio(middle_at, _ERF_MIDDLE)
    far_at = np.clip(size, 4.0, 6.0)  # beyond 6 the result rounds to 1
    inverse = 1 / (far_at * far_at)
    far = np.exp(-far_at * far_at) / far_at
    far = far * (1 / math.sqrt(math.pi) - inverse * _ratio(inverse, _ERF_FAR))
    tail = np.where(size <= 4.0, middle, far)
    result = np.where(size <= 0.46875, near, np.sign(double) * (1 - tail))
    result = np.where(np.isnan(double), np.nan, result).astype(x.dtype)
    return result if out is None else _assign(out, result)


def _ratio(x: Array, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Array:
    above, below = coefficients
    return np.polyval(above, x) / np.polyval(below, x)


_ERF_NEAR = (
    (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
     3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3,
     2.84423683343917062e3),
)  # fmt: skip
_ERF_MIDDLE = (
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
     2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
     1.23033935479799725e3),
    (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2,
     1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3,
     1.23033935480374942e3),
)  # fmt: skip
_ERF_FAR = (
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1,
     1.25781726111229246e-1, 1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1,
     6.05183413124413191e-2, 2.33520497626869185e-3),
)  # fmt: skip


def _assign(out: Array, value: Array) -> Array:
    np.copyto(out, value)
    return out


def _sum(x: Array, *, axes: tuple[int, ...], out: Array | None = None) -> Array:
    return np.sum(x, axis=axes, keepdims=True, out=out)


def _max(x: Array, *, axes: tuple[int, ...], out: Array | None = None) -> Array:
    return np.max(x, axis=axes, keepdims=True, out=out)


def _where(mask: Array, x: Array, y: Array, out: Array | None = None) -> Array:
    if out is None:
        return np.where(mask, x, y)
    np.copyto(out, y)
    np.copyto(out, x, where=mask)
    return out


def _cast(x: Array, *, source: str, to: str, out: Array | None = None) -> Array:
    decoded = source == "bf16" or formats.FORMATS[source].numbers > 1
    result = formats.encode(formats.decode(x, source) if decoded else x, to)
    if out is not None:
        return _assign(out, result)
    return result.copy() if result is x else result


def _copy(x: Array, out: Array | None = None) -> Array:
    return x.copy() if out is None else _assign(out, x)


def _concat(*parts: Array, axis: int, out: Array | None = None) -> Array:
    return np.concatenate(parts, axis=axis, out=out)


def _pad(x: Array, *, axis: int, before: int, after: int, out: Array | None = None) -> Array:
    """Zeros before and after, along one axis: the dual of `slice`."""
    if out is None:
        shape = list(x.shape)
        shape[axis] += before + after
        out = np.empty(shape, x.dtype)
    stop = before + x.shape[axis]
    _slice(out, axis=axis, start=0, stop=before)[...] = 0
    _slice(out, axis=axis, start=before, stop=stop)[...] = x
    _slice(out, axis=axis, start=stop, stop=stop + after)[...] = 0
    return out


def _gather(x: Array, index: Array, out: Array | None = None) -> Array:
    return np.take(x, index, axis=0, out=out, mode="raise" if out is None else "clip")


def _scatter_add(values: Array, index: Array, *, rows: int, out: Array | None = None) -> Array:
    """out[index[i]] += values[i] for every i, in the order of i; the dual of `gather`."""
    if out is None:
        out = np.empty((rows, *values.shape[index.ndim :]), values.dtype)
    out[...] = 0
    flat = index.ravel()
    if flat.size == 0:
        return out
    order = np.argsort(flat, kind="stable")
    ordered = flat[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ranked = values.reshape(flat.size, *values.shape[index.ndim :])[order]
    out[ordered[first]] = np.add.reduceat(ranked, first, axis=0)
    return out


def _put(x: Array, index: Array, values: Array, out: Array | None = None) -> Array:
    """x[index[i]] = values[i], in place: what writes a KV cache. It has no gradient."""
    x[index] = values
    return x


def _slice(x: Array, *, axis: int, start: int, stop: int) -> Array:
    return x[(slice(None),) * axis + (slice(start, stop),)]


COMPUTE: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "neg": np.negative,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "erf": erf,
    "round": np.rint,
    "less": np.less,
    "equal": np.equal,
    "where": _where,
    "cast": _cast,
    "copy": _copy,
    "sum": _sum,
    "max": _max,
    "matmul": np.matmul,
    "concat": _concat,
    "pad": _pad,
    "gather": _gather,
    "scatter_add": _scatter_add,
    "put": _put,
}

IN_PLACE = ("put",)  # these give back what they changed

VIEWS: dict[str, Callable[..., Array]] = {
    "expand": lambda x, *, shape: np.broadcast_to(x, shape),
    "reshape": lambda x, *, shape: x.reshape(shape),
    "permute": lambda x, *, axes: x.transpose(axes),
    "slice": _slice,
}


def run_again(name: str, out: Array, arrays: tuple[Array, ...], params: dict[str, Any]) -> None:
    """Compute the primitive once more, into the memory that its first run made."""
    COMPUTE[name](*arrays, out=out, **params)
