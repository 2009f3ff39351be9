"""The first attempt with a plugin, in a child process that may crash, hang or print as it likes.

    python -m lcm.backend.probe NAME RESULT

opens the backend NAME, checks it against its self-test and writes the outcome to the file RESULT.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from lcm.backend import ledger
from lcm.backend.opening import Opened, describe, open_plugin
from lcm.backend.plugins import Plugin, installed
from lcm.host import current

SECONDS = 20.0  # for the whole attempt


def attempt(plugin: Plugin) -> Opened:
    """Open the plugin in a child process; the outcome says how that ended, without a backend."""
    with tempfile.TemporaryDirectory(prefix="lcm-probe-", ignore_cleanup_errors=True) as folder:
        result, printed = Path(folder, "result.json"), Path(folder, "printed.txt")
        try:
            code = _run(plugin.name, result, printed)
        except OSError as error:
            return Opened("failed", f"no child process for it: {error}")
        outcome = _outcome(code, result)
        return Opened(outcome.state, outcome.reason + _tail(printed, outcome.state))


def _run(name: str, result: Path, printed: Path) -> int | None:
    """The child's return code, or None if it was still running when the time was up."""
    path = [entry for entry in sys.path if os.path.isabs(entry)]
    environment = {**os.environ, ledger.INSIDE: name, "PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, "-P", "-m", "lcm.backend.probe", name, str(result)]
    with printed.open("wb") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        return child.wait(SECONDS)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _kill(child)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started, unless it has ended by itself."""
    if child.poll() is None:
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
        child.kill()
        child.wait()


def _outcome(code: int | None, result: Path) -> Opened:
    if code is None:
        return Opened("failed", f"did not come to an end within {SECONDS:g} seconds")
    if code < 0 or code >= 0xC0000000:  # a signal, or on Windows the code of an exception
        return Opened("crashed", f"killed its process: {_signal(code)}")
    try:
        data = json.loads(result.read_text(encoding="utf-8"))
        return Opened(str(data["state"]), str(data["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Opened("failed", f"ended its process with code {code}")


def _signal(code: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"code {code & 0xFFFFFFFF:#x}"


def _tail(printed: Path, state: str) -> str:
    """The last line that a plugin printed on its way to not being ready."""
    lines = printed.read_bytes()[-4096:].decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f" (printed last: {last[:200]})" if last and state != "ready" else ""


def check_here(name: str) -> Opened:
    """Open the backend in this process and run the self-test on it."""
    from lcm.backend import selftest  # which needs numpy and the ops: too much for the parent

    plugin = next((plugin for plugin in installed() if plugin.name == name), None)
    if plugin is None or plugin.manifest is None:
        return Opened("failed", f"the child process does not find the plugin {name!r}")
    opened = open_plugin(plugin, current())
    if opened.backend is None:
        return opened
    try:
        selftest.check(opened.backend)
    except BaseException as error:
        return Opened("failed", f"its self-test: {describe(error)}")
    return opened


def main(name: str, result: str) -> None:
    """The child's whole life."""
    opened = check_here(name)
    text = json.dumps({"state": opened.state, "reason": opened.reason})
    Path(result).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
