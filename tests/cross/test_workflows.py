"""The workflows for a hosted CI: they can be read, and what they run is there."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))


@cache
def environments():
    """Every environment that tox.ini names."""
    command = [sys.executable, "-m", "tox", "list", "--no-desc", "-c", ROOT / "tox.ini"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def jobs(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]


def commands(path):
    """Each command, with what a matrix puts into it."""
    for job in jobs(path).values():
        matrix = job.get("strategy", {}).get("matrix", {})
        assert set(matrix) <= {"include"}, "a matrix is its rows"
        for step in job["steps"]:
            for row in matrix.get("include", [{}]):
                found = step.get("run", "")
                for name, value in row.items():
                    found = found.replace(f"${{{{ matrix.{name} }}}}", str(value))
                yield found


def test_there_are_workflows_on_machines_with_arm():
    assert WORKFLOWS
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    assert {"ubuntu-latest", "ubuntu-24.04-arm", "macos-14"} <= set(re.findall(r"[\w.-]+", text))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_job_says_where_it_runs_and_what_it_may_do_and_each_step_does_one_thing(path):
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert read["permissions"] == {"contents": "read"}
    for job in jobs(path).values():
        assert job["runs-on"] and job["timeout-minutes"]
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_environments_of_tox_and_the_files_that_are_run_exist(path):
    lists = [names for line in commands(path) for names in re.findall(r"tox -e (\S+)", line)]
    assert lists and set(",".join(lists).split(",")) <= set(environments())
    for line in commands(path):
        for file in re.findall(r"python (\S+\.py)|pytest (\S+/\S+)", line):
            assert (ROOT / next(filter(None, file))).exists(), line


def test_the_environments_that_need_this_kind_of_machine_alone_are_not_run_there():
    """An emulator of what the machine itself is would show nothing."""
    text = "".join(line for path in WORKFLOWS for line in commands(path))
    assert "tox -e py311" in text and "arm64-" not in text
