"""A run in pictures: its metrics, a loss curve in the terminal, and one as PNG."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from lcm.errors import FileError, UsageError

Points = list[tuple[int, float]]
BLOCKS = " ▁▂▃▄▅▆▇█"


def read_metrics(path: Path) -> tuple[Points, Points]:
    """(step, loss) of training and of validation from `metrics.jsonl`; a resumed step counts once."""
    training: dict[int, float] = {}
    validation: dict[int, float] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if "loss" in row:
                training[row["step"]] = row["loss"]
            elif "validation_loss" in row:
                validation[row["step"]] = row["validation_loss"]
        except (ValueError, KeyError, TypeError):
            if number < len(lines):  # the last line may be cut off by a kill
                raise FileError(f"{path}: line {number} is not a metric") from None
    return sorted(training.items()), sorted(validation.items())


def curve(points: Points, width: int = 60, height: int = 8) -> str:
    """The points as a chart of block characters, with the axes' ends."""
    if not points:
        return "(no steps yet)"
    values = _columns([v for _, v in points], width)
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    rows = []
    for row in range(height - 1, -1, -1):
        cells = [(v - low) / span * height - row for v in values]
        bar = "".join(BLOCKS[max(0, min(8, math.ceil(c * 8)))] for c in cells)
        label = f"{high:6.3f}" if row == height - 1 else f"{low:6.3f}" if row == 0 else " " * 6
        rows.append(f"{label} │{bar}")
    rows.append(f"{'':6} └{'─' * len(values)}")
    rows.append(f"{'':8}step {points[0][0]} … {points[-1][0]}")
    return "\n".join(rows)


def _columns(values: Sequence[float], width: int) -> list[float]:
    """Means over equal stretches, one for each column."""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]


def plot(metrics: Path, path: Path) -> None:
    """Draw the loss curve as PNG; needs matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError("a picture needs matplotlib: pip install 'lcm[plot]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    training, validation = read_metrics(metrics)
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120)
    axes.plot(
        *zip(*training, strict=True), color="#9db8d9", linewidth=0.8, label="training, each step"
    )
    if len(training) > 20:
        smooth = _columns([v for _, v in training], 80)
        ends = _columns([float(s) for s, _ in training], 80)
        axes.plot(ends, smooth, color="#1f4e8c", label="training, mean")
    if validation:
        axes.plot(*zip(*validation, strict=True), color="#c8501e", marker="o", markersize=3,
                  label="validation")  # fmt: skip
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
