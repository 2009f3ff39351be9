"""lcm bench startup: from the start of a process to its end, and to a model's first token."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lcm.bench import machine
from lcm.bench.results import Results, Row
from lcm.bench.timing import repeat
from lcm.errors import LcmError
from lcm.generate.loading import find_model

LCM = "import sys; from lcm.cli import main; main(sys.argv[1:])"
PROMPT = "def read_lines(path):\n    "


def run(model: str = "", *, budget: float = 3.0, progress: machine.Progress = str) -> Results:
    """Each process again and again, for about `budget` seconds; the model's only if there is one."""
    here = machine.record()
    remarks = ["each is a process of its own, from its start to its end"]
    timed = [
        ("python", _process("pass"), _nothing),
        ("import lcm", _process("import lcm"), _nothing),
        ("lcm --version", _process(LCM, "--version"), _nothing),
    ]
    try:
        folder = find_model(model)
    except LcmError as error:
        if model:
            raise
        remarks.append(f"no first token: {error}")
    else:
        first = _process(LCM, "complete", PROMPT, "-n", "1", "--whole", "--model", str(folder))
        timed.append((f"first token of {folder.name}", first, _nothing))
        if hasattr(os, "posix_fadvise"):
            evict = partial(_evict, folder)
            timed.append((f"first token of {folder.name}, from disk", first, evict))
            remarks.append("from disk: the system was asked to drop the model's files from memory")
    rows = []
    for name, call, before in timed:
        progress(name)
        rows.append(Row({"process": name}, repeat(call, budget=budget, before=before)))
    return Results("startup", here, tuple(rows), tuple(remarks))


def _process(code: str, *arguments: str) -> Callable[[], object]:
    """A call that runs Python on this; without tuning, which is done only once in a model's life."""
    environment = os.environ | {"LCM_TUNE": "off"}

    def call() -> None:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=environment,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise LcmError(f"a process to be timed failed: {said[-1] if said else done.returncode}")

    return call


def _evict(folder: Path) -> None:
    """Ask the system to forget what it holds of the folder's files; others may hold them still."""
    for path in folder.iterdir():
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _nothing() -> None:
    pass
