"""Kernels of a backend from several Python threads at once, while their number of threads changes.

python tests/sanitize/at_once.py NAME
"""

import sys
import threading

import numpy as np

from lcm.backend import discovery
from lcm.ops import CATALOGUE
from lcm.ops.cases import case

ROUNDS = 20
SHAPES = {
    "linear": {"rows": 150, "inputs": 130, "outputs": 170},
    "silu": {"count": 200_000},
}


def calls(backend, seed):
    """A bound call of each kernel, with its arguments' results."""
    for name, shape in SHAPES.items():
        op = CATALOGUE[name]
        arguments = op.arguments(case(op, np.random.default_rng(seed), shape=shape))
        yield backend.kernels[name](arguments), arguments["out"]


def work(backend, seed, wrong):
    """The same again and again: every time the same bits, however many threads there are."""
    prepared = list(calls(backend, seed))
    first = []
    for call, out in prepared:
        call()
        first.append(out.copy())
    for i in range(ROUNDS):
        backend.threads(1 + (seed + i) % 3)
        for (call, out), want in zip(prepared, first, strict=True):
            out.fill(np.nan)
            call()
            if not np.array_equal(out, want):
                wrong.append(f"round {i} of thread {seed}")


def main(name):
    backend, wrong = discovery.open_backend(name), []
    threads = [threading.Thread(target=work, args=(backend, seed, wrong)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        sys.exit(f"{name}: other bits in {', '.join(wrong)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
