"""The tuning table: how long every backend took for a kernel at the shapes that were measured here.

Each measurement of a shape is averaged with those before it, and a choice once made is replaced only by a
backend whose mean is better by a margin: two that are equal must not take turns. With measurements that are
off by up to 4 % at random, the choice between two equal ones changes once in 3,000 measurements.
"""

import hashlib
import json
import math
import os
import tempfile
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lcm import __version__, host, settings
from lcm.backend.contract import Backend
from lcm.backend.ledger import locked
from lcm.errors import FileError, LcmWarning

MARGIN = 0.03  # of the time that the present choice takes
# The same where the prior is to be left: each backend's threads wait awake beside the other's.
APART = 0.1
REMEMBERED = 25  # measurements in the mean; then older ones fade
KEPT = 4000  # shapes; those measured longest ago go

Shape = tuple[tuple[str, int], ...]
Seconds = Mapping[str, float | None]  # by identity; None: it refused the shape


def identity(backend: Backend | None) -> str:
    """What a measurement is of: the name, the version, and one build of the library.

    A build is known by its file's path, size and time: its content takes too long to read at every start.
    None is the reference, which is as fast as numpy.
    """
    if backend is None:
        return f"reference {__version__} numpy {np.__version__}"
    name = f"{backend.name} {backend.version}".strip()
    if backend.library is None or not os.path.exists(backend.library):
        return name
    state = os.stat(backend.library)
    mark = f"{backend.library} {state.st_size} {state.st_mtime_ns}"
    return f"{name} {hashlib.sha256(mark.encode()).hexdigest()[:12]}"


def distance(a: Shape, b: Shape) -> float:
    """How many powers of two lie between two shapes; infinitely many where a size is more than doubled."""
    if [name for name, _ in a] != [name for name, _ in b]:
        return math.inf
    pairs = zip(a, b, strict=True)
    steps = [abs(math.log2(max(1, x) / max(1, y))) for (_, x), (_, y) in pairs]
    return sum(steps) if max(steps, default=0) <= 1 else math.inf


@dataclass(frozen=True)
class Measured:
    """What is known of one kernel at one shape: the mean times, of how many measurements, and the choice."""

    seconds: Seconds
    choice: str  # an identity
    times: int = 1

    def __post_init__(self) -> None:
        if not all(s is None or 0 < s < math.inf for s in self.seconds.values()):
            raise ValueError(f"a time is not a positive number: {self.seconds}")
        if self.seconds[self.choice] is None or self.times < 1:
            raise ValueError(f"{self.choice!r} cannot be the choice")

    @staticmethod
    def first(seconds: Seconds, doubt: float = 0.0) -> "Measured":
        """The choice is the fastest; the first, where that may be as fast: times are off by `doubt`."""
        numbers = _numbers(seconds)
        prior, best = next(iter(numbers)), _fastest(seconds)
        clear = numbers[best] < numbers[prior] * (1 - max(doubt, APART))
        return Measured(dict(seconds), best if clear else prior)

    def again(self, seconds: Seconds, doubt: float = 0.0) -> "Measured":
        """With another measurement. What was before is void if the candidates were others, or disturbed."""
        new, old = _numbers(seconds), _numbers(self.seconds)
        if new.keys() != old.keys() or any(new[name] < old[name] / 2 for name in new):
            return Measured.first(seconds, doubt)
        times = min(self.times + 1, REMEMBERED)
        mean: dict[str, float | None] = dict(seconds)
        for name in new:
            mean[name] = old[name] * (new[name] / old[name]) ** (1 / times)
        best, numbers = _fastest(mean), _numbers(mean)
        margin = APART if self.choice == next(iter(numbers)) else MARGIN
        better = numbers[best] < numbers[self.choice] * (1 - margin)
        return Measured(mean, best if better else self.choice, times)

    def best_of(self, identities: Collection[str]) -> str:
        """The choice, or where that is not among these the fastest that is."""
        left = {i: s for i, s in self.seconds.items() if i in identities}
        return self.choice if self.choice in left else _fastest(left)


def _numbers(seconds: Seconds) -> dict[str, float]:
    return {name: s for name, s in seconds.items() if s is not None}


def _fastest(seconds: Seconds) -> str:
    numbers = _numbers(seconds)
    return min(numbers, key=numbers.__getitem__)


