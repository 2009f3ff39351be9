"""Any CBLAS as a backend: `linear`, `matmul` and their gradients by sgemm and sgemv.

OpenBLAS, Accelerate and BLIS have the same interface; a plugin brings the library and the names.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from lcm.backend.contract import Kernel
from lcm.backend.native import address, function

Step = Callable[[], object]
Arguments = Mapping[str, Any]

ROW_MAJOR, NO_TRANS, TRANS = 101, 111, 112


class Cblas:
    """The two routines, and the kernels made of them."""

    def __init__(self, library: Any, *, prefix: str = "", suffix: str = "") -> None:
        self._gemm = function(
            library, f"{prefix}cblas_sgemm{suffix}", "void",
            "int", "int", "int", "int", "int", "int", "float", "float *", "int", "float *", "int",
            "float", "float *", "int",
        )  # fmt: skip
        self._gemv = function(
            library, f"{prefix}cblas_sgemv{suffix}", "void",
            "int", "int", "int", "int", "float", "float *", "int", "float *", "int", "float",
            "float *", "int",
        )  # fmt: skip

    def kernels(self) -> dict[str, Kernel]:
        return {
            "linear": self.linear,
            "linear_grad": self.linear_grad,
            "matmul": self.matmul,
            "matmul_grad": self.matmul_grad,
        }

    def product(
        self, out: np.ndarray, x: np.ndarray, y: np.ndarray, *,
        x_turned: bool = False, y_turned: bool = False, add: bool = False,
    ) -> Step:  # fmt: skip
        """out = x @ y, or out += x @ y; either may be meant as its transpose. All are 2-D and dense."""
        rows, columns = out.shape
        inner = x.shape[0] if x_turned else x.shape[1]
        beta = 1.0 if add else 0.0
        if 0 in (rows, columns, inner):
            return partial(_finish, out, add)
        if rows == 1 and not x_turned:  # OpenBLAS's sgemm does not do this one as fast as its sgemv
            turn = NO_TRANS if y_turned else TRANS
            return partial(
                self._gemv, ROW_MAJOR, turn, *y.shape, 1.0, address(y), y.shape[1],
                address(x), 1, beta, address(out), 1,
            )  # fmt: skip
        return partial(
            self._gemm, ROW_MAJOR, TRANS if x_turned else NO_TRANS, TRANS if y_turned else NO_TRANS,
            rows, columns, inner, 1.0, address(x), x.shape[1], address(y), y.shape[1],
            beta, address(out), columns,
        )  # fmt: skip

    def linear(self, a: Arguments) -> Step:
        out, bias = a["out"], a["bias"]
        product = self.product(out, a["x"], a["weight"], y_turned=True, add=bias is not None)
        if bias is None:
            return _all(a, product)
        return _all(a, partial(np.copyto, out, bias), product)

    def linear_grad(self, a: Arguments) -> Step:
        g, steps = a["out_grad"], []
        if a["x_grad"] is not None:
            steps.append(self.product(a["x_grad"], g, a["weight"]))
        if a["weight_grad"] is not None:
            steps.append(self.product(a["weight_grad"], g, a["x"], x_turned=True))
        if a["bias_grad"] is not None:
            steps.append(partial(np.sum, g, axis=0, out=a["bias_grad"]))
        return _all(a, *steps)

    def matmul(self, a: Arguments) -> Step:
        pairs = zip(a["out"], a["x"], a["y"], strict=True)
        return _all(a, *(self.product(out, x, y) for out, x, y in pairs))

    def matmul_grad(self, a: Arguments) -> Step:
        steps = []
        for i, g in enumerate(a["out_grad"]):
            if a["x_grad"] is not None:
                steps.append(self.product(a["x_grad"][i], g, a["y"][i], y_turned=True))
            if a["y_grad"] is not None:
                steps.append(self.product(a["y_grad"][i], a["x"][i], g, x_turned=True))
        return _all(a, *steps)


def _finish(out: np.ndarray, add: bool) -> None:
    """A product over nothing is zero."""
    if not add:
        out[...] = 0


def _all(keep: Arguments, *steps: Step) -> Step:
    """The steps as one; the arrays live as long as what points at them."""
    return partial(_run, keep, steps)


def _run(keep: Arguments, steps: tuple[Step, ...]) -> None:
    for step in steps:
        step()
