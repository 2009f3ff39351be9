"""Op: a definition that can be called. Its body is the reference and the source of the gradient.

A call checks its arguments, asks the dispatcher for a kernel, and runs the kernel or the body. An op declared
with `split` is independent along that axis and cheap to compute again: its body runs on a few rows at a time,
in cache, and once more in the backward pass instead of keeping what lies between. What a call costs, where
its shapes alone do not tell, is said by expressions over its sizes: see `lcm.ops.cost`.
"""

import importlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cache, partial
from typing import Any, Protocol, overload

import numpy as np

from lcm import formats
from lcm.errors import UsageError
from lcm.grad import gradient
from lcm.memory import without_hold
from lcm.ops import split as splitting
from lcm.ops.signature import Bound, Signature, Spec
from lcm.recording import empty, enable_grad, gradient_array, no_grad, run, state
from lcm.tensor import Gradients, Tensor

Kernel = Callable[[dict[str, Any]], Callable[[], object]]
Arrays = splitting.Arrays


class Dispatcher(Protocol):
    """Finds the kernel for a call; None means that the op's body runs."""

    def __call__(
        self, op: "Op", bound: Bound, symbol: str, backend: str | None
    ) -> Kernel | None: ...


CATALOGUE: dict[str, "Op"] = {}


@cache
def _dispatcher() -> Dispatcher:
    """The one in `lcm.backend.dispatch`: named here, not imported, since backends are built on the ops."""
    dispatcher: Dispatcher = importlib.import_module("lcm.backend.dispatch").choose
    return dispatcher


