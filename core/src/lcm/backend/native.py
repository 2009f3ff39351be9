"""Shared libraries of kernels, by ctypes: how a library becomes a backend, and C functions in general."""

import atexit
import ctypes
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from lcm import host
from lcm.backend import interruption
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
POLL = ctypes.CFUNCTYPE(ctypes.c_int32)
CODES = {
    1: "it does not support these arguments", 2: "out of memory", 3: "an internal error",
    4: "it was interrupted",
}  # fmt: skip
INTERRUPTED = 4

_polls: dict[int, Any] = {}  # by library: what it may call at any time, until the process ends


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
    if exports(library, "lcm_set_poll"):
        found.errcheck = _raise_what_was_kept
    return found  # type: ignore[no-any-return]


def exports(library: ctypes.CDLL, name: str) -> bool:
    return hasattr(library, name)


def load(path: str | Path, name: str) -> Backend:
    """The backend that a native library is: every kernel that it exports, under its symbol without `lcm_`."""
    handle = open_library(path)
    if not exports(handle, "lcm_abi"):
        raise BackendError(f"{path}: exports no lcm_abi; it is not a library of lcm kernels")
    abi = function(handle, "lcm_abi", "int32_t")()
    if abi < 1:
        raise BackendError(f"{path}: reports ABI {abi}; the first is 1")
    library = Library(handle)
    kernels: dict[str, Kernel] = {}
    for op in CATALOGUE.values():
        for symbol in op.signature.kernels:
            if exports(handle, f"lcm_{symbol}"):
                kernels[symbol] = partial(_bind, library, symbol, op)
    if not kernels:
        raise BackendError(f"{path}: exports none of the kernels of ABI {ABI}")
    library.tell(host.current())
    return Backend(name, kernels, library=str(path), threads=library.set_threads)


class Library:
    """A library of kernels, and what it exports beside them: see `<lcm/ops.h>`."""

    def __init__(self, handle: ctypes.CDLL) -> None:
        self.handle = handle
        self.run = getattr(handle, "lcm_run", None)
        self.set_threads = self._optional("lcm_set_threads", "int32_t")
        self._set_caches = self._optional("lcm_set_caches", *["int64_t"] * 3)
        self._set_poll = self._optional("lcm_set_poll", "void *")

    def _optional(self, name: str, *takes: str) -> Callable[..., Any] | None:
        return function(self.handle, name, "void", *takes) if exports(self.handle, name) else None

    def tell(self, machine: host.Host) -> None:
        """What its kernels may want to know of the machine."""
        if self._set_caches:
            levels = (machine.l1d, machine.l2, machine.l3)
            self._set_caches(*(level.value or 0 for level in levels))
        if self.set_threads:
            self.set_threads(machine.threads())

    def listen(self) -> None:
        """Let signals interrupt its kernels, if this is the thread in which Python handles signals."""
        if self.handle._handle in _polls or not self._set_poll:
            return
        if threading.current_thread() is threading.main_thread():
            answers = interruption.answers()
            next(answers)  # now it stands inside its `try`
            poll = _polls[self.handle._handle] = POLL(partial(next, answers, 0))
            self._set_poll(ctypes.cast(poll, ctypes.c_void_p))
            atexit.register(self._set_poll, None)

    def error(self, symbol: str, code: int) -> BaseException:
        """What a kernel's code means: a handler's exception, or that the kernel has failed."""
        error = interruption.take() if code == INTERRUPTED else None
        return error or KernelError(f"lcm_{symbol} failed: {self._message(code)}")

    def _message(self, code: int) -> str:
        text = CODES.get(code, f"code {code}")
        if exports(self.handle, "lcm_error"):
            said = function(self.handle, "lcm_error", "char *")()
            text += f": {said.decode(errors='replace')}" if said else ""
        return text


@cache
def struct_of(op: Op, gradient: bool) -> type[ctypes.Structure]:
    """The ctypes twin of `lcm_<op>_args`, or of its gradient's."""
    members = gradient_fields(op) if gradient else fields(op)
    layout = [("size", ctypes.c_uint64), *((m.name, _c_type(m.c)) for m in members)]
    return type(f"lcm_{op.name}_args", (ctypes.Structure,), {"_fields_": layout})


class NativeCall:
    """A kernel with its arguments, ready to run."""

    __slots__ = ("_arrays", "_kernel", "_pointer", "arguments", "library", "symbol")

    def __init__(
        self, library: Library, symbol: str, arguments: ctypes.Structure, arrays: object
    ) -> None:
        self.library, self.symbol, self.arguments = library, symbol, arguments
        self._kernel = getattr(library.handle, f"lcm_{symbol}")
        self._pointer = ctypes.byref(arguments)
        self._arrays = arrays  # they live as long as what points at them

    def __call__(self) -> None:
        code = self._kernel(self._pointer)
        if code:
            raise self.library.error(self.symbol, code)

    def step(self) -> "Step":
        kernel = ctypes.cast(self._kernel, ctypes.c_void_p)
        return Step(kernel, ctypes.addressof(self.arguments))

    @staticmethod
    def group(calls: Sequence["NativeCall"]) -> Sequence[Callable[[], object]]:
        """The same by one call into C, if one of the libraries offers that."""
        run = next((call.library.run for call in calls if call.library.run), None)
        return [NativeRun(run, calls)] if run and len(calls) > 1 else calls


class Step(ctypes.Structure):
    """The ctypes twin of `lcm_step`."""

    _fields_ = [("kernel", ctypes.c_void_p), ("args", ctypes.c_void_p)]


class NativeRun:
    """Kernels of any libraries, run one after the other by one of them."""

    def __init__(self, run: Callable[..., int], calls: Sequence[NativeCall]) -> None:
        self.calls = tuple(calls)
        steps = (Step * len(calls))(*(call.step() for call in calls))
        self._at = ctypes.c_int64()
        self._run = partial(run, steps, ctypes.c_int64(len(calls)), ctypes.byref(self._at))

    def __call__(self) -> None:
        code = self._run()
        if code:
            failed = self.calls[self._at.value]
            raise failed.library.error(failed.symbol, code)


def _bind(library: Library, symbol: str, op: Op, arguments: Mapping[str, Any]) -> NativeCall:
    library.listen()
    gradient = symbol.endswith("_grad")
    members = gradient_fields(op) if gradient else fields(op)
    struct = struct_of(op, gradient)
    filled = struct(ctypes.sizeof(struct), *(_value(m, arguments[m.name]) for m in members))
    return NativeCall(library, symbol, filled, dict(arguments))


def _raise_what_was_kept(result: Any, *_: object) -> Any:
    """For functions that return something else than codes."""
    if error := interruption.take():
        raise error
    return result


def _value(member: Field, value: Any) -> Any:
    if not member.pointer:
        return value
    return None if value is None else address(value)


def address(array: np.ndarray) -> int:
    """Where the array's first element lies."""
    return int(array.__array_interface__["data"][0])


def _c_type(name: str) -> Any:
    return ctypes.c_void_p if name.endswith("*") and name != "char *" else C_TYPES[name]
