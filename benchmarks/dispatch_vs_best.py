"""Does the dispatcher take the best? `ops.linear` as it comes, against the same on each backend by name, in turn.

    lcm tune
    python benchmarks/dispatch_vs_best.py

Squares from 64 to 2048, and shapes of models. A round times every choice once at a shape, in any order;
the medians of the rounds are compared. What counts is the worst ratio of the dispatcher's choice to the best one.
"""

import argparse
import statistics
import sys
import time

import numpy as np
import record

from lcm import ops
from lcm.backend import dispatch
from lcm.recording import no_grad
from lcm.tensor import Tensor

SQUARES = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
SHAPES = (
    *((n, n, n) for n in SQUARES),
    (1, 896, 4864),
    (16, 896, 4864),
    (512, 896, 4864),
    (3072, 384, 1536),
)
LEAST = 2e-3  # seconds for one timing: a short call is made several times


def timed(x: Tensor, weight: Tensor, backend: str | None, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        ops.linear(x, weight, backend=backend)
    return (time.perf_counter() - started) / calls


def measure(shape: tuple[int, int, int], rounds: int) -> dict[str, float]:
    rows, inputs, outputs = shape
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((rows, inputs), np.float32))
    weight = Tensor(rng.standard_normal((outputs, inputs), np.float32))
    choices: list[str | None] = [
        None,
        *(n for n in dispatch.candidates("linear") if n != "reference"),
    ]
    calls = max(1, int(LEAST / timed(x, weight, None, 3)))
    found: dict[str, list[float]] = {name or "dispatch": [] for name in choices}
    for _ in range(rounds):
        for i in rng.permutation(len(choices)):  # nobody comes always after the same one
            found[choices[i] or "dispatch"].append(timed(x, weight, choices[i], calls))
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument(
        "--note", default="", help="recorded with the result, such as: busy machine"
    )
    options = parser.parse_args()
    results = {}
    with no_grad():
        for shape in SHAPES:
            results["x".join(map(str, shape))] = found = measure(shape, options.rounds)
            print(shape, {n: f"{1e3 * t:.3f} ms" for n, t in found.items()}, file=sys.stderr)
    ratios = {
        n: f["dispatch"] / min(t for b, t in f.items() if b != "dispatch")
        for n, f in results.items()
    }
    record.append("dispatch_vs_best", {"seconds": results, "ratios": ratios, "note": options.note})
    names = [n for n in next(iter(results.values())) if n != "dispatch"]
    rows = [(n, *(f"{1e3 * f[b]:.3f}" for b in ("dispatch", *names)), f"{ratios[n]:.3f}")
            for n, f in results.items()]  # fmt: skip
    print(
        record.table(("rows x inputs x outputs", "dispatch, ms", *names, "dispatch / best"), *rows)
    )
    print(f"\nworst: {max(ratios.values()):.3f}")


if __name__ == "__main__":
    main()