class Op:
    """One op; see its `signature` for the contract and `__doc__` for the formula."""

    def __init__(
        self, body: Callable[..., Any], *, split: str = "", where: tuple[str, ...] = (),
        flops: str = "0", touched: Mapping[str, str] | None = None, gradient: bool = True,
    ) -> None:  # fmt: skip
        self.body = body
        self.name = body.__name__
        self.signature = Signature.of(body, where, gradient=gradient)
        self.split = split
        self.flops, self.touched = flops, touched or {}
        self.__doc__ = body.__doc__
        CATALOGUE[self.name] = self

    def __call__(self, *args: Any, backend: str | None = None, **named: Any) -> Tensor:
        """Run the op; `backend` names the one that has to run it."""
        bound = self.signature.bind(*args, **named)
        inputs = tuple(bound.tensors.values())
        tracked = state.grad_enabled and any(t.requires_grad for t in inputs)
        kernel = self._kernel(bound, "", backend)
        if tracked and self.signature.output is not None and not self.signature.has_gradient:
            raise UsageError(f"{self.name} has no gradient: run it under no_grad, or train without it")
        if kernel is None and tracked and not self.split:
            return self.run_body_inline(bound)
        with no_grad():
            y = self.run_kernel(kernel, bound) if kernel else self.run_body(bound)
        if tracked and self.signature.output is not None:
            y.record(self._gradient, inputs, {"bound": bound, "backend": backend})
        return y

    def symbol(self, bound: Bound, suffix: str = "") -> str:
        """The kernel's name without `lcm_`: the op, the format of what is stored if not f32, the suffix."""
        for name, spec in self.signature.arrays.items():
            if len(spec.formats) > 1 and bound.tensors[name].format != "f32":
                return f"{self.name}__{bound.tensors[name].format}{suffix}"
        return self.name + suffix

    def _kernel(self, bound: Bound, suffix: str, backend: str | None) -> Kernel | None:
        if any(t.format == "f64" for t in bound.tensors.values()):
            return None
        return _dispatcher()(self, bound, self.symbol(bound, suffix), backend)

    # With a kernel.

    def run_kernel(self, kernel: Kernel, bound: Bound) -> Tensor:
        arguments = self.arguments(bound)
        run(kernel(_to_keep(arguments)))
        output = self.signature.output
        if output is None:
            return bound.tensors[self.signature.changed[0]]
        return Tensor(arguments["out"].reshape(bound.shape(output)))

    def step(self, *arrays: np.ndarray) -> Callable[[], object] | None:
        """For an op of one size, no scalars: a kernel's call on f32 inputs and result, if there is one."""
        names, (size,) = (*self.signature.arrays, "out"), self.signature.symbols
        bound = Bound({}, {size: arrays[0].size}, {})
        kernel = _dispatcher()(self, bound, self.name, None)
        flat = (a.reshape(-1) for a in arrays)
        return kernel and kernel(dict(zip(names, flat, strict=True)) | bound.sizes)

    def arguments(self, bound: Bound) -> dict[str, Any]:
        """What a kernel is given: C-ordered arrays by name, with `out` to be written; sizes; scalars."""
        arguments: dict[str, Any] = dict.fromkeys(self.signature.arrays)
        for name, tensor in bound.tensors.items():
            arguments[name] = self._flat(bound, name, tensor).data
        if self.signature.output is not None:
            arguments["out"] = _empty(self.signature.output, bound)
        return arguments | bound.sizes | bound.scalars

    def gradient_arguments(self, bound: Bound, g: Tensor, y: Tensor) -> dict[str, Any]:
        """The same for the gradient's kernel: `out`, `out_grad`, and `<name>_grad` to be written or None."""
        output = self.signature.output
        assert output is not None
        arguments = self.arguments(bound)
        arguments["out"] = _dense(y, bound.flat_shape(output)).data
        arguments["out_grad"] = _dense(g, bound.flat_shape(output)).data
        for name, spec in self.signature.arrays.items():
            if "f32" in spec.formats:
                tensor = bound.tensors.get(name)
                arguments[f"{name}_grad"] = (
                    gradient_array(tensor, bound.flat_shape(spec), np.float32)
                    if tensor is not None and tensor.requires_grad
                    else None
                )
        return arguments

    def _flat(self, bound: Bound, name: str, tensor: Tensor) -> Tensor:
        return _dense(tensor, bound.flat_shape(self.signature.arrays[name]))

    # With the body.

    def run_body_inline(self, bound: Bound) -> Tensor:
        """Run the body so that its primitives become part of whatever is being recorded."""
        flat = {n: self._flat(bound, n, t) for n, t in bound.tensors.items()}
        with np.errstate(all="ignore"):
            result = self.body(**{n: flat.get(n) for n in self.signature.arrays}, **bound.scalars)
        if self.signature.output is None:
            self._write_back(flat, result)
            return bound.tensors[self.signature.changed[0]]
        y: Tensor = result.reshape(*bound.shape(self.signature.output))
        return y

    def _write_back(self, flat: dict[str, Tensor], result: Tensor | tuple[Tensor, ...]) -> None:
        values = result if isinstance(result, tuple) else (result,)
        for name, value in zip(self.signature.changed, values, strict=True):
            if value.data is not flat[name].data:
                target, source = without_hold(flat[name].data), without_hold(value.data)
                run(partial(np.copyto, target, source))

    def run_body(self, bound: Bound) -> Tensor:
        """The op by its definition."""
        if not self.split:
            return self.run_body_inline(bound)
        output = self.signature.output
        inputs = {n: self._flat(bound, n, t).data for n, t in bound.tensors.items()}
        if output is None:
            outputs = {n: inputs[n] for n in self.signature.changed}
        else:
            outputs = {"out": _empty(output, bound, like=next(iter(bound.tensors.values())))}
        formats = {n: t.format for n, t in bound.tensors.items()}
        body = partial(self._piece, formats=formats, scalars=bound.scalars)
        self._run_split((self.name, *bound.scalars.items()), body, inputs, outputs, bound)
        if output is None:
            return bound.tensors[self.signature.changed[0]]
        return Tensor(outputs["out"].reshape(bound.shape(output)))

    def _run_split(
        self, key: Hashable, body: splitting.Body, inputs: Arrays, outputs: Arrays, bound: Bound
    ) -> None:
        run(
            partial(
                splitting.over_rows, key, body, _to_keep(inputs), _to_keep(outputs),
                self._in_rows(self.signature.arrays), bound.sizes[self.split],
            )
        )  # fmt: skip

    def _piece(self, piece: Arrays, formats: dict[str, str], scalars: dict[str, Any]) -> Arrays:
        flat = {n: Tensor(piece[n], format) for n, format in formats.items()}
        with no_grad(), np.errstate(all="ignore"):
            result = self.body(**{n: flat.get(n) for n in self.signature.arrays}, **scalars)
        names = self.signature.changed if self.signature.output is None else ("out",)
        results = result if isinstance(result, tuple) else (result,)
        return {n: r.data for n, r in zip(names, results, strict=True)}

    def _in_rows(self, inputs: Iterable[str]) -> set[str]:
        """The arrays that are cut along the op's split axis: outputs and gradients like their inputs."""
        arrays = self.signature.arrays
        cut = {n for n in inputs if arrays[n].symbols[:1] == (self.split,)}
        return cut | {f"{n}_grad" for n in cut} | {"out", "out_grad"}

    # Its gradient.

    def _gradient(
        self, g: Tensor, y: Tensor, *inputs: Tensor, bound: Bound, backend: str | None
    ) -> Gradients:
        if not state.grad_enabled:  # no gradient of this gradient is wanted
            kernel = self._kernel(bound, "_grad", backend)
            if kernel:
                return self.run_gradient_kernel(kernel, bound, g, y)
        return self.run_gradient_body(bound, g)

    def run_gradient_kernel(self, kernel: Kernel, bound: Bound, g: Tensor, y: Tensor) -> Gradients:
        arguments = self.gradient_arguments(bound, g, y)
        run(kernel(_to_keep(arguments)))
        return tuple(
            None if (a := arguments.get(f"{n}_grad")) is None else Tensor(a.reshape(t.shape))
            for n, t in bound.tensors.items()
        )

    def run_gradient_body(self, bound: Bound, g: Tensor) -> Gradients:
        """The gradients of the inputs by the op's definition."""
        if self.split and not state.grad_enabled:
            return self._split_gradient(bound, g)
        return self._body_gradient(bound, g)

    def _body_gradient(self, bound: Bound, g: Tensor) -> Gradients:
        """Through the body's primitives. The inputs are shadowed, since one may stand for two arguments."""
        remembered = state.grad_enabled
        with enable_grad():
            shadows = {n: _shadow(t, remembered) for n, t in bound.tensors.items()}
            y = self.run_body_inline(Bound(shadows, bound.sizes, bound.scalars, bound.lead))
        with np.errstate(all="ignore"):
            return gradient(y, tuple(shadows.values()), g, create_graph=remembered)

    def _split_gradient(self, bound: Bound, g: Tensor) -> Gradients:
        output = self.signature.output
        assert output is not None
        wanted = tuple(n for n, t in bound.tensors.items() if t.requires_grad)
        inputs = {n: self._flat(bound, n, t).data for n, t in bound.tensors.items()}
        outputs = {
            f"{n}_grad": gradient_array(bound.tensors[n], inputs[n].shape, inputs[n].dtype)
            for n in wanted
        }
        inputs["out_grad"] = _dense(g, bound.flat_shape(output)).data
        formats = {n: t.format for n, t in bound.tensors.items()}
        body = partial(self._piece_gradient, formats=formats, scalars=bound.scalars, wanted=wanted)
        key = (f"{self.name}_grad", wanted, *bound.scalars.items())
        self._run_split(key, body, inputs, outputs, bound)
        return tuple(
            Tensor(outputs[f"{n}_grad"].reshape(t.shape)) if n in wanted else None
            for n, t in bound.tensors.items()
        )

    def _piece_gradient(
        self, piece: Arrays, formats: dict[str, str], scalars: dict[str, Any],
        wanted: tuple[str, ...],
    ) -> Arrays:  # fmt: skip
        flat = {n: Tensor(piece[n], f, requires_grad=n in wanted) for n, f in formats.items()}
        with np.errstate(all="ignore"):
            with enable_grad():
                y = self.body(**{n: flat.get(n) for n in self.signature.arrays}, **scalars)
            parts = gradient(y, [flat[n] for n in wanted], Tensor(piece["out_grad"]))
        zeros = (Tensor(np.zeros_like(piece[n])) for n in wanted)
        return {
            f"{n}_grad": (zero if part is None else part).data
            for n, part, zero in zip(wanted, parts, zeros, strict=True)
        }


