"""Timing a kernel as it is called: on random arguments of a given shape, against the other candidates."""

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

from lcm.backend import dispatch
from lcm.backend.contract import Backend
from lcm.backend.selftest import parse
from lcm.backend.tuning import bucket, identity
from lcm.errors import LcmError, UsageError
from lcm.ops import Op
from lcm.ops.cases import case, possible
from lcm.ops.signature import Bound
from lcm.tensor import Tensor, enable_grad, no_grad

BUDGET = 0.25  # seconds for one candidate at one shape, once it is warm
LEAST = 3  # calls, however long they take


def seconds(symbol: str, sizes: Mapping[str, int], backend: Backend | None) -> float:
    """The median time of a call on this backend; None is the op's body."""
    op, format, is_gradient = parse(symbol)
    bound = case(
        op, np.random.default_rng(0), shape=sizes, format=format, requires_grad=is_gradient
    )
    call = (
        _gradient(op, bound, symbol, backend)
        if is_gradient
        else _forward(op, bound, symbol, backend)
    )
    return median(call)


def median(call: Callable[[], object]) -> float:
    """The median time of a call, after one that is not counted."""
    call()
    times: list[float] = []
    until = time.perf_counter() + BUDGET
    while len(times) < LEAST or (time.perf_counter() < until and len(times) < 1000):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _forward(op: Op, bound: Bound, symbol: str, backend: Backend | None) -> Callable[[], object]:
    if backend is None:
        return _quietly(lambda: op.run_body(bound))
    kernel = backend.kernels[symbol]
    return _quietly(lambda: op.run_kernel(kernel, bound))


def _gradient(op: Op, bound: Bound, symbol: str, backend: Backend | None) -> Callable[[], object]:
    if backend is None:
        return lambda: _through_body(op, bound)
    with no_grad():
        y = op.run_body(bound)
    g = Tensor(np.ones_like(y.data))
    kernel = backend.kernels[symbol]
    return _quietly(lambda: op.run_gradient_kernel(kernel, bound, g, y))


def _through_body(op: Op, bound: Bound) -> None:
    """Forward and backward: without a kernel the first is part of the second's cost."""
    with enable_grad():
        y = op.run_body_inline(bound)
    from lcm.grad import gradient

    gradient(
        y, [t for t in bound.tensors.values() if t.requires_grad], Tensor(np.ones_like(y.data))
    )


def _quietly(call: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        with no_grad(), np.errstate(all="ignore"):
            call()

    return run


def compare(symbol: str, sizes: Mapping[str, int]) -> dict[str, float]:
    """The time of every candidate, by name; the tuning table takes them in (it is not saved here)."""
    op, _, _ = parse(symbol)
    if not possible(op, sizes):
        conditions = " and ".join(op.signature.where) or "sizes of 1 or more"
        raise UsageError(f"{symbol}: no arguments of this shape: it needs {conditions}")
    found = {}
    by_identity = {}
    for name, backend in dispatch.candidates(symbol).items():
        try:
            found[name] = seconds(symbol, sizes, backend)
        except LcmError:
            continue  # a kernel may refuse a shape; it is then no candidate for it
        by_identity[identity(backend) if backend else name] = found[name]
    dispatch.table().add(bucket(symbol, sizes), by_identity)
    return found


def parse_shape(symbol: str, text: str) -> dict[str, int]:
    """`512,896,4864` as sizes in the order of the op's signature, or `rows=512,inputs=896 …`."""
    op, _, _ = parse(symbol)
    names = op.signature.symbols
    parts = [p.strip() for p in text.split(",")]
    try:
        if all("=" in p for p in parts):
            sizes = {n.strip(): int(v) for n, v in (p.split("=") for p in parts)}
        else:
            sizes = dict(zip(names, map(int, parts), strict=True))
    except ValueError:
        sizes = {}
    if set(sizes) != set(names) or min(sizes.values()) < 1:
        raise UsageError(
            f"--shape for {symbol} is {','.join(names)} as whole numbers, not {text!r}"
        )
    return sizes
