"""Running a body on a few rows at a time: what one piece needs stays in the cache, pieces run in threads.

A piece's calls are recorded once a shape and replayed for every piece after it, in the same memory: numpy
then works at the speed of the cache, and Python's part is one call a primitive.
"""

import itertools
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from threadpoolctl import ThreadpoolController

from lcm.program import Program, record

# Numbers of the widest array in one piece: the 30 buffers of a gradient then fit a 2 MiB L2 cache, while
# numpy's cost of about a microsecond a call stays below half of the call.
PIECE = 1 << 14
PROGRAMS = 64  # how many a thread keeps

Arrays = dict[str, np.ndarray]
# From buffers that hold a piece's inputs to its outputs, by name.
Body = Callable[[Arrays], Mapping[str, np.ndarray]]

_pool: ThreadPoolExecutor | None = None


class _Kept(threading.local):
    def __init__(self) -> None:
        self.programs: OrderedDict[Hashable, tuple[Arrays, Program[Mapping[str, np.ndarray]]]] = (
            OrderedDict()
        )


_kept = _Kept()


def over_rows(
    key: Hashable, body: Body, inputs: Arrays, outputs: Arrays, in_rows: set[str], rows: int
) -> Arrays:
    """Run the body over all rows: those named in `in_rows` are cut along their first axis.

    Outputs in rows are written; each other output is the sum over the pieces, and is returned.
    """
    widest = max(a.size for n, a in inputs.items() if n in in_rows) // max(rows, 1)
    pieces = max(1, math.ceil(rows / max(1, PIECE // max(widest, 1))))
    step = max(1, math.ceil(rows / pieces))
    sums: dict[int, Arrays] = {}

    def run(first: int, program: Callable[[Arrays], Mapping[str, np.ndarray]]) -> None:
        found = program(_cut(inputs, in_rows, first, step))
        for name, target in _cut(outputs, in_rows, first, step).items():
            np.copyto(target, found[name])
        sums[first] = {n: a.copy() for n, a in found.items() if n not in outputs}

    if rows <= step:
        run(0, body)
    else:
        _in_threads(lambda first: run(first, lambda piece: _replayed(key, body, piece)), rows, step)
    ordered = [sums[first] for first in sorted(sums)]  # the same sum in every run
    return {n: np.sum([s[n] for s in ordered], axis=0) for n in ordered[0]}


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


def _in_threads(run: Callable[[int], None], rows: int, step: int) -> None:
    """Each thread takes the next piece until none is left."""
    global _pool
    from lcm import host

    threads = host.current().threads()
    if _pool is None:
        _pool = ThreadPoolExecutor(threads, thread_name_prefix="lcm")
    firsts = itertools.count(0, step)

    def work() -> None:
        while (first := next(firsts)) < rows:
            run(first)

    with _numpy_blas().limit(limits=1):  # its threads would stand in the way of these
        for task in [_pool.submit(work) for _ in range(threads)]:
            task.result()


@cache
def _numpy_blas() -> ThreadpoolController:
    """numpy's own copy of a BLAS, if it brings one; nobody else's is touched."""
    home = str(Path(np.__file__).parent)
    found = ThreadpoolController()
    return found.select(filepath=[p for p in (i["filepath"] for i in found.info()) if home in p])


def _forget_pool() -> None:
    """A child of fork has none of its parent's threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
