"""The example backend, as a third party would ship it: built, installed, found, run, compared."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "lcm-example-backend"

COMPARE = """
import numpy as np
from lcm import ops
from lcm.backend import dispatch

rng = np.random.default_rng(0)
x, weight = rng.standard_normal((5, 7), np.float32), rng.standard_normal(7, np.float32)
mine = ops.rms_norm(x, weight, eps=1e-5, backend="example").numpy()
assert dispatch.ran() == {"rms_norm": {"example": 1}}, dispatch.ran()
np.testing.assert_allclose(mine, ops.rms_norm(x, weight, eps=1e-5, backend="reference").numpy(), rtol=1e-5)
scale = 1 / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5)
np.testing.assert_allclose(mine, x * scale * weight, rtol=1e-5)
"""


def build(folder, **variables):
    source = shutil.copytree(
        EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info")
    )
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    command = [*pip, "--no-index", "--wheel-dir", folder / "wheels", source]
    environment = os.environ | variables
    return subprocess.run(command, env=environment, text=True, capture_output=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return next((folder / "wheels").iterdir())


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The variables with which the wheel's content is on Python's path."""
    site = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        site,
        wheel,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return {"PYTHONPATH": str(site), "LCM_CACHE_DIR": str(site / "cache")}


def test_its_wheel_is_for_any_python_on_one_platform(wheel):
    assert wheel.name.startswith("lcm_example_backend-0.1.0-py3-none-")
    assert not wheel.name.endswith("-any.whl")


def test_it_is_found_tried_and_ready(lcm, installed, tmp_path):
    rows = json.loads(lcm("backends", "--json", cwd=tmp_path, **installed).stdout)
    example = next(row for row in rows if row["name"] == "example")
    assert (example["state"], example["reason"]) == ("ready", "passed its self-test")


def test_the_doctor_runs_it(lcm, installed, tmp_path):
    done = lcm("doctor", cwd=tmp_path, **installed)
    assert "example" in done.stdout, done.stdout + done.stderr


def test_its_kernel_runs_and_is_right(environment, installed, tmp_path):
    command = [sys.executable, "-P", "-c", COMPARE]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment | installed,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_model_runs_on_it_as_far_as_it_goes(lcm, installed, trained, tmp_path):
    arguments = ("complete", "x", "-n", 3, "--model", trained, "--backend", "example", "--json")
    done = lcm(*arguments, cwd=tmp_path, **installed)
    ran = json.loads(done.stdout)["backends"]
    assert list(ran["rms_norm"]) == ["example"] and list(ran["linear"]) == ["reference"]
    assert "lcm: note: example has no kernel 'linear': the reference runs it\n" in done.stderr


def test_without_a_compiler_it_says_so_in_one_line(tmp_path):
    done = build(tmp_path, CC="no-such-compiler")
    assert done.returncode
    said = "cannot be built here: no C compiler 'no-such-compiler'; install one, or set CC"
    assert said in done.stdout + done.stderr
