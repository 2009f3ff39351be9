"""lcm new-backend: what it writes is built, installed, found, and passes the conformance kit as it is."""

import json
import subprocess
import sys

import pytest


def python(*arguments, cwd, env):
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=env, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(params=[["my-own"], ["my-own", "--python"]], ids=["c", "python"])
def installed(request, lcm, environment, tmp_path):
    """The written project, and the variables with which it is on Python's path."""
    done = lcm("new-backend", *request.param, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("lcm-my-own: "), done.stderr
    pip = ("pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target", "site")
    python(*pip, "./lcm-my-own", cwd=tmp_path, env=environment)
    variables = {"PYTHONPATH": str(tmp_path / "site"), "LCM_CACHE_DIR": str(tmp_path / "cache")}
    return tmp_path / "lcm-my-own", variables


def test_it_is_ready_and_passes_the_kit_on_its_first_day(installed, lcm, environment, tmp_path):
    project, variables = installed
    rows = json.loads(lcm("backends", "--json", cwd=tmp_path, **variables).stdout)
    (row,) = [row for row in rows if row["name"] == "my-own"]
    assert (row["state"], row["reason"]) == ("ready", "passed its self-test")
    said = python(
        "pytest", "-q", "-p", "no:cacheprovider", cwd=project, env=environment | variables
    )
    assert "what my-own supports" in said and "FAILS" not in said
    assert [line.split()[1] for line in said.splitlines() if line.startswith("silu ")] == ["passes"]


def test_nothing_is_written_over(refused, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.c").write_text("int x;")
    said = refused(2, "new-backend", "mine", "--out", "there", cwd=tmp_path)
    assert said == "lcm: there is not empty: choose another place with --out\n"
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["mine.c"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Mine", "NAME must be short, in small letters and figures, not 'Mine'"),
        ("../x", "NAME must be short, in small letters and figures, not '../x'"),
        ("reference", "there is a backend 'reference' here already: choose another name"),
    ],
)
def test_a_name_that_no_backend_can_have_is_refused(refused, tmp_path, name, message):
    assert refused(2, "new-backend", name, cwd=tmp_path) == f"lcm: {message}\n"
    assert list(tmp_path.iterdir()) == []
