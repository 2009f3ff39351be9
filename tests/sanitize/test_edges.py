"""At the edges of memory: no kernel of the kit reads or writes a byte beyond its arguments, masked or not."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import lcm
from lcm.backend import discovery

HERE = Path(__file__).parent
NAMES = sorted(p.parent.name.removeprefix("lcm-") for p in HERE.parents[1].glob("plugins/*/vec.h"))

pytestmark = pytest.mark.skipif(os.name != "posix", reason="fences are made by mprotect")


def with_fences(backend):
    command = [sys.executable, HERE / "edges.py", backend, "core", "--fences"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("fault", ["none", "reads_behind_the_end", "writes_before_the_start"])
def test_fences_stop_who_goes_beyond(tmp_path, fault):
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    flags = ["-w", "-shared", "-fPIC", "-pthread", f"-I{lcm.include_dir()}", f"-DFAULT={fault}"]
    library = tmp_path / "faults.so"
    subprocess.run([*compiler, *flags, "-o", library, HERE / "faults.c"], check=True)
    done = with_fences(library)
    assert done.returncode == 0 if fault == "none" else done.returncode < 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_no_kernel_goes_beyond(name):
    verdict = next((one for one in discovery.verdicts() if one.name == name), None)
    if verdict is None or verdict.state == "ineligible":
        pytest.skip(f"{name} {verdict.reason if verdict else 'cannot be built here'}")
    done = with_fences(name)
    assert done.returncode == 0, f"ended by {done.returncode} in {done.stdout.split()[-1:]}"
