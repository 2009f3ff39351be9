"""What an op's Python signature says: formats, symbolic shapes and scalars, and the checks that follow.

`x: f32["*rows width"]` is a tensor of f32 with at least one axis: the last has the size `width`, all before
it together are `rows` (a star takes any number of leading axes). A symbol that occurs twice must have the
same size twice. `f32 | None` may be left out; `inout(f32[…])` is changed in place; `i32["*rows"].below("n")`
must lie in 0 … n - 1. What stands behind `*` in the signature is a scalar: int, float or bool.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from lcm.errors import FormatError, ShapeError, UsageError
from lcm.formats.blocks import BLOCKS
from lcm.formats.cached import CACHED
from lcm.formats.interleaved import INTERLEAVED
from lcm.tensor import Tensor

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Spec:
    """The contract of one tensor."""

    formats: tuple[str, ...]
    axes: tuple[str, ...]
    optional: bool = False
    inout: bool = False
    bound: str | None = None  # an expression over sizes that all numbers must stay below
    except_scalar: str | None = None  # a scalar whose value is allowed all the same
    nonnegative: bool = False  # said to the reader and to whoever draws cases; not checked

    def __or__(self, other: None) -> "Spec":
        return replace(self, optional=True)

    def below(self, bound: str, *, or_equal: str | None = None) -> "Spec":
        return replace(self, bound=bound, except_scalar=or_equal)

    def at_least_zero(self) -> "Spec":
        return replace(self, nonnegative=True)

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        return tuple(axis.removeprefix("*") for axis in self.axes)

    def stored_as(self, format: str) -> str:
        """The format of this array in a call whose stored arrays have that one."""
        return format if format in self.formats else self.formats[0]

    def __str__(self) -> str:
        return f"[{', '.join(self.axes)}]"


class _Kind:
    """A choice of formats, waiting for its axes: `f32["*rows width"]`."""

    def __init__(self, *formats: str) -> None:
        self.formats = formats

    def __getitem__(self, axes: str) -> Spec:
        return Spec(self.formats, tuple(axes.split()))


f32 = _Kind("f32")
i32 = _Kind("i32")
blocks = _Kind(*BLOCKS, *INTERLEAVED)
weights = _Kind("f32", "bf16", "f16", *BLOCKS)
stored = _Kind(*weights.formats, *INTERLEAVED)
cached = _Kind(*CACHED)


def inout(spec: Spec) -> Spec:
    """This tensor is changed in place: the op's body returns its new numbers."""
    return replace(spec, inout=True)


@dataclass(frozen=True)
class Scalar:
    """A number that is not a tensor."""

    type: type
    default: Any = REQUIRED


@dataclass
class Bound:
    """The arguments of one call, checked: tensors by name, sizes by symbol, scalars by name."""

    tensors: dict[str, Tensor]
    sizes: dict[str, int]
    scalars: dict[str, Any]
    lead: dict[str, tuple[int, ...]] = field(default_factory=dict)  # what a star stands for

    def shape(self, spec: Spec) -> tuple[int, ...]:
        """The shape of a tensor of this contract, as the caller sees it."""
        shape: list[int] = []
        for axis in spec.axes:
            if axis.startswith("*"):
                shape.extend(self.lead[axis[1:]])
            else:
                shape.append(self.sizes[axis])
        return tuple(shape)

    def flat_shape(self, spec: Spec) -> tuple[int, ...]:
        """The same with a star's axes as one, as kernels and bodies see it."""
        return tuple(self.sizes[symbol] for symbol in spec.symbols)


