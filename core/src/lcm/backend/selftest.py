"""A backend's self-test: every kernel that it has, on small cases, against the op's body."""

import zlib
from collections.abc import Iterator

import numpy as np

from lcm.backend.contract import Backend, Kernel
from lcm.errors import BackendError
from lcm.grad import gradient
from lcm.ops import CATALOGUE, Op
from lcm.ops.cases import case
from lcm.ops.signature import Bound
from lcm.tensor import Tensor, no_grad

CASES = 4
TOLERANCE = 1e-4  # of the largest number in the result, f32


def check(backend: Backend) -> None:
    """`BackendError` on the first kernel that is unknown, fails, or is wrong."""
    for symbol, kernel in backend.kernels.items():
        error = worst(symbol, kernel)
        if not error <= TOLERANCE:
            raise BackendError(
                f"{backend.name}: its {symbol} is wrong by {error:.1e} of the largest number "
                f"(allowed: {TOLERANCE:.0e})"
            )


def worst(symbol: str, kernel: Kernel, cases: int = CASES) -> float:
    """The largest error over some small cases, relative to the largest number of the right result."""
    op, format, is_gradient = parse(symbol)
    rng = np.random.default_rng(zlib.crc32(symbol.encode()))
    errors = [0.0]
    for i in range(cases):
        bound = case(op, rng, format=format, optional=i % 2 == 0, requires_grad=is_gradient)
        compare = _gradients if is_gradient else _results
        errors.extend(_error(want, got) for want, got in compare(op, bound, kernel))
    return max(errors)


def parse(symbol: str) -> tuple[Op, str, bool]:
    """The op, the format of its weights, and whether this is its gradient; `BackendError` for no kernel."""
    name = symbol.removesuffix("_grad")
    base, _, format = name.partition("__")
    op = CATALOGUE.get(base)
    formats = [f for s in op.signature.arrays.values() for f in s.formats] if op else []
    if op is None or (format and format not in formats):
        raise BackendError(f"{symbol!r} is no kernel of lcm's; the ops are: {', '.join(CATALOGUE)}")
    return op, format or "f32", symbol.endswith("_grad")


def _results(op: Op, bound: Bound, kernel: Kernel) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    ours = Bound({n: t.copy() for n, t in bound.tensors.items()}, bound.sizes, bound.scalars, bound.lead)
    with no_grad():
        want, got = op.run_body(ours), op.run_kernel(kernel, bound)
    if op.signature.output is not None:
        yield want.data, got.data
    for name in op.signature.changed:
        yield ours.tensors[name].data, bound.tensors[name].data


def _gradients(op: Op, bound: Bound, kernel: Kernel) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    y = op.run_body_inline(bound)
    g = Tensor(np.cos(np.arange(y.size, dtype=np.float32)).reshape(y.shape))
    wanted = {n: t for n, t in bound.tensors.items() if t.requires_grad}
    got = dict(zip(bound.tensors, op.run_gradient_kernel(kernel, bound, g, y), strict=True))
    for name, want in zip(wanted, gradient(y, list(wanted.values()), g), strict=True):
        mine = got[name]
        if want is not None and mine is not None:
            yield want.data, mine.data


def _error(want: np.ndarray, got: np.ndarray) -> float:
    if not want.size:
        return 0.0
    with np.errstate(all="ignore"):
        difference = np.max(np.abs(want.astype(np.float64) - got))
    return float(difference / max(1e-6, float(np.max(np.abs(want)))))
