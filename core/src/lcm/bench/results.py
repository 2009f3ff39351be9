"""What a benchmark found: rows with the times of all repetitions, and the machine; as JSON Lines too."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcm.bench.timing import summary
from lcm.errors import FileError
from lcm.files.atomic import write_atomically

Value = str | int | float | None
STOPPED = "stopped by Ctrl-C: the rest was not measured"


@contextmanager
def until_interrupted(rows: Sequence[object]) -> Iterator[list[str]]:
    """Inside, Ctrl-C ends the measuring, and no more if there are rows; the list is then to say so."""
    remarks: list[str] = []
    try:
        yield remarks
    except KeyboardInterrupt:
        if not any(rows):
            raise
        remarks.append(STOPPED)


@dataclass(frozen=True)
class Row:
    """One case and its times, and figures that follow from them; without times, the note says why."""

    case: Mapping[str, str | int]  # what was measured: by this, rows of two files find each other
    seconds: tuple[float, ...] = ()
    figures: Mapping[str, Value] = field(default_factory=dict)
    note: str = ""

    @property
    def summary(self) -> dict[str, float]:
        return summary(self.seconds)

    @property
    def median(self) -> float:
        """Not a number where nothing was measured."""
        return self.summary.get("median", float("nan"))


@dataclass(frozen=True)
class Results:
    """The rows of one benchmark on one machine."""

    bench: str  # ladder, ops, train, generate or startup
    machine: Mapping[str, Any]
    rows: tuple[Row, ...]
    remarks: tuple[str, ...] = ()  # for the reader of a table

    def save(self, path: Path) -> None:
        """Write JSON Lines: the benchmark and the machine, then a row a line with all its times."""
        head = {"bench": self.bench, "machine": dict(self.machine), "remarks": self.remarks}
        rows = (
            {"case": dict(r.case), "seconds": r.seconds, **r.summary, "figures": dict(r.figures),
             "note": r.note}
            for r in self.rows
        )  # fmt: skip
        text = "".join(json.dumps(line) + "\n" for line in (head, *rows))
        write_atomically(path, lambda file: file.write(text.encode()))

    @staticmethod
    def load(path: Path) -> "Results":
        """What `save` wrote; `FileError` names the line that is not."""
        head, *lines = _read(path).splitlines() or [""]
        values = _parsed(path, 1, head)
        try:
            found = str(values["bench"]), dict(values["machine"]), tuple(values["remarks"])
        except (KeyError, TypeError, ValueError):
            raise FileError(f"{path}: was not made by lcm bench with --json-lines") from None
        rows = tuple(_row(path, number, line) for number, line in enumerate(lines, 2))
        return Results(*found[:2], rows, found[2])


def _row(path: Path, number: int, line: str) -> Row:
    values = _parsed(path, number, line)
    try:
        seconds = tuple(float(s) for s in values["seconds"])
        return Row(dict(values["case"]), seconds, dict(values["figures"]), str(values["note"]))
    except (KeyError, TypeError, ValueError):
        raise FileError(f"{path}: line {number} is not a row of lcm bench") from None


def _parsed(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        raise FileError(f"{path}: line {number} is not JSON") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
