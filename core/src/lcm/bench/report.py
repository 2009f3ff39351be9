"""Results as text: a table for a terminal, one in Markdown, and CSV with every number in full."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence

from lcm.bench import machine
from lcm.bench.compare import Change
from lcm.bench.results import Results, Row, Value

TIMES = ("median", "mean", "deviation", "minimum")
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
# Figures that are shares of something, and are told in per cent.
SHARES = ("of peak", "of limit", "outside kernels")


def table(results: Results) -> str:
    """Aligned columns, with the machine above and the remarks below."""
    head, rows = _cells(results)
    lines = _columns(head, rows, [_is_text(results, name) for name in head])
    return "\n".join([machine.in_words(results.machine), "", *lines, "", *results.remarks]).rstrip()


def markdown(results: Results) -> str:
    """The same as a Markdown table."""
    head, rows = _cells(results)
    rule = ["---" if _is_text(results, name) else "---:" for name in head]
    lines = ["| " + " | ".join(_escaped(line)) + " |" for line in (head, rule, *rows)]
    about = machine.in_words(results.machine).replace("\n", "  \n")
    remarks = [f"- {remark}" for remark in results.remarks]
    return "\n".join([about, "", *lines, "", *remarks]).rstrip()


def comma_separated(results: Results) -> str:
    """CSV: seconds and figures with all their digits, a row a case."""
    cases, figures = _keys(r.case for r in results.rows), _keys(r.figures for r in results.rows)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*cases, "runs", *(f"{t} s" for t in TIMES), *figures, "note"])
    for row in results.rows:
        times = [row.summary.get(t, "") for t in TIMES]
        values = [row.figures.get(f) for f in figures]
        writer.writerow(
            [*(row.case.get(c, "") for c in cases), len(row.seconds), *times, *values, row.note]
        )
    return out.getvalue()


def changes(found: Sequence[Change]) -> str:
    """What `compare` found, a line a case."""
    names = _keys(c.case for c in found)
    head = [*names, "old", "new", "ratio", "95 % interval", "verdict"]
    rows = [
        [*(str(c.case.get(n, "")) for n in names), duration(c.old), duration(c.new),
         f"{c.ratio:.3f}", f"{c.low:.3f} … {c.high:.3f}", c.verdict]
        for c in found
    ]  # fmt: skip
    texts = [any(isinstance(c.case.get(n), str) for c in found) for n in names]
    return "\n".join(_columns(head, rows, [*texts, False, False, False, False, True]))


def duration(seconds: float) -> str:
    """`12.3 ms`: three digits and a unit that suits."""
    scale, unit = next((u for u in UNITS if seconds >= u[0]), UNITS[-1])
    return f"{number(seconds / scale)} {unit}"


def number(value: float) -> str:
    """Three significant digits, thousands set apart."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def per_cent(share: float) -> str:
    """Two digits, or all that stand before the point."""
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:#.2g} %"


def _cells(results: Results) -> tuple[list[str], list[list[str]]]:
    rows = results.rows
    cases, figures = _keys(r.case for r in rows), _keys(r.figures for r in rows)
    notes = ["note"] if any(r.note for r in rows) else []
    head = [*cases, "runs", "median", "mean", "± dev.", "least", *figures, *notes]
    return head, [_row(row, cases, figures, notes) for row in rows]


def _row(row: Row, cases: Sequence[str], figures: Sequence[str], notes: Sequence[str]) -> list[str]:
    times = [duration(row.summary[t]) if row.seconds else "" for t in TIMES]
    return [
        *(str(row.case.get(c, "")) for c in cases), str(len(row.seconds)), *times,
        *(_figure(name, row.figures.get(name)) for name in figures), *(row.note for _ in notes),
    ]  # fmt: skip


def _figure(name: str, value: Value) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return per_cent(value) if name in SHARES else number(value)


def _keys(rows: Iterable[Mapping[str, object]]) -> list[str]:
    """The names that occur in any row, in their order."""
    return list(dict.fromkeys(key for row in rows for key in row))


def _is_text(results: Results, name: str) -> bool:
    values = [r.case.get(name, r.figures.get(name)) for r in results.rows]
    return name == "note" or any(isinstance(v, str) for v in values)


def _columns(head: list[str], rows: Sequence[list[str]], texts: Sequence[bool]) -> list[str]:
    """Lines with aligned columns: texts to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    return [_aligned(line, widths, texts) for line in (head, *rows)]


def _aligned(line: Sequence[str], widths: Sequence[int], texts: Sequence[bool]) -> str:
    cells = (
        cell.ljust(width) if text else cell.rjust(width)
        for cell, width, text in zip(line, widths, texts, strict=True)
    )
    return "  ".join(cells).rstrip()


def _escaped(line: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in line]
