"""Shared libraries of kernels, by ctypes: how a library becomes a backend, and C functions in general."""

import ctypes
import os
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from lcm.backend.contract import ABI, Backend, Kernel
from lcm.errors import BackendError, KernelError
from lcm.ops import CATALOGUE, Op
from lcm.ops.header import Field, fields, gradient_fields

C_TYPES: dict[str, Any] = {
    "int": ctypes.c_int,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "char *": ctypes.c_char_p,
    "void": None,
}
CODES = {1: "it does not support these arguments", 2: "out of memory", 3: "an internal error"}


def open_library(path: str | Path) -> ctypes.CDLL:
    """A shared library by its absolute path; its symbols stay its own."""
    path = Path(path)
    if not path.is_absolute():
        raise BackendError(f"{path}: a library is opened by its absolute path only")
    try:
        return ctypes.CDLL(str(path), mode=os.RTLD_LOCAL | os.RTLD_NOW if os.name == "posix" else 0)
    except OSError as error:
        raise BackendError(f"{path}: cannot be loaded: {error}") from None


def function(library: ctypes.CDLL, name: str, returns: str, *takes: str) -> Callable[..., Any]:
    """The function of this name; types as in C, any pointer as a plain address."""
    found = getattr(library, name)
    found.restype = C_TYPES[returns]
    found.argtypes = [_c_type(t) for t in takes]
    return found  # type: ignore[no-any-return]


def exports(library: ctypes.CDLL, name: str) -> bool:
    return hasattr(library, name)


def load(path: str | Path, name: str) -> Backend:
    """The backend that a native library is: every kernel that it exports, under its symbol without `lcm_`."""
    library = open_library(path)
    if not exports(library, "lcm_abi"):
        raise BackendError(f"{path}: exports no lcm_abi; it is not a library of lcm kernels")
    abi = function(library, "lcm_abi", "int32_t")()
    if abi < 1:
        raise BackendError(f"{path}: reports ABI {abi}; the first is 1")
    kernels: dict[str, Kernel] = {}
    for op in CATALOGUE.values():
        for symbol in symbols(op):
            if exports(library, f"lcm_{symbol}"):
                kernels[symbol] = partial(_bind, library, symbol, op)
    if not kernels:
        raise BackendError(f"{path}: exports none of the kernels of ABI {ABI}")
    return Backend(name, kernels, library=str(path), threads=_thread_setter(library))


def symbols(op: Op) -> list[str]:
    """Every kernel that a library may export for an op."""
    formats = [f for s in op.signature.arrays.values() for f in s.formats[1:]]
    names = [op.name, *(f"{op.name}__{f}" for f in formats)]
    return names if op.signature.output is None else [*names, f"{op.name}_grad"]


@cache
def struct_of(op: Op, gradient: bool) -> type[ctypes.Structure]:
    """The ctypes twin of `lcm_<op>_args`, or of its gradient's."""
    members = gradient_fields(op) if gradient else fields(op)
    layout = [("size", ctypes.c_uint64), *((m.name, _c_type(m.c)) for m in members)]
    return type(f"lcm_{op.name}_args", (ctypes.Structure,), {"_fields_": layout})


def _bind(
    library: ctypes.CDLL, symbol: str, op: Op, arguments: Mapping[str, Any]
) -> Callable[[], object]:
    gradient = symbol.endswith("_grad")
    members = gradient_fields(op) if gradient else fields(op)
    struct = struct_of(op, gradient)
    values = [_value(m, arguments[m.name]) for m in members]
    filled = struct(ctypes.sizeof(struct), *values)
    kernel = getattr(library, f"lcm_{symbol}")
    # The arrays and the struct live as long as the call that points at them.
    return partial(_call, kernel, ctypes.byref(filled), library, symbol, (filled, dict(arguments)))


def _call(
    kernel: Callable[..., int], args: Any, library: ctypes.CDLL, symbol: str, keep: object
) -> None:
    code = kernel(args)
    if code:
        raise KernelError(f"lcm_{symbol} failed: {_message(library, code)}")


def _message(library: ctypes.CDLL, code: int) -> str:
    text = CODES.get(code, f"code {code}")
    if exports(library, "lcm_error"):
        said = function(library, "lcm_error", "char *")()
        text += f": {said.decode(errors='replace')}" if said else ""
    return text


def _value(member: Field, value: Any) -> Any:
    if not member.pointer:
        return value
    return None if value is None else address(value)


def address(array: np.ndarray) -> int:
    """Where the array's first element lies."""
    return int(array.__array_interface__["data"][0])


def _thread_setter(library: ctypes.CDLL) -> Callable[[int], None] | None:
    if not exports(library, "lcm_set_threads"):
        return None
    return function(library, "lcm_set_threads", "void", "int32_t")


def _c_type(name: str) -> Any:
    return ctypes.c_void_p if name.endswith("*") and name != "char *" else C_TYPES[name]
