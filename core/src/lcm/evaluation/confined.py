"""The process in which code that a model wrote is run: it gives up what it could do harm with, then runs it.

    python -I -S confined.py < task.json > verdict.json

It needs nothing but the standard library. What comes in and goes out are files, so nothing can be flooded.
A verdict that says 'passed' repeats the task's `word`, which the code does not know: to end the process early
is not to pass. This is a guard against a model's mistakes, and no prison for an attacker.
"""

import errno
import json
import os
import resource
import signal
import sys
import traceback
from types import ModuleType
from typing import Any

# Events (https://docs.python.org/3/library/audit_events.html) that reach beyond this process.
REFUSED = ("ctypes.", "os.exec", "os.fork", "os.kill", "os.posix_spawn", "os.spawn", "os.system", "pty.",
           "signal.", "socket.", "subprocess.", "syslog.", "webbrowser.")  # fmt: skip
CHANGING = {"os.chdir", "os.chflags", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename",
            "os.rmdir", "os.symlink", "os.truncate", "os.utime", "os.setxattr", "os.removexattr"}  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
LONGEST = 200  # characters of a reason


def main() -> None:
    """Read the task, run it, write the verdict, and end without asking the code."""
    task = json.load(sys.stdin)
    verdict = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    limit(**task["limits"])
    sys.addaudithook(refuse)
    word, program = task["word"], task["program"]
    del task
    os.write(verdict, json.dumps(run(program) or {"passed": word}).encode())
    os._exit(0)


def limit(*, seconds: int, memory: int, file: int) -> None:
    """Time in seconds, address space and size of a file in bytes; no core dump, no new process."""
    signal.alarm(seconds + 1)  # should whoever waits be gone
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    for kind, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):  # some systems have no limit of this kind
            continue


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook, which no code can take away: no process, signal or connection; no file but here."""
    outward = event.startswith(REFUSED) or event in CHANGING
    if outward or (event == "open" and _writes(*arguments) and not _is_here(arguments[0])):
        raise PermissionError(errno.EPERM, f"{event} is not allowed here")


def _writes(path: object, mode: object, flags: int) -> bool:
    return bool(flags & WRITING)


def _is_here(path: object) -> bool:
    if not isinstance(path, (str, bytes)):
        return False
    return os.path.dirname(os.path.realpath(os.fsdecode(path))) == os.getcwd()


def run(program: str) -> dict[str, str]:
    """Run a program as a module of its own: nothing if it came to its end, else the reason why not."""
    module = ModuleType("program")
    sys.modules["program"] = module
    try:
        exec(compile(program, "program", "exec"), vars(module))
    except BaseException as error:
        return {"failed": reason(error, program)}
    return {}


def reason(error: BaseException, program: str) -> str:
    """What was raised, and the program's line where."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == "program"]
    if isinstance(error, SyntaxError):
        lines.append(error.lineno)
    said = str(error) if not isinstance(error, SyntaxError) else error.msg
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if lines and lines[-1] and 0 < lines[-1] <= len(program.splitlines()):
        text += f", in line {lines[-1]}: {program.splitlines()[lines[-1] - 1].strip()}"
    return text.replace("\n", " ")[:LONGEST]


if __name__ == "__main__":
    main()
