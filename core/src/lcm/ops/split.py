"""Running a body on a few rows at a time: what one piece needs stays in the cache.

A piece's calls are recorded once a shape and replayed for every piece after it, in the same memory: numpy
then works at the speed of the cache, and Python's part is one call a primitive. Pieces do not run in
threads: numpy's calls on them are so short that threads mostly pass the interpreter's lock to and fro, and
gain little on a quiet machine, less on a busy one (`benchmarks/threads_over_pieces.py`).
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from lcm.program import Program, record
from lcm.recording import recording

# Numbers of the widest array in one piece, 128 KiB of f32: a gradient's buffers then stay near the L2 cache,
# and numpy's cost of about a microsecond a call small beside the call. Half and double were no faster.
PIECE = 1 << 15
PROGRAMS = 64  # how many a thread keeps

Arrays = dict[str, np.ndarray]
# From buffers that hold a piece's inputs to its outputs, by name.
Body = Callable[[Arrays], Mapping[str, np.ndarray]]


class _Kept(threading.local):
    def __init__(self) -> None:
        self.programs: OrderedDict[Hashable, tuple[Arrays, Program[Mapping[str, np.ndarray]]]] = (
            OrderedDict()
        )


_kept = _Kept()


def over_rows(
    key: Hashable, body: Body, inputs: Arrays, outputs: Arrays, in_rows: set[str], rows: int
) -> None:
    """Run the body over all rows: those named in `in_rows` are cut along their first axis.

    Outputs in rows are written; each other output is the sum over the pieces.
    """
    widest = max(a.size for n, a in inputs.items() if n in in_rows) // max(rows, 1)
    pieces = max(1, math.ceil(rows / max(1, PIECE // max(widest, 1))))
    step = max(1, math.ceil(rows / pieces))
    with _one_blas_thread(), recording(None):
        for first in range(0, max(rows, 1), step):
            piece = _cut(inputs, in_rows, first, step)
            found = _replayed(key, body, piece) if pieces > 1 else body(piece)
            for name, target in _cut(outputs, in_rows, first, step).items():
                if first and name not in in_rows:
                    target += found[name]
                else:
                    np.copyto(target, found[name])


def _cut(arrays: Arrays, in_rows: set[str], first: int, step: int) -> Arrays:
    return {n: a[first : first + step] if n in in_rows else a for n, a in arrays.items()}


def _replayed(key: Hashable, body: Body, piece: Arrays) -> Mapping[str, np.ndarray]:
    full = (key, tuple((a.shape, a.dtype.str) for a in piece.values()))
    if full not in _kept.programs:
        buffers = {n: a.copy() for n, a in piece.items()}
        _kept.programs[full] = (buffers, record(lambda: body(buffers)))
        if len(_kept.programs) > PROGRAMS:
            _kept.programs.popitem(last=False)
        return _kept.programs[full][1].result
    _kept.programs.move_to_end(full)
    buffers, program = _kept.programs[full]
    for name, array in piece.items():
        np.copyto(buffers[name], array)
    return program()


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """A piece's products are too small for numpy's threads, which would take the cores from other kernels."""
    for library, _ in _numpy_blas():
        library.set_num_threads(1)
    try:
        yield
    finally:
        for library, threads in _numpy_blas():
            library.set_num_threads(threads)


@cache
def _numpy_blas() -> tuple[tuple[Any, int], ...]:
    """numpy's own copy of a BLAS, if it brings one, and its number of threads; nobody else's is touched."""
    home = str(Path(np.__file__).parent)
    found = ThreadpoolController().lib_controllers
    return tuple((lib, lib.get_num_threads()) for lib in found if home in lib.filepath)
