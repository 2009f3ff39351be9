"""What starting costs: how little is imported before there is something to do."""

import subprocess
import sys

import pytest


def modules_after(code, environment):
    """The names of all modules that are there after the code, in a new process."""
    printed = "import sys; print('\\n', *sorted(sys.modules), file=sys.stderr)"
    code = f"try:\n {code}\nexcept SystemExit: pass\n{printed}"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


@pytest.fixture(scope="module")
def nothing(environment):
    return modules_after("pass", environment)


def test_import_lcm_imports_next_to_nothing(environment, nothing):
    added = modules_after("import lcm", environment) - nothing
    assert {name for name in added if name.startswith("lcm")} == {"lcm"}
    assert len(added) <= 40, added  # typing alone brings 28


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"]])
def test_help_imports_no_numpy_and_no_plugin(environment, nothing, arguments):
    code = f"from lcm.cli import main; main({arguments})"
    added = modules_after(code, environment) - nothing
    heavy = {"numpy", "tokenizers", "rich", "pluggy", "threadpoolctl", "matplotlib", "ctypes"}
    assert not added & heavy
    assert not {name for name in added if name.startswith("lcm_")}


def test_every_public_name_is_there():
    import lcm

    for name in lcm.__all__:
        assert getattr(lcm, name) is not None


def test_the_c_header_is_where_include_dir_says():
    from pathlib import Path

    import lcm

    assert Path(lcm.include_dir(), "lcm", "ops.h").is_file()
