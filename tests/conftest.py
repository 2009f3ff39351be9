"""The command as a user runs it: in a process of its own, with a cache and settings of its own."""

import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

SMALL = (
    "--layers", "1", "--width", "32", "--heads", "2", "--key-heads", "1", "--hidden", "64",
    "--vocabulary", "300", "--context", "32", "--batch", "2", "--warmup", "2",
)  # fmt: skip


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """The variables of a user who has set next to nothing: one thread, no measuring, for equal results."""
    home = tmp_path_factory.mktemp("home")
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("LCM_", "_LCM", "PYTHON"))}
    own = {"LCM_CACHE_DIR": "cache", "XDG_CONFIG_HOME": "config", "MPLCONFIGDIR": "matplotlib"}
    scripts = sysconfig.get_path("scripts") + os.pathsep + kept["PATH"]
    own = {name: str(home / folder) for name, folder in own.items()}
    fixed = {"LCM_THREADS": "1", "LCM_TUNE": "off", "COLUMNS": "100", "PATH": scripts}
    return kept | own | fixed


@pytest.fixture(scope="session")
def start(environment):
    """Begin a command; the process runs, and its output can be read line by line."""

    def start(*arguments, cwd, preexec_fn=None, **variables):
        return subprocess.Popen(
            [Path(sysconfig.get_path("scripts"), "lcm"), *map(str, arguments)],
            cwd=cwd, env=environment | variables, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=preexec_fn,
        )  # fmt: skip

    return start


@pytest.fixture(scope="session")
def lcm(start):
    """Run a command to its end: `stdout`, `stderr` and `returncode`."""

    def lcm(*arguments, cwd, **more):
        process = start(*arguments, cwd=cwd, **more)
        stdout, stderr = process.communicate(timeout=300)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    return lcm


@pytest.fixture(scope="session")
def refused(lcm):
    """Run a command that must fail with this code and one line on standard error: the line."""

    def refused(code, *arguments, **more):
        done = lcm(*arguments, **more)
        assert done.returncode == code, done.stdout + done.stderr
        assert done.stderr.startswith("lcm: ") and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    return refused


@pytest.fixture(scope="session")
def small():
    """The options of a model that trains in a second."""
    return SMALL


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A folder with five files of Python."""
    folder = tmp_path_factory.mktemp("source")
    for path in Path(json.__file__).parent.glob("*.py"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="session")
def trained(lcm, source, tmp_path_factory):
    """A finished run of ten steps; copy it before you change it."""
    folder = tmp_path_factory.mktemp("runs")
    done = lcm("train", source, "--out", "run", "--steps", 10, *SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"
