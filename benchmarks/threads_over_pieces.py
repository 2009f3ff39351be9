"""Whether two threads run numpy on small arrays faster than one: why `lcm.ops.split` uses one.

    python benchmarks/threads_over_pieces.py

Each thread multiplies arrays of its own; a speed-up of 2 would be two cores well used, below 1 is a loss.
"""

import statistics
import threading
import time

import numpy as np
import record

CALLS = {1 << 14: 60_000, 1 << 15: 30_000, 1 << 16: 15_000, 1 << 20: 600}


def seconds(threads: int, size: int) -> float:
    def work() -> None:
        x = np.ones(size, np.float32)
        out = np.empty_like(x)
        for _ in range(CALLS[size]):
            np.multiply(x, x, out=out)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - started


def main() -> None:
    speedups = {}
    for size in CALLS:
        pairs = [(seconds(1, size), seconds(2, size)) for _ in range(7)]
        speedups[size] = statistics.median(2 * one / two for one, two in pairs)
    record.append("threads_over_pieces", {"speedup_of_two_threads": speedups})
    print(record.table(("numbers", "speed-up"), *((n, f"{s:.2f}") for n, s in speedups.items())))


if __name__ == "__main__":
    main()