@dataclass(frozen=True)
class Signature:
    """The contract of an op."""

    name: str
    arrays: Mapping[str, Spec]
    scalars: Mapping[str, Scalar]
    output: Spec | None
    where: tuple[str, ...]  # conditions over the sizes and scalars
    has_gradient: bool

    @staticmethod
    def of(
        body: Callable[..., Any], where: tuple[str, ...] = (), *, gradient: bool = True
    ) -> "Signature":
        parameters = inspect.signature(body).parameters
        arrays = {n: p.annotation for n, p in parameters.items() if isinstance(p.annotation, Spec)}
        scalars = {
            n: Scalar(p.annotation, p.default) for n, p in parameters.items() if n not in arrays
        }
        output = inspect.signature(body).return_annotation
        has_gradient = gradient and output is not None
        return Signature(body.__name__, arrays, scalars, output, where, has_gradient)

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """Every size, in the order in which the signature first names it."""
        return tuple(dict.fromkeys(s for spec in self.arrays.values() for s in spec.symbols))

    @property
    def stored(self) -> Spec | None:
        """The array that may come in several formats; another one that may has the same in each call."""
        return next((spec for spec in self.arrays.values() if len(spec.formats) > 1), None)

    @property
    def variants(self) -> tuple[str, ...]:
        """The op's kernels, one for each of these formats; f32 is not said in their names."""
        formats = self.stored.formats if self.stored else ("f32",)
        return tuple(self.name if f == "f32" else f"{self.name}__{f}" for f in formats)

    @property
    def kernels(self) -> tuple[str, ...]:
        """Every kernel that there can be for the op."""
        return (*self.variants, f"{self.name}_grad") if self.has_gradient else self.variants

    @property
    def changed(self) -> tuple[str, ...]:
        return tuple(name for name, spec in self.arrays.items() if spec.inout)

    def bind(self, *args: Tensor | None, **named: Any) -> Bound:
        """Check a call's arguments; `ShapeError`, `FormatError` or `UsageError` where they do not fit."""
        tensors = self._tensors(args, named)
        bound = Bound(tensors, {}, self._scalars(named))
        self._match_formats(tensors)
        owner: dict[str, str] = {}
        for name, tensor in tensors.items():
            self._match_shape(name, tensor, bound, owner)
        self._match_conditions(bound)
        for name, tensor in tensors.items():
            self._match_memory(name, tensor, bound)
        return bound

    def _tensors(self, args: tuple[Tensor | None, ...], named: dict[str, Any]) -> dict[str, Tensor]:
        if len(args) > len(self.arrays):
            raise UsageError(f"{self.name}: takes {len(self.arrays)} tensors, got {len(args)}")
        given = dict(zip(self.arrays, args, strict=False))
        given.update({n: named.pop(n) for n in tuple(named) if n in self.arrays})
        tensors = {}
        for name, spec in self.arrays.items():
            value = given.get(name)
            if value is None and not spec.optional:
                raise UsageError(f"{self.name}: needs {name}{spec}")
            if value is not None:
                tensors[name] = value if isinstance(value, Tensor) else Tensor(value)
        return tensors

    def _scalars(self, named: dict[str, Any]) -> dict[str, Any]:
        for name in named:
            if name not in self.scalars:
                raise UsageError(
                    f"{self.name}: no argument {name!r}; there are: {self._arguments()}"
                )
        values = {}
        for name, scalar in self.scalars.items():
            value = named.get(name, scalar.default)
            if value is REQUIRED:
                raise UsageError(f"{self.name}: needs {name}, a {scalar.type.__name__}")
            values[name] = scalar.type(value)
        return values

    def _arguments(self) -> str:
        return ", ".join([*self.arrays, *self.scalars])

    def _match_formats(self, tensors: dict[str, Tensor]) -> None:
        double = any(t.format == "f64" for t in tensors.values())
        for name, tensor in tensors.items():
            allowed = self.arrays[name].formats
            if double and "f32" in allowed:
                allowed = ("f64",)  # for checks: every f32 is f64, and the body runs
            if tensor.format not in allowed:
                raise FormatError(
                    f"{self.name}: {name} needs {' or '.join(allowed)}, but has {tensor.format}"
                )
        stored = [n for n in tensors if len(self.arrays[n].formats) > 1]
        for name in stored[1:]:
            if tensors[name].format != tensors[stored[0]].format:
                raise FormatError(
                    f"{self.name}: {name} has {tensors[name].format}, "
                    f"but {stored[0]} has {tensors[stored[0]].format}"
                )

    def _match_shape(self, name: str, tensor: Tensor, bound: Bound, owner: dict[str, str]) -> None:
        spec = self.arrays[name]
        starred = bool(spec.axes) and spec.axes[0].startswith("*")
        lead = len(tensor.shape) - len(spec.axes) + 1 if starred else 0
        if lead < 0 or (not starred and len(tensor.shape) != len(spec.axes)):
            raise ShapeError(f"{self.name}: {name} needs shape {spec}, but has {tensor.shape}")
        sizes: tuple[int, ...] = tensor.shape
        if starred:
            sizes = (math.prod(tensor.shape[:lead]), *tensor.shape[lead:])
            bound.lead.setdefault(spec.symbols[0], tensor.shape[:lead])
        for symbol, size in zip(spec.symbols, sizes, strict=True):
            if bound.sizes.setdefault(symbol, size) != size:
                raise ShapeError(
                    f"{self.name}: {name} has {symbol}={size}, "
                    f"but {owner[symbol]} has {symbol}={bound.sizes[symbol]}"
                )
            owner.setdefault(symbol, name)

    def _match_conditions(self, bound: Bound) -> None:
        values = bound.sizes | bound.scalars
        for condition in self.where:
            if not eval(condition, {}, values):
                seen = ", ".join(f"{n}={v}" for n, v in values.items() if n in condition.split())
                raise ShapeError(f"{self.name}: needs {condition}, but has {seen}")

    def _match_memory(self, name: str, tensor: Tensor, bound: Bound) -> None:
        spec = self.arrays[name]
        flags = tensor.data.flags
        if spec.inout and not (flags.c_contiguous and flags.writeable):
            raise FormatError(
                f"{self.name}: {name} is changed in place: it needs dense, writable memory; copy it"
            )
        if spec.bound is None or tensor.size == 0:
            return
        limit = eval(spec.bound, {}, bound.sizes)
        numbers = tensor.data
        if spec.except_scalar is not None:
            numbers = numbers[numbers != bound.scalars[spec.except_scalar]]
        if numbers.size and not (int(np.min(numbers)) >= 0 and int(np.max(numbers)) < limit):
            raise ShapeError(
                f"{self.name}: {name} must lie in 0 … {limit - 1} ({spec.bound} - 1), "
                f"but reaches from {np.min(numbers)} to {np.max(numbers)}"
            )
