"""Under a sanitizer, every backend that was compiled with it; and that the sanitizer finds what it is for.

tox -e asan,ubsan,tsan; LCM_SANITIZE_LEVEL is the conformance kit's, `core` if it is not said.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from with_sanitizer import environment

import lcm
from lcm.backend import discovery

HERE = Path(__file__).parent
SANITIZER = os.environ["SANITIZER"]
LEVEL = os.environ.get("LCM_SANITIZE_LEVEL", "core")
NAMES = ("avx2", "avx512", "generic")
# What the compiler puts in calls of.
RUNTIMES = {"address": b"__asan_", "undefined": b"__ubsan_", "thread": b"__tsan_"}
FAULTS = {
    "address": ("reads_behind_the_end", "writes_before_the_start", "reads_what_is_freed"),
    "undefined": ("overflows", "shifts_too_far"),
    "thread": ("races",),
}
OUTSIDE = {n: v for n, v in os.environ.items() if n != "LD_PRELOAD"}


@pytest.fixture
def compiled(tmp_path):
    """The kernel with this fault as a library, compiled as the backends here were."""

    def compiled(fault):
        compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
        flags = [*shlex.split(os.environ["CFLAGS"]), "-w", "-shared", "-fPIC", "-pthread"]
        library = tmp_path / f"{fault}.so"
        include = f"-I{lcm.include_dir()}"
        command = [*compiler, *flags, include, f"-DFAULT={fault}", "-o", library, HERE / "faults.c"]
        subprocess.run(command, check=True, env=OUTSIDE)
        return library

    return compiled


def run(script, *arguments, **variables):
    command = [sys.executable, HERE / script, *map(str, arguments)]
    return subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("fault", ["none", *FAULTS[SANITIZER]])
def test_it_finds_what_it_is_for_and_nothing_else(compiled, tmp_path, fault):
    reports = tmp_path / "reports"
    done = run("on_the_heap.py", compiled(fault), **environment(SANITIZER, reports))
    found = "".join(path.read_text() for path in tmp_path.glob("reports*"))
    assert bool(done.returncode) == bool(found) == (fault != "none"), done.stderr + found
    assert fault == "none" or "faults.c" in found


@pytest.fixture(params=NAMES)
def backend(request):
    """The name of a backend that this machine can run."""
    (verdict,) = [one for one in discovery.verdicts() if one.name == request.param]
    if verdict.state == "ineligible":
        pytest.skip(f"{request.param} {verdict.reason}")
    assert verdict.state == "ready", verdict.reason
    library = Path(discovery.open_backend(request.param).library)
    assert RUNTIMES[SANITIZER] in library.read_bytes(), "it was compiled without the sanitizer"
    return request.param


def test_its_kernels_touch_nothing_beside_their_arguments(backend):
    done = run("on_the_heap.py", backend)
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_kernels_pass_the_conformance_kit(backend, tmp_path):
    options = ("--lcm-backend", backend, "--lcm-level", LEVEL)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_several_python_threads_may_use_it_at_once(backend):
    done = run("at_once.py", backend)
    assert done.returncode == 0, done.stdout + done.stderr
