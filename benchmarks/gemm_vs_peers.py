"""Matrix products against OpenBLAS and PyTorch (MKL): x @ weight.T in f32, with one thread and with two.

    pip install torch scipy-openblas32
    python benchmarks/gemm_vs_peers.py

Each library has a process of its own, which waits while the others have their turn: threads that wait awake would take
the cores from whoever comes next. A turn is some calls, at least 50 ms of them, with the arrays ready and the result's
memory given, all beginning where cache lines do; what counts is the median of the turns. `cold` takes another weight
for every call, of 1 GiB of them, so that they come from memory. The limits (multiply-adds, reading) are lcm-avx512's
measurement of the machine.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import record

from lcm.memory import zeros

SQUARES = tuple((n, n, n, "") for n in (64, 128, 256, 384, 512, 768, 1024, 1536, 2048))
MODELS = ((512, 896, 4864, ""), (16, 896, 4864, ""), (1, 896, 4864, ""), (1, 896, 4864, "cold"))
COLD_BYTES = 1 << 30
TURN = 0.05  # seconds of calls
PAUSE = 0.12  # seconds until a process that has had its turn has gone to sleep
Call = Callable[[], object]


def lcm_calls(name: str, threads: int, x: np.ndarray, weights: np.ndarray, out: np.ndarray) -> list[Call]:
    from lcm.backend import discovery

    backend = discovery.open_backend(name)
    assert backend.threads
    backend.threads(threads)
    return [backend.kernels["linear"]({"x": x, "weight": w, "bias": None, "out": out,
                                       "rows": len(x), "inputs": x.shape[1], "outputs": len(w)})
            for w in weights]  # fmt: skip


def torch_calls(_: str, threads: int, x: np.ndarray, weights: np.ndarray, out: np.ndarray) -> list[Call]:
    import torch

    torch.set_num_threads(threads)
    rows, result = torch.from_numpy(x), torch.from_numpy(out)
    turned = [torch.from_numpy(w).T for w in weights]
    return [lambda t=t: torch.mm(rows, t, out=result) for t in turned]


def work(name: str, threads: int) -> None:
    """In a process of its own: read a shape, or `again`; answer with the seconds of a call, or the limits."""
    make = torch_calls if name == "torch" else lcm_calls
    calls: list[Call] = []
    for line in sys.stdin:
        asked = json.loads(line)
        if asked == "limits":
            answer = limits(threads)
        elif asked == "again":
            answer = {"seconds": timed(calls)}
        else:
            rows, inputs, outputs, how = asked
            rng = np.random.default_rng(0)
            count = COLD_BYTES // (4 * inputs * outputs) if how == "cold" else 1
            weights = zeros((count, outputs, inputs), np.float32)
            x, out = zeros((rows, inputs), np.float32), zeros((rows, outputs), np.float32)
            weights[:] = rng.standard_normal((outputs, inputs), np.float32)
            x[:] = rng.standard_normal((rows, inputs), np.float32)
            calls = make(name, threads, x, weights, out)
            calls[-1]()
            answer = {"off": float(np.abs(out - x @ weights[-1].T).max() / np.abs(out).max())}
        print(json.dumps(answer), flush=True)


def timed(calls: list[Call]) -> float:
    """Seconds of a call."""
    for call in calls[:3]:
        call()
    done, started = 0, time.perf_counter()
    while done == 0 or time.perf_counter() < started + TURN:
        for call in calls:
            call()
        done += len(calls)
    return (time.perf_counter() - started) / done


def limits(threads: int) -> dict[str, float]:
    from lcm.backend import discovery
    from lcm.backend.limits import measured

    found = measured(discovery.open_backend("avx512"), threads)
    assert found
    return {"fma": found.fma_f32, "read": found.read}


class Worker:
    def __init__(self, name: str, threads: int) -> None:
        command = [sys.executable, __file__, "--worker", name, "--threads", str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, what: object) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(what), file=self.process.stdin, flush=True)
        return dict(json.loads(self.process.stdout.readline()))


def measure(threads: int, names: list[str], turns: int, shapes: list[tuple]) -> list[dict]:
    workers = {name: Worker(name, threads) for name in names}
    found = []
    for shape in shapes:
        limit = [workers[names[0]].ask("limits")]
        for name, worker in workers.items():
            off = worker.ask(shape)["off"]
            assert off < 1e-5, f"{name} is wrong by {off} at {shape}"
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(turns):
            for name in names[turn % len(names):] + names[:turn % len(names)]:
                time.sleep(PAUSE)
                seconds[name].append(workers[name].ask("again")["seconds"])
        time.sleep(PAUSE)
        limit.append(workers[names[0]].ask("limits"))
        medians = {name: statistics.median(s) for name, s in seconds.items()}
        best = min(s for n, s in medians.items() if n != names[0])
        found.append({
            "shape": "x".join(map(str, shape[:3])), "how": shape[3], "threads": threads, "seconds": medians,
            "ratio": best / medians[names[0]], "limits": {k: max(m[k] for m in limit) for k in limit[0]},
        })  # fmt: skip
        print(row(found[-1]), file=sys.stderr)
    return found


def row(found: dict) -> tuple[str, ...]:
    """GFLOP/s; for one row, which reads the weight and does little else, GB/s."""
    rows, inputs, outputs = map(int, found["shape"].split("x"))
    reads = rows == 1
    work, limit = (4 * inputs * outputs, "read") if reads else (2 * rows * inputs * outputs, "fma")
    rates = {name: work / s / 1e9 for name, s in found["seconds"].items()}
    ours = next(iter(rates.values()))
    return (
        f"{found['shape']} {found['how']}".strip(), str(found["threads"]), "GB/s" if reads else "GFLOP/s",
        *(f"{rate:.1f}" for rate in rates.values()),
        f"{found['ratio']:.2f}", f"{100 * ours / found['limits'][limit]:.0f} %",
    )  # fmt: skip


def scaling(found: list[dict], one: int, more: int) -> list[str]:
    seconds = {(f["shape"], f["how"], f["threads"]): next(iter(f["seconds"].values())) for f in found}
    return [
        f"{shape} {how}".strip() + f" {s / seconds[shape, how, more]:.2f}"
        for (shape, how, threads), s in seconds.items() if threads == one
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="avx512")
    parser.add_argument("--peers", default="openblas,torch")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--shapes", default="", help="some of them only: 1x896x4864,512x512x512")
    parser.add_argument("--note", default="", help="recorded with the result, such as: busy machine")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--threads", default="1,2")
    options = parser.parse_args()
    if options.worker:
        work(options.worker, int(options.threads))
        return
    names = [options.backend, *options.peers.split(",")]
    shapes = [s for s in (*SQUARES, *MODELS)
              if not options.shapes or "x".join(map(str, s[:3])) in options.shapes.split(",")]  # fmt: skip
    found = [f for t in options.threads.split(",") for f in measure(int(t), names, options.turns, shapes)]
    record.append("gemm_vs_peers", {"found": found, "note": options.note})
    head = ("rows x inputs x outputs", "threads", "in", *names, "lcm / best peer", "of the limit")
    print(record.table(head, *map(row, found)))
    for one, more in itertools.pairwise(options.threads.split(",")):
        print(f"\n{one} -> {more} threads, times as fast: {', '.join(scaling(found, int(one), int(more)))}")


if __name__ == "__main__":
    main()
