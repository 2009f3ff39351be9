"""A sandbox for programs that a model wrote: a process with limits, which never hurts the one that asks."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SECONDS = 5.0  # for a program, and for what it may use of a processor
MEMORY = 1 << 29  # bytes of address space
FILE = 1 << 20  # bytes of any file that it writes
CONFINED = Path(__file__).with_name("confined.py")
# Namespaces of its own for processes and the network, by util-linux; the first serves users without rights.
UNSHARE = ("unshare", "--net", "--pid", "--fork", "--kill-child")
WAYS = ((*UNSHARE, "--user", "--map-root-user"), UNSHARE)


@dataclass(frozen=True)
class Outcome:
    """Whether a program passed; if not, why, in a line."""

    passed: bool
    reason: str
    seconds: float


def attempt(program: str, *, seconds: float = SECONDS) -> Outcome:
    """Run Python source to its end in an empty folder, with the standard library alone.

    It fails when it raises, exits, is killed or takes longer; nothing that it does is raised here.
    """
    started = time.perf_counter()
    word = secrets.token_hex(16)
    limits = {"seconds": int(seconds) + 1, "memory": MEMORY, "file": FILE}
    task = {"program": program, "word": word, "limits": limits}
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as verdict:
        given.write(json.dumps(task).encode())
        given.seek(0)
        with tempfile.TemporaryDirectory(prefix="lcm-run-", ignore_cleanup_errors=True) as folder:
            code = _run(given.fileno(), verdict.fileno(), folder, seconds)
        verdict.seek(0)
        reason = _reason(verdict.read(4096), word, code, seconds)
    return Outcome(not reason, reason, time.perf_counter() - started)


@cache
def namespaces() -> tuple[str, ...]:
    """The command that cuts a process off from the network and other processes; empty where none can."""
    for way in WAYS:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                [*way, "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10
            )
            if done.returncode == 0:
                return way
    return ()


def _run(given: int, verdict: int, folder: str, seconds: float) -> int | None:
    """The return code, or None if the time was up; whatever was started is ended."""
    command = [*namespaces(), sys.executable, "-I", "-S", str(CONFINED)]
    child = subprocess.Popen(
        command, stdin=given, stdout=verdict, stderr=subprocess.DEVNULL, cwd=folder,
        env={"PATH": os.defpath}, start_new_session=True,
    )  # fmt: skip
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _reason(verdict: bytes, word: str, code: int | None, seconds: float) -> str:
    """Why it failed; empty where it passed."""
    if code is None:
        return f"did not come to an end within {seconds:g} seconds"
    with contextlib.suppress(ValueError, KeyError, TypeError):
        said = json.loads(verdict)
        return "" if said.get("passed") == word else str(said["failed"])
    return f"its process ended before the tests did, with code {code}"
