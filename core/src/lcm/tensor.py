"""Tensor: an array in host memory, and how it was made."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from lcm import formats
from lcm.errors import FormatError, ShapeError
from lcm.memory import without_hold
from lcm.primitives import COMPUTE, IN_PLACE, VIEWS, Shape, run_again
from lcm.recording import empty, run, state

Scalar = int | float
Gradients = tuple["Tensor | None", ...]
# For the gradients of all inputs at once, or one function for each input's.
Rule = Callable[..., Gradients] | tuple[Callable[..., "Tensor | None"], ...]


class Node:
    """How a tensor was made: the rule for its gradient, what it was made from, and with which parameters."""

    __slots__ = ("inputs", "params", "rule")

    def __init__(self, rule: Rule, inputs: tuple["Tensor", ...], params: dict[str, Any]) -> None:
        self.rule = rule
        self.inputs = inputs
        self.params = params


def apply(name: str, *inputs: "Tensor", **params: Any) -> "Tensor":
    """The result of a primitive, remembered for the gradient and for the program being recorded."""
    arrays = tuple(t.data for t in inputs)
    if name in VIEWS:
        y = Tensor(VIEWS[name](*arrays, **params), inputs[0].format)
    else:
        y = Tensor(_compute(name, arrays, params), _format(name, inputs, params))
    if state.grad_enabled and any(t.requires_grad for t in inputs):
        from lcm.grad import RULES

        if name in RULES:
            y.record(RULES[name], inputs, params)
    return y


# Primitives that are an op too: from two dense f32 arrays of one shape and the result's, the call of the op's
# kernel; None where no backend has one.
KERNELS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], Callable[[], object] | None]] = {}
LARGE = (
    1 << 15
)  # numbers: below, choosing a kernel costs more than it saves, unless it is for a program


def _compute(name: str, arrays: tuple[np.ndarray, ...], params: dict[str, Any]) -> np.ndarray:
    if name in KERNELS and (found := _by_kernel(name, *arrays)) is not None:
        return found
    data = np.asarray(COMPUTE[name](*arrays, **params))
    if state.recording is None:
        return data
    kept = arrays[0] if name in IN_PLACE else empty(data.shape, data.dtype)
    np.copyto(kept, data)
    operands = tuple(without_hold(a) for a in arrays)
    step = partial(run_again, name, without_hold(kept), operands, params)
    state.recording.steps.append(step)
    return kept


def _by_kernel(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    if state.recording is None and x.size < LARGE:
        return None
    if any(a.dtype != np.float32 or not a.flags.c_contiguous for a in (x, y)):
        return None
    out = empty(x.shape, x.dtype)
    step = KERNELS[name](*(without_hold(a) for a in (x, y, out)))
    if step is None:
        return None
    run(step)
    return out


def _format(name: str, inputs: "tuple[Tensor, ...]", params: dict[str, Any]) -> str:
    if name in ("less", "equal"):
        return "bool"
    if name == "cast":
        return str(params["to"])
    return inputs[1 if name == "where" else 0].format


class Tensor:
    """An array with a number format, in host memory.

    `data` is the numpy array itself, not a copy; bf16 numbers are in it as uint16, and of a block format each
    block is one element, while `shape` counts numbers. Arithmetic follows numpy's broadcasting, made of
    explicit `expand`; nothing changes a tensor in place but the ops that say so.
    """

    __slots__ = ("__weakref__", "data", "format", "grad", "home", "node", "requires_grad")
    __array_priority__ = 100.0

    def __init__(
        self, data: Any, format: str | None = None, *, requires_grad: bool = False
    ) -> None:
        if isinstance(data, (float, list)):
            data = np.asarray(data, np.float32 if np.asarray(data).dtype.kind == "f" else None)
        self.data: np.ndarray = np.asarray(data)
        self.format = format or formats.format_of(self.data)
        self.requires_grad = requires_grad
        self.grad: Tensor | None = None
        self.home: np.ndarray | None = None  # where its gradient is to lie, if somewhere
        self.node: Node | None = None

    def record(self, rule: Rule, inputs: tuple["Tensor", ...], params: dict[str, Any]) -> None:
        """Remember how this tensor was made."""
        self.requires_grad = True
        self.node = Node(rule, inputs, params)

    # What it is.

    @property
    def shape(self) -> Shape:
        if self.data.dtype.kind != "V":
            return self.data.shape
        return formats.FORMATS[self.format].shape(self.data.shape)

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def address(self) -> int:
        """Where the first element lies."""
        return int(self.data.__array_interface__["data"][0])

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return f"Tensor({self.format}{list(self.shape)})\n{self.data}"

    # To and from the outside.

    def numpy(self) -> np.ndarray:
        """The numbers, not copied (but bf16 and block formats, which are decoded to f32)."""
        self._forbid_while_recording("numpy()")
        if self.format == "bf16" or self.data.dtype.kind == "V":
            return formats.decode(self.data, self.format)
        return self.data

    def item(self) -> float:
        """The only number of a tensor of size 1."""
        self._forbid_while_recording("item()")
        return float(self.data.item())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self.numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()

    @staticmethod
    def from_dlpack(source: Any) -> "Tensor":
        """A tensor over the memory of any array in host memory that speaks DLPack."""
        return Tensor(np.from_dlpack(source))

    def detach(self) -> "Tensor":
        """The same numbers, without the memory of how they were made."""
        return Tensor(self.data, self.format)

    def _forbid_while_recording(self, what: str) -> None:
        if state.recording is not None:
            raise FormatError(
                f"{what} while a program is being recorded: a value read now would be fixed for ever; "
                "keep it in a tensor"
            )

    # Movement.

    def reshape(self, *shape: int) -> "Tensor":
        """The same numbers in another shape; one size may be -1. A strided view is copied first."""
        source = self if self.data.flags.c_contiguous else self.copy()
        if -1 in shape:
            known = -math.prod(shape)
            shape = tuple(self.size // max(known, 1) if n == -1 else n for n in shape)
        if math.prod(shape) != self.size:
            raise ShapeError(f"reshape: {self.shape} has {self.size} numbers, {shape} does not")
        return apply("reshape", source, shape=formats.FORMATS[self.format].stored(shape))

    def permute(self, *axes: int) -> "Tensor":
        return apply("permute", self, axes=axes)

    @property
    def T(self) -> "Tensor":
        """The transpose over the last two axes."""
        return self.permute(*range(self.ndim - 2), self.ndim - 1, self.ndim - 2)

    def expand(self, *shape: int) -> "Tensor":
        """Repeat along axes of size 1 and along new leading axes, without copying."""
        if self.shape == shape:
            return self
        try:
            return apply("expand", self, shape=shape)
        except ValueError:
            raise ShapeError(f"expand: {self.shape} does not broadcast to {shape}") from None

    def slice(self, axis: int, start: int, stop: int) -> "Tensor":
        axis %= self.ndim
        if not 0 <= start <= stop <= self.shape[axis]:
            raise ShapeError(f"slice: [{start}:{stop}] is not within axis {axis} of {self.shape}")
        return apply("slice", self, axis=axis, start=start, stop=stop)

    def pad(self, axis: int, before: int, after: int) -> "Tensor":
        return apply("pad", self, axis=axis % self.ndim, before=before, after=after)

    def split_last(self, width: int) -> "Tensor":
        """(..., n * width) as (..., n, width)."""
        return self.reshape(*self.shape[:-1], self.shape[-1] // width, width)

    def join_last(self) -> "Tensor":
        """(..., n, width) as (..., n * width)."""
        return self.reshape(*self.shape[:-2], self.shape[-2] * self.shape[-1])

    def gather(self, index: "Tensor") -> "Tensor":
        """The rows of this tensor that `index` names: shape index.shape + self.shape[1:]."""
        return apply("gather", self, index)

    def scatter_add(self, index: "Tensor", rows: int) -> "Tensor":
        """`rows` rows, where row index[i] is the sum of all self[i]."""
        return apply("scatter_add", self, index, rows=rows)

    def put(self, index: "Tensor", values: "Tensor") -> "Tensor":
        """Write values[i] into row index[i], in place."""
        return apply("put", self, index, values)

    def cast(self, to: str) -> "Tensor":
        """The numbers in another format."""
        return self if to == self.format else apply("cast", self, source=self.format, to=to)

    def copy(self) -> "Tensor":
        return apply("copy", self)

    # Arithmetic.

    def _binary(self, name: str, other: "Tensor | Scalar") -> "Tensor":
        return apply(name, *broadcast(self, other))

    def _reverse(self, name: str, other: Scalar) -> "Tensor":
        return apply(name, *broadcast(_constant(other, self), self))

    def __add__(self, other: "Tensor | Scalar") -> "Tensor":
        return self._binary("add", other)

    def __sub__(self, other: "Tensor | Scalar") -> "Tensor":
        return self._binary("sub", other)

    def __mul__(self, other: "Tensor | Scalar") -> "Tensor":
        return self._binary("mul", other)

    def __truediv__(self, other: "Tensor | Scalar") -> "Tensor":
        return self._binary("div", other)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Scalar) -> "Tensor":
        return self._reverse("sub", other)

    def __rtruediv__(self, other: Scalar) -> "Tensor":
        return self._reverse("div", other)

    def __neg__(self) -> "Tensor":
        return apply("neg", self)

    def __lt__(self, other: "Tensor | Scalar") -> "Tensor":
        return self._binary("less", other)

    def equal(self, other: "Tensor | Scalar") -> "Tensor":
        """Where the two are the same, as bool."""
        return self._binary("equal", other)

    def where(self, x: "Tensor | Scalar", y: "Tensor | Scalar") -> "Tensor":
        """For a bool tensor: x where it is true, y elsewhere."""
        like = x if isinstance(x, Tensor) else y
        if not isinstance(like, Tensor):
            raise FormatError("where: one of the two values must be a tensor")
        x, y = broadcast(_constant(x, like), _constant(y, like))
        mask, x = broadcast(self, x)
        return apply("where", mask, x, y.expand(*x.shape))

    def exp(self) -> "Tensor":
        return apply("exp", self)

    def log(self) -> "Tensor":
        return apply("log", self)

    def sqrt(self) -> "Tensor":
        return apply("sqrt", self)

    def rsqrt(self) -> "Tensor":
        return 1 / self.sqrt()

    def tanh(self) -> "Tensor":
        return apply("tanh", self)

    def erf(self) -> "Tensor":
        return apply("erf", self)

    def round(self) -> "Tensor":
        """To the nearest whole number, ties to even; it has no gradient."""
        return apply("round", self)

    def sigmoid(self) -> "Tensor":
        """1 / (1 + exp(-x)), by tanh, which does not overflow."""
        return (self * 0.5).tanh() * 0.5 + 0.5

    def __matmul__(self, other: "Tensor") -> "Tensor":
        """(..., m, k) @ (..., k, n), with equal leading axes."""
        if self.shape[:-2] != other.shape[:-2] or self.shape[-1] != other.shape[-2]:
            raise ShapeError(f"matmul: {self.shape} and {other.shape} do not fit")
        return apply("matmul", self, other)

    # Reductions keep the axes that they reduce, with size 1.

    def sum(self, *axes: int) -> "Tensor":
        """Over the axes given; over the last one when none is."""
        return apply("sum", self, axes=self._axes(axes))

    def max(self, *axes: int) -> "Tensor":
        return apply("max", self, axes=self._axes(axes))

    def mean(self, *axes: int) -> "Tensor":
        return self.sum(*axes) / math.prod(self.shape[a] for a in self._axes(axes))

    def _axes(self, axes: Sequence[int]) -> tuple[int, ...]:
        return tuple(sorted(a % self.ndim for a in axes or (-1,)))

    # In place, with no memory of it.

    def copy_from(self, other: "Tensor") -> None:
        """Take over the numbers of a tensor of the same shape."""
        run(partial(np.copyto, without_hold(self.data), without_hold(other.data)))

    def add_in_place(self, other: "Tensor") -> None:
        """Add the numbers of a tensor of the same shape."""
        mine, part = without_hold(self.data), without_hold(other.data)
        dense = mine.flags.c_contiguous and part.flags.c_contiguous
        step = KERNELS["add"](mine, part, mine) if "add" in KERNELS and dense else None
        run(step or partial(np.add, mine, part, out=mine))

    def backward(self, weight: "Tensor | None" = None) -> None:
        """Add the gradient of this scalar, times the weight, to `.grad` of every leaf that requires one."""
        from lcm.grad import backward

        backward(self, weight)


def concat(parts: Sequence[Tensor], axis: int = 0) -> Tensor:
    """The parts one after another along an axis."""
    return apply("concat", *parts, axis=axis % parts[0].ndim)


def arange(size: int) -> Tensor:
    """0, 1 … size - 1 as i32."""
    return Tensor(np.arange(size, dtype=np.int32))


def broadcast(x: Tensor, y: "Tensor | Scalar") -> tuple[Tensor, Tensor]:
    """Both, expanded to the one shape that numpy's rules give them."""
    y = _constant(y, x)
    if x.shape == y.shape:
        return x, y
    try:
        shape = np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        raise ShapeError(f"{x.shape} and {y.shape} do not broadcast") from None
    return x.expand(*shape), y.expand(*shape)


def _constant(value: "Tensor | Scalar", like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return Tensor(np.asarray(value, like.data.dtype), like.format)
