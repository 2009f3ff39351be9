"""Arena: memory for arrays, used again as soon as nothing holds the array that was in it.

Fresh memory is slow: the operating system zeroes each page when it is first touched. An arena keeps what it
once got. A recorded program takes its arrays from one of its own, so that its results stay where they are and
it needs no more memory than its first run had in use at a time.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from typing import Any

import numpy as np

Array = np.ndarray

ALIGNMENT = 64  # bytes: a cache line, and the widest vector there is


class _Block:
    """A part of an arena; the arrays over it hold it, and it goes back when the last of them is gone."""

    def __init__(
        self, arena: "Arena", memory: Array, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self._arena, self.memory = arena, memory
        self.__array_interface__ = {
            "version": 3, "shape": shape, "typestr": dtype.str, "data": (_address(memory), False),
        }  # fmt: skip

    def __del__(self) -> None:
        self._arena.take_back(self.memory)


class Arena:
    """Memory for arrays."""

    def __init__(self) -> None:
        self._all: dict[int, Array] = {}  # the memory, by address
        self._free: list[tuple[int, int]] = []  # size and address, sorted
        self._returned: deque[Array] = deque()  # free too; filled by any thread, at any time

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A C-ordered array of this shape, with whatever was in its memory before."""
        dtype = np.dtype(dtype)
        size = max(ALIGNMENT, math.prod(shape) * dtype.itemsize)
        memory = self._find(-(-size // ALIGNMENT) * ALIGNMENT)
        return np.asarray(_Block(self, memory, shape, dtype))

    def _find(self, size: int) -> Array:
        """The smallest free memory that is large enough, if it is not far too large; else new memory."""
        while self._returned:
            memory = self._returned.popleft()
            insort(self._free, (memory.size, _address(memory)))
        place = bisect_left(self._free, (size, 0))
        if place < len(self._free) and self._free[place][0] <= 2 * size:
            return self._all[self._free.pop(place)[1]]
        memory = _aligned(np.empty(size + ALIGNMENT, np.uint8), size)
        self._all[_address(memory)] = memory
        return memory

    def take_back(self, memory: Array) -> None:
        """Nothing is in this memory any more."""
        self._returned.append(memory)

    @property
    def size(self) -> int:
        """All its bytes, in use or not."""
        return sum(memory.size for memory in self._all.values())


def zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """As numpy's, but beginning where a cache line does: a vector in it needs only one."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = _aligned(np.zeros(size + ALIGNMENT, np.uint8), size)
    return np.ndarray(shape, dtype, memory)


def without_hold(array: Array) -> Array:
    """The same array, but its memory counts as free once others let go of it; others' arrays as they are."""
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if not isinstance(owner.base, _Block):
        return array
    memory = owner.base.memory
    offset = _address(array) - _address(memory)
    return np.ndarray(array.shape, array.dtype, memory, offset, array.strides)


def _aligned(raw: Array, size: int) -> Array:
    """So many bytes of it, from the first that is aligned."""
    start = -_address(raw) % ALIGNMENT
    return raw[start : start + size]


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
