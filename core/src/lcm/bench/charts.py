"""Results drawn with characters: curves on logarithmic axes, or bars."""

import math
from collections.abc import Callable, Mapping, Sequence

from lcm.bench.report import duration, number, per_cent
from lcm.bench.results import Results, Row

WIDTH, HEIGHT = 64, 16
MARKS = "abcdefghijklmnopqrstuvwxyz"
EIGHTHS = " ▏▎▍▌▋▊▉█"

Points = Sequence[tuple[float, float]]


def draw(results: Results) -> str:
    """What suits the benchmark."""
    measured = [row for row in results.rows if row.seconds]
    if not measured:
        return "(nothing was measured)"
    if results.bench == "ladder":
        formats = dict.fromkeys(str(row.case["format"]) for row in measured)
        return "\n\n".join(
            f"{format}: GFLOP/s over N, both logarithmic\n{curves(rates(measured, format))}"
            for format in formats
        )
    shares = {label(row): row.figures.get("of limit") for row in measured}
    if any(shares.values()):
        known = {name: float(share) for name, share in shares.items() if share}
        return "share of the limit\n" + bars(known, per_cent, 1.0)
    return "median time\n" + bars({label(row): row.median for row in measured}, duration)


def rates(rows: Sequence[Row], format: str) -> dict[str, list[tuple[float, float]]]:
    """GFLOP/s over N of each rung, in one format."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row.seconds and row.case["format"] == format:
            name = f"{row.case['rung']} ({row.case['by']})"
            found.setdefault(name, []).append(
                (float(row.case["n"]), float(row.figures["GFLOP/s"] or 0))
            )
    return found


def label(row: Row) -> str:
    return " ".join(str(value) for value in row.case.values())


def curves(series: Mapping[str, Points]) -> str:
    """Points on logarithmic axes, each series with a letter; where two meet, the later one is seen."""
    points = [point for values in series.values() for point in values]
    across, up = (_scale([p[axis] for p in points]) for axis in (0, 1))
    cells = [[" "] * (WIDTH + 1) for _ in range(HEIGHT + 1)]
    for mark, values in zip(MARKS, series.values(), strict=False):
        for x, y in values:
            cells[HEIGHT - round(HEIGHT * _place(y, up))][round(WIDTH * _place(x, across))] = mark
    lines = []
    for i, row in enumerate(cells):
        value = number(up[0] * (up[1] / up[0]) ** (1 - i / HEIGHT)) if i % 4 == 0 else ""
        lines.append(f"{value:>8} │{''.join(row)}".rstrip())
    ends = f"{number(across[0])}{number(across[1]):>{WIDTH - 1}}"
    legend = [f"{mark} {name}" for mark, name in zip(MARKS, series, strict=False)]
    return "\n".join([*lines, f"{'':8} └{'─' * (WIDTH + 1)}", f"{'':10}{ends}", "", *legend])


def _scale(values: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis; a single value stands in the middle of a factor of four."""
    low, high = min(values), max(values)
    return (low, high) if low < high else (low / 2, high * 2)


def _place(value: float, ends: tuple[float, float]) -> float:
    return math.log(value / ends[0]) / math.log(ends[1] / ends[0])


def bars(
    values: Mapping[str, float], told: Callable[[float], str], full: float | None = None
) -> str:
    """A bar for each value, from zero to the largest, or to `full`."""
    longest = max([*values.values(), full or 0.0]) or 1.0
    width = max(map(len, values))
    return "\n".join(
        f"{name:{width}}  {_bar(value / longest)}  {told(value)}" for name, value in values.items()
    )


def _bar(share: float) -> str:
    eighths = round(8 * 40 * share)
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()