@dataclass
class Table:
    """All that was measured on one host with one number of threads, by kernel and shape."""

    path: Path
    measured: dict[str, dict[Shape, Measured]] = field(default_factory=dict)
    _news: list[tuple[str, Shape, Seconds, bool, float]] = field(default_factory=list)  # not saved

    @staticmethod
    def of_this_host() -> "Table":
        here = host.current()
        name = f"{here.fingerprint()}-{here.threads()}.json"
        return Table.load(settings.cache_dir() / "tuning" / name)

    @staticmethod
    def load(path: Path) -> "Table":
        """The table in this file; an empty one where there is none, or, with a warning, none readable."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return Table(path)
        except (OSError, UnicodeDecodeError) as error:
            return Table._anew(path, error)
        try:
            return Table(path, _parse(json.loads(text)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return Table._anew(path, error)

    @staticmethod
    def _anew(path: Path, error: Exception) -> "Table":
        message = f"{path}: the tuning table is unreadable ({error}); starting anew"
        warnings.warn(LcmWarning(message), stacklevel=3)
        return Table(path)

    def __len__(self) -> int:
        return sum(len(shapes) for shapes in self.measured.values())

    def add(
        self, symbol: str, sizes: Mapping[str, int], seconds: Seconds, *, anew: bool = False,
        doubt: float = 0.0,
    ) -> None:  # fmt: skip
        """Take in a measurement of all candidates, in the prior's order; at least one has not refused.

        It is the first one of the shape if that is to be begun `anew`; times may be off by the share `doubt`.
        """
        shape = tuple(sorted(sizes.items()))
        self._take_in(symbol, shape, seconds, anew, doubt)
        self._news.append((symbol, shape, dict(seconds), anew, doubt))

    def _take_in(
        self, symbol: str, shape: Shape, seconds: Seconds, anew: bool, doubt: float
    ) -> None:
        shapes = self.measured.setdefault(symbol, {})
        known = None if anew else shapes.get(shape)
        shapes.pop(shape, None)  # and behind all others, as the latest
        shapes[shape] = known.again(seconds, doubt) if known else Measured.first(seconds, doubt)

    def nearest(
        self, symbol: str, sizes: Mapping[str, int], identities: Collection[str]
    ) -> tuple[dict[str, int], Measured] | None:
        """The measured shape that is nearest and knows all of these; None where no such one is near."""
        shape = tuple(sorted(sizes.items()))
        known = [
            (distance(shape, other), other, one)
            for other, one in self.measured.get(symbol, {}).items()
            if all(i in one.seconds for i in identities)
        ]
        apart, other, one = min(known, key=lambda found: found[0], default=(math.inf, (), None))
        return None if one is None or apart == math.inf else (dict(other), one)

    def save(self) -> None:
        """Write the table, with what other processes have added meanwhile; `FileError` where it cannot be."""
        with locked(self.path.with_suffix(".lock")):
            there = Table.load(self.path)
            for news in self._news:
                there._take_in(*news)
            try:
                there._write()
            except OSError as error:
                reason = error.strerror or str(error)
                raise FileError(f"{self.path}: cannot be written: {reason}") from error
        self.measured = there.measured
        self._news.clear()

    def _write(self) -> None:
        """Whole, beside its place and then in it: whatever happens, the old table or the new one is there."""
        descriptor, new = tempfile.mkstemp(".new", "tuning.", self.path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(self._text())
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, self.path)
        except BaseException:
            os.unlink(new)
            raise

    def _text(self) -> str:
        rows = [
            {"kernel": symbol, "sizes": dict(shape), "seconds": dict(one.seconds),
             "choice": one.choice, "times": one.times}
            for symbol, shapes in self.measured.items()
            for shape, one in list(shapes.items())[-KEPT:]
        ]  # fmt: skip
        return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


def _parse(rows: Any) -> dict[str, dict[Shape, Measured]]:
    found: dict[str, dict[Shape, Measured]] = {}
    for row in rows:
        shape = tuple(sorted((str(name), int(size)) for name, size in row["sizes"].items()))
        one = Measured(dict(row["seconds"]), row["choice"], row["times"])
        found.setdefault(row["kernel"], {})[shape] = one
    return found
