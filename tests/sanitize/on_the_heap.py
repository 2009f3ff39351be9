"""Every kernel of a backend on arguments that are each alone on the heap, whose edges a sanitizer watches.

    python tests/sanitize/on_the_heap.py NAME [LEVEL]

NAME may be a library's absolute path. The name of a kernel is printed before its calls.
"""

import contextlib
import sys

import numpy as np

from lcm.backend import discovery, native
from lcm.testing.examination import Refused, call
from lcm.testing.trial import trials


def alone(array):
    """A copy that begins 4 bytes behind the start of an allocation, and ends where that ends."""
    memory = np.empty(array.nbytes + 4, np.uint8)
    copy = memory[4:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def run(kernel, trial):
    """One call, or none where the kernel or the op itself does not take these arguments."""
    try:
        arguments = trial.arguments()
    except (ValueError, ZeroDivisionError):
        assert 0 in trial.sizes.values()
        return
    placed = {n: alone(v) if isinstance(v, np.ndarray) else v for n, v in arguments.items()}
    with contextlib.suppress(Refused):
        call(kernel, placed)


def main(name, level="core"):
    backend = native.load(name, "library") if "/" in name else discovery.open_backend(name)
    for symbol, kernel in backend.kernels.items():
        print(symbol, flush=True)
        for i, trial in enumerate(trials(symbol, level)):
            if backend.threads:
                backend.threads(1 + i % 3)
            run(kernel, trial)


if __name__ == "__main__":
    main(*sys.argv[1:])
