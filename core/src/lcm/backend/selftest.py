"""A backend's self-test: every kernel that it has, on small cases, against the op's body."""

import zlib
from collections.abc import Iterator

import numpy as np

from lcm.backend.contract import Backend, Kernel
from lcm.errors import BackendError
from lcm.grad import gradient
from lcm.ops import CATALOGUE, Op
from lcm.ops.cases import case, sizes
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


def worst(symbol: str, kernel: Kernel, cases: int = CASES, largest: int = 9) -> float:
    """The largest error over some cases of sizes up to `largest`, relative to the largest right number."""
    op, format, is_gradient = parse(symbol)
    rng = np.random.default_rng(zlib.crc32(symbol.encode()))
    errors = [0.0]
    for i in range(cases):
        bound = case(
            op, rng, shape=sizes(op, rng, largest), format=format, optional=i % 2 == 0,
            requires_grad=is_gradient,
        )  # fmt: skip
        compare = _gradients if is_gradient else _results
        errors.extend(_error(want, got) for want, got in compare(op, bound, kernel))
    return float(np.max(errors))  # which is not a number if one of them is not


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
    ours = Bound(
        {n: t.copy() for n, t in bound.tensors.items()}, bound.sizes, bound.scalars, bound.lead
    )
    with no_grad():
        want = op.run_body(ours).data
    arguments = op.arguments(bound)
    names = op.signature.changed
    if op.signature.output is not None:
        names = ("out",)
        arguments["out"].fill(
            np.nan
        )  # or what is not written would hold the right numbers of before
    kernel(arguments)()
    for name in names:
        yield (want if name == "out" else ours.tensors[name].data), arguments[name]


def _gradients(op: Op, bound: Bound, kernel: Kernel) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    y = op.run_body_inline(bound)
    g = Tensor(np.cos(np.arange(y.size, dtype=np.float32)).reshape(y.shape))
    wanted = [n for n, t in bound.tensors.items() if t.requires_grad]
    arguments = op.gradient_arguments(bound, g, y)
    for name in wanted:
        arguments[f"{name}_grad"].fill(np.nan)
    kernel(arguments)()
    for name, want in zip(wanted, gradient(y, [bound.tensors[n] for n in wanted], g), strict=True):
        if want is not None:
            yield want.data, arguments[f"{name}_grad"]


def _error(want: np.ndarray, got: np.ndarray) -> float:
    if not want.size:
        return 0.0
    with np.errstate(all="ignore"):
        difference = np.max(np.abs(want.astype(np.float64).ravel() - got.ravel()))
    return float(difference / max(1e-6, float(np.max(np.abs(want)))))
