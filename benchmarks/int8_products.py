"""Products with weights in blocks, `ops.linear_int8`: one row against reading memory, many against the int8 peak.

    python benchmarks/int8_products.py --threads 1,2

One row reads 1 GiB of weights, so what counts is how fast: GB/s of stored weights, against what reading alone
reaches. 16, 128 and 512 rows meet 4864 x 896 weights: 10^9 operations a second (a multiply-add is two), against the
most that VNNI can do with numbers in registers; AMX, where the processor has it, can do more. Each format as a file
has it, and with 16 rows interleaved, as models are run. All take turns, and the medians count.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import peaks
import record

from lcm import formats, no_grad, ops
from lcm.backend import discovery, dispatch
from lcm.formats.interleaved import INTERLEAVED
from lcm.program import record as recorded
from lcm.tensor import Tensor

FORMATS = "q8_0,q4_0,q4_k,q5_k,q6_k"
READ = 1 << 30  # bytes that one row meets
ROWS = (16, 128, 512)
OUTPUTS, INPUTS = 4864, 896 + 128  # whole blocks of 256
TURN = 0.1  # seconds of calls
Call = Callable[[], object]


def layouts(format: str) -> Iterator[str]:
    yield format
    yield from (name for name, made in INTERLEAVED.items() if made.of == format)


def weight(layout: str, outputs: int, inputs: int) -> Tensor:
    """64 rows of random numbers, again and again."""
    of = INTERLEAVED[layout].of if layout in INTERLEAVED else layout
    some = np.random.default_rng(0).standard_normal((64, inputs), np.float32)
    blocks = formats.encode(some, of)
    array = np.ascontiguousarray(np.resize(blocks, (outputs, blocks.shape[1])))
    return Tensor(formats.interleave(array, layout) if layout in INTERLEAVED else array, layout)


def product(layout: str, rows: int) -> tuple[Call, float]:
    """The recorded product, and its work: bytes of weights for one row, else operations."""
    if rows == 1:
        row = formats.FORMATS[layout].bytes(16 * INPUTS) // 16
        outputs = READ // row // 16 * 16
        work = float(outputs * row)
    else:
        outputs, work = OUTPUTS, 2.0 * rows * OUTPUTS * INPUTS
    x = Tensor(np.random.default_rng(1).standard_normal((rows, INPUTS), np.float32))
    weights = weight(layout, outputs, INPUTS)
    return recorded(lambda: ops.linear_int8(x, weights)), work


def seconds(call: Call) -> float:
    done, started = 0, time.perf_counter()
    while done == 0 or time.perf_counter() < started + TURN:
        call()
        done += 1
    return (time.perf_counter() - started) / done


def measure(names: list[str], rows: int, threads: int, turns: int) -> list[dict]:
    """A row of results for each layout."""
    calls = {name: product(name, rows) for name in names}
    for call, _ in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(turns):
        for name, (call, _) in calls.items():
            times[name].append(seconds(call))
    return [
        {"layout": n, "rows": rows, "threads": threads, "rate": work / statistics.median(times[n]) / 1e9,
         "best": work / min(times[n]) / 1e9}
        for n, (_, work) in calls.items()
    ]  # fmt: skip


def run(backend: str, threads: int, names: list[str], turns: int) -> list[dict]:
    """Every layout at one row, one after the other as each takes 1 GiB, then all at more rows, in turn."""
    kernels = discovery.open_backend(backend)
    assert kernels.threads
    found, limits = [], [peaks.peaks(threads, backend)]
    with dispatch.use_backend(backend), no_grad():
        for name in names:
            kernels.threads(threads)
            found += measure([name], 1, threads, turns)
            limits.append({"read": peaks.read(threads, backend)})
        for rows in ROWS:
            kernels.threads(threads)
            found += measure(names, rows, threads, turns)
    limits.append(peaks.peaks(threads, backend))
    best = {key: max((l.get(key) or 0.0) for l in limits) for key in limits[0]}
    return [row | {"limits": best} for row in found]


def line(row: dict) -> tuple[str, ...]:
    limit, unit = (row["limits"]["read"], "GB/s") if row["rows"] == 1 else (row["limits"]["vnni"], "GOP/s")
    share = f"{100 * row['rate'] / limit:.0f} %" if limit else ""
    return (
        str(row["rows"]),
        row["layout"],
        str(row["threads"]),
        f"{row['rate']:.1f} {unit}",
        f"{row['best']:.1f}",
        share,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="avx512")
    parser.add_argument("--formats", default=FORMATS)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--note", default="", help="recorded with the result, such as: busy machine")
    options = parser.parse_args()
    names = [name for format in options.formats.split(",") for name in layouts(format)]
    found = []
    for threads in map(int, options.threads.split(",")):
        print(f"{threads} threads", file=sys.stderr)
        found += run(options.backend, threads, names, options.turns)
    record.append("int8_products", {"found": found, "note": options.note})
    head = ("rows", "format", "threads", "median", "best", "of reading or VNNI")
    print(record.table(head, *map(line, found)))
    for threads, limits in {row["threads"]: row["limits"] for row in found}.items():
        print(f"\n{threads} threads can at best: {limits}")


if __name__ == "__main__":
    main()