@overload
def op(body: Callable[..., Any]) -> Op: ...


@overload
def op(
    *, split: str = ..., where: tuple[str, ...] = ..., flops: str = ...,
    touched: Mapping[str, str] = ..., gradient: bool = ...,
) -> Callable[[Callable[..., Any]], Op]: ...  # fmt: skip


def op(
    body: Callable[..., Any] | None = None, **about: Any
) -> Op | Callable[[Callable[..., Any]], Op]:
    """Define an op by its body: see `Op` for `split`, `Signature` for the conditions in `where`.

    `flops` are the operations of its products, `touched` the numbers of an array that a call reads or
    writes where that is not all of them. Without `gradient` nothing can be trained through it.
    """
    if body is None:
        return lambda body: Op(body, **about)
    return Op(body, **about)


def _empty(spec: Spec, bound: Bound, like: Tensor | None = None) -> np.ndarray:
    dtype = formats.FORMATS[spec.formats[0]].storage
    if like is not None and like.format == "f64":
        dtype = like.data.dtype
    return empty(bound.flat_shape(spec), dtype)


def _dense(t: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same numbers in this shape, in C order."""
    return t if t.shape == shape and t.data.flags.c_contiguous else t.reshape(*shape)


def _to_keep(arguments: dict[str, Any]) -> dict[str, Any]:
    """What a program may hold of a call's arguments, so that its memory is used again."""
    if state.recording is None:
        return arguments
    return {n: without_hold(v) if isinstance(v, np.ndarray) else v for n, v in arguments.items()}


def _shadow(t: Tensor, remembered: bool) -> Tensor:
    """The same numbers as a tensor of its own: connected to t when gradients of gradients are wanted."""
    if remembered:
        return t.reshape(*t.shape)
    return Tensor(t.data, t.format, requires_grad=t.requires_grad)
