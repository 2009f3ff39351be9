"""What this machine can do at best, measured: the rate of multiply-adds, and of reading memory."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lcm import host
from lcm.backend import native
from lcm.backend.contract import Backend

MOST_BYTES = (
    1 << 30
)  # of the memory that is read; less where it is more than an eighth of the machine's
LEAST_BYTES = 1 << 28
ROUNDS = 400_000  # of 12 chains a piece: some milliseconds
SECONDS = 0.3  # for each limit; the best of it counts: a limit is what nothing else disturbed


@dataclass(frozen=True)
class Limits:
    """Rates in 10^9 a second: f32 and f64 operations (a multiply-add is two), bytes read from memory."""

    fma_f32: float
    fma_f64: float
    read: float

    def fma(self, format: str) -> float:
        return self.fma_f64 if format == "f64" else self.fma_f32


_known: dict[tuple[str, int], Limits] = {}  # by library and threads, for the life of this process


def measured(backend: Backend, threads: int | None = None, *, again: bool = False) -> Limits | None:
    """The limits with the backend's vectors and so many threads (if not given: the host's number).

    None where its library does not bring the functions that measure them. Takes about a second, the
    first time in a process; `again` takes it once more, and the best of all times counts. The backend is
    left with the host's number of threads.
    """
    if backend.library is None or backend.threads is None:
        return None
    usual = host.current().threads()
    key = backend.library, threads or usual
    if again or key not in _known:
        backend.threads(threads or usual)
        try:
            found = _measure(backend.library)
        finally:
            backend.threads(usual)
        if found is None:
            return None
        _known[key] = _best(found, _known.get(key, found))
    return _known[key]


def _best(a: Limits, b: Limits) -> Limits:
    return Limits(max(a.fma_f32, b.fma_f32), max(a.fma_f64, b.fma_f64), max(a.read, b.read))


def _measure(path: str) -> Limits | None:
    library = native.open_library(path)
    names = ("lcm_limit_fma_f32", "lcm_limit_fma_f64", "lcm_limit_read")
    if not all(native.exports(library, name) for name in names):
        return None
    fma_f32, fma_f64 = (native.function(library, n, "int64_t", "int64_t") for n in names[:2])
    read = native.function(library, names[2], "int32_t", "int32_t *", "int64_t")
    memory = np.ones(_bytes() // 4, np.int32)  # written: untouched pages are all the same one
    return Limits(
        fma_f32(ROUNDS) / _shortest(lambda: fma_f32(ROUNDS)) / 1e9,
        fma_f64(ROUNDS) / _shortest(lambda: fma_f64(ROUNDS)) / 1e9,
        memory.nbytes / _shortest(lambda: read(native.address(memory), memory.size)) / 1e9,
    )


def _bytes() -> int:
    """Twice what the caches hold, within reason: a cloud's machine may show the L3 of many others."""
    here = host.current()
    most = min(MOST_BYTES, max(LEAST_BYTES, (here.memory.value or 0) // 8))
    return min(most, max(LEAST_BYTES, 2 * (here.l3.value or 0)))


def _shortest(call: Callable[[], object]) -> float:
    """The seconds of the fastest of some calls."""
    call()
    best, until = float("inf"), time.perf_counter() + SECONDS
    while (started := time.perf_counter()) < until or best == float("inf"):
        call()
        best = min(best, time.perf_counter() - started)
    return best
