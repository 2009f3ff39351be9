"""A backend's self-test: every kernel that it has, on small cases, against the op's body.

It runs before a backend is used for the first time, so it takes milliseconds; `lcm.testing` is thorough.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from lcm import formats
from lcm.backend.contract import Backend, Kernel
from lcm.backend.dispatch import REFERENCE, use_backend
from lcm.backend.guards import Guarded
from lcm.errors import BackendError
from lcm.grad import gradient
from lcm.ops import CATALOGUE, Op
from lcm.ops.cases import case, sizes
from lcm.ops.signature import Bound
from lcm.recording import no_grad
from lcm.tensor import Tensor

CASES = 4
TOLERANCE = 1e-4  # of the largest number in the result, f32
MOST = 1 << 16  # numbers in an array


def check(backend: Backend) -> None:
    """`BackendError` on the first kernel that is unknown, fails, is wrong, or writes where it must not."""
    for symbol, kernel in backend.kernels.items():
        # Below a vector's length, and beyond it.
        error = max(worst(symbol, kernel), worst(symbol, kernel, cases=2, largest=40))
        if not error <= TOLERANCE:
            raise BackendError(
                f"{backend.name}: its {symbol} is wrong by {error:.1e} of the largest number "
                f"(allowed: {TOLERANCE:.0e})"
            )


def worst(symbol: str, kernel: Kernel, cases: int = CASES, largest: int = 9) -> float:
    """The largest error over some cases of sizes up to `largest`, relative to the largest right number.

    `BackendError` where the kernel writes anything but its results.
    """
    op, format, is_gradient = parse(symbol)
    rng = np.random.default_rng([zlib.crc32(symbol.encode()), largest])
    errors = [0.0]
    for i in range(cases):
        bound = case(
            op, rng, shape=sizes(op, rng, largest, MOST), format=format, optional=i % 2 == 0,
            requires_grad=is_gradient, varied=True,
        )  # fmt: skip
        compare = _gradients if is_gradient else _results
        with use_backend(REFERENCE):  # and not on what the user wants, which may be what is tried here
            wanted, arguments = compare(op, bound)
        guarded = Guarded(arguments, wanted, blank(op, arguments), offset=i)
        kernel(guarded.arguments)()
        for trespass in guarded.trespasses():
            raise BackendError(f"its {symbol} writes where it must not: {trespass}")
        for name, want in wanted.items():
            spec = op.signature.arrays.get(name)
            stored = spec.stored_as(format) if spec else "f32"
            pair = (formats.decode(a, stored) for a in (want, guarded.arguments[name]))
            errors.append(_error(*pair))
    return float(np.max(errors))  # which is not a number if one of them is not


def parse(symbol: str) -> tuple[Op, str, bool]:
    """The op, the format of its weights, and whether this is its gradient; `BackendError` for no kernel."""
    base, _, format = symbol.removesuffix("_grad").partition("__")
    op = CATALOGUE.get(base)
    if op is not None and symbol == op.name and symbol not in op.signature.kernels:
        raise BackendError(f"{symbol!r} is several kernels: {', '.join(op.signature.kernels)}")
    if op is None or symbol not in op.signature.kernels:
        raise BackendError(f"{symbol!r} is no kernel of lcm's; the ops are: {', '.join(CATALOGUE)}")
    return op, format or "f32", symbol.endswith("_grad")


def blank(op: Op, arguments: Mapping[str, Any]) -> set[str]:
    """The arrays among a kernel's arguments that hold nothing before the call."""
    if "out_grad" not in arguments:
        return {"out"} & arguments.keys()
    names = {f"{name}_grad" for name in op.signature.arrays}
    return {name for name in names if arguments.get(name) is not None}


def _results(op: Op, bound: Bound) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The right results by name, and the arguments for a kernel that is to give them."""
    arguments = op.arguments(bound)
    ours = Bound(
        {n: t.copy() for n, t in bound.tensors.items()}, bound.sizes, bound.scalars, bound.lead
    )
    with no_grad():
        out = op.run_body(ours).data
    if op.signature.output is not None:
        return {"out": out}, arguments
    return {name: ours.tensors[name].data for name in op.signature.changed}, arguments


def _gradients(op: Op, bound: Bound) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    y = op.run_body_inline(bound)
    g = Tensor(np.cos(np.arange(y.size, dtype=np.float32)).reshape(y.shape))
    names = [n for n, t in bound.tensors.items() if t.requires_grad]
    found = gradient(y, [bound.tensors[n] for n in names], g)
    wanted = {f"{n}_grad": t.data for n, t in zip(names, found, strict=True) if t is not None}
    return wanted, op.gradient_arguments(bound, g, y)


def _error(want: np.ndarray, got: np.ndarray) -> float:
    if not want.size:
        return 0.0
    with np.errstate(all="ignore"):
        difference = np.max(np.abs(want.astype(np.float64).ravel() - got.ravel()))
    return float(difference / max(1e-6, float(np.max(np.abs(want)))))
