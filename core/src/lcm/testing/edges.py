"""Calls in a child process, with arrays that end where memory ends: reading behind them kills the child.

    python -m lcm.testing.edges PROGRESS LEVEL PLACE BACKEND KERNEL…

notes each call in the file PROGRESS before it is made, so that the parent knows which one was fatal. PLACE is
`edges`, or `guards` for calls in ordinary memory.
"""

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lcm.backend import native
from lcm.backend.guards import POISON, Guarded
from lcm.backend.selftest import blank, parse
from lcm.ops.cases import widest
from lcm.ops.header import fields, gradient_fields
from lcm.testing import subject as subjects
from lcm.testing.examination import call, prepare
from lcm.testing.subject import Subject, path_for_children
from lcm.testing.trial import Arguments, Trial, trials

PAGE = mmap.ALLOCATIONGRANULARITY
SECONDS = 300.0
CALLS = {"smoke": 40, "core": 120, "full": 400}  # of each kernel, at most
MORE = 64  # bytes by which a newer caller's arguments are longer


@dataclass
class Deaths:
    """What the calls came to, by kernel: lines where there is something to say."""

    arrays: dict[str, list[str]] = field(default_factory=dict)  # with arrays at the edge of memory
    arguments: dict[str, list[str]] = field(
        default_factory=dict
    )  # with the arguments' struct there
    everywhere: dict[str, list[str]] = field(default_factory=dict)  # in ordinary memory too


def run(subject: Subject, level: str) -> Deaths:
    """Make the calls of every kernel in child processes, a new one after each death."""
    found, symbols = Deaths(), list(subject.kernels)
    while symbols:
        notes, end = _child(subject, level, "edges", symbols)
        for note in notes:
            if "problem" in note:
                _add(getattr(found, note["what"]), note["symbol"], note["problem"])
        if not end:
            break
        last = _last(notes, symbols)
        _add(getattr(found, last["what"]), last["symbol"], f"{last['trial']} {end}")
        symbols = symbols[symbols.index(last["symbol"]) + 1 :]
    for symbol, lines in found.arrays.items():
        notes, end = _child(subject, level, "guards", [symbol])
        if end:
            found.everywhere[symbol] = [f"{_last(notes, [symbol])['trial']} {end}"]
            lines.append(f"and in ordinary memory: {found.everywhere[symbol][0]}")
    return found


def _add(lines: dict[str, list[str]], symbol: str, line: str) -> None:
    lines.setdefault(symbol, []).append(line)


def _last(notes: list[dict[str, str]], symbols: list[str]) -> dict[str, str]:
    """The note of the call that was fatal."""
    before_any = {"symbol": symbols[0], "what": "arrays", "trial": "opening the backend"}
    return next((note for note in reversed(notes) if "trial" in note), before_any)


def _child(
    subject: Subject, level: str, place: str, symbols: list[str]
) -> tuple[list[dict[str, str]], str]:
    """Run one child: its notes, and how it ended if not well."""
    with tempfile.TemporaryDirectory(prefix="lcm-edges-") as folder:
        progress, printed = Path(folder, "progress"), Path(folder, "printed")
        progress.touch()
        command = [sys.executable, "-P", "-m", "lcm.testing.edges", str(progress), level, place]
        environment = {**os.environ, "PYTHONPATH": path_for_children()}
        try:
            with printed.open("wb") as output:
                code = subprocess.run(
                    [*command, subject.given, *symbols], stdin=subprocess.DEVNULL, stdout=output,
                    stderr=subprocess.STDOUT, env=environment, timeout=SECONDS, check=False,
                ).returncode  # fmt: skip
            end = _end(code, printed.read_text(errors="replace"))
        except subprocess.TimeoutExpired:
            end = f"had not come to an end after {SECONDS:g} seconds"
        return [json.loads(line) for line in progress.read_text().splitlines()], end


def _end(code: int, printed: str) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed the process: {signal.Signals(-code).name}"
    if code:
        return f"ended the process with code {code}; printed last: {printed.splitlines()[-1:]}"
    return ""


# The child's side.


