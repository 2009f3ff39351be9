"""Measuring of itself, as a user meets it: once, in one line, and not where it is switched off."""

import json

import pytest

NOTE = "lcm: note: measuring which backend is fastest for this model"


@pytest.fixture
def several(lcm, tmp_path):
    """Whether there is something to choose from here."""
    rows = json.loads(lcm("backends", "--json", cwd=tmp_path).stdout)
    return sum(row["state"] == "ready" for row in rows) > 1


def test_the_first_completion_measures_and_the_second_gains(lcm, trained, several, tmp_path):
    own = {"LCM_TUNE": "auto", "LCM_CACHE_DIR": str(tmp_path / "cache")}
    first, second = (
        lcm("complete", "def f(", "-n", 3, "--model", trained, cwd=tmp_path, **own)
        for _ in range(2)
    )
    assert first.returncode == second.returncode == 0
    assert (first.stderr.startswith(NOTE) and first.stderr.count("\n") == 1) == several
    assert second.stderr == ""
    assert bool(list((tmp_path / "cache").glob("tuning/*.json"))) == several


def test_training_measures_before_the_first_step_and_not_when_it_goes_on(
    lcm, source, small, several, tmp_path
):
    own = {"LCM_TUNE": "auto", "LCM_CACHE_DIR": str(tmp_path / "cache")}
    first = lcm("train", source, "--out", "run", "--steps", 2, *small, cwd=tmp_path, **own)
    assert first.stderr.startswith(NOTE) == several
    for path in (tmp_path / "cache").glob("tuning/*.json"):
        path.unlink()
    on = lcm("train", "--resume", "run", "--steps", 3, cwd=tmp_path, **own)
    assert on.returncode == 0 and on.stderr == ""
    assert not list((tmp_path / "cache").glob("tuning/*.json"))
