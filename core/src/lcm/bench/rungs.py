"""The rungs of the ladder: ways to compute out = x @ y, each by one idea more than the one before."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from lcm import host
from lcm.backend import dispatch, native
from lcm.backend.cblas import Cblas
from lcm.backend.contract import Backend

Array = np.ndarray
Call = Callable[[], object]

IDEAS = {
    "Python loops": "three loops over lists: the interpreter does all of it, number by number",
    "naive": "the same three loops in C; y is read down its columns, a new cache line each time",
    "blocked": "tiles of 64 x 64 stay in the cache, and y is read along its rows",
    "SIMD": "vectors of numbers: sums stay in registers, blocks are packed in the order of reading",
    "BLAS": "a library that was tuned for decades",
    "other": "the product of one more backend that is ready here",
    "threaded": "… and the work cut into pieces for every core",
}


@dataclass(frozen=True)
class Rung:
    """A way to the product; `bind` makes the call that computes it into `out`."""

    name: str
    by: str  # who computes
    threads: int
    bind: Callable[[Array, Array, Array], Call]
    set_threads: Callable[[int], object] | None = None  # None: they are set around each call

    @property
    def title(self) -> str:
        return f"{self.name}, threaded" if self.threads > 1 and self.name in _KIT else self.name

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, calls run on this rung's number of threads."""
        if self.set_threads is None:
            with threadpool_limits(self.threads, user_api="blas"):
                yield
            return
        self.set_threads(self.threads)
        try:
            yield
        finally:
            self.set_threads(host.current().threads())


_KIT = ("naive", "blocked", "SIMD")


def kits() -> list[Backend]:
    """The ready backends whose libraries bring the ladder, those with the most features first."""
    return [b for b in dispatch.by_features() if _step(b, "naive", "f32")]


def rungs(format: str, threads: int, kit: Backend | None) -> list[Rung]:
    """From the slowest to the fastest idea; without a kit, those are missing that only one has."""
    found = [Rung("Python loops", "Python", 1, _python, _nothing)] if format == "f64" else []
    if kit is not None:
        counts = (1, threads) if threads > 1 else (1,)
        for name in _KIT:
            if bind := _of_kit(kit, name, format):
                found += [Rung(name, kit.name, count, bind, kit.threads) for count in counts]
    return [*found, *_libraries(format, threads, kit)]


def _libraries(format: str, threads: int, kit: Backend | None) -> Iterator[Rung]:
    if format == "f64":  # backends compute in f32
        yield Rung("BLAS", f"numpy {np.__version__}", threads, _numpy)
        return
    others = [b for b in dispatch.by_features() if "matmul" in b.kernels and b is not kit]
    for backend in sorted(others, key=lambda b: not _is_blas(b)):
        name = "BLAS" if _is_blas(backend) else "other"
        by = f"{backend.name} {backend.version}".strip()
        yield Rung(name, by, threads, partial(_matmul, backend), backend.threads or _nothing)


def _is_blas(backend: Backend) -> bool:
    return isinstance(getattr(backend.kernels["matmul"], "__self__", None), Cblas)


def _of_kit(kit: Backend, name: str, format: str) -> Callable[[Array, Array, Array], Call] | None:
    if name == "SIMD" and format == "f32":
        return partial(_matmul, kit) if "matmul" in kit.kernels else None
    step = _step(kit, name.lower(), format)
    return partial(_ladder, step) if step else None


def _step(backend: Backend, name: str, format: str) -> Callable[..., None] | None:
    """The library's function for this rung, on three addresses and N."""
    if backend.library is None or backend.threads is None:
        return None
    library, symbol = (
        native.Library(native.open_library(backend.library)),
        f"ladder_{name}_{format}",
    )
    if not native.exports(library.handle, f"lcm_{symbol}"):
        return None
    library.listen()
    function = native.function(
        library.handle, f"lcm_{symbol}", "int32_t", *["void *"] * 3, "int64_t"
    )

    def step(*arguments: int) -> None:
        if code := function(*arguments):
            raise library.error(symbol, code)

    return step


def _ladder(step: Callable[..., None], out: Array, x: Array, y: Array) -> Call:
    arrays = (out, x, y)
    return partial(_run, arrays, step, [native.address(a) for a in arrays])


def _run(arrays: tuple[Array, ...], step: Callable[..., None], addresses: list[int]) -> None:
    """The step on the arrays, which live as long as the call does."""
    step(*addresses, len(arrays[0]))


def _matmul(backend: Backend, out: Array, x: Array, y: Array) -> Call:
    n = len(out)
    arrays = {"out": out[None], "x": x[None], "y": y[None]}
    return backend.kernels["matmul"](arrays | {"batch": 1, "rows": n, "inner": n, "columns": n})


def _numpy(out: Array, x: Array, y: Array) -> Call:
    return partial(np.matmul, x, y, out=out)


def _python(out: Array, x: Array, y: Array) -> Call:
    a, b = x.tolist(), y.tolist()

    def call() -> None:
        n = len(a)
        product = [[0.0] * n for _ in range(n)]
        for i in range(n):
            for j in range(n):
                total = 0.0
                for k in range(n):
                    total += a[i][k] * b[k][j]
                product[i][j] = total
        out[...] = product

    return call


def _nothing(threads: int) -> None:
    pass
