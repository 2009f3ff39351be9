"""Results as a picture, with matplotlib: the ladder's curves, the roofline of kernels, or bars."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcm.bench.charts import label, rates
from lcm.bench.results import Results, Row
from lcm.errors import UsageError


def need() -> Any:
    """matplotlib's pyplot, drawing to files; `UsageError` says how to get it."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError("a picture needs matplotlib: pip install 'lcm[plot]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def draw(results: Results, path: Path) -> None:
    """Write what suits the benchmark as PNG."""
    plot = need()
    kinds = {"ladder": _ladder, "ops": _roofline}
    figure = kinds.get(results.bench, _bars)(plot, results)
    here = results.machine
    about = f"{here['processor']}, {here['threads']} threads, {here['date'][:10]}"
    figure.suptitle(f"lcm bench {results.bench}: {about}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, format="png")
    plot.close(figure)


def _ladder(plot: Any, results: Results) -> Any:
    """A row for each format: seconds over N, and GFLOP/s over N with the peak."""
    rows = [row for row in results.rows if row.seconds]
    formats = list(dict.fromkeys(str(row.case["format"]) for row in rows))
    figure, grid = plot.subplots(
        len(formats), 2, figsize=(12, 4.5 * len(formats)), dpi=120, squeeze=False
    )
    colors: dict[str, str] = {}  # of a rung, whoever computes
    for (left, right), format in zip(grid, formats, strict=True):
        peaks = [
            float(r.figures["GFLOP/s"] or 0) / float(share)
            for r in rows
            if r.case["format"] == format and (share := r.figures.get("of peak"))
        ]
        if peaks:
            right.axhline(
                peaks[0], color="black", linestyle="--", linewidth=0.8, label="peak, measured"
            )
        for name, points in rates(rows, format).items():
            sizes, speeds = zip(*points, strict=True)
            seconds = [2e-9 * n**3 / rate for n, rate in points]
            color = colors.setdefault(name.split(" (")[0], f"C{len(colors)}")
            left.loglog(sizes, seconds, marker="o", markersize=3, color=color, label=name)
            right.loglog(sizes, speeds, marker="o", markersize=3, color=color, label=name)
        _name_axes(left, "N", f"seconds, {format}")
        _name_axes(right, "N", f"GFLOP/s, {format}")
        for axes in (left, right):
            axes.set_xticks(found := sorted({int(r.case["n"]) for r in rows}), map(str, found))
            axes.minorticks_off()
        right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _roofline(plot: Any, results: Results) -> Any:
    """Kernels by their operations a byte, under what arithmetic and memory allow (Williams et al., 2009)."""
    rows = [r for r in results.rows if r.seconds and r.figures.get("FLOP/byte")]
    if not rows:
        return _bars(plot, results)
    figure, axes = plot.subplots(figsize=(10, 6), dpi=120)
    limits: Mapping[str, float] = results.machine.get("limits") or {}
    intensities = [float(r.figures["FLOP/byte"] or 0) for r in rows]
    if limits:
        ends = min(intensities) / 2, max(intensities) * 2
        ridge = limits["fma_f32"] / limits["read"]
        line = sorted({ends[0], min(max(ridge, ends[0]), ends[1]), ends[1]})
        roof = [min(limits["fma_f32"], x * limits["read"]) for x in line]
        axes.loglog(line, roof, color="black", linewidth=0.8, label="what the machine can do")
    for name in dict.fromkeys(str(r.case["backend"]) for r in rows):
        points = [(float(r.figures["FLOP/byte"] or 0), float(r.figures["GFLOP/s"] or 0))
                  for r in rows if r.case["backend"] == name]  # fmt: skip
        axes.loglog(*zip(*points, strict=True), marker="o", markersize=4, linestyle="", label=name)
    _name_axes(axes, "operations a byte that must move", "GFLOP/s")
    axes.legend(fontsize=8)
    return figure


def _bars(plot: Any, results: Results) -> Any:
    """The median of every case, with the deviation."""
    rows: Sequence[Row] = [row for row in results.rows if row.seconds]
    figure, axes = plot.subplots(figsize=(10, 2 + 0.4 * len(rows)), dpi=120)
    deviations = [1e3 * row.summary["deviation"] for row in rows]
    axes.barh(
        [label(row) for row in rows], [1e3 * row.median for row in rows], xerr=deviations,
        color="#9db8d9",
    )  # fmt: skip
    axes.invert_yaxis()
    _name_axes(axes, "ms, median", "")
    return figure


def _name_axes(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3, which="both")
