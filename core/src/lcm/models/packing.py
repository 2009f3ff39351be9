"""Weights laid out for kernels: interleaved once, in a file of the cache's folder, and mapped from then on.

Files are not flushed to the disk, which would take longer than to make them: they are for this boot of the
machine, and named after it.
"""

import hashlib
import json
import mmap
import os
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lcm import formats, host, settings
from lcm.errors import FileError, LcmWarning
from lcm.files.atomic import write_atomically
from lcm.files.cache_folder import CacheFolder, identity
from lcm.files.mapped import MappedFile
from lcm.formats.interleaved import ROWS
from lcm.host.boot import boot

VERSION = 2  # of the layout
PART = 1 << 24  # bytes that a thread writes: whole huge pages
AT_ONCE = 1 << 18  # bytes that it interleaves: they stay in its cache


@dataclass(frozen=True)
class Matrix:
    """A weight in blocks as it is stored, and the interleaved format that it is wanted in."""

    stored: np.ndarray
    format: str

    @property
    def facts(self) -> tuple[str, int, int]:
        """The format, rows and columns of what it becomes."""
        return self.format, self.stored.shape[0] // ROWS, self.stored.shape[1]


class Packed:
    """Matrices, interleaved, one behind the other in a mapped file."""

    def __init__(self, file: MappedFile, matrices: Sequence[Matrix]) -> None:
        self._file = file
        self._facts = [matrix.facts for matrix in matrices]
        self._starts = _starts(matrices)

    def matrix(self, first: int, last: int | None = None) -> np.ndarray:
        """Matrix number `first`; to `last`, of the same format and columns, as one with the rows of all."""
        facts = self._facts[first : (first if last is None else last) + 1]
        format, _, columns = facts[0]
        shape = (sum(rows for _, rows, _ in facts), columns)
        return self._file.array(
            "weights", formats.FORMATS[format].storage, shape, self._starts[first], alignment=1
        )


def packed(matrices: Sequence[Matrix], model: Path) -> Packed | None:
    """The matrices of this model's files; None where they can neither be found nor kept, which is said."""
    now = boot()
    if not matrices or now is None:
        return None
    folder = CacheFolder(settings.cache_dir() / "packed", settings.megabytes("packed_files"))
    size = sum(matrix.stored.nbytes for matrix in matrices)
    facts = [VERSION, now, identity(model), [matrix.facts for matrix in matrices]]
    path = folder.path / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
    file = _opened(path, size) or _made(path, size, matrices, folder)
    if file is None:
        return None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a system may know none
            file.bytes.madvise(mmap.MADV_HUGEPAGE)  # what was forgotten is read again in such, too
    folder.used(path)
    return Packed(file, matrices)


def _opened(path: Path, size: int) -> MappedFile | None:
    """The file, unless there is none, or not all of it."""
    with suppress(FileError):
        file = MappedFile(path, size, "packed weights")
        return file if len(file) == size else None
    return None


def _made(
    path: Path, size: int, matrices: Sequence[Matrix], folder: CacheFolder
) -> MappedFile | None:
    if size > folder.limit:
        _say(f"the weights take {size / 1e6:,.0f} MB, more than packed_files allows")
        return None
    try:
        folder.make_room(size)
        write_atomically(path, lambda file: _write(file, matrices), flush=False)
        _let_go(matrix.stored for matrix in matrices)
        return MappedFile(path, size, "packed weights")
    except FileError as error:
        _say(str(error))
        return None


def _say(why: str) -> None:
    warnings.warn(
        LcmWarning(f"{why}; weights are read as they are stored, which is slower"), stacklevel=4
    )


def _starts(matrices: Sequence[Matrix]) -> list[int]:
    return [0, *accumulate(matrix.stored.nbytes for matrix in matrices)]


def _write(file: BinaryIO, matrices: Sequence[Matrix]) -> None:
    """Every matrix in its place, by threads in parts of whole huge pages: so the system keeps them."""
    starts = _starts(matrices)
    os.truncate(file.fileno(), starts[-1])
    with ThreadPoolExecutor(host.current().threads()) as pool:
        parts = range(0, starts[-1], PART)
        for done in pool.map(partial(_write_part, file.fileno(), matrices, starts), parts):
            assert done is None


def _write_part(file: int, matrices: Sequence[Matrix], starts: Sequence[int], at: int) -> None:
    end = min(at + PART, starts[-1])
    part = bytearray(end - at)
    for number in range(bisect_right(starts, at) - 1, bisect_left(starts, end)):
        start = starts[number]
        first, last = max(at, start), min(end, starts[number + 1])
        _interleave(memoryview(part)[first - at : last - at], matrices[number], first - start)
    left = memoryview(part)
    while left:
        written = os.pwrite(file, left, at)
        left, at = left[written:], at + written


def _interleave(out: memoryview, matrix: Matrix, begin: int) -> None:
    """The interleaved matrix' bytes from `begin` on, as many as fit."""
    end, group = begin + len(out), ROWS * (matrix.stored.nbytes // len(matrix.stored))
    step = max(1, AT_ONCE // group)
    for at in range(begin // group, -(-end // group), step):
        some = formats.interleave(matrix.stored[at * ROWS : (at + step) * ROWS], matrix.format)
        first, last = max(begin, at * group), min(end, at * group + some.nbytes)
        cut = some.view(np.uint8).data.cast("B")[first - at * group : last - at * group]
        out[first - begin : last - begin] = cut


def _let_go(arrays: Iterable[np.ndarray]) -> None:
    """Of mapped files, no page stays in memory: what is needed again comes from the file again."""
    seen = set()
    for array in arrays:
        base: object = array
        while isinstance(base, (np.ndarray, memoryview)):
            base = base.obj if isinstance(base, memoryview) else base.base
        if isinstance(base, mmap.mmap) and id(base) not in seen:
            seen.add(id(base))
            base.madvise(mmap.MADV_DONTNEED)
