"""What is remembered of attempts to load plugins, written before each attempt and after it.

One file, `verdicts.json`, from an attempt's key to its outcome. An attempt first writes `started`,
and takes a lock for as long as it lasts. Who finds `started` and gets the lock knows that whoever
made the attempt did not live to write the outcome.
"""

import contextlib
import json
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lcm import settings
from lcm.errors import LcmWarning

KEPT = 200  # outcomes; the oldest go
INSIDE = "LCM_PROBING"  # set in a child process that makes an attempt, under its parent's lock
PATIENCE = 60.0  # seconds to wait for another process's attempt

_inside = threading.RLock()  # one attempt at a time in this process
_held: list[Path] = []  # the locks that this process has
_memory: dict[str, dict[str, Any]] = {}  # where the folder cannot be written
_warned: set[Path] = set()


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: a state of `verdict.STATES`, or `started` if it did not."""

    name: str
    state: str
    reason: str = ""
    stamp: str = ""  # the surroundings in which a failure holds
    when: float = 0.0


def recall(key: str) -> Outcome | None:
    """The outcome of the attempt with this key, if there was one."""
    entry = {**_read(), **_memory}.get(key)
    try:
        return Outcome(**entry) if entry else None
    except TypeError:
        return None


def record(key: str, outcome: Outcome) -> None:
    """Write an outcome."""

    def add(entries: dict[str, Any]) -> None:
        entries[key] = {**asdict(outcome), "when": time.time()}
        for old in sorted(entries, key=lambda key: entries[key].get("when", 0))[:-KEPT]:
            del entries[old]

    _change(add)


def forget(name: str) -> None:
    """Forget every attempt with the backend of this name."""

    def drop(entries: dict[str, Any]) -> None:
        for key in [key for key, entry in entries.items() if entry.get("name") == name]:
            del entries[key]

    _change(drop)


def erase(key: str) -> None:
    """Forget this attempt, as if it had not been made."""
    _change(lambda entries: entries.pop(key, None))


@contextlib.contextmanager
def alone() -> Iterator[bool]:
    """No other thread makes an attempt meanwhile; whether it is sure that no process does."""
    path = settings.cache_dir() / "verdicts.lock"
    with _inside:
        if path in _held or INSIDE in os.environ:
            yield True
            return
        with locked(path) as sure:
            _held.append(path)
            try:
                yield sure
            finally:
                _held.remove(path)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the file's lock; False where there are no locks, or when patience has ended."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+b")  # noqa: SIM115 - closed below, which also frees the lock
    except OSError:
        yield False
        return
    with file:
        end = time.monotonic() + PATIENCE
        while (mine := _try_lock(file.fileno())) is False and time.monotonic() < end:
            time.sleep(0.02)
        yield bool(mine)


def _try_lock(descriptor: int) -> bool | None:
    """Whether it is ours now; None on a file system that has no locks."""
    try:
        if os.name == "nt":
            import msvcrt

            getattr(msvcrt, "locking")(descriptor, 2, 1)  # noqa: B009 - 2 is LK_NBLCK
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def _read() -> dict[str, dict[str, Any]]:
    """The file's entries; none if it is not there or damaged, for it can be made again."""
    try:
        data = json.loads((settings.cache_dir() / "verdicts.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries = data.items() if isinstance(data, dict) else ()
    return {key: entry for key, entry in entries if isinstance(entry, dict)}


def _change(change: Callable[[dict[str, Any]], object]) -> None:
    """Read, change and replace the file at one stroke; in memory where it cannot be written."""
    folder = settings.cache_dir()
    with alone():
        entries = {**_read(), **_memory}
        change(entries)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", dir=folder, prefix="verdicts.", suffix=".new", delete=False, encoding="utf-8"
            ) as file:
                json.dump(entries, file, indent=1)
            os.replace(file.name, folder / "verdicts.json")
            _memory.clear()
        except OSError as error:
            _memory.clear()
            _memory.update(entries)
            _warn(folder, error)


def _warn(folder: Path, error: OSError) -> None:
    if folder not in _warned:
        _warned.add(folder)
        reason = error.strerror or str(error)
        message = f"{folder}: {reason}; plugins are tried anew each time, LCM_CACHE_DIR says where"
        warnings.warn(message, LcmWarning, stacklevel=2)
