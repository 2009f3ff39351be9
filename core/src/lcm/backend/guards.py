"""Arguments between guards: after a call it can be seen what the kernel wrote besides its results."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

# NaNs of f32, f16 and bf16 alike, and no index into anything: what lies in guards, and in unwritten results.
POISON = 0x7FC1
BLANK = 0x7FC5
GUARD = 1024  # bytes on each side of an array
LINE = 64  # bytes


class Guarded:
    """A kernel's arguments in memory of their own: each array between guards, results poisoned.

    `results` are the arrays that the kernel may write; those in `blank` hold nothing before. Every array
    begins `offset` numbers behind a multiple of 64 bytes.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        results: Collection[str],
        blank: Collection[str],
        *,
        offset: int = 0,
    ) -> None:
        arrays = {n: a for n, a in arguments.items() if isinstance(a, np.ndarray)}
        room = sum(a.nbytes + 2 * GUARD + 2 * LINE for a in arrays.values())
        self._memory = np.full(room // 2 + LINE, POISON, np.uint16).view(np.uint8)
        self._spans: dict[str, tuple[int, int]] = {}  # first byte, and that behind the last
        self._results = results
        placed: dict[str, np.ndarray] = {}
        end = 0
        for name, array in arrays.items():
            begin = self._begin(end + GUARD, offset * array.itemsize)
            end = begin + array.nbytes
            self._spans[name] = (begin, end)
            placed[name] = self._memory[begin:end].view(array.dtype).reshape(array.shape)
            if name in blank:
                self._memory[begin:end].view(np.uint16)[...] = BLANK
            else:
                placed[name][...] = array
        self._image = self._memory.copy()
        self.arguments = {n: placed.get(n, value) for n, value in arguments.items()}

    def _begin(self, least: int, offset: int) -> int:
        address = int(self._memory.__array_interface__["data"][0])
        return least + (offset - address - least) % LINE

    def restore(self) -> None:
        """Everything as it was before the first call."""
        np.copyto(self._memory, self._image)

    def clear(self) -> None:
        """Zeros in every array."""
        for begin, end in self._spans.values():
            self._memory[begin:end] = 0

    def trespasses(self) -> Iterator[str]:
        """What was written beside the results: `3 bytes behind the end of out`, `x was changed`."""
        spans = sorted(self._spans[name] for name in self._results)
        for begin, end in zip(
            [0, *(e for _, e in spans)], [*(b for b, _ in spans), None], strict=True
        ):
            found = np.flatnonzero(self._memory[begin:end] != self._image[begin:end])
            if found.size:
                yield self._said(begin + int(found[0]), int(found.size))

    def _said(self, first: int, count: int) -> str:
        for name, (begin, end) in self._spans.items():
            if begin <= first < end:
                return f"{name} was changed, from its byte {first - begin} on"
        behind = [(first - end, f"behind the end of {n}") for n, (_, end) in self._spans.items()]
        before = [(begin - first, f"before {n}") for n, (begin, _) in self._spans.items()]
        distance, where = min(pair for pair in behind + before if pair[0] >= 0)
        apart = f"{distance} bytes " if distance else "right "
        return f"{count} bytes were written, the first of them {apart}{where}"

    def unwritten(self, name: str) -> np.ndarray:
        """Where the array still holds what was there before the call."""
        array = self.arguments[name]
        kind = np.dtype(f"u{array.itemsize}")
        before = np.full(kind.itemsize // 2, BLANK, np.uint16).view(kind)[0]
        unwritten: np.ndarray = array.view(kind) == before
        return unwritten
