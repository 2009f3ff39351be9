"""Every kernel of a backend, on arguments at the edges of their memory: who touches more is stopped.

    python tests/sanitize/edges.py NAME [LEVEL]            each array alone on the heap: a sanitizer watches
    python tests/sanitize/edges.py NAME [LEVEL] --fences   a page that cannot be touched, behind or before it

NAME may be a library's absolute path. Fences see what masked loads and stores do, too, which no
sanitizer does. The name of a kernel is printed before its calls: the last one ended the process.
"""

import contextlib
import ctypes
import mmap
import sys

import numpy as np

from lcm.backend import discovery, native
from lcm.testing.examination import Refused, call
from lcm.testing.trial import trials

PAGE = mmap.PAGESIZE
NO_ACCESS = 0


def alone(array):
    """A copy that begins 4 bytes behind the start of an allocation, and ends where that ends."""
    memory = np.empty(array.nbytes + 4, np.uint8)
    return fill(memory[4:], array)


def before_fence(array):
    """A copy whose end is the end of a page; the next one cannot be touched."""
    memory = fenced(array.nbytes)
    return fill(memory[memory.size - array.nbytes :], array)


def behind_fence(array):
    """A copy whose start is the start of a page; the one before cannot be touched."""
    return fill(fenced(array.nbytes)[: array.nbytes], array)


def fill(memory, array):
    copy = memory.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def fenced(size):
    """Whole pages for so many bytes, between two that cannot be touched."""
    room = -(-max(size, 1) // PAGE) * PAGE
    memory = np.frombuffer(mmap.mmap(-1, room + 2 * PAGE), np.uint8)
    first = memory.__array_interface__["data"][0]
    for fence in (first, first + PAGE + room):
        failed = ctypes.CDLL(None).mprotect(
            ctypes.c_void_p(fence), ctypes.c_size_t(PAGE), NO_ACCESS
        )
        assert not failed, "mprotect failed"
    return memory[PAGE : PAGE + room]


def run(kernel, trial, place):
    """One call, or none where the kernel or the op itself does not take these arguments."""
    try:
        arguments = trial.arguments()
    except (ValueError, ZeroDivisionError):
        assert 0 in trial.sizes.values()
        return
    placed = {n: place(v) if isinstance(v, np.ndarray) else v for n, v in arguments.items()}
    with contextlib.suppress(Refused):
        call(kernel, placed)


def main(name, level, places):
    backend = native.load(name, "library") if "/" in name else discovery.open_backend(name)
    for symbol, kernel in backend.kernels.items():
        print(symbol, flush=True)
        for i, trial in enumerate(trials(symbol, level)):
            if backend.threads:
                backend.threads(1 + i % 3)
            for place in places:
                run(kernel, trial, place)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--fences"]
    fences = "--fences" in sys.argv
    main(
        words[0],
        words[1] if words[1:] else "core",
        (before_fence, behind_fence) if fences else (alone,),
    )