class AtEdges:
    """A kernel's arguments, with a page behind every array that cannot be touched."""

    def __init__(self, arguments: Arguments, hollow: set[str]) -> None:
        self.arguments = dict(arguments)
        for name, array in arguments.items():
            if isinstance(array, np.ndarray):
                placed = at_edge(array.nbytes).view(array.dtype).reshape(array.shape)
                if name not in hollow:
                    placed[...] = array
                self.arguments[name] = placed


def at_edge(size: int) -> np.ndarray:
    """So many bytes of poison, the last ones before a page of which no file is left to read."""
    pages = -(-max(size, 1) // PAGE)
    with tempfile.TemporaryFile() as file:
        file.truncate((pages + 1) * PAGE)
        memory = mmap.mmap(file.fileno(), (pages + 1) * PAGE)
        file.truncate(pages * PAGE)
    room = np.frombuffer(memory, np.uint8)[: pages * PAGE]
    room.view(np.uint16)[...] = POISON
    return room[pages * PAGE - size :]


def main() -> None:
    """The child's whole life."""
    progress, level, place, given, *symbols = sys.argv[1:]
    subject = subjects.find(given)
    with open(progress, "a", buffering=1) as notes:
        for symbol in symbols:
            for trial in _some(symbol, level):
                _array_edges(subject, trial, place, notes)
            if subject.library and place == "edges":
                _argument_edges(subject, symbol, subject.library, notes)


def _some(symbol: str, level: str) -> Iterator[Trial]:
    """Trials with small arrays: whether their ends are kept to does not depend on the rest."""
    op, _, _ = parse(symbol)
    every = [t for t in trials(symbol, level) if widest(op, t.sizes) <= 1 << 14]
    yield from every[:: 1 + len(every) // CALLS[level]]


def _array_edges(subject: Subject, trial: Trial, place: str, notes: TextIO) -> None:
    if 0 in trial.sizes.values() and prepare(trial) is None:
        return  # such sizes mean nothing to the op
    arguments = trial.arguments()
    hollow = blank(trial.kind[0], arguments)
    placed: AtEdges | Guarded = AtEdges(arguments, hollow)
    if place == "guards":
        placed = Guarded(arguments, trial.results, hollow)
    _note(notes, symbol=trial.symbol, what="arrays", trial=str(trial))
    with contextlib.suppress(Exception):  # the other tests see it too
        call(subject.kernels[trial.symbol], placed.arguments)


def _argument_edges(subject: Subject, symbol: str, library: str, notes: TextIO) -> None:
    """The arguments' struct at the end of memory; then longer than this kernel can know it."""
    trial = next(t for t in _some(symbol, "smoke") if min(t.sizes.values()) > 0)
    arguments = trial.arguments()
    usual = AtEdges(arguments, blank(trial.kind[0], arguments)).arguments
    with contextlib.suppress(Exception):
        call(subject.kernels[symbol], usual)
        for more in (0, MORE):
            who = "from a newer caller" if more else "with its arguments at the end of memory"
            note = {"symbol": symbol, "what": "arguments"}
            _note(notes, **note, trial=f"{trial} {who}")
            code, placed = _called_by_struct(trial, arguments, library, more)
            same = all(placed[n].tobytes() == usual[n].tobytes() for n in trial.results)
            if code or not same:
                problem = (
                    f"gives code {code}" if code else "gives other results than by the usual call"
                )
                _note(notes, **note, problem=f"{trial} {who} {problem}")


def _called_by_struct(
    trial: Trial, arguments: Arguments, library: str, more: int
) -> tuple[int, Arguments]:
    op, _, is_gradient = trial.kind
    placed = AtEdges(arguments, blank(op, arguments)).arguments
    struct = native.struct_of(op, is_gradient)
    length = memoryview(struct()).nbytes
    memory = at_edge(length + more)
    filled: Any = struct.from_buffer(memory.data)
    filled.size = length + more
    for member in gradient_fields(op) if is_gradient else fields(op):
        value = placed[member.name]
        pointed = member.pointer and value is not None
        setattr(filled, member.name, native.address(value) if pointed else value)
    opened = native.open_library(library)
    kernel = native.function(opened, f"lcm_{trial.symbol}", "int32_t", "void *")
    return int(kernel(native.address(memory))), placed


def _note(notes: TextIO, **what: Any) -> None:
    notes.write(json.dumps(what) + "\n")


if __name__ == "__main__":
    main()
