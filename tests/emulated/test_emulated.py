"""Processors that are not here: on x86 models of qemu's, what is installed runs and picks its kernels."""

import functools
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lcm.backend import plugins, selftest

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="emulates x86-64 on x86-64"
)

# A model, and what avx2 and avx512 miss on it; nothing is ready. TCG, qemu's compiler, has no AVX-512.
AVX512 = "avx512f avx512bw avx512dq avx512vl"
MODELS = {
    "Nehalem": ("avx2 fma f16c", f"{AVX512} avx2 fma f16c"),  # 2008: SSE4.2
    "IvyBridge": ("avx2 fma", f"{AVX512} avx2 fma"),  # 2012: AVX, F16C
    "Haswell": ("", AVX512),  # 2013: AVX2, FMA
    "EPYC": ("", AVX512),  # 2017
}
# An emulator is ten times as slow, and the first attempt with a backend has its time.
PATIENTLY = "from lcm.backend import probe\nprobe.SECONDS = 200\n"
OURS = ("LCM_", "PYTHON", "OPENBLAS_")  # variables that say what is here, not on the model
WRAPPER = '#!/bin/sh\nexec {qemu} -cpu {model} -0 "$0" {python} "$@"\n'


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """By model, a Python whose children run on that model too: its own name leads to the emulator."""
    qemu = shutil.which("qemu-x86_64")
    assert qemu, "there is no qemu-x86_64 here: install qemu-user, of version 7.2 or later"

    def python(model):
        home = tmp_path_factory.mktemp(model)
        for inside in Path(sys.prefix).iterdir():
            if inside.name not in ("bin", "pyvenv.cfg"):
                (home / inside.name).symlink_to(inside)
        shutil.copy(Path(sys.prefix, "pyvenv.cfg"), home)
        wrapper = home / "bin" / "python"
        wrapper.parent.mkdir()
        real = os.path.realpath(sys.executable)
        wrapper.write_text(WRAPPER.format(qemu=qemu, model=model, python=real))
        wrapper.chmod(0o755)
        return wrapper

    return python


@pytest.fixture(scope="session")
def run_on(python, tmp_path_factory):
    """Run Python code on a model and read the JSON that it prints; each model has a cache of its own."""
    made = {}

    def run_on(model, *arguments, code, **variables):
        if model not in made:
            made[model] = python(model), tmp_path_factory.mktemp("cache")
        interpreter, cache = made[model]
        kept = {n: v for n, v in os.environ.items() if not n.startswith(OURS)}
        own = {"LCM_CACHE_DIR": str(cache), "XDG_CONFIG_HOME": str(cache), "LCM_THREADS": "2"}
        done = subprocess.run(
            [interpreter, "-P", "-c", PATIENTLY + code, *arguments],
            env=kept | own | variables, cwd=cache, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run_on


@pytest.fixture(scope="session")
def lcm_on(run_on):
    """Run the command on a model."""
    return functools.partial(run_on, code="from lcm.cli import main; main()")


def installed(name):
    found = next((plugin for plugin in plugins.installed() if plugin.name == name), None)
    assert found and found.manifest, f"lcm-{name} is not installed, or is damaged"
    return found


@pytest.mark.parametrize("model", MODELS)
def test_the_kernels_that_fit_are_ready_and_the_others_say_what_is_missing(lcm_on, model):
    found = {one["name"]: one for one in lcm_on(model, "backends", "--json")}
    for name, missing in zip(("avx2", "avx512"), MODELS[model], strict=True):
        installed(name)
        state, reason = found[name]["state"], found[name]["reason"]
        if missing:
            assert state == "ineligible" and reason.startswith(f"needs {missing}, which this ")
        else:
            assert (state, reason) == ("ready", "passed its self-test")
    assert found["reference"]["state"] == "ready"


ERRORS = """
import json
from lcm.backend import discovery, selftest

kernels = discovery.open_backend("avx2").kernels
print(json.dumps({name: selftest.worst(name, kernel, 8, 33) for name, kernel in kernels.items()}))
"""


def test_every_kernel_for_avx2_is_right_on_a_processor_with_just_that(run_on):
    errors = run_on("Haswell", code=ERRORS)
    assert errors and not {name: e for name, e in errors.items() if not e < selftest.TOLERANCE}


@pytest.mark.parametrize(("model", "backend"), [("Nehalem", "reference"), ("Haswell", "avx2")])
def test_a_model_completes_code_with_what_there_is(lcm_on, model, backend):
    done = lcm_on(model, "complete", "def f", "-n", "3", "--backend", backend, "--json")
    assert len(done["tokens"]) == 3
    assert backend in {name for names in done["backends"].values() for name in names}


def test_a_library_that_does_not_say_what_it_needs_is_a_row_in_the_table(lcm_on, tmp_path):
    """Its manifest lies; the processor does not have the instructions, and ends the child process."""
    honest = installed("avx2")
    package = tmp_path / "lcm_liar"
    shutil.copytree(honest.folder, package)
    manifest = package / "lcm_backend.toml"
    lines = manifest.read_text().replace('"avx2"\n', '"liar"\n').splitlines(keepends=True)
    manifest.write_text("".join(line for line in lines if not line.startswith("features")))
    info = tmp_path / "lcm_liar-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lcm-liar\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[lcm.backends]\nliar = lcm_liar:lcm_backend.toml\n")
    for model, state in ("Haswell", "ready"), ("Nehalem", "crashed"):
        rows = lcm_on(model, "backends", "--json", PYTHONPATH=str(tmp_path))
        (liar,) = [one for one in rows if one["name"] == "liar"]
        assert liar["state"] == state, liar
    assert "SIGILL" in liar["reason"] and liar["fix"] == "lcm backends --retry liar"
