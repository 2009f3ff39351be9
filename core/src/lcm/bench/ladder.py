"""lcm bench ladder: one product of matrices, climbed from three loops in Python to the fastest there is."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lcm.backend import limits
from lcm.backend.contract import Backend
from lcm.bench import machine, rungs
from lcm.bench.report import duration
from lcm.bench.results import Results, Row, Value, until_interrupted
from lcm.bench.rungs import Rung
from lcm.bench.timing import repeat

SIZES = (64, 128, 256, 512, 1024, 2048)
FORMATS = {"f32": np.float32, "f64": np.float64}
WRONG = "WRONG"
PATIENCE = 10  # a call that will take so many budgets is not made
PROBE = 64  # the size whose time predicts that of the first


def run(
    sizes: Sequence[int] = SIZES, formats: Sequence[str] = tuple(FORMATS), *, threads: int,
    budget: float = 1.0, kit: Backend | None = None, progress: machine.Progress = str,
) -> Results:  # fmt: skip
    """Every rung at every size, each for about `budget` seconds, with its result checked."""
    here = machine.record() | {"threads": threads}
    if kit:  # and again at the end: others may use the machine at either time
        limits.measured(kit, threads)
    rows: list[list[Row]] = []
    with until_interrupted(rows) as stopped:
        for format in formats:
            known: dict[str, tuple[int, float]] = {}
            for n in sorted(sizes):
                problem = Problem(n, format)
                rows.append([])
                for rung in rungs.rungs(format, threads, kit):
                    progress(f"{format} {n} x {n}: {rung.title}, {rung.by}")
                    rows[-1].append(climb(rung, problem, known, budget))
    peak = limits.measured(kit, threads, again=True) if kit else None
    told = [_with_figures(row, others, peak) for others in rows for row in others]
    remarks = (*_remarks(kit, threads, peak, told), *stopped)
    return Results("ladder", here, tuple(told), remarks)


class Problem:
    """x, y and out, n x n. The numbers are small and whole: every sum is exact, in any order and format."""

    def __init__(self, n: int, format: str) -> None:
        rng = np.random.default_rng(n)
        self.format = format
        self.x, self.y = rng.integers(-8, 9, (2, n, n)).astype(FORMATS[format])
        self.out = np.empty((n, n), FORMATS[format])
        self.right = self.x.astype(np.float64) @ self.y.astype(np.float64)

    def is_solved(self) -> bool:
        return np.array_equal(self.out, self.right)


def climb(rung: Rung, problem: Problem, known: dict[str, tuple[int, float]], budget: float) -> Row:
    """One rung at one size; `known` holds its last size and seconds, by its title and who computes."""
    n, key = len(problem.out), f"{rung.title} {rung.by}"
    case: dict[str, str | int] = {
        "format": problem.format, "n": n, "rung": rung.title, "by": rung.by, "threads": rung.threads
    }  # fmt: skip
    with rung.running():
        if key not in known:
            known[key] = PROBE, _probe(rung, problem.format)
        size, seconds = known[key]
        predicted = seconds * (n / size) ** 3
        if predicted > PATIENCE * budget:
            why = f"skipped: about {duration(predicted)}, and the budget is {budget:g} s"
            return Row(case, note=why)
        problem.out.fill(np.nan)
        call = rung.bind(problem.out, problem.x, problem.y)
        times = repeat(call, budget=budget, once=predicted > budget)
    known[key] = n, min(times)
    note = "" if problem.is_solved() else WRONG
    return Row(case, times, note=note or ("measured once" if len(times) == 1 else ""))


def _probe(rung: Rung, format: str) -> float:
    small = Problem(PROBE, format)
    return min(repeat(rung.bind(small.out, small.x, small.y), budget=0.0))


def _with_figures(row: Row, others: Sequence[Row], peak: limits.Limits | None) -> Row:
    """Rate, speed-up over the naive loops on one thread, share of what all threads could do at best."""
    if not row.seconds:
        return row
    operations = 2 * int(row.case["n"]) ** 3
    rate = operations / row.median / 1e9
    naive = next((r.median for r in others if r.case["rung"] == "naive" and r.seconds), None)
    figures: dict[str, Value] = {
        "GFLOP/s": rate,
        "speed-up": naive / row.median if naive else None,
        "of peak": rate / peak.fma(str(row.case["format"])) if peak else None,
    }
    return Row(row.case, row.seconds, figures, row.note)


def _remarks(
    kit: Backend | None, threads: int, peak: limits.Limits | None, rows: Sequence[Row]
) -> list[str]:
    said: list[str] = []
    if kit is None:
        said.append(
            "no ready backend brings the rungs between Python and BLAS, nor the peak to compare with: "
            "pip install 'lcm[cpu]', and see lcm backends"
        )
    elif peak:
        said.append(
            f"peak, measured: {peak.fma_f32:.0f} GFLOP/s in f32, {peak.fma_f64:.0f} in f64 "
            f"(multiply-adds of {kit.name}, {threads} threads)"
        )
    names = {str(row.case["rung"]).split(",")[0]: None for row in rows}
    said += [f"{name}: {rungs.IDEAS[name]}" for name in names]
    if any("threaded" in str(row.case["rung"]) for row in rows):
        said.append(f"threaded: {rungs.IDEAS['threaded']}")
    return said


def wrong(results: Results) -> list[dict[str, Any]]:
    """The cases whose product was not right."""
    return [dict(row.case) for row in results.rows if row.note == WRONG]
